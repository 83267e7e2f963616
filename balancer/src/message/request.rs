//! A request's head: refused, or turned into the head a server gets.

use std::mem::MaybeUninit;
use std::net::IpAddr;

use ipnet::IpNet;

use super::choice::{Choice, Seen};
use super::fields::{Connection, Field, Lines, classify};
use super::{FIELDS_MAX, Framing, chunked::Chunked, trace};

/// Hops looked at in `X-Forwarded-For`; a longer chain is a loop or an attack.
const HOPS_MAX: usize = 32;

/// Why a request is not forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Ambiguous or incomplete; 400.
    Malformed(&'static str),
    /// More fields than [`FIELDS_MAX`]; 431.
    TooManyFields,
    /// `CONNECT` and `TRACE` are not for a reverse proxy; 405.
    Method,
    /// HTTP, but neither 1.0 nor 1.1; 505.
    Version,
}

/// What a head is read with.
#[derive(Debug, Clone, Copy)]
pub struct Reading<'a> {
    /// Whose request it is.
    pub peer: &'a Peer,
    /// Peers whose `X-Forwarded-*` is believed.
    pub trusted: &'a [IpNet],
    /// Whether `Forwarded` (RFC 7239) is written beside `X-Forwarded-*`.
    pub forwarded: bool,
    /// A number nobody can guess, for `X-Request-Id` where no trusted proxy has given one.
    pub request_id: Option<u128>,
    /// Numbers of a trace and of its first step, for a `traceparent` where the client has given none that is right.
    pub trace: Option<(u128, u64)>,
}

/// What is known of the client beside its request.
#[derive(Debug, Clone)]
pub struct Peer {
    address: IpAddr,
    /// The address as a field's value, made once per connection.
    text: Box<str>,
    scheme: &'static str,
}

impl Peer {
    /// A client at `address` that speaks `scheme` (`http` or `https`) with us.
    pub fn new(address: IpAddr, scheme: &'static str) -> Self {
        // An IPv4 client of a dual-stack listener is known by its IPv4 address, as everywhere else.
        let address = address.to_canonical();
        Self { address, text: address.to_string().into(), scheme }
    }

    /// Whether nobody else can read what it is sent.
    pub fn is_secure(&self) -> bool {
        self.scheme == "https"
    }
}

/// What a head says beyond itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts, not states")]
pub struct RequestHead {
    /// Bytes it had.
    pub length: usize,
    /// How far its body reaches.
    pub framing: Framing,
    /// The client behind trusted proxies.
    pub client: IpAddr,
    /// Where it goes.
    pub choice: Choice,
    /// Whether it asks to switch protocols.
    pub upgrade: bool,
    /// Whether it may be sent twice (RFC 9110 9.2.2: idempotent) and has no body that would be gone.
    pub repeatable: bool,
    /// A `HEAD`: its response has no body whatever it says.
    pub is_head: bool,
    /// From a client that knows no chunks.
    pub http10: bool,
    /// Whether the client wants another request on this connection.
    pub keep_alive: bool,
    /// Whether the client waits for 100 (Continue) before it sends the body.
    pub expects_continue: bool,
}

