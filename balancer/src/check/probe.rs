//! One question to one server.

use std::io;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::config::{Address, CheckKind, PoolRules};
use crate::proxy::upstream;

/// A status line is shorter; what follows it is not read.
const STATUS_LINE_MAX: usize = 512;

/// What was wrong with the answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProbeError {
    #[error("connect")]
    Connect(#[source] io::Error),
    #[error("ask")]
    Exchange(#[source] io::Error),
    #[error("closed without an answer")]
    Closed,
    #[error("not HTTP")]
    NotHttp,
    #[error("status {0}")]
    Status(u16),
}

/// Asks once. The caller bounds the time.
///
/// # Cancel safety
/// Dropping it closes the connection; nothing else is affected.
pub(super) async fn probe(
    kind: &CheckKind,
    address: &Address,
    rules: &PoolRules,
) -> Result<(), ProbeError> {
    let mut stream =
        upstream::establish(address, rules, None).await.map_err(ProbeError::Connect)?;
    let CheckKind::Http(path) = kind else { return Ok(()) };
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: holdfast-balancer\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.map_err(ProbeError::Exchange)?;
    stream.flush().await.map_err(ProbeError::Exchange)?;
    let mut answer = Vec::with_capacity(STATUS_LINE_MAX);
    while !answer.contains(&b'\n') && answer.len() < STATUS_LINE_MAX {
        if stream.read_buf(&mut answer).await.map_err(ProbeError::Exchange)? == 0 {
            return Err(ProbeError::Closed);
        }
    }
    match status(&answer).ok_or(ProbeError::NotHttp)? {
        200..=399 => Ok(()),
        other => Err(ProbeError::Status(other)),
    }
}

/// The status of a response that begins with `answer`.
fn status(answer: &[u8]) -> Option<u16> {
    let rest = answer.strip_prefix(b"HTTP/1.1 ").or_else(|| answer.strip_prefix(b"HTTP/1.0 "))?;
    std::str::from_utf8(rest.get(..3)?).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_read_from_the_first_line() {
        for (answer, expected) in [
            (&b"HTTP/1.1 200 OK\r\nServer: x\r\n"[..], Some(200)),
            (b"HTTP/1.0 503\r\n", Some(503)),
            (b"HTTP/2 200\r\n", None),
            (b"SSH-2.0-OpenSSH\r\n", None),
            (b"HTTP/1.1 2\n", None),
            (b"", None),
        ] {
            assert_eq!(status(answer), expected);
        }
    }
}
