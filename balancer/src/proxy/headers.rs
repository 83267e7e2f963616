//! What a proxy changes in the heads of messages (RFC 9110 7.6, RFC 9112 3.2 and 6): the hop ends here, and the server learns who asked.
//!
//! hyper has parsed the request by then: obsolete line folding, bad names and values, differing lengths and a transfer coding other than
//! chunked are refused by it, and where both `Content-Length` and `Transfer-Encoding` came it has dropped the former and will close the
//! connection, as RFC 9112 6.3 asks. We write a new head with a framing of our own, so no ambiguity can pass through.

use std::net::IpAddr;

use http::header::{
    CONNECTION, EXPECT, FORWARDED, HOST, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHORIZATION,
    TE, TRANSFER_ENCODING, UPGRADE,
};
use http::uri::{PathAndQuery, Uri};
use http::{Method, Version, request};
use ipnet::IpNet;

static KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
static PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
static X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
static X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// Hops looked at in `X-Forwarded-For`; a longer chain is a loop or an attack.
const HOPS_MAX: usize = 32;

/// Why a request is not forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Ambiguous or incomplete; 400.
    Malformed(&'static str),
    /// `CONNECT` and `TRACE` are not for a reverse proxy; 405.
    Method,
}

/// What is known of the client beside its request.
#[derive(Debug)]
pub(crate) struct Peer {
    address: IpAddr,
    /// The address as a header's value, made once per connection.
    value: HeaderValue,
}

impl Peer {
    pub(crate) fn new(address: IpAddr) -> Self {
        // An IPv4 client of a dual-stack listener is known by its IPv4 address, as everywhere else.
        let address = address.to_canonical();
        let value = HeaderValue::try_from(address.to_string())
            .expect("the text of an address is a valid header value");
        Self { address, value }
    }
}

/// What the head says beyond itself.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Prepared {
    /// The client behind trusted proxies.
    pub(crate) client: IpAddr,
    /// Whether it asks to switch protocols.
    pub(crate) upgrade: bool,
}

/// Turns the head a client sent into the head a server gets.
pub(crate) fn prepare_request(
    head: &mut request::Parts,
    peer: &Peer,
    trusted: &[IpNet],
) -> Result<Prepared, Refused> {
    if head.method == Method::CONNECT || head.method == Method::TRACE {
        return Err(Refused::Method);
    }
    settle_host(head)?;
    let upgrade = wants_upgrade(head);
    end_hop(&mut head.headers, upgrade);
    // Answered here: asking for the body makes hyper send 100 (Continue).
    head.headers.remove(EXPECT);
    head.headers.remove(PROXY_AUTHORIZATION);
    head.version = Version::HTTP_11;
    let client = name_client(&mut head.headers, peer, trusted);
    Ok(Prepared { client, upgrade })
}

/// Takes out what concerns only the connection it came on, from a request or a response.
pub(crate) fn end_hop(headers: &mut HeaderMap, upgrade: bool) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|b| *b == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|token| {
            // `Host` belongs to the whole way (RFC 9110 7.2); a request without it is malformed.
            [&b"close"[..], b"keep-alive", b"upgrade", b"host"]
                .iter()
                .all(|known| !token.eq_ignore_ascii_case(known))
        })
        .filter_map(|token| HeaderName::from_bytes(token).ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    headers.remove(CONNECTION);
    headers.remove(&KEEP_ALIVE);
    headers.remove(&PROXY_CONNECTION);
    headers.remove(TE);
    // Each side frames its body itself.
    headers.remove(TRANSFER_ENCODING);
    if upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    } else {
        headers.remove(UPGRADE);
    }
}

/// One host, and a target in origin form.
fn settle_host(head: &mut request::Parts) -> Result<(), Refused> {
    let mut hosts = head.headers.get_all(HOST).iter();
    let first = hosts.next();
    if hosts.next().is_some() {
        return Err(Refused::Malformed("more than one Host header"));
    }
    if let Some(authority) = head.uri.authority() {
        // RFC 9112 3.2.2: the target wins over the header.
        let host = authority.as_str().rsplit('@').next().unwrap_or_default();
        let host = HeaderValue::from_str(host).map_err(|_| Refused::Malformed("bad target"))?;
        head.headers.insert(HOST, host);
        let path = head.uri.path_and_query().cloned();
        head.uri = Uri::from(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
        return Ok(());
    }
    match first {
        // hyper writes the empty value as it is, which RFC 9112 3.2 allows for a target without an authority.
        Some(_) => Ok(()),
        None if head.version == Version::HTTP_11 => Err(Refused::Malformed("no Host header")),
        None => {
            head.headers.insert(HOST, HeaderValue::from_static(""));
            Ok(())
        }
    }
}

/// HTTP/2 over cleartext is not passed through: what follows would escape the head's treatment here.
fn wants_upgrade(head: &request::Parts) -> bool {
    let asked = head
        .headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|b| *b == b','))
        .any(|token| token.trim_ascii().eq_ignore_ascii_case(b"upgrade"));
    let protocol = head.headers.get(UPGRADE).map(HeaderValue::as_bytes);
    let h2c = protocol.is_some_and(|p| p.windows(3).any(|w| w.eq_ignore_ascii_case(b"h2c")));
    head.version == Version::HTTP_11 && asked && protocol.is_some() && !h2c
}

/// Sets `X-Forwarded-For`, `-Proto`, `-Host` and `X-Real-IP`, and returns the client they name.
fn name_client(headers: &mut HeaderMap, peer: &Peer, trusted: &[IpNet]) -> IpAddr {
    let is_trusted = |address: IpAddr| trusted.iter().any(|net| net.contains(&address));
    if !is_trusted(peer.address) {
        headers.remove(FORWARDED);
        headers.insert(&X_FORWARDED_FOR, peer.value.clone());
        headers.insert(&X_FORWARDED_PROTO, HeaderValue::from_static("http"));
        if let Some(host) = headers.get(HOST).cloned() {
            headers.insert(&X_FORWARDED_HOST, host);
        }
        headers.insert(&X_REAL_IP, peer.value.clone());
        return peer.address;
    }
    // The nearest hop stands last; the client is the first, from there, that no trusted proxy speaks for.
    let mut client = peer.address;
    let mut chain: Vec<u8> = Vec::new();
    for value in headers.get_all(&X_FORWARDED_FOR) {
        if !chain.is_empty() {
            chain.extend_from_slice(b", ");
        }
        chain.extend_from_slice(value.as_bytes());
    }
    for hop in chain.rsplit(|b| *b == b',').take(HOPS_MAX) {
        let text = std::str::from_utf8(hop.trim_ascii()).unwrap_or_default();
        let Ok(address) = text.parse::<IpAddr>() else { break };
        client = address.to_canonical();
        if !is_trusted(client) {
            break;
        }
    }
    if !chain.is_empty() {
        chain.extend_from_slice(b", ");
    }
    chain.extend_from_slice(peer.value.as_bytes());
    let chain = HeaderValue::from_maybe_shared(bytes::Bytes::from(chain));
    headers.insert(&X_FORWARDED_FOR, chain.unwrap_or_else(|_| peer.value.clone()));
    if !headers.contains_key(&X_FORWARDED_PROTO) {
        headers.insert(&X_FORWARDED_PROTO, HeaderValue::from_static("http"));
    }
    if !headers.contains_key(&X_FORWARDED_HOST)
        && let Some(host) = headers.get(HOST).cloned()
    {
        headers.insert(&X_FORWARDED_HOST, host);
    }
    headers.insert(&X_REAL_IP, Peer::new(client).value);
    client
}

#[cfg(test)]
mod tests;
