//! The header fields a proxy does not pass on blindly.

/// A field by what it means to a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    Host,
    ContentLength,
    TransferEncoding,
    Connection,
    Upgrade,
    Expect,
    /// `Keep-Alive`, `Proxy-Connection`, `TE`, `Proxy-Authorization`: for this hop only.
    Hop,
    XForwardedFor,
    XForwardedProto,
    XForwardedHost,
    XRealIp,
    Forwarded,
    XRequestId,
    Traceparent,
    Tracestate,
    Cookie,
    /// Everybody else's business.
    Other,
}

/// What the field `name` is.
pub(super) fn classify(name: &str) -> Field {
    let is = |known: &str| name.eq_ignore_ascii_case(known);
    match name.len() {
        2 if is("te") => Field::Hop,
        4 if is("host") => Field::Host,
        6 if is("expect") => Field::Expect,
        6 if is("cookie") => Field::Cookie,
        7 if is("upgrade") => Field::Upgrade,
        9 if is("x-real-ip") => Field::XRealIp,
        9 if is("forwarded") => Field::Forwarded,
        10 if is("connection") => Field::Connection,
        10 if is("keep-alive") => Field::Hop,
        10 if is("tracestate") => Field::Tracestate,
        11 if is("traceparent") => Field::Traceparent,
        12 if is("x-request-id") => Field::XRequestId,
        14 if is("content-length") => Field::ContentLength,
        15 if is("x-forwarded-for") => Field::XForwardedFor,
        16 if is("x-forwarded-host") => Field::XForwardedHost,
        16 if is("proxy-connection") => Field::Hop,
        17 if is("transfer-encoding") => Field::TransferEncoding,
        17 if is("x-forwarded-proto") => Field::XForwardedProto,
        19 if is("proxy-authorization") => Field::Hop,
        _ => Field::Other,
    }
}

/// What the fields named `Connection` say.
#[derive(Debug, Default)]
pub(super) struct Connection<'a> {
    pub(super) close: bool,
    pub(super) keep_alive: bool,
    pub(super) upgrade: bool,
    /// Other fields that end here. `Host` belongs to the whole way (RFC 9110 7.2), and the framing is ours; whoever names these is ignored.
    pub(super) named: Vec<&'a [u8]>,
}

impl<'a> Connection<'a> {
    /// Takes in the value of one such field.
    pub(super) fn read(&mut self, value: &'a [u8]) {
        for option in super::members(value) {
            let is = |known: &[u8]| option.eq_ignore_ascii_case(known);
            if is(b"close") {
                self.close = true;
            } else if is(b"keep-alive") {
                self.keep_alive = true;
            } else if is(b"upgrade") {
                self.upgrade = true;
            } else if !is(b"host") && !is(b"content-length") && !is(b"transfer-encoding") {
                self.named.push(option);
            }
        }
    }

    /// Whether `name` ends here.
    pub(super) fn names(&self, name: &str) -> bool {
        self.named.iter().any(|named| named.eq_ignore_ascii_case(name.as_bytes()))
    }
}

/// Copies the lines of a head that go on, in runs as long as possible.
pub(super) struct Lines<'a> {
    head: &'a [u8],
    /// What is to be copied begins here; `None` while lines are left out.
    run: Option<usize>,
}

impl<'a> Lines<'a> {
    /// Of `head`, which ends with its empty line.
    pub(super) fn new(head: &'a [u8]) -> Self {
        Self { head, run: None }
    }

    /// Decides over the line of the field `name`, which lies in `head`.
    pub(super) fn take(&mut self, name: &str, goes_on: bool, out: &mut Vec<u8>) {
        if goes_on && self.run.is_some() {
            return;
        }
        let at = super::position(self.head, name);
        if let Some(from) = self.run.take() {
            out.extend_from_slice(&self.head[from..at]);
        }
        self.run = goes_on.then_some(at);
    }

    /// Copies what is left, without the empty line.
    pub(super) fn finish(self, out: &mut Vec<u8>) {
        if let Some(from) = self.run {
            out.extend_from_slice(&self.head[from..self.head.len() - 2]);
        }
    }
}
