//! One request to one server, or to the next one, and the response back.
//!
//! A request goes on to another server where that cannot do harm: when nothing of it was sent, any request may go on; when the connection
//! broke before a response, only a request that may be repeated (RFC 9110 9.2.2: idempotent) and has no body that is already gone. A kept
//! connection that turns out closed says nothing about the server: the same one is asked again, afresh.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::StatusCode;
use tokio::io::{AsyncWrite as _, AsyncWriteExt as _};
use tokio::time::Instant;

use super::buffers::{self, LARGE_BYTES};
use super::http::Conversation;
use super::reach::{Search, Way};
use super::session::{Kind, Phase};
use super::stream::Stream;
use super::transfer::{Broken, End, Transfer};
use crate::config::PoolRules;
use crate::message::Framing;
use crate::message::chunked::TOO_LONG;
use crate::message::request::RequestHead;
use crate::message::response::{self, Asked, ResponseHead};
use crate::metrics::PoolError;
use crate::pool::balance;
use crate::pool::server::Lease;
use crate::pool::{Ask, Pool};
use crate::proxy_protocol::Ends;

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Why there is no response to pass on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// No server may take requests.
    NoServer,
    /// Every server that may take requests has as many as it may, and so has the line for them.
    QueueFull,
    /// None of them had room in time.
    QueueTimeout,
    /// None of those tried could be connected to.
    Connect,
    /// The server closed without a response.
    NoResponse,
    /// The server took too long.
    Timeout,
    /// The client closed in the middle of its request.
    Client,
    /// The client has given up, and awaits no answer.
    Gone,
    /// The client's body breaks the rules.
    Malformed(&'static str),
    /// The client's body is longer than allowed.
    TooLong,
    /// The client stopped sending in the middle of its body.
    ClientTimeout,
    /// A fault that an operator has injected stands in for the server's answer.
    Injected(StatusCode),
}

/// What became of a request that was answered.
pub(crate) enum Outcome {
    /// The response was passed on; `close` if it was the last on this connection.
    Done { close: bool },
    /// The response ended early, which only the end of the connection can tell.
    Cut,
    /// The server has switched protocols.
    Upgraded(Box<(End, Lease, Kind)>),
}

/// How one attempt ended.
enum Attempt {
    /// With a head, the one the client gets, and the time it took.
    Response(ResponseHead, Vec<u8>, Duration),
    /// The connection broke, or what came is no response.
    Broken,
    Failed(Failure),
}

/// The hash by which a client's server is chosen where its address decides.
pub(crate) fn source(client: IpAddr) -> u64 {
    match client {
        IpAddr::V4(address) => balance::hash(&address.octets()),
        IpAddr::V6(address) => balance::hash(&address.octets()),
    }
}

/// The ends of a client's connection, for a pool whose servers are told.
pub(crate) fn ends(rules: &PoolRules, source: SocketAddr, stream: &Stream) -> Option<Ends> {
    rules.send_proxy?;
    let destination = stream.local_addr()?;
    Some(Ends { source, destination })
}

/// Passes a request on whose rewritten head is `out`, and its response back.
pub(crate) async fn forward(
    conversation: &mut Conversation,
    pool: &Arc<Pool>,
    head: &RequestHead,
    out: Vec<u8>,
) -> Result<Outcome, Failure> {
    let outcome = attempts(conversation, pool, head, out).await;
    match outcome {
        Err(Failure::NoServer) => pool.metrics.error(PoolError::NoServer),
        Err(Failure::QueueFull) => pool.metrics.error(PoolError::QueueFull),
        Err(Failure::QueueTimeout) => pool.metrics.error(PoolError::QueueTimeout),
        Err(Failure::Connect) => pool.metrics.error(PoolError::Connect),
        Err(Failure::NoResponse) => pool.metrics.error(PoolError::NoResponse),
        Err(Failure::Timeout) => pool.metrics.error(PoolError::Timeout),
        Err(
            Failure::Client
            | Failure::Gone
            | Failure::Malformed(_)
            | Failure::TooLong
            | Failure::ClientTimeout
            | Failure::Injected(_),
        )
        | Ok(_) => {}
    }
    outcome
}

