//! The task that owns the connection: connects, moves frames, reconnects.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::tungstenite::protocol::{
    CloseFrame, WebSocketConfig, frame::coding::CloseCode,
};
use tokio_tungstenite::tungstenite::{Error as WsError, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};

use super::protocol::{Effect, Protocol, is_final};
use super::{CALLS_MAX, ChatError, Event, MESSAGE_BYTES_MAX, Options, Reply, Request, State};

/// A frame that cannot be handed to the kernel for this long means that the peer has stopped reading.
const SEND_TIMEOUT: Duration = Duration::from_secs(2);

/// Silence beyond the announced ping interval after which the connection counts as dead; the SDKs' figure.
const PING_GRACE: Duration = Duration::from_secs(10);

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Why a connection ended.
struct End {
    reason: String,
    is_final: bool,
}

impl End {
    fn broken(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), is_final: false }
    }
}

pub(super) struct Driver {
    options: Options,
    requests: mpsc::Receiver<Request>,
    events: mpsc::Sender<Event>,
    state: watch::Sender<State>,
    protocol: Protocol<Reply>,
    /// Calls made while there was no connection; at most [`CALLS_MAX`].
    queue: VecDeque<Request>,
    connections: u64,
    failures: u32,
    closing: Option<oneshot::Sender<()>>,
}

impl Driver {
    pub(super) fn new(
        options: Options,
        requests: mpsc::Receiver<Request>,
        events: mpsc::Sender<Event>,
        state: watch::Sender<State>,
    ) -> Self {
        Self {
            options,
            requests,
            events,
            state,
            protocol: Protocol::new(),
            queue: VecDeque::new(),
            connections: 0,
            failures: 0,
            closing: None,
        }
    }

    pub(super) async fn run(mut self) {
        let reason = loop {
            let end = self.one_connection().await;
            for reply in self.protocol.abandon() {
                answer(reply, Err(ChatError::ConnectionLost(end.reason.clone())));
            }
            if end.is_final {
                break end.reason;
            }
            self.failures = self.failures.saturating_add(1);
            let state =
                State::Connecting { failures: self.failures, reason: Some(end.reason.clone()) };
            self.state.send_replace(state);
            tracing::debug!(url = %self.options.url, reason = %end.reason, "chat connection lost");
            if let Some(end) = self.pause().await {
                break end;
            }
        };
        self.requests.close();
        for reply in self.protocol.end() {
            answer(reply, Err(ChatError::Ended(reason.clone())));
        }
        self.state.send_replace(State::Ended { reason });
        if let Some(done) = self.closing.take() {
            // Whoever closed may have stopped waiting.
            let _gone = done.send(());
        }
    }

    /// Waits before the next attempt, keeping the calls that come in; the reason if the client is to end.
    async fn pause(&mut self) -> Option<String> {
        let until = Instant::now() + backoff(&self.options, self.failures);
        loop {
            tokio::select! {
                () = sleep_until(until) => return None,
                request = self.requests.recv() => {
                    if let Some(reason) = self.keep(request) {
                        return Some(reason);
                    }
                }
            }
        }
    }

    /// Takes a request while there is no connection; the reason if the client is to end.
    fn keep(&mut self, request: Option<Request>) -> Option<String> {
        match request {
            None => return Some("nobody uses it any more".to_owned()),
            Some(Request::Close { done }) => {
                self.closing = Some(done);
                return Some("closed".to_owned());
            }
            Some(Request::Reconnect { .. }) => {}
            Some(Request::Subscribe { channel, position, reply }) => {
                // Goes out with the connect command.
                self.protocol.subscribe(&channel, position, reply);
            }
            Some(Request::Unsubscribe { channel, reply }) => {
                if let Err(reply) = self.protocol.unsubscribe(&channel, reply) {
                    answer(reply, Ok(serde_json::Value::Null));
                }
            }
            Some(request @ Request::Call { .. }) => {
                self.queue.retain(is_awaited);
                if self.queue.len() < CALLS_MAX {
                    self.queue.push_back(request);
                } else if let Request::Call { reply, .. } = request {
                    answer(reply, Err(ChatError::Busy));
                }
            }
        }
        None
    }

    async fn one_connection(&mut self) -> End {
        let deadline = Instant::now() + self.options.connect_timeout;
        let config = WebSocketConfig::default()
            .max_message_size(Some(MESSAGE_BYTES_MAX))
            .max_frame_size(Some(MESSAGE_BYTES_MAX));
        let url = self.options.url.clone();
        let connect = connect_async_with_config(url, Some(config), true);
        tokio::pin!(connect);
        let mut socket = loop {
            tokio::select! {
                connected = &mut connect => match connected {
                    Ok((socket, _)) => break socket,
                    Err(error) => return End::broken(format!("cannot connect: {error}")),
                },
                () = sleep_until(deadline) => return End::broken("the connection took too long"),
                request = self.requests.recv() => {
                    if let Some(reason) = self.keep(request) {
                        return End { reason, is_final: true };
                    }
                }
            }
        };
        let token = (self.options.tokens)();
        let hello = self.protocol.open(&token);
        let end = match send(&mut socket, hello).await {
            Ok(()) => self.talk(&mut socket, deadline).await,
            Err(end) => end,
        };
        if end.is_final {
            let frame = CloseFrame { code: CloseCode::Normal, reason: "".into() };
            // The node may be gone already.
            let _gone = timeout(SEND_TIMEOUT, socket.close(Some(frame))).await;
        }
        end
    }

