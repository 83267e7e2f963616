//! A chat client: what the canary, the drills and the end-to-end tests use to be a user.
//!
//! It speaks the Centrifuge protocol (JSON over WebSocket) the way the official SDKs do: it reconnects by itself with a jittered
//! backoff, subscribes again with the position it had reached, and takes what the node recovers for it. What it does not do is retry a
//! publish: whether to send again is the caller's decision, because a publish without an answer may have been stored.
//!
//! One task owns the connection. `protocol.rs` is the conversation without a socket, `driver.rs` moves it over one.
//!
//! Bounds: calls wait in a queue of [`CALLS_MAX`]; publications wait in a queue of [`Options::events_max`], and while that is full
//! nothing more is read, so the node counts us as slow, closes the connection, and what was missed is recovered afterwards.

mod driver;
mod protocol;
mod token;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::task::AbortOnDropHandle;

pub use protocol::{Position, Publication, Subscribed};
pub use token::mint;

/// Calls that wait for the connection at once; more are refused.
pub const CALLS_MAX: usize = 1024;

/// Largest message accepted from a node; a page of 300 recovered messages of the default size limit does not reach it.
const MESSAGE_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Makes a fresh connection token whenever one is needed.
pub type Tokens = Arc<dyn Fn() -> String + Send + Sync>;

/// How a client behaves.
#[derive(Clone)]
pub struct Options {
    /// `ws://host:port/connection/websocket`.
    pub url: String,
    /// Connection tokens.
    pub tokens: Tokens,
    /// Shortest wait before a reconnect.
    pub backoff_min: Duration,
    /// Longest wait before a reconnect.
    pub backoff_max: Duration,
    /// TCP, WebSocket and protocol handshake together may take this long.
    pub connect_timeout: Duration,
    /// A call, waiting for the connection included, may take this long.
    pub call_timeout: Duration,
    /// Events that may wait to be read.
    pub events_max: usize,
}

impl Options {
    /// For an interactive user: the timing of the official SDKs, with a quicker first reconnect.
    pub fn new(url: impl Into<String>, tokens: Tokens) -> Self {
        Self {
            url: url.into(),
            tokens,
            backoff_min: Duration::from_millis(100),
            backoff_max: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(5),
            call_timeout: Duration::from_secs(5),
            events_max: 4096,
        }
    }
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options").field("url", &self.url).finish_non_exhaustive()
    }
}

/// Where the connection stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// On the way to a connection; says why there was none the last time.
    Connecting {
        /// Attempts that failed since the last connection.
        failures: u32,
        /// Why the last one ended.
        reason: Option<String>,
    },
    /// Connected.
    Connected {
        /// The node's name for this connection.
        client: String,
        /// How many connections there have been, this one included.
        connections: u64,
    },
    /// The node said not to come back, or the client was closed.
    Ended {
        /// Why.
        reason: String,
    },
}

/// What a subscription yields, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Subscribed, for the first time or again.
    Subscribed(Subscribed),
    /// A message.
    Publication(Publication),
    /// The node ended the subscription.
    Unsubscribed {
        /// The channel.
        channel: String,
        /// Why.
        reason: String,
    },
}

/// A page of a channel's history.
#[derive(Debug, Clone, PartialEq)]
pub struct History {
    /// The messages, oldest first.
    pub publications: Vec<Publication>,
    /// Where the channel stands now.
    pub top: Position,
}

/// Why a call did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChatError {
    /// The node refused it; it was not carried out, unless `temporary`.
    #[error("the node answered {code}: {message}")]
    Refused {
        /// The protocol's error code.
        code: u32,
        /// The node's words.
        message: String,
        /// It may work later. For a publish: it may have been stored.
        temporary: bool,
    },
    /// No answer in time. It may have been carried out.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The connection broke before the answer came. It may have been carried out.
    #[error("the connection was lost: {0}")]
    ConnectionLost(String),
    /// Too many calls are waiting already; it was not sent.
    #[error("{CALLS_MAX} calls are waiting already")]
    Busy,
    /// The client has ended; it was not sent.
    #[error("the client has ended: {0}")]
    Ended(String),
    /// The answer makes no sense.
    #[error("the node's answer cannot be understood: {0}")]
    Answer(String),
}

