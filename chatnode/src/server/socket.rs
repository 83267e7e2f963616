//! One WebSocket: moves messages between the socket, the session and the broker until one of them ends it.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::debug;

use super::Node;
use super::calls::{Caller, Running};
use crate::hub::{Inbox, Mailbox, mailbox};
use crate::protocol::Disconnect;
use crate::session::{Event, EventKind, Note, Now, Output, Session};

/// How long the socket may take a write. Slower is as good as gone: pings and pongs are far apart.
const WRITE_TIMEOUT: Duration = Duration::from_secs(1);

/// How long the client may take to answer our close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Documents are joined into messages of about this size.
const MESSAGE_BYTES: usize = 64 * 1024;

/// Events taken together, so that their frames leave in one write.
const EVENTS_TOGETHER: usize = 256;

/// When nothing is to be done by the session, look again after this.
const NO_DEADLINE: Duration = Duration::from_hours(1);

/// Serves one client to the end.
pub(super) async fn serve(socket: WebSocket, node: Arc<Node>) {
    let (mailbox, inbox) = mailbox(node.shared.limits.queue_bytes_max, &node.metrics);
    let place = node.connections.add(&mailbox);
    let client = uuid::Uuid::new_v4().to_string();
    let session = Session::new(Arc::clone(&node.shared), client, fastrand::f64(), now());
    let number = place.number;
    let calls = FuturesUnordered::new();
    let mut connection = Connection { node, number, socket, session, mailbox, inbox, calls };
    let reason = connection.run().await;
    connection.node.metrics.disconnects.with_label_values(&[reason.code.to_string()]).inc();
    debug!(client = connection.session.client(), code = reason.code, "connection ended");
    connection.finish(reason).await;
    drop(place);
}

struct Connection {
    node: Arc<Node>,
    number: u64,
    socket: WebSocket,
    session: Session,
    mailbox: Arc<Mailbox>,
    inbox: Inbox,
    calls: FuturesUnordered<Running>,
}

#[expect(clippy::disallowed_methods, reason = "the edge reads the clocks for the session")]
fn now() -> Now {
    let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let unix_ms = since_1970.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX));
    Now { instant: std::time::Instant::now(), unix_ms }
}

impl Connection {
    /// Works until the connection is to end, and why.
    async fn run(&mut self) -> Disconnect {
        loop {
            let mut out = Output::default();
            let deadline = self.session.next_deadline().map(Instant::from_std);
            let deadline = deadline.unwrap_or_else(|| Instant::now() + NO_DEADLINE);
            tokio::select! {
                reason = self.mailbox.cut_requested() => return reason,
                message = self.socket.recv(), if self.session.wants_input() => match message {
                    Some(Ok(message)) => {
                        if let Err(reason) = self.handle_message(message, &mut out) {
                            return reason;
                        }
                    }
                    Some(Err(error)) => return broken(&error),
                    None => return Disconnect::CONNECTION_CLOSED,
                },
                Some(event) = self.inbox.next() => self.handle_events(event, &mut out),
                Some(outcome) = self.calls.next(), if !self.calls.is_empty() => {
                    if let Some(outcome) = outcome {
                        self.session.handle_outcome(now(), outcome, &mut out);
                    }
                }
                () = sleep_until(deadline) => self.session.handle_time(now(), &mut out),
            }
            if let Err(reason) = self.apply(out).await {
                return reason;
            }
        }
    }

    fn handle_message(&mut self, message: Message, out: &mut Output) -> Result<(), Disconnect> {
        match message {
            Message::Text(text) => self.session.handle_message(now(), &text, out),
            // The opcode says nothing here; some clients send JSON as binary.
            Message::Binary(bytes) => {
                let text = std::str::from_utf8(&bytes).map_err(|_| Disconnect::BAD_REQUEST)?;
                self.session.handle_message(now(), text, out);
            }
            Message::Ping(_) | Message::Pong(_) => {}
            Message::Close(_) => return Err(Disconnect::CONNECTION_CLOSED),
        }
        Ok(())
    }

    fn handle_events(&mut self, first: Arc<Event>, out: &mut Output) {
        let (now, metrics) = (now(), &self.node.metrics);
        let mut next = Some(first);
        let mut taken = 0;
        while let Some(event) = next {
            if self.session.handle_event(now, &event, out) {
                metrics.deliveries.inc();
                if let EventKind::Publication { time_ms, .. } = event.kind {
                    let lag = Duration::from_millis(now.unix_ms.saturating_sub(time_ms));
                    metrics.delivery_lag_seconds.observe(lag.as_secs_f64());
                }
            }
            taken += 1;
            if taken == EVENTS_TOGETHER || out.close.is_some() {
                return;
            }
            next = self.inbox.next_now();
        }
    }

