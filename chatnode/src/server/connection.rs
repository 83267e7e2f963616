//! One connection: moves what happens between its pipe, its mailbox, its session and its calls until one of them ends it.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::time::timeout;
use tracing::debug;

use super::Node;
use super::calls::{Caller, Running};
use super::pipe::{Gone, Pipe};
use super::websocket::Incoming;
use crate::connections::Place;
use crate::mailbox::{Mail, Mailbox};
use crate::protocol::Disconnect;
use crate::session::{Close, EventKind, Link, Note, Now, Outcome, Output, Session};

/// How long the client may take a write. Slower is as good as gone: pings and pongs are far apart.
const WRITE_TIMEOUT: Duration = Duration::from_secs(1);

/// How long the client may take to answer our close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves one client to the end. `first` is what it sent before.
pub(super) async fn serve(
    node: Arc<Node>,
    place: Place,
    link: Link,
    mailbox: Arc<Mailbox>,
    pipe: Pipe,
    first: Option<Bytes>,
) {
    place.open(&mailbox, &link.session);
    let session = Session::new(Arc::clone(&node.shared), link, fastrand::f64(), now());
    let connection = Connection {
        node,
        place,
        session,
        mailbox,
        pipe,
        calls: None,
        rings_at: None,
        blocked_until: None,
    };
    connection.serve(first).await;
}

struct Connection {
    node: Arc<Node>,
    place: Place,
    session: Session,
    mailbox: Arc<Mailbox>,
    pipe: Pipe,
    /// Calls under way; `None` most of the time.
    calls: Option<FuturesUnordered<Running>>,
    /// When the wheel rings.
    rings_at: Option<Instant>,
    /// The client does not take what is written; until then it may.
    blocked_until: Option<Instant>,
}

/// What happened.
enum Happening {
    Mail(Mail),
    Outcome(Option<Outcome>),
    Readable,
    /// What waited has been written.
    Written,
    Gone,
}

#[expect(clippy::disallowed_methods, reason = "the edge reads the clocks for the session")]
pub(crate) fn now() -> Now {
    let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let unix_ms = since_1970.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX));
    Now { instant: Instant::now(), unix_ms }
}

impl Connection {
    async fn serve(mut self, first: Option<Bytes>) {
        let close = self.run(first).await;
        let metrics = &self.node.metrics;
        let known = Disconnect::ALL.iter().any(|known| known.code == close.code);
        let label = if known { close.code.to_string() } else { "other".to_owned() };
        metrics.disconnects.with_label_values(&[label]).inc();
        debug!(client = self.session.client(), code = close.code, "connection ended");
        self.finish(&close).await;
    }

    /// Works until the connection is to end, and why.
    async fn run(&mut self, first: Option<Bytes>) -> Close {
        let mut out = self.session.output();
        if let Some(first) = first {
            self.session.handle_message(now(), first, &mut out);
        }
        // What came with the request is in the buffer already.
        let mut happening = Happening::Readable;
        loop {
            let close = self.handle(happening, &mut out);
            if let Err(close) = self.apply(&mut out, close) {
                return close;
            }
            happening = poll_fn(|context| self.poll(context)).await;
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Happening> {
        if !self.pipe.is_clear() {
            match self.pipe.poll_write(context) {
                Poll::Ready(Ok(())) => return Poll::Ready(Happening::Written),
                Poll::Ready(Err(Gone)) => return Poll::Ready(Happening::Gone),
                Poll::Pending => {}
            }
        }
        // While the client does not take what it has, it gets no more, and is not heard.
        let clear = self.pipe.is_clear();
        if self.mailbox.poll(clear, context).is_ready() {
            return Poll::Ready(Happening::Mail(self.mailbox.take(clear)));
        }
        if let Some(calls) = &mut self.calls
            && let Poll::Ready(Some(outcome)) = calls.poll_next_unpin(context)
        {
            if calls.is_empty() {
                self.calls = None;
            }
            return Poll::Ready(Happening::Outcome(outcome));
        }
        if clear && self.session.wants_input() && self.pipe.poll_readable(context).is_ready() {
            return Poll::Ready(Happening::Readable);
        }
        Poll::Pending
    }

    fn handle(&mut self, happening: Happening, out: &mut Output) -> Result<(), Close> {
        match happening {
            Happening::Mail(mail) => self.handle_mail(mail, out),
            Happening::Outcome(outcome) => {
                if let Some(outcome) = outcome {
                    self.session.handle_outcome(now(), outcome, out);
                }
                Ok(())
            }
            Happening::Readable => self.handle_input(out),
            Happening::Written => {
                self.blocked_until = None;
                Ok(())
            }
            Happening::Gone => Err(Disconnect::CONNECTION_CLOSED.into()),
        }
    }

    fn handle_input(&mut self, out: &mut Output) -> Result<(), Close> {
        let mut messages = Vec::new();
        let read = self.pipe.read(&mut messages);
        for message in messages {
            match message {
                Incoming::Message(message) => self.session.handle_message(now(), message, out),
                Incoming::Ping(payload) => self.pipe.push_pong(&payload),
                Incoming::Pong => self.session.handle_transport_pong(),
                Incoming::Close => return Err(Disconnect::CONNECTION_CLOSED.into()),
            }
        }
        read
    }

    fn handle_mail(&mut self, mail: Mail, out: &mut Output) -> Result<(), Close> {
        let now = now();
        if let Some(close) = mail.close {
            return Err(close);
        }
        for order in mail.orders {
            self.session.handle_order(now, order, out);
        }
        let mut delivered = 0;
        for event in mail.events {
            if self.session.handle_event(now, &event, out) {
                delivered += 1;
                if let EventKind::Publication(news) = &event.kind {
                    let lag = now.unix_ms.saturating_sub(news.publication.time_ms);
                    let lag = Duration::from_millis(lag).as_secs_f64();
                    self.node.metrics.delivery_lag_seconds.observe(lag);
                }
            }
        }
        if delivered > 0 {
            self.node.metrics.deliveries.inc_by(delivered);
        }
        if mail.due {
            self.rings_at = None;
            if self.blocked_until.is_some_and(|until| until <= now.instant) {
                return Err(Disconnect::WRITE_ERROR.into());
            }
            self.session.handle_time(now, out);
        }
        Ok(())
    }

    /// Does what the session wants; `Err` if the connection is to end.
    fn apply(&mut self, out: &mut Output, close: Result<(), Close>) -> Result<(), Close> {
        self.count(&out.notes);
        out.notes.clear();
        self.start(std::mem::take(&mut out.calls));
        let was_clear = self.pipe.is_clear();
        for frame in out.frames.drain(..) {
            self.pipe.push(&frame);
        }
        if std::mem::take(&mut out.ping) {
            self.pipe.push_ping();
        }
        close?;
        if let Some(close) = out.close.take() {
            return Err(close);
        }
        // A burst may have made these large; an idle connection does not keep that.
        if out.frames.capacity() > 16 || out.notes.capacity() > 16 {
            *out = self.session.output();
        }
        if was_clear && !self.pipe.is_clear() {
            let waker = futures_util::task::noop_waker();
            match self.pipe.poll_write(&mut Context::from_waker(&waker)) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(Gone)) => return Err(Disconnect::CONNECTION_CLOSED.into()),
                Poll::Pending => self.blocked_until = Some(now().instant + WRITE_TIMEOUT),
            }
        }
        self.schedule();
        Ok(())
    }

