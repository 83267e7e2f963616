//! The WebSocket handshake (RFC 6455), as far as one who makes it himself has to know it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest as _, Sha1};

/// What a server has to append to a key (RFC 6455 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// `Sec-WebSocket-Key` of a nonce.
pub(crate) fn key(nonce: u128) -> String {
    STANDARD.encode(nonce.to_be_bytes())
}

/// `Sec-WebSocket-Accept` of a server that has understood `key`.
pub(crate) fn accept(key: &str) -> String {
    STANDARD.encode(Sha1::new().chain_update(key).chain_update(GUID).finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_answered_as_in_rfc_6455() {
        assert_eq!(accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(key(u128::from_be_bytes(*b"the sample nonce")), "dGhlIHNhbXBsZSBub25jZQ==");
    }
}
