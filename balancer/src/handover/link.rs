//! What an old process and the one that has taken over tell each other until the old one has ended.
//!
//! For up to `[drain] upgrade_period` the old process holds connections that nobody else knows of. So it says every moment how many each
//! server has, and the new one says what operators want of each server by now: a drain that is ordered after an upgrade reaches the
//! clients that came before it, and a server counts as empty only when it is. Both say all they know each time, a line of JSON; nothing
//! is lost with a line. An old process that says nothing any more is taken to have ended, one that is spoken to no more goes on.
//!
//! Rejected: to hand over the connections themselves. Half-read requests, TLS and compression states would have to come along.

use std::future::pending;
use std::io;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader,
};
use tokio::net::UnixStream;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::ByServer;
use crate::control::Balancer;
use crate::pool::state::AdminState;

/// Often enough for an operator who waits for a server to be empty.
const INTERVAL: Duration = Duration::from_millis(500);
/// The other process is on the same machine and reads at once; one that is stopped is not waited for.
const TIMEOUT: Duration = Duration::from_secs(10);
/// A thousand servers need some 100 KiB.
const LINE_BYTES_MAX: u64 = 16 * 1_024 * 1_024;

/// What the old process has left at a server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Left {
    /// Its connections there.
    pub(crate) connections: u64,
    /// How far it has come with the drain of the server.
    pub(crate) drained: Option<Drained>,
}

/// How far a drain has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Drained {
    /// Which drain.
    pub(crate) wish: DrainWish,
    /// Connections it had to bring to an end.
    pub(crate) total: u64,
    /// Connections that were told to leave.
    pub(crate) moved: u64,
}

/// What is wanted of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Wish {
    pub(crate) state: AdminState,
    pub(crate) drain: Option<DrainWish>,
}

/// How its connections are to be brought to an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DrainWish {
    pub(crate) rate: Option<u32>,
    pub(crate) deadline: DateTime<Utc>,
}

/// The old process's part: says what is left, does what is wanted, until it is `done`. Whether anybody listens makes no difference to that.
pub(crate) async fn attend(
    balancer: &Arc<Balancer>,
    line: StdUnixStream,
    done: impl Future<Output = ()>,
) {
    let mut done = pin!(done);
    let heard = |wishes: ByServer<Wish>| balancer.follow(&wishes);
    match converse(line, || balancer.left(), heard, &mut done).await {
        Ok(End::Ours) => return,
        Ok(End::Theirs) => tracing::warn!("the process that has taken over says nothing any more"),
        Err(error) => {
            tracing::warn!(%error, "the process that has taken over cannot be spoken with");
        }
    }
    done.await;
}

/// The new process's part: says what is wanted, takes in what is left. Returns when the old process has ended.
pub(crate) async fn accompany(balancer: &Arc<Balancer>, line: StdUnixStream) {
    let heard = |left: ByServer<Left>| balancer.note_left(left);
    match converse(line, || balancer.wishes(), heard, &mut pending()).await {
        Ok(_) => tracing::info!("the process before us has ended"),
        Err(error) => tracing::info!(%error, "the process before us cannot be spoken with"),
    }
}

/// Who has ended a conversation.
enum End {
    Ours,
    Theirs,
}

/// Says something now and then, and a last time when we are `done`, and takes in what the other says.
async fn converse<S: Serialize, H: DeserializeOwned>(
    line: StdUnixStream,
    say: impl Fn() -> S,
    hear: impl Fn(H),
    done: &mut (impl Future<Output = ()> + Unpin),
) -> io::Result<End> {
    line.set_nonblocking(true)?;
    let (read, mut write) = UnixStream::from_std(line)?.into_split();
    let speak = async {
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let is_last = tokio::select! {
                () = &mut *done => true,
                _ = ticks.tick() => false,
            };
            let mut text = serde_json::to_vec(&say())?;
            text.push(b'\n');
            timeout(TIMEOUT, write.write_all(&text)).await??;
            if is_last {
                return Ok(End::Ours);
            }
        }
    };
    let listen = async {
        let mut lines = BufReader::new(read);
        while let Some(text) = next_line(&mut lines).await? {
            hear(serde_json::from_slice(&text)?);
        }
        Ok(End::Theirs)
    };
    tokio::select! {
        ended = speak => ended,
        ended = listen => ended,
    }
}

/// A line; `None` at the end.
async fn next_line(lines: &mut BufReader<impl AsyncRead + Unpin>) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    lines.take(LINE_BYTES_MAX).read_until(b'\n', &mut line).await?;
    if line.ends_with(b"\n") || line.is_empty() {
        return Ok(Some(line).filter(|line| !line.is_empty()));
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}
