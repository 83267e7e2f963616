//! For clients that cannot have a WebSocket: replies in the body of a response that does not end, commands by requests of their own.
//!
//! Such a request may reach any node of the cluster; it names the node whose client it is, and is passed on to it. So the balancer
//! needs no stickiness. The session's secret is all that lets commands in, hence it is random and never logged.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream::unfold;
use prost::Message;
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio_util::sync::PollSender;

use super::Node;
use super::admission::{Peer, admit, origin_allowed};
use super::connection;
use super::pipe::{Hangup, Pipe, Wrapping};
use super::upgrade::origin;
use crate::broker::bus::{Bus, Question, Target};
use crate::connections::Connections;
use crate::mailbox::Mailbox;
use crate::protocol::Protocol;
use crate::session::{Link, Order};

/// Chunks that the HTTP server may hold; what is more waits where it is counted.
const CHUNKS: usize = 4;

/// What nodes call this among themselves.
const KIND: &str = "emulation";

/// How long the other node may take. Below the SDKs' own timeout of 5 s.
const FORWARD_TIMEOUT: Duration = Duration::from_secs(3);

/// What the other node answers when it knows the session.
const TAKEN: &[u8] = b"taken";

/// Content type of the protobuf form.
const OCTETS: &str = "application/octet-stream";

/// A connect command in the address.
#[derive(Debug, Deserialize)]
pub(super) struct EventsQuery {
    cf_connect: String,
}

/// Commands for a session, as they stand on the wire.
#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default)]
pub(super) struct Commands {
    /// Where the session is.
    #[prost(string, tag = "1")]
    node: String,
    /// Its secret.
    #[prost(string, tag = "2")]
    session: String,
    /// The commands; in JSON a string.
    #[prost(bytes = "bytes", tag = "3")]
    #[serde(deserialize_with = "text")]
    data: Bytes,
}

fn text<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
    String::deserialize(deserializer).map(Bytes::from)
}

fn speaks(headers: &HeaderMap) -> Protocol {
    match headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes) {
        Some(kind) if kind.starts_with(OCTETS.as_bytes()) => Protocol::Protobuf,
        _ => Protocol::Json,
    }
}

/// Opens a stream of replies; the body is the connect command.
pub(super) async fn http_stream(
    State(node): State<Arc<Node>>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let protocol = speaks(&headers);
    open(&node, peer, &headers, protocol, Wrapping::Plain, body)
}

/// Opens a stream of events; the connect command is in the address.
pub(super) async fn sse(
    State(node): State<Arc<Node>>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    Query(query): Query<EventsQuery>,
) -> Response {
    let first = Bytes::from(query.cf_connect);
    open(&node, peer, &headers, Protocol::Json, Wrapping::Events, first)
}

fn open(
    node: &Arc<Node>,
    Peer(peer): Peer,
    headers: &HeaderMap,
    protocol: Protocol,
    wrapping: Wrapping,
    first: Bytes,
) -> Response {
    let limits = &node.shared.limits;
    if first.len() > limits.message_bytes_max {
        return (StatusCode::PAYLOAD_TOO_LARGE, "message size limit\n").into_response();
    }
    let place = match admit(node, headers, peer) {
        Ok(place) => place,
        Err(refusal) => return *refusal,
    };
    let transport = if wrapping == Wrapping::Events { "sse" } else { "http_stream" };
    let link = Link {
        protocol,
        origin: origin(transport, protocol, headers, peer),
        session: uuid::Uuid::new_v4().to_string().into(),
        transport_pings: false,
    };
    let mailbox = Mailbox::new(&link.origin.client, limits.queue_bytes_max, &node.metrics);
    let mailbox = Arc::new(mailbox);
    let (sender, receiver) = mpsc::channel(CHUNKS);
    let pipe = Pipe::body(PollSender::new(sender), wrapping, protocol);
    let hangup = Hangup(Arc::clone(&mailbox));
    let served = connection::serve(Arc::clone(node), place, link, mailbox, pipe, Some(first));
    node.tasks.spawn(served);
    // Something at once, so that proxies and browsers see that the response has begun.
    let start = (wrapping == Wrapping::Events).then(|| Bytes::from_static(b"\r\n"));
    let chunks = unfold((start, receiver, hangup), async |(start, mut receiver, hangup)| {
        let chunk = match start {
            Some(start) => start,
            None => receiver.recv().await?,
        };
        Some((Ok::<_, std::convert::Infallible>(chunk), (None, receiver, hangup)))
    });
    let kind = match (wrapping, protocol) {
        (Wrapping::Events, _) => "text/event-stream; charset=utf-8",
        (Wrapping::Plain, Protocol::Json) => "text/plain; charset=utf-8",
        (Wrapping::Plain, Protocol::Protobuf) => OCTETS,
    };
    let own = [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "private, no-cache, no-store, no-transform"),
        // Asks nginx not to gather the response before it passes it on.
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    shared(headers, (own, Body::from_stream(chunks)).into_response())
}