    /// Moves frames until the connection ends. `deadline` is the one of the handshake.
    async fn talk(&mut self, socket: &mut Socket, deadline: Instant) -> End {
        let mut silence = None;
        let mut alive_until = deadline;
        let mut refresh_at = None;
        loop {
            let refresh = async {
                match refresh_at {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let effects = tokio::select! {
                frame = socket.next() => match read(frame) {
                    Ok(Some(text)) => {
                        if let Some(silence) = silence {
                            alive_until = Instant::now() + silence;
                        }
                        self.protocol.handle(&text)
                    }
                    Ok(None) => continue,
                    Err(end) => return end,
                },
                () = sleep_until(alive_until) => {
                    let what = if self.protocol.is_connected() { "no ping" } else { "no answer to connect" };
                    return End::broken(what);
                }
                () = refresh => {
                    refresh_at = None;
                    let token = (self.options.tokens)();
                    vec![Effect::Send(self.protocol.refresh(&token))]
                }
                request = self.requests.recv() => match self.take(request) {
                    Ok(effects) => effects,
                    Err(end) => return end,
                },
            };
            for effect in effects {
                match effect {
                    Effect::Connected { client, ping, ttl } => {
                        silence = ping.map(|ping| ping + PING_GRACE);
                        // A year without a sign of life: the node has announced no pings.
                        let patience = silence.unwrap_or(Duration::from_hours(24 * 365));
                        alive_until = Instant::now() + patience;
                        refresh_at = ttl.map(|ttl| Instant::now() + ttl);
                        if let Err(end) = self.welcome(socket, client).await {
                            return end;
                        }
                    }
                    Effect::Answer(reply, result) => answer(reply, result),
                    Effect::Event(event) => {
                        // Nobody listens: a client that only publishes.
                        let _unheard = self.events.send(event).await;
                    }
                    Effect::Send(text) => {
                        if let Err(end) = send(socket, text).await {
                            return end;
                        }
                    }
                    Effect::Leave { reason, is_final } => return End { reason, is_final },
                }
            }
        }
    }

    /// Connected: says so, and sends what has waited for it.
    async fn welcome(&mut self, socket: &mut Socket, client: String) -> Result<(), End> {
        self.failures = 0;
        self.connections += 1;
        self.state.send_replace(State::Connected { client, connections: self.connections });
        while let Some(request) = self.queue.pop_front() {
            if let Request::Call { field, body, reply } = request
                && !reply.is_closed()
            {
                send(socket, self.protocol.call(field, &body, reply)).await?;
            }
        }
        Ok(())
    }

    /// Takes a request while there is a connection, or nearly.
    fn take(&mut self, request: Option<Request>) -> Result<Vec<Effect<Reply>>, End> {
        let is_connected = self.protocol.is_connected();
        let sent = match request {
            Some(Request::Call { field, body, reply }) if is_connected => {
                // Whoever gave up before it was sent counts on it not being sent.
                (!reply.is_closed()).then(|| self.protocol.call(field, &body, reply))
            }
            Some(Request::Subscribe { channel, position, reply }) => {
                self.protocol.subscribe(&channel, position, reply)
            }
            Some(Request::Unsubscribe { channel, reply }) => {
                self.protocol.unsubscribe(&channel, reply).ok()
            }
            Some(Request::Reconnect { reason }) if is_connected => {
                return Err(End::broken(reason));
            }
            request => {
                let end = |reason| Err(End { reason, is_final: true });
                return self.keep(request).map_or(Ok(Vec::new()), end);
            }
        };
        Ok(sent.map(Effect::Send).into_iter().collect())
    }
}

fn is_awaited(request: &Request) -> bool {
    !matches!(request, Request::Call { reply, .. } if reply.is_closed())
}

fn answer(reply: Reply, result: Result<serde_json::Value, ChatError>) {
    // Whoever asked may have given up.
    let _gone = reply.send(result);
}

async fn send(socket: &mut Socket, text: String) -> Result<(), End> {
    match timeout(SEND_TIMEOUT, socket.send(Message::text(text))).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(End::broken(error.to_string())),
        Err(_) => Err(End::broken("the node does not read")),
    }
}

/// The text in what came from the socket, if any.
fn read(frame: Option<Result<Message, WsError>>) -> Result<Option<String>, End> {
    match frame {
        Some(Ok(Message::Text(text))) => Ok(Some(text.as_str().to_owned())),
        Some(Ok(Message::Binary(bytes))) => match String::from_utf8(bytes.into()) {
            Ok(text) => Ok(Some(text)),
            Err(_) => Err(End::broken("the node sent something that is not text")),
        },
        Some(Ok(Message::Close(frame))) => Err(match frame {
            Some(frame) => {
                let code = u16::from(frame.code);
                End { reason: format!("{code} {}", frame.reason), is_final: is_final(code.into()) }
            }
            None => End::broken("the node closed the connection"),
        }),
        Some(Ok(_)) => Ok(None),
        Some(Err(error)) => Err(End::broken(error.to_string())),
        None => Err(End::broken("the connection was closed")),
    }
}

/// The SDKs' formula: `min(max, min + random(0 .. min(max, min · 2^failures)))`.
fn backoff(options: &Options, failures: u32) -> Duration {
    let window = options
        .backoff_min
        .saturating_mul(1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX))
        .min(options.backoff_max);
    (options.backoff_min + window.mul_f64(fastrand::f64())).min(options.backoff_max)
}