type Reply = oneshot::Sender<Result<Value, ChatError>>;

/// What a handle asks of the driver.
enum Request {
    Call { field: &'static str, body: Value, reply: Reply },
    Subscribe { channel: String, position: Option<Position>, reply: Reply },
    Unsubscribe { channel: String, reply: Reply },
    Reconnect { reason: &'static str },
    Close { done: oneshot::Sender<()> },
}

/// A handle on a running client; clones share the connection. The client ends with the last of them.
#[derive(Clone)]
pub struct ChatClient {
    requests: mpsc::Sender<Request>,
    state: watch::Receiver<State>,
    call_timeout: Duration,
    _driver: Arc<AbortOnDropHandle<()>>,
}

impl ChatClient {
    /// Starts a client, which connects in the background, and the events of its subscriptions.
    pub fn start(options: Options) -> (Self, mpsc::Receiver<Event>) {
        let (requests, received) = mpsc::channel(CALLS_MAX);
        let (events, yielded) = mpsc::channel(options.events_max.max(1));
        let (state_sender, state) = watch::channel(State::Connecting { failures: 0, reason: None });
        let call_timeout = options.call_timeout;
        let driver = driver::Driver::new(options, received, events, state_sender);
        let driver = Arc::new(AbortOnDropHandle::new(tokio::spawn(driver.run())));
        (Self { requests, state, call_timeout, _driver: driver }, yielded)
    }

    /// Where the connection stands, now and from now on.
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// Waits until the client is connected.
    ///
    /// # Errors
    /// It is not within `deadline`, or has ended.
    pub async fn connected(&self, deadline: Duration) -> Result<(), ChatError> {
        let mut state = self.state.clone();
        let wait = async {
            loop {
                match &*state.borrow_and_update() {
                    State::Connected { .. } => return Ok(()),
                    State::Ended { reason } => return Err(ChatError::Ended(reason.clone())),
                    State::Connecting { .. } => {}
                }
                if state.changed().await.is_err() {
                    return Err(ChatError::Ended("its task is gone".to_owned()));
                }
            }
        };
        tokio::time::timeout(deadline, wait).await.unwrap_or_else(|_| {
            Err(match &*self.state.borrow() {
                State::Connecting { reason: Some(reason), .. } => {
                    ChatError::ConnectionLost(reason.clone())
                }
                _ => ChatError::Timeout(deadline),
            })
        })
    }

    /// Subscribes to `channel`; with a `position` what came after it is recovered. The subscription outlives reconnects.
    ///
    /// # Errors
    /// See [`ChatError`]. After `Timeout` and `ConnectionLost` the client goes on trying.
    pub async fn subscribe(
        &self,
        channel: &str,
        position: Option<Position>,
    ) -> Result<Subscribed, ChatError> {
        let channel = channel.to_owned();
        let answer = self
            .ask(|reply| Request::Subscribe { channel: channel.clone(), position, reply })
            .await?;
        protocol::subscribed(&channel, &answer).map_err(ChatError::Answer)
    }

    /// Ends a subscription. What is in the event queue already stays there.
    ///
    /// # Errors
    /// See [`ChatError`].
    pub async fn unsubscribe(&self, channel: &str) -> Result<(), ChatError> {
        let channel = channel.to_owned();
        self.ask(|reply| Request::Unsubscribe { channel, reply }).await.map(drop)
    }

    /// Publishes `data` and waits for the acknowledgement.
    ///
    /// # Errors
    /// See [`ChatError`]; only a refusal that is not temporary, `Busy` and `Ended` are proof that the message is not stored.
    pub async fn publish(&self, channel: &str, data: Value) -> Result<(), ChatError> {
        let body = serde_json::json!({ "channel": channel, "data": data });
        self.ask(|reply| Request::Call { field: "publish", body, reply }).await.map(drop)
    }

    /// Up to `limit` messages of `channel`, oldest first, after `since` or from the beginning of what is kept.
    ///
    /// # Errors
    /// See [`ChatError`]; code 112 says that `since` belongs to another epoch.
    pub async fn history(
        &self,
        channel: &str,
        since: Option<&Position>,
        limit: u32,
    ) -> Result<History, ChatError> {
        let mut body = serde_json::json!({ "channel": channel, "limit": limit });
        if let Some(since) = since {
            body["since"] = serde_json::json!({ "offset": since.offset, "epoch": since.epoch });
        }
        let answer = self.ask(|reply| Request::Call { field: "history", body, reply }).await?;
        protocol::history(channel, &answer).map_err(ChatError::Answer)
    }

    /// The whole history of `channel`, read page by page, at most `messages_max` of it.
    ///
    /// # Errors
    /// As [`ChatClient::history`].
    pub async fn whole_history(
        &self,
        channel: &str,
        messages_max: usize,
    ) -> Result<History, ChatError> {
        let mut all: Option<History> = None;
        loop {
            let since = all.as_ref().and_then(|all| {
                let offset = all.publications.last()?.offset;
                Some(Position { offset, epoch: all.top.epoch.clone() })
            });
            let page = self.history(channel, since.as_ref(), protocol::PAGE).await?;
            let is_last = page.publications.len() < protocol::PAGE as usize;
            let all = match &mut all {
                Some(all) => {
                    all.publications.extend(page.publications);
                    all.top = page.top;
                    all
                }
                None => all.insert(page),
            };
            if is_last || all.publications.len() >= messages_max {
                all.publications.truncate(messages_max);
                return Ok(all.clone());
            }
        }
    }

    /// Clients present in `channel`.
    ///
    /// # Errors
    /// See [`ChatError`].
    pub async fn presence(&self, channel: &str) -> Result<Value, ChatError> {
        let body = serde_json::json!({ "channel": channel });
        let answer = self.ask(|reply| Request::Call { field: "presence", body, reply }).await?;
        Ok(answer.get("presence").cloned().unwrap_or_default())
    }

    /// Drops the connection and makes a new one, because the caller has seen that it is of no use.
    pub fn reconnect(&self, reason: &'static str) {
        // A full queue means that the driver is busy with a connection that just came or went.
        let _refused = self.requests.try_send(Request::Reconnect { reason });
    }

    /// Closes the connection in an orderly way and ends the client.
    pub async fn close(self) {
        let (done, closed) = oneshot::channel();
        let close = async {
            if self.requests.send(Request::Close { done }).await.is_ok() {
                // An error means that the task is gone, which is what we want.
                let _gone = closed.await;
            }
        };
        // Whatever does not close in time is dropped with the handle.
        let _late = tokio::time::timeout(Duration::from_secs(1), close).await;
    }

    async fn ask(&self, request: impl FnOnce(Reply) -> Request) -> Result<Value, ChatError> {
        let (reply, answer) = oneshot::channel();
        self.requests.try_send(request(reply)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => ChatError::Busy,
            mpsc::error::TrySendError::Closed(_) => ChatError::Ended(self.end_reason()),
        })?;
        match tokio::time::timeout(self.call_timeout, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(ChatError::Ended(self.end_reason())),
            Err(_) => Err(ChatError::Timeout(self.call_timeout)),
        }
    }

    fn end_reason(&self) -> String {
        match &*self.state.borrow() {
            State::Ended { reason } => reason.clone(),
            _ => "its task is gone".to_owned(),
        }
    }
}

impl std::fmt::Debug for ChatClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChatClient").field("state", &*self.state.borrow()).finish_non_exhaustive()
    }
}
