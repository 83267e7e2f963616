//! Where a request goes, as far as its head says: what a listener's routes look at, and by what a pool chooses a server.

use super::fields::{Field, classify};
use crate::pool::balance;

/// The part of a request that says where it goes, for a pool that is spread by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    /// The target without its query.
    Uri,
    /// The field of this name.
    Header(Box<str>),
    /// The cookie of this name.
    Cookie(Box<str>),
    /// The parameter of this name in the target's query, as it is written there.
    Query(Box<str>),
}

/// What a request asks for, as far as it decides where it goes.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    host: &'a str,
    target: &'a str,
    fields: &'a [httparse::Header<'a>],
}

impl<'a> Seen<'a> {
    pub(crate) fn new(host: &'a str, target: &'a str, fields: &'a [httparse::Header<'a>]) -> Self {
        Self { host, target, fields }
    }

    /// The host without its port, as the client wrote it.
    pub fn host(&self) -> &'a str {
        match self.host.rfind(':') {
            // The colons of an IPv6 address stand within brackets.
            Some(at) if !self.host[at..].contains(']') => &self.host[..at],
            _ => self.host,
        }
    }

    /// The target without its query.
    pub fn path(&self) -> &'a str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// The values of the fields of this name.
    pub fn values(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        let named = self.fields.iter().filter(move |field| field.name.eq_ignore_ascii_case(name));
        named.map(|field| field.value)
    }

    /// The hash of what keys the choice of a server, if the request has it.
    pub fn key(&self, key: &Key) -> Option<u64> {
        let value = match key {
            Key::Uri => Some(self.path().as_bytes()),
            Key::Header(name) => self.values(name).next(),
            Key::Cookie(name) => self.cookie(name),
            Key::Query(name) => self.parameter(name),
        };
        value.map(balance::hash)
    }

    /// The value of the first parameter of this name.
    fn parameter(&self, name: &str) -> Option<&'a [u8]> {
        let (_, query) = self.target.split_once('?')?;
        let mut pairs = query.split('&');
        let value = pairs.find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        value.map(str::as_bytes)
    }

    /// The number in the first cookie of this name.
    pub fn sticky(&self, name: &str) -> Option<u64> {
        let value = std::str::from_utf8(self.cookie(name)?).ok()?;
        u64::from_str_radix(value, 16).ok()
    }

    /// The value of the first cookie of this name (RFC 6265 4.2.1).
    fn cookie(&self, name: &str) -> Option<&'a [u8]> {
        let cookies = self.fields.iter().filter(|field| classify(field.name) == Field::Cookie);
        let mut pairs = cookies.flat_map(|field| field.value.split(|byte| *byte == b';'));
        pairs.find_map(|pair| pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"="))
    }
}

/// Where a request goes, and by what a server is chosen there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Choice {
    /// The listener's route it takes; `None` for the listener's own pool.
    pub route: Option<u16>,
    /// [`balance::hash`] of the [`Key`], if the request has it.
    pub key: Option<u64>,
    /// The server its sticky cookie names.
    pub sticky: Option<u64>,
    /// The hash of what the pool's stick table goes by, if that is a part of the request.
    pub stick: Option<u64>,
    /// The hash of the token by which requests are limited.
    pub token: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_is_found_by_its_whole_name() {
        let key = |target, name: &str| Seen::new("a", target, &[]).key(&Key::Query(name.into()));
        let token = Some(balance::hash(b"t"));
        assert_eq!(key("/?a=1&token=t&token=u", "token"), token);
        assert_eq!(key("/?token=t?x", "token"), Some(balance::hash(b"t?x")));
        for target in ["/token=t", "/?xtoken=t", "/?token", "/?tokens=t", "/"] {
            assert_eq!(key(target, "token"), None, "{target}");
        }
    }

    #[test]
    fn a_host_is_told_from_its_port() {
        for (text, host) in [
            ("chat.example", "chat.example"),
            ("chat.example:8443", "chat.example"),
            ("[2001:db8::5]", "[2001:db8::5]"),
            ("[2001:db8::5]:80", "[2001:db8::5]"),
            ("", ""),
        ] {
            assert_eq!(Seen::new(text, "/", &[]).host(), host);
        }
    }
}