/// Reads a head from the front of `bytes` and writes the one a server gets to the end of `out`; `choose` is asked where it goes. `None`
/// while it is incomplete; `out` is as it was then, and on an error.
///
/// # Errors
/// It is not to be forwarded.
pub fn read(
    bytes: &[u8],
    reading: &Reading<'_>,
    out: &mut Vec<u8>,
    choose: impl FnOnce(&Seen<'_>) -> Choice,
) -> Result<Option<RequestHead>, Refused> {
    let Reading { peer, trusted, .. } = *reading;
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut []);
    let length = match request.parse_with_uninit_headers(bytes, &mut fields) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(Refused::TooManyFields),
        Err(httparse::Error::Version) if names_version(bytes) => return Err(Refused::Version),
        Err(_) => return Err(Refused::Malformed("this is not HTTP/1.1")),
    };
    let head = &bytes[..length];
    if !super::has_strict_lines(head, request.headers) {
        return Err(Refused::Malformed("a line does not end in CRLF"));
    }
    let method = request.method.unwrap_or_default();
    if method == "CONNECT" || method == "TRACE" {
        return Err(Refused::Method);
    }
    let http10 = request.version == Some(0);
    let known = Known::read(request.headers, http10)?;
    let (authority, target) = split_target(method, request.path.unwrap_or_default())?;
    if known.hosts == 0 && authority.is_none() && !http10 {
        return Err(Refused::Malformed("no Host header"));
    }
    let host = authority.or(known.host).unwrap_or_default();
    let framing = known.framing()?;
    let idempotent = matches!(method, "GET" | "HEAD" | "OPTIONS" | "PUT" | "DELETE");
    let upgrade = known.upgrade && known.connection.upgrade && !known.h2c && !http10;
    let keep_alive =
        if http10 { known.connection.keep_alive } else { true } && !known.connection.close;

    for part in [method, " ", target, " HTTP/1.1\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    let is_trusted = |address: IpAddr| trusted.iter().any(|net| net.contains(&address));
    let believed = is_trusted(peer.address);
    // RFC 9112 3.2.2: the target wins over the field; and a server of ours is always told a host, if only an empty one.
    let own_host = authority.is_some() || known.hosts == 0;
    if own_host {
        line(out, "Host", host.as_bytes());
    }
    // Two of them name no trace, and a state without its trace says nothing.
    let own_trace = reading.trace.filter(|_| known.traceparents != 1 || !known.traced);
    let mut lines = Lines::new(head);
    for field in request.headers.iter() {
        let goes_on = match classify(field.name) {
            Field::Host => !own_host,
            Field::ContentLength | Field::TransferEncoding => true,
            Field::Upgrade => upgrade,
            // The last two are written anew below.
            Field::Connection
            | Field::Hop
            | Field::Expect
            | Field::XForwardedFor
            | Field::XRealIp => false,
            Field::XForwardedProto | Field::XForwardedHost => believed,
            Field::Forwarded => believed && !reading.forwarded,
            // Without ids of our own those of clients are their business.
            Field::XRequestId => believed || reading.request_id.is_none(),
            Field::Traceparent | Field::Tracestate if own_trace.is_some() => false,
            Field::Traceparent | Field::Tracestate | Field::Cookie | Field::Other => {
                !known.connection.names(field.name)
            }
        };
        lines.take(field.name, goes_on, out);
    }
    lines.finish(out);
    if upgrade {
        out.extend_from_slice(b"Connection: Upgrade\r\n");
    }
    let client = if believed {
        name_client(request.headers, peer, is_trusted, out)
    } else {
        line(out, "X-Forwarded-For", peer.text.as_bytes());
        line(out, "X-Real-IP", peer.text.as_bytes());
        peer.address
    };
    if !believed || !known.forwarded_proto {
        line(out, "X-Forwarded-Proto", peer.scheme.as_bytes());
    }
    if !believed || !known.forwarded_host {
        line(out, "X-Forwarded-Host", host.as_bytes());
    }
    if reading.forwarded {
        forward(request.headers, peer, believed, host, out);
    }
    if let Some(id) = reading.request_id.filter(|_| !(believed && known.request_id)) {
        line(out, "X-Request-Id", format!("{id:032x}").as_bytes());
    }
    if let Some((trace, parent)) = own_trace {
        line(out, "traceparent", trace::new(trace, parent).as_bytes());
    }
    out.extend_from_slice(b"\r\n");
    Ok(Some(RequestHead {
        length,
        framing,
        client,
        choice: choose(&Seen::new(host, target, request.headers)),
        upgrade,
        repeatable: idempotent && framing.is_done(),
        is_head: method == "HEAD",
        http10,
        keep_alive,
        expects_continue: known.expects_continue && !http10 && !framing.is_done(),
    }))
}

fn line(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// The fields that decide over framing and hop.
#[derive(Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts, not states")]
struct Known<'a> {
    hosts: u32,
    host: Option<&'a str>,
    length: Option<u64>,
    chunked: bool,
    connection: Connection<'a>,
    upgrade: bool,
    h2c: bool,
    expects_continue: bool,
    forwarded_proto: bool,
    forwarded_host: bool,
    request_id: bool,
    traceparents: u32,
    /// The last of them is right.
    traced: bool,
}

impl<'a> Known<'a> {
    fn read(fields: &'a [httparse::Header<'_>], http10: bool) -> Result<Self, Refused> {
        let mut known = Self::default();
        for field in fields {
            let value = field.value;
            match classify(field.name) {
                Field::Host => {
                    known.hosts += 1;
                    known.host = Some(host(value)?);
                    if known.hosts > 1 {
                        return Err(Refused::Malformed("more than one Host header"));
                    }
                }
                Field::ContentLength => {
                    let length = super::length(value);
                    if known.length.is_some() || length.is_none() {
                        return Err(Refused::Malformed("bad Content-Length"));
                    }
                    known.length = length;
                }
                Field::TransferEncoding => {
                    // A server that knew another coding than we would find another end of the body.
                    if http10 || known.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                        return Err(Refused::Malformed("bad Transfer-Encoding"));
                    }
                    known.chunked = true;
                }
                Field::Connection => known.connection.read(value),
                Field::Upgrade => {
                    known.upgrade = true;
                    // HTTP/2 would escape the head's treatment here.
                    known.h2c |= value.windows(3).any(|w| w.eq_ignore_ascii_case(b"h2c"));
                }
                Field::Expect => {
                    known.expects_continue |= value.eq_ignore_ascii_case(b"100-continue");
                }
                Field::XForwardedProto => known.forwarded_proto = true,
                Field::XForwardedHost => known.forwarded_host = true,
                Field::XRequestId => known.request_id = true,
                Field::Traceparent => {
                    known.traceparents += 1;
                    known.traced = trace::is_valid(value.trim_ascii());
                }
                _ => {}
            }
        }
        Ok(known)
    }

    /// A request that names no length has no body (RFC 9112 6.3).
    fn framing(&self) -> Result<Framing, Refused> {
        match (self.length, self.chunked) {
            (Some(_), true) => Err(Refused::Malformed("both Content-Length and Transfer-Encoding")),
            (None, true) => Ok(Framing::Chunked(Chunked::default())),
            (length, false) => Ok(Framing::Length(length.unwrap_or(0))),
        }
    }
}

