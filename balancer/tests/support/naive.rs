//! A server that believes whatever comes: it reads heads and bodies as their framing says, leniently, and notes what it has got.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// How much of what has come is noted as a request; `None` while that is not there yet.
pub(crate) type Framing = fn(&[u8]) -> Option<usize>;

/// A server.
pub(crate) struct Naive {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<HashSet<String>>>,
}

impl Naive {
    /// Starts one that notes requests as far as `framing` says.
    pub(crate) async fn start(framing: Framing) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen: Arc<Mutex<HashSet<String>>> = Arc::default();
        let noted = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(believe(stream, framing, Arc::clone(&noted)));
            }
        });
        Self { address, seen }
    }

    pub(crate) fn has_seen(&self, text: &str) -> bool {
        self.seen.lock().unwrap().iter().any(|seen| seen.contains(text))
    }

    /// What it has noted since this was last asked.
    pub(crate) fn take_seen(&self) -> HashSet<String> {
        std::mem::take(&mut *self.seen.lock().unwrap())
    }
}

/// Whatever stands at the start of what is left is a request.
async fn believe(mut stream: TcpStream, framing: Framing, seen: Arc<Mutex<HashSet<String>>>) {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = framing(&bytes) {
            seen.lock().unwrap().insert(String::from_utf8_lossy(&bytes[..end]).into_owned());
        }
        if let Some(end) = whole(&bytes) {
            bytes.drain(..end);
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
            if stream.write_all(answer).await.is_err() {
                return;
            }
        } else if !matches!(stream.read_buf(&mut bytes).await, Ok(1..)) {
            return;
        }
    }
}

/// Where the head of the first request ends.
pub(crate) fn head(bytes: &[u8]) -> Option<usize> {
    Some(bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4)
}

/// Where the first request ends, its body included.
pub(crate) fn whole(bytes: &[u8]) -> Option<usize> {
    let head = head(bytes)?;
    let text = String::from_utf8_lossy(&bytes[..head]).to_lowercase();
    if text.contains("transfer-encoding: chunked") {
        let last = bytes[head..].windows(3).position(|window| window == b"0\r\n")?;
        let end = bytes[head + last..].windows(4).position(|window| window == b"\r\n\r\n")?;
        return Some(head + last + end + 4);
    }
    let length = text.lines().find_map(|line| line.strip_prefix("content-length:"));
    let end = head + length.map_or(0, |length| length.trim().parse().unwrap_or(0));
    (bytes.len() >= end).then_some(end)
}