    /// Does what the session wants; `Err` if the connection is to end.
    async fn apply(&mut self, out: Output) -> Result<(), Disconnect> {
        let Output { frames, calls, notes, close } = out;
        self.count(&notes);
        self.start(calls);
        for message in messages(frames) {
            tokio::select! {
                written = timeout(WRITE_TIMEOUT, self.socket.send(message)) => match written {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) => return Err(Disconnect::CONNECTION_CLOSED),
                    Err(_) => return Err(Disconnect::WRITE_ERROR),
                },
                reason = self.mailbox.cut_requested() => return Err(reason),
            }
        }
        close.map_or(Ok(()), Err)
    }

    fn start(&self, calls: Vec<crate::session::Call>) {
        let (node, mailbox, session) = (&self.node, &self.mailbox, &self.session);
        let caller = Caller { node, number: self.number, mailbox, session };
        for call in calls {
            self.calls.push(caller.start(call, now().unix_ms));
        }
    }

    fn count(&self, notes: &[Note]) {
        let metrics = &self.node.metrics;
        for note in notes {
            match note {
                Note::Command(name) => metrics.commands.with_label_values(&[name]).inc(),
                Note::Error(code) => {
                    metrics.command_errors.with_label_values(&[code.to_string()]).inc();
                }
                Note::Recovery(true) => {
                    metrics.recoveries.with_label_values(&["recovered"]).inc();
                }
                Note::Recovery(false) => {
                    metrics.recoveries.with_label_values(&["unrecovered"]).inc();
                }
                Note::InsufficientState => metrics.insufficient_states.inc(),
            }
        }
    }

    /// Closes the socket, then tidies up in Redis: clients must not wait for Redis to learn that they are to go elsewhere.
    async fn finish(mut self, reason: Disconnect) {
        // What was under way is of no interest any more; a publish not yet sent to Redis is not sent.
        self.calls.clear();
        if reason != Disconnect::CONNECTION_CLOSED {
            let frame =
                CloseFrame { code: reason.code, reason: Utf8Bytes::from_static(reason.reason) };
            // If the client does not take the close either, it learns from the socket's end.
            let _ = timeout(WRITE_TIMEOUT, self.socket.send(Message::Close(Some(frame)))).await;
        }
        let mut out = Output::default();
        self.session.end(&mut out);
        self.start(out.calls);
        let calls = std::mem::take(&mut self.calls);
        self.node.tasks.spawn(calls.for_each(async |_| {}));
        let answer = async { while let Some(Ok(_)) = self.socket.next().await {} };
        // A client that does not answer the close in time is cut off by dropping the socket.
        let _ = timeout(CLOSE_TIMEOUT, answer).await;
    }
}

/// Joins documents, by line breaks, into messages.
fn messages(frames: Vec<Bytes>) -> impl Iterator<Item = Message> {
    let mut frames = frames.into_iter().peekable();
    std::iter::from_fn(move || {
        let first = frames.next()?;
        let mut joined: Option<BytesMut> = None;
        let mut size = first.len();
        while let Some(next) = frames.next_if(|next| size + next.len() < MESSAGE_BYTES) {
            let joined = joined.get_or_insert_with(|| BytesMut::from(&first[..]));
            joined.extend_from_slice(b"\n");
            joined.extend_from_slice(&next);
            size = joined.len();
        }
        let bytes = joined.map_or(first, BytesMut::freeze);
        let text = Utf8Bytes::try_from(bytes).expect("documents are made from strings");
        Some(Message::Text(text))
    })
}

/// Why reading failed. The library says "message too long" in words only.
fn broken(error: &axum::Error) -> Disconnect {
    if error.to_string().contains("Space limit exceeded") {
        Disconnect::MESSAGE_TOO_BIG
    } else {
        Disconnect::CONNECTION_CLOSED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_share_messages_up_to_a_size() {
        let long = Bytes::from("x".repeat(MESSAGE_BYTES));
        let texts = messages(vec!["a".into(), "b".into(), long, "c".into()])
            .map(|message| message.into_text().unwrap().len())
            .collect::<Vec<_>>();
        assert_eq!(texts, [3, MESSAGE_BYTES, 1]);
        assert_eq!(messages(Vec::new()).count(), 0);
    }
}
