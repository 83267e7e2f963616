//! Whether a client may connect, before anything is spent on it: drain, room, rate, origin.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError};

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::Node;
use super::connection::now;
use crate::connections::{Full, Place};

/// When a refused client may come again.
const RETRY_AFTER_SECONDS: &str = "1";

/// Where proxies say whom they speak for.
const FORWARDED_FOR: &str = "x-forwarded-for";

/// The address a connection comes from, as the listener saw it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub(super) SocketAddr);

/// Why a client may not connect: the reason as counted, the status, and what it is told.
type Refusal = (&'static str, StatusCode, &'static str);

/// A place for the client, or what it is told instead.
pub(super) fn admit(
    node: &Arc<Node>,
    headers: &HeaderMap,
    peer: SocketAddr,
) -> Result<Place, Box<Response>> {
    place(node, headers, peer).map_err(|(reason, status, text)| {
        node.metrics.rejected_connections.with_label_values(&[reason]).inc();
        let retry = (status == StatusCode::SERVICE_UNAVAILABLE)
            .then_some([(header::RETRY_AFTER, RETRY_AFTER_SECONDS)]);
        Box::new((status, retry, text).into_response())
    })
}

fn place(node: &Arc<Node>, headers: &HeaderMap, peer: SocketAddr) -> Result<Place, Refusal> {
    let unavailable = StatusCode::SERVICE_UNAVAILABLE;
    let draining = ("draining", unavailable, "this node is being drained\n");
    if node.connections.is_draining() {
        return Err(draining);
    }
    if !origin_allowed(node, headers) {
        return Err(("origin", StatusCode::FORBIDDEN, "this origin may not connect\n"));
    }
    let mut bucket = node.connect_bucket.lock().unwrap_or_else(PoisonError::into_inner);
    if bucket.as_mut().is_some_and(|bucket| !bucket.take(now().instant)) {
        return Err(("rate", unavailable, "too many clients connect at once\n"));
    }
    drop(bucket);
    let address = client_address(node, headers, peer.ip());
    node.connections.take(Some(address)).map_err(|full| match full {
        Full::Draining => draining,
        Full::Node => ("limit", unavailable, "this node has all the connections it may have\n"),
        Full::Address => {
            let text = "this address has all the connections it may have\n";
            ("address", StatusCode::TOO_MANY_REQUESTS, text)
        }
    })
}

/// Whether a page from the request's origin may talk to the node. What is no browser says no origin.
pub(super) fn origin_allowed(node: &Node, headers: &HeaderMap) -> bool {
    let allowed = &node.shared.limits.allowed_origins;
    match headers.get(header::ORIGIN).map(HeaderValue::to_str) {
        None => true,
        Some(origin) => {
            let listed = |origin: &str| allowed.iter().any(|one| one.eq_ignore_ascii_case(origin));
            allowed.is_empty() || origin.is_ok_and(|origin| origin.is_empty() || listed(origin))
        }
    }
}

/// The address the client has: the last one named that is not a trusted proxy's own.
fn client_address(node: &Node, headers: &HeaderMap, peer: IpAddr) -> IpAddr {
    let proxies = &node.shared.limits.trusted_proxies;
    let named = headers
        .get_all(FORWARDED_FOR)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|address| address.trim().parse::<IpAddr>().ok())
        .collect::<Vec<_>>();
    let trusted = |address: IpAddr| proxies.iter().any(|network| network.contains(&address));
    forwarded(peer, &named, trusted)
}

fn forwarded(peer: IpAddr, named: &[Option<IpAddr>], trusted: impl Fn(IpAddr) -> bool) -> IpAddr {
    let mut address = peer.to_canonical();
    for next in named.iter().rev() {
        let Some(next) = next.filter(|_| trusted(address)) else { break };
        address = next.to_canonical();
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_trusted_proxies_are_believed() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let trusted = |address: IpAddr| address.to_string().starts_with("10.");
        let named: Vec<_> =
            ["6.6.6.6", "1.2.3.4", "10.0.0.2"].map(|text| Some(address(text))).into();
        assert_eq!(forwarded(address("10.0.0.1"), &named, trusted), address("1.2.3.4"));
        assert_eq!(forwarded(address("9.9.9.9"), &named, trusted), address("9.9.9.9"));
        assert_eq!(forwarded(address("::ffff:10.0.0.1"), &named, trusted), address("1.2.3.4"));
        assert_eq!(forwarded(address("10.0.0.1"), &[None], trusted), address("10.0.0.1"));
        assert_eq!(forwarded(address("10.0.0.1"), &[], trusted), address("10.0.0.1"));
    }
}