async fn attempts(
    conversation: &mut Conversation,
    pool: &Arc<Pool>,
    head: &RequestHead,
    out: Vec<u8>,
) -> Result<Outcome, Failure> {
    let view = pool.view();
    let rules = &view.rules;
    let source = source(head.client);
    let stick = pool.stick(rules, source, head.choice.stick);
    let ask = Ask {
        source,
        key: head.choice.key,
        sticky: head.choice.sticky.or_else(|| stick.as_ref()?.server()),
        opens: head.upgrade,
    };
    let mut request = Transfer::new(out, head.framing, false);
    let mut continue_due = head.expects_continue && conversation.client.buffer.is_empty();
    let ends = ends(rules, conversation.address, &conversation.client.stream);
    let mut search = Search::new(pool, rules, ask, ends);
    let mut way = search.reach(&conversation.session, Some(&conversation.idle), None).await?;
    loop {
        let Way { stream, lease, reused, .. } = way;
        conversation.session.note(|draft| draft.reached(&lease, search.asked()));
        if std::mem::take(&mut continue_due) {
            let stream = &mut conversation.client.stream;
            stream.write_all(CONTINUE).await.map_err(|_| Failure::Client)?;
            stream.flush().await.map_err(|_| Failure::Client)?;
        }
        let mut server = End::from(stream);
        conversation.session.await_server(rules.response_timeout);
        let extra = set_cookie(rules, head, &lease, conversation.peer.is_secure());
        match send(conversation, &mut server, &mut request, head, &extra).await {
            Attempt::Response(response, out, latency) => {
                pool.handle_response(&lease, status(&response), latency);
                if let Some(stick) = &stick {
                    stick.note(lease.key());
                }
                lease.metrics.first_byte.observe(latency.as_secs_f64());
                conversation.session.note(|draft| draft.answered(response.status, latency));
                lease.metrics.response(status(&response));
                let keep =
                    response.reusable && rules.send_proxy.is_none() && !server.stream.is_faulty();
                let delivery = Delivery { server, request, response, keep, lease };
                return Ok(delivery.deliver(conversation, out).await);
            }
            Attempt::Broken => {
                let unsent = request.is_unsent();
                if !reused {
                    search.fail(&lease, &"closed without a response");
                }
                if !request.rewind() || !(unsent || head.repeatable) {
                    return Err(Failure::NoResponse);
                }
                // Once a kept connection has failed us, the others of its age are not asked.
                let again = if reused { Some(lease) } else { None };
                let next = search.reach(&conversation.session, None, again).await;
                way = next.map_err(|failure| if unsent { failure } else { Failure::NoResponse })?;
            }
            // The server waits as we do, so its silence says nothing about it.
            Attempt::Failed(failure) => {
                if failure == Failure::Timeout {
                    pool.handle_failure(&lease);
                }
                return Err(failure);
            }
        }
    }
}

/// Sends the request until the head of the response is there.
async fn send(
    conversation: &mut Conversation,
    server: &mut End,
    request: &mut Transfer,
    head: &RequestHead,
    extra: &str,
) -> Attempt {
    let begun = Instant::now();
    let Conversation { client, session, .. } = conversation;
    let mut out = buffers::take_head();
    // A server that takes no more of the request may have answered it already.
    let mut deaf = false;
    poll_fn(|cx| {
        if session.is_late() {
            let of_client = session.awaits_client();
            let failure = if of_client { Failure::ClientTimeout } else { Failure::Timeout };
            return Poll::Ready(Attempt::Failed(failure));
        }
        if client.stream.poll_gone(cx).is_ready() {
            return Poll::Ready(Attempt::Failed(Failure::Gone));
        }
        if !deaf && !request.is_done() {
            let note = |count| session.note_received(count);
            match request.poll(cx, client, &mut server.stream, note, |_| {}) {
                Poll::Pending => session.await_client(request.awaits_sender()),
                Poll::Ready(Ok(())) => session.await_client(false),
                Poll::Ready(Err(Broken::To(_))) => deaf = true,
                Poll::Ready(Err(Broken::From(_))) => {
                    return Poll::Ready(Attempt::Failed(Failure::Client));
                }
                Poll::Ready(Err(Broken::Malformed(TOO_LONG))) => {
                    return Poll::Ready(Attempt::Failed(Failure::TooLong));
                }
                Poll::Ready(Err(Broken::Malformed(fault))) => {
                    return Poll::Ready(Attempt::Failed(Failure::Malformed(fault.0)));
                }
            }
        }
        let asked = Asked {
            is_head: head.is_head,
            upgrade: head.upgrade,
            http10: head.http10,
            keep_alive: head.keep_alive && request.is_done() && !session.is_finishing(),
            extra,
        };
        let Some(response) = ready!(poll_response(cx, client, server, &asked, &mut out)) else {
            return Poll::Ready(Attempt::Broken);
        };
        Poll::Ready(Attempt::Response(response, std::mem::take(&mut out), begun.elapsed()))
    })
    .await
}