/// Commands of a client that is connected by a stream, here or on another node.
pub(super) async fn emulation(
    State(node): State<Arc<Node>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if !origin_allowed(&node, &headers) {
        return (StatusCode::FORBIDDEN, "this origin may not connect\n").into_response();
    }
    let commands = match speaks(&headers) {
        Protocol::Json => serde_json::from_slice::<Commands>(&body).ok(),
        Protocol::Protobuf => Commands::decode(body).ok(),
    };
    let Some(Commands { node: target, session, data }) = commands else {
        let text = "expected node, session and data\n";
        return shared(&headers, (StatusCode::BAD_REQUEST, text).into_response());
    };
    if data.len() > node.shared.limits.message_bytes_max {
        let text = "message size limit\n";
        return shared(&headers, (StatusCode::PAYLOAD_TOO_LARGE, text).into_response());
    }
    let taken = if *target == **node.bus.node() {
        take(&node.connections, &session, data)
    } else if node.bus.nodes().iter().any(|entry| *entry.id == *target) {
        let question = [session.as_bytes(), b"\n", &data].concat().into();
        let asked = node.bus.survey(Target::Node(&target), KIND, question, FORWARD_TIMEOUT);
        asked.await.answers.iter().any(|(_, answer)| answer == TAKEN)
    } else {
        false
    };
    let status = if taken { StatusCode::NO_CONTENT } else { StatusCode::NOT_FOUND };
    shared(&headers, status.into_response())
}

/// Answers other nodes that have commands for a session of this one.
pub(crate) fn answer(bus: &Bus, connections: Arc<Connections>) {
    bus.answer(
        KIND,
        move |question: Question| -> futures_util::future::BoxFuture<'static, Bytes> {
            let line = question.payload.iter().position(|byte| *byte == b'\n');
            let taken = line.is_some_and(|line| {
                let session = std::str::from_utf8(&question.payload[..line]);
                session.is_ok_and(|session| {
                    take(&connections, session, question.payload.slice(line + 1..))
                })
            });
            let answer = if taken { Bytes::from_static(TAKEN) } else { Bytes::new() };
            Box::pin(futures_util::future::ready(answer))
        },
    );
}

fn take(connections: &Connections, session: &str, data: Bytes) -> bool {
    let mailbox = connections.by_session(session);
    if let Some(mailbox) = &mailbox {
        mailbox.order(Order::Input(data));
    }
    mailbox.is_some()
}

/// Lets a page of another origin see the answer. That it may was decided before.
fn shared(headers: &HeaderMap, mut answer: Response) -> Response {
    if let Some(origin) = headers.get(header::ORIGIN) {
        answer.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        answer.headers_mut().insert(header::VARY, HeaderValue::from_static("origin"));
    }
    answer
}

/// Answers a browser that asks whether it may.
pub(super) async fn preflight(State(node): State<Arc<Node>>, headers: HeaderMap) -> Response {
    if !origin_allowed(&node, &headers) {
        return StatusCode::FORBIDDEN.into_response();
    }
    let own = [
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST"),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, "content-type"),
        (header::ACCESS_CONTROL_MAX_AGE, "600"),
    ];
    shared(&headers, (StatusCode::NO_CONTENT, own).into_response())
}