/// Whether the first line ends as a request line of some version of HTTP does.
fn names_version(bytes: &[u8]) -> bool {
    let line = bytes.trim_ascii_start().split(|byte| *byte == b'\n').next().unwrap_or_default();
    line.trim_ascii_end().rsplit(|byte| *byte == b' ').next().is_some_and(|word| {
        word.strip_prefix(b"HTTP/").is_some_and(|rest| rest.first().is_some_and(u8::is_ascii_digit))
    })
}

/// A host as RFC 3986 has it, as far as needed to be read alike by everybody.
fn host(value: &[u8]) -> Result<&str, Refused> {
    let valid = value
        .iter()
        .all(|byte| byte.is_ascii_alphanumeric() || b"-._~:[]%!$&'()*+;=".contains(byte));
    match std::str::from_utf8(value) {
        Ok(text) if valid => Ok(text),
        _ => Err(Refused::Malformed("bad Host header")),
    }
}

/// The authority of a target in absolute form, and the target in origin form.
fn split_target<'t>(method: &str, target: &'t str) -> Result<(Option<&'t str>, &'t str), Refused> {
    const BAD: Refused = Refused::Malformed("bad target");
    // Some programs cut a fragment off and others do not.
    if target.contains('#') || !target.is_ascii() {
        return Err(BAD);
    }
    if target.starts_with('/') || (target == "*" && method == "OPTIONS") {
        return Ok((None, target));
    }
    let (scheme, rest) = target.split_once("://").ok_or(BAD)?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return Err(BAD);
    }
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let authority = authority.rsplit('@').next().unwrap_or_default();
    if authority.is_empty() || host(authority.as_bytes()).is_err() || path.starts_with('?') {
        return Err(BAD);
    }
    Ok((Some(authority), if path.is_empty() { "/" } else { path }))
}

/// Writes `X-Forwarded-For` and `X-Real-IP` after a trusted proxy, and returns the client they name.
fn name_client(
    fields: &[httparse::Header<'_>],
    peer: &Peer,
    is_trusted: impl Fn(IpAddr) -> bool,
    out: &mut Vec<u8>,
) -> IpAddr {
    // The nearest hop stands last; the client is the first, from there, that no trusted proxy speaks for.
    let mut client = peer.address;
    let chains = || fields.iter().filter(|field| classify(field.name) == Field::XForwardedFor);
    let hops = chains().rev().flat_map(|field| field.value.rsplit(|byte| *byte == b','));
    for hop in hops.take(HOPS_MAX) {
        let text = std::str::from_utf8(hop.trim_ascii()).unwrap_or_default();
        let Ok(address) = text.parse::<IpAddr>() else { break };
        client = address.to_canonical();
        if !is_trusted(client) {
            break;
        }
    }
    out.extend_from_slice(b"X-Forwarded-For: ");
    for chain in chains().filter(|field| !field.value.is_empty()) {
        out.extend_from_slice(chain.value);
        out.extend_from_slice(b", ");
    }
    out.extend_from_slice(peer.text.as_bytes());
    out.extend_from_slice(b"\r\n");
    line(out, "X-Real-IP", client.to_string().as_bytes());
    client
}

/// Writes `Forwarded` (RFC 7239), after what trusted proxies have said there.
fn forward(
    fields: &[httparse::Header<'_>],
    peer: &Peer,
    believed: bool,
    host: &str,
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(b"Forwarded: ");
    let said = fields.iter().filter(|field| believed && classify(field.name) == Field::Forwarded);
    for field in said.filter(|field| !field.value.is_empty()) {
        out.extend_from_slice(field.value);
        out.extend_from_slice(b", ");
    }
    let (text, scheme) = (&peer.text, peer.scheme);
    // An IPv6 address and whatever has a colon stands in quotes (RFC 7239 4 and 6).
    let node = if peer.address.is_ipv6() { format!("\"[{text}]\"") } else { text.to_string() };
    out.extend_from_slice(format!("for={node};host=\"{host}\";proto={scheme}\r\n").as_bytes());
}

#[cfg(test)]
mod tests;
