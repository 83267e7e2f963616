//! From an HTTP request to a WebSocket.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Extension;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use sha1::{Digest as _, Sha1};
use tokio::net::TcpStream;
use tracing::debug;

use super::Node;
use super::admission::{Peer, admit};
use super::connection;
use super::pipe::Pipe;
use crate::access::Origin;
use crate::connections::Place;
use crate::mailbox::Mailbox;
use crate::protocol::Protocol;
use crate::session::Link;

/// Subprotocol of the JSON form.
const JSON: &str = "centrifuge-json";

/// Subprotocol of the protobuf form.
const PROTOBUF: &str = "centrifuge-protobuf";

/// What the server appends to the client's key (RFC 6455, 1.3).
const KEY_SUFFIX: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// What a client may ask for in its address.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Wishes {
    cf_protocol: String,
    format: String,
    cf_ws_frame_ping_pong: String,
}

/// Answers a request for a WebSocket.
pub(super) async fn connect(
    State(node): State<Arc<Node>>,
    Extension(Peer(peer)): Extension<Peer>,
    Query(wishes): Query<Wishes>,
    mut request: Request,
) -> Response {
    let upgrade = request.extensions_mut().remove::<OnUpgrade>();
    let key = websocket_key(request.headers());
    let (Some(key), Some(upgrade)) = (key, upgrade) else {
        node.metrics.rejected_connections.with_label_values(&["request"]).inc();
        let version = [(header::SEC_WEBSOCKET_VERSION, "13")];
        return (StatusCode::UPGRADE_REQUIRED, version, "expected a WebSocket\n").into_response();
    };
    let place = match admit(&node, request.headers(), peer) {
        Ok(place) => place,
        Err(refusal) => return *refusal,
    };
    let (protocol, subprotocol) = protocol(request.headers(), &wishes);
    let link = Link {
        protocol,
        origin: origin("websocket", protocol, request.headers(), peer),
        session: Box::default(),
        transport_pings: wishes.cf_ws_frame_ping_pong == "true",
    };
    node.tasks.spawn(serve(Arc::clone(&node), place, link, upgrade));
    let mut answer = StatusCode::SWITCHING_PROTOCOLS.into_response();
    let headers = answer.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept(key));
    if let Some(subprotocol) = subprotocol {
        let subprotocol = HeaderValue::from_static(subprotocol);
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, subprotocol);
    }
    answer
}

/// How a client comes.
pub(super) fn origin(
    transport: &'static str,
    protocol: Protocol,
    headers: &HeaderMap,
    peer: SocketAddr,
) -> Origin {
    let text = |(name, value): (&header::HeaderName, &HeaderValue)| {
        Some((name.as_str().into(), value.to_str().ok()?.into()))
    };
    let mut headers: Vec<(Box<str>, Box<str>)> = headers.iter().filter_map(text).collect();
    headers.push(("x-real-ip".into(), peer.ip().to_string().into()));
    let client = uuid::Uuid::new_v4().to_string().into();
    Origin { client, transport, encoding: protocol.name(), headers }
}

async fn serve(node: Arc<Node>, place: Place, link: Link, upgrade: OnUpgrade) {
    let (stream, early) = match upgrade.await.map(Upgraded::downcast::<TokioIo<TcpStream>>) {
        Ok(Ok(parts)) => (parts.io.into_inner(), parts.read_buf),
        Ok(Err(_)) => return debug!("upgrade failed: not one of our own connections"),
        Err(error) => return debug!(%error, "upgrade failed"),
    };
    let limits = &node.shared.limits;
    let mailbox = Mailbox::new(&link.origin.client, limits.queue_bytes_max, &node.metrics);
    let pipe = Pipe::socket(stream, &early, limits.message_bytes_max);
    // Even when it is empty it holds the buffer that the request was read into, which would live as long as the connection.
    drop(early);
    connection::serve(node, place, link, Arc::new(mailbox), pipe, None).await;
}

/// The client's key, if it asks for a WebSocket at all.
fn websocket_key(headers: &HeaderMap) -> Option<&HeaderValue> {
    let says = |name: header::HeaderName, word: &str| {
        headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .any(|value| value.trim().eq_ignore_ascii_case(word))
    };
    let asked = says(header::CONNECTION, "upgrade")
        && says(header::UPGRADE, "websocket")
        && says(header::SEC_WEBSOCKET_VERSION, "13");
    headers.get(header::SEC_WEBSOCKET_KEY).filter(|_| asked)
}

fn accept(key: &HeaderValue) -> HeaderValue {
    let digest = Sha1::new().chain_update(key.as_bytes()).chain_update(KEY_SUFFIX).finalize();
    HeaderValue::from_str(&STANDARD.encode(digest)).expect("base 64 is text")
}

/// The form the client wants to speak, and the subprotocol that is to be confirmed.
fn protocol(headers: &HeaderMap, wishes: &Wishes) -> (Protocol, Option<&'static str>) {
    let offered = |wanted: &str| {
        headers
            .get_all(header::SEC_WEBSOCKET_PROTOCOL)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .any(|offer| offer.trim() == wanted)
    };
    if offered(PROTOBUF) {
        (Protocol::Protobuf, Some(PROTOBUF))
    } else if wishes.cf_protocol == "protobuf" || wishes.format == "protobuf" {
        (Protocol::Protobuf, None)
    } else {
        (Protocol::Json, offered(JSON).then_some(JSON))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offering(subprotocol: &'static str) -> HeaderMap {
        let value = HeaderValue::from_static(subprotocol);
        HeaderMap::from_iter([(header::SEC_WEBSOCKET_PROTOCOL, value)])
    }

    #[test]
    fn the_key_is_answered_as_the_standard_says() {
        let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(accept(&key), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn clients_ask_for_protobuf_in_three_ways() {
        let plain = Wishes::default();
        let asked = |cf_protocol: &str, format: &str| Wishes {
            cf_protocol: cf_protocol.into(),
            format: format.into(),
            ..Wishes::default()
        };
        for (headers, wishes, expected) in [
            (HeaderMap::new(), &plain, (Protocol::Json, None)),
            (offering(""), &plain, (Protocol::Json, None)),
            (offering("centrifuge-json"), &plain, (Protocol::Json, Some(JSON))),
            (offering("x, centrifuge-protobuf"), &plain, (Protocol::Protobuf, Some(PROTOBUF))),
            (HeaderMap::new(), &asked("protobuf", ""), (Protocol::Protobuf, None)),
            (HeaderMap::new(), &asked("", "protobuf"), (Protocol::Protobuf, None)),
        ] {
            assert_eq!(protocol(&headers, wishes), expected);
        }
    }
}
