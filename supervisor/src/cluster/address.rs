//! Where something listens.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// `host:port`, as people write it. The host may be a name or an IP address (IPv6 in brackets).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Address {
    host: String,
    port: u16,
}

impl Address {
    /// An address from its parts.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self { host: host.into(), port }
    }

    /// Host name or IP address, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// TCP port, 1 to 65535.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fail = || format!("expected host:port, found {text:?}");
        let (host, port) = text.rsplit_once(':').ok_or_else(fail)?;
        let host = match host.strip_prefix('[') {
            Some(inner) => inner.strip_suffix(']').ok_or_else(fail)?,
            None if host.contains(':') => return Err(fail()),
            None => host,
        };
        if host.is_empty() || host.contains(char::is_whitespace) || host.contains('/') {
            return Err(fail());
        }
        let port: u16 = port.parse().map_err(|_| fail())?;
        if port == 0 {
            return Err(fail());
        }
        Ok(Self::new(host, port))
    }
}

impl TryFrom<String> for Address {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_printed_the_same() {
        for text in ["127.0.0.1:6379", "redis-1.example:80", "[::1]:9700"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn other_texts_are_refused_with_what_was_found() {
        for text in ["", "a", "a:", "a:0", "a:65536", ":80", "::1:80", "http://a:80", "a b:80"] {
            let error = text.parse::<Address>().unwrap_err();
            assert_eq!(error, format!("expected host:port, found {text:?}"));
        }
    }
}