/// The line that brings the client back to this server, unless its own cookie does.
fn set_cookie(rules: &PoolRules, head: &RequestHead, lease: &Lease, secure: bool) -> String {
    match &rules.sticky_cookie {
        Some(name) if head.choice.sticky != Some(lease.key()) => {
            let secure = if secure { "; Secure" } else { "" };
            let key = lease.key();
            format!("Set-Cookie: {name}={key:016x}; Path=/; HttpOnly; SameSite=Lax{secure}\r\n")
        }
        _ => String::new(),
    }
}

fn status(response: &ResponseHead) -> StatusCode {
    StatusCode::from_u16(response.status).unwrap_or(StatusCode::BAD_GATEWAY)
}

/// Reads the head of the final response; `None` if there will be none.
fn poll_response(
    cx: &mut Context<'_>,
    client: &mut End,
    server: &mut End,
    asked: &Asked<'_>,
    out: &mut Vec<u8>,
) -> Poll<Option<ResponseHead>> {
    loop {
        let before = out.len();
        if !server.buffer.is_empty() {
            match response::read(server.buffer.filled(), asked, out) {
                Ok(Some(head)) => {
                    server.buffer.consume(head.length);
                    if !head.is_interim() {
                        return Poll::Ready(Some(head));
                    }
                    if head.status == 100 || asked.http10 {
                        // Answered here already, or not understood there.
                        out.truncate(before);
                    } else if let Poll::Ready(Ok(count)) =
                        Pin::new(&mut client.stream).poll_write(cx, out)
                    {
                        // What the socket does not take now goes with the final head.
                        out.drain(..count);
                    }
                    continue;
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(%error, "bad response");
                    return Poll::Ready(None);
                }
            }
        }
        match ready!(server.buffer.poll_fill(cx, &mut server.stream, LARGE_BYTES)) {
            Ok(0) => return Poll::Ready(None),
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(%error, "connection to a server broke");
                return Poll::Ready(None);
            }
        }
    }
}

/// A response on its way to the client, with what it holds.
struct Delivery {
    server: End,
    request: Transfer,
    response: ResponseHead,
    /// Whether the server's connection may serve another request.
    keep: bool,
    lease: Lease,
}

impl Delivery {
    /// Passes it on; the rest of the request goes on meanwhile, as long as the server takes it.
    async fn deliver(self, conversation: &mut Conversation, out: Vec<u8>) -> Outcome {
        let Self { mut server, mut request, response, keep, lease } = self;
        let Conversation { client, session, idle, .. } = conversation;
        let switching = response.status == 101;
        session.enter(Phase::Body);
        session.listener.metrics.request(status(&response));
        let framing = if switching { Framing::NONE } else { response.framing };
        let mut delivery = Transfer::new(out, framing, response.unchunk);
        let mut deaf = false;
        let delivered = poll_fn(|cx| {
            if client.stream.poll_gone(cx).is_ready() {
                let gone = io::ErrorKind::ConnectionReset.into();
                return Poll::Ready(Err(Broken::To(gone)));
            }
            if !deaf && !request.is_done() {
                let note = |count| session.note_received(count);
                deaf = matches!(
                    request.poll(cx, client, &mut server.stream, note, |_| {}),
                    Poll::Ready(Err(_))
                );
            }
            let note = |count| session.note_sent(count);
            let delivered = delivery.poll(cx, &mut server, &mut client.stream, |_| {}, note);
            if delivered.is_pending() {
                session.await_client(!delivery.awaits_sender());
            }
            delivered
        })
        .await;
        if let Err(broken) = delivered {
            tracing::debug!(%broken, "a response was cut");
            return Outcome::Cut;
        }
        if switching {
            let kind = if response.websocket { Kind::WebSocket } else { Kind::Upgrade };
            return Outcome::Upgraded(Box::new((server, lease, kind)));
        }
        let close = response.close || !request.is_done();
        if keep && request.is_done() && server.buffer.is_empty() {
            idle.give_back(lease.id(), server.stream);
        }
        Outcome::Done { close }
    }
}