    /// Sees to it that the wheel rings in time.
    fn schedule(&mut self) {
        let deadlines = [self.session.next_deadline(), self.blocked_until];
        if let Some(next) = deadlines.into_iter().flatten().min()
            && self.rings_at.is_none_or(|rings_at| next < rings_at)
        {
            self.rings_at = Some(next);
            self.node.wheel.schedule(next, &self.mailbox);
        }
    }

    fn start(&mut self, calls: Vec<crate::session::Call>) {
        if calls.is_empty() {
            return;
        }
        let (node, mailbox, session) = (&self.node, &self.mailbox, &self.session);
        let caller = Caller { node, number: self.place.number, mailbox, session };
        let running = self.calls.get_or_insert_default();
        for call in calls {
            running.push(caller.start(call, now()));
        }
    }

    fn count(&self, notes: &[Note]) {
        let metrics = &self.node.metrics;
        for note in notes {
            match note {
                Note::Command(name) => metrics.commands.with_label_values(&[name]).inc(),
                Note::Error(code) => metrics.count_error(*code),
                Note::Limited(whose) => metrics.limited_commands.with_label_values(&[whose]).inc(),
                Note::Recovery(recovered) => {
                    let result = if *recovered { "recovered" } else { "unrecovered" };
                    metrics.recoveries.with_label_values(&[result]).inc();
                }
                Note::InsufficientState => metrics.insufficient_states.inc(),
            }
        }
    }

    /// Closes the pipe, then tidies up in Redis: clients must not wait for Redis to learn that they are to go elsewhere.
    async fn finish(mut self, close: &Close) {
        // What was under way is of no interest any more; a publish not yet sent to Redis is not sent.
        self.calls = None;
        self.mailbox.end();
        if close.code == Disconnect::SLOW.code {
            // It would only have to read more before it learns that it is too late.
            self.pipe.clear();
        }
        if close.code != Disconnect::CONNECTION_CLOSED.code {
            self.pipe.push_close(close);
            // If the client does not take the close either, it learns from the connection's end.
            let _ = timeout(WRITE_TIMEOUT, poll_fn(|context| self.pipe.poll_write(context))).await;
        }
        let mut out = self.session.output();
        self.session.end(&mut out);
        self.start(out.calls);
        if let Some(calls) = self.calls.take() {
            self.node.tasks.spawn(calls.for_each(async |_| {}));
        }
        if let Pipe::Socket(_) = &self.pipe
            && close.code != Disconnect::CONNECTION_CLOSED.code
        {
            // A client that does not answer the close in time is cut off by dropping the socket.
            let _ = timeout(CLOSE_TIMEOUT, poll_fn(|context| self.poll_closed(context))).await;
        }
    }

    /// Ready when the client has answered our close, or cannot any more.
    fn poll_closed(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.pipe.poll_readable(context).is_pending() {
                return Poll::Pending;
            }
            let mut messages = Vec::new();
            let read = self.pipe.read(&mut messages);
            if read.is_err() || messages.contains(&Incoming::Close) {
                return Poll::Ready(());
            }
        }
    }
}
