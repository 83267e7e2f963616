//! One client's connection.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use holdfast_psync::resp::CommandParser;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::broadcast;
use tokio::time::{sleep, timeout};

use super::commands::{Client, Outcome, answer};
use super::pattern;
use super::value::{Protocol, Value};
use super::{Shared, access};
use crate::act::redis::SentinelEvent;

/// A command of a Sentinel client has some hundred bytes.
const COMMAND_BYTES_MAX: usize = 64 * 1024;

/// Channels and patterns of one connection; clients use up to ten.
const SUBSCRIPTIONS_MAX: usize = 1000;

/// A client that does not take its replies for this long is cut off.
const WRITE_LIMIT: Duration = Duration::from_secs(5);

/// What carries a connection, encrypted or not.
pub(super) type Stream = Box<dyn Io>;

/// Both ways.
pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// What a connection is subscribed to.
#[derive(Default)]
struct Subscriptions {
    channels: BTreeSet<String>,
    patterns: BTreeSet<String>,
}

impl Subscriptions {
    fn count(&self) -> usize {
        self.channels.len() + self.patterns.len()
    }

    fn set(&mut self, patterns: bool) -> &mut BTreeSet<String> {
        if patterns { &mut self.patterns } else { &mut self.channels }
    }
}

/// A connection.
pub(super) struct Session {
    shared: Arc<Shared>,
    stream: Stream,
    client: Client,
    /// Whether it has said anything that makes sense.
    has_asked: bool,
    subscriptions: Subscriptions,
    /// Present while there are subscriptions.
    events: Option<broadcast::Receiver<SentinelEvent>>,
    parser: CommandParser,
    input: BytesMut,
    output: Vec<u8>,
}

impl Session {
    pub(super) fn new(shared: Arc<Shared>, stream: Stream, id: i64, peer: SocketAddr) -> Self {
        Self {
            shared,
            stream,
            client: Client {
                id,
                address: peer.to_string(),
                ip: Some(peer.ip()),
                protocol: Protocol::Resp2,
                name: None,
                is_known: false,
            },
            has_asked: false,
            subscriptions: Subscriptions::default(),
            events: None,
            parser: CommandParser::new(0, COMMAND_BYTES_MAX),
            input: BytesMut::new(),
            output: Vec::new(),
        }
    }

    /// Serves the connection until it ends, for `patience` at most if no command comes.
    pub(super) async fn run(mut self, patience: Duration) -> io::Result<()> {
        let mut silence = pin!(sleep(patience));
        loop {
            tokio::select! {
                () = silence.as_mut(), if !self.has_asked => {
                    self.shared.metrics.silent();
                    return Ok(());
                }
                read = self.stream.read_buf(&mut self.input) => {
                    if read? == 0 {
                        return Ok(());
                    }
                    let go_on = self.take_commands().await;
                    self.flush().await?;
                    if !go_on {
                        return Ok(());
                    }
                }
                event = next_event(&mut self.events) => match event {
                    Ok(event) => {
                        self.deliver(&event);
                        self.flush().await?;
                    }
                    // It is too slow, or there will be no more.
                    Err(_) => return Ok(()),
                },
            }
        }
    }

    /// Carries out every whole command received; false if the connection should end.
    async fn take_commands(&mut self) -> bool {
        loop {
            let arguments = match self.next_command() {
                Ok(Some(arguments)) => arguments,
                Ok(None) => return true,
                Err(error) => {
                    self.reply(&Value::Error(format!("ERR Protocol error: {error}")));
                    return false;
                }
            };
            if arguments.is_empty() {
                continue;
            }
            self.has_asked = true;
            if !self.carry_out(&arguments).await {
                return false;
            }
        }
    }

    fn next_command(&mut self) -> Result<Option<Vec<String>>, String> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        // A command that has begun to arrive keeps its bytes in the buffer, so this is the first byte of one.
        if self.input.first().is_some_and(|byte| *byte != b'*') {
            // As people type it.
            let Some(end) = self.input.iter().position(|byte| *byte == b'\n') else {
                let too_long = self.input.len() > COMMAND_BYTES_MAX;
                return if too_long { Err("too big inline request".to_owned()) } else { Ok(None) };
            };
            let line = self.input.split_to(end + 1);
            return Ok(Some(text(&line).split_whitespace().map(str::to_owned).collect()));
        }
        match self.parser.next(&mut self.input) {
            Ok(Some((arguments, _))) => Ok(Some(arguments.iter().map(|a| text(a)).collect())),
            Ok(None) => Ok(None),
            Err(error) => {
                self.input.advance(self.input.len());
                Err(error.to_string())
            }
        }
    }

    async fn carry_out(&mut self, arguments: &[String]) -> bool {
        if self.client.protocol == Protocol::Resp2 && self.subscriptions.count() > 0 {
            let name = arguments[0].to_ascii_lowercase();
            match name.as_str() {
                "subscribe" | "psubscribe" | "unsubscribe" | "punsubscribe" | "quit" | "reset" => {}
                "ping" => {
                    let text = arguments.get(1).cloned().unwrap_or_default();
                    self.reply(&Value::Array(vec![Value::bulk("pong"), Value::Bulk(text)]));
                    return true;
                }
                _ => {
                    self.reply(&Value::Error(format!(
                        "ERR Can't execute '{name}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context"
                    )));
                    return true;
                }
            }
        }
        let world = self.shared.world();
        match answer(arguments, &mut self.client, &world) {
            Outcome::Reply(value) => self.reply(&value),
            Outcome::Quit => {
                self.reply(&Value::ok());
                return false;
            }
            Outcome::Reset => {
                self.subscriptions = Subscriptions::default();
                self.events = None;
                self.client.protocol = Protocol::Resp2;
                self.client.name = None;
                self.client.is_known = false;
                self.reply(&Value::Simple("RESET".to_owned()));
            }
            Outcome::Subscribe { patterns, names } => self.subscribe(patterns, names),
            Outcome::Unsubscribe { patterns, names } => self.unsubscribe(patterns, names),
            Outcome::Change(change) => {
                let value = self.shared.order(change, arguments, &self.client).await;
                self.reply(&value);
            }
            Outcome::WrongPassword => {
                self.shared.metrics.wrong_passwords.inc();
                tracing::warn!(client = self.client.address, "wrong password");
                self.reply(&Value::error(access::WRONG));
            }
        }
        true
    }

    fn subscribe(&mut self, patterns: bool, names: Vec<String>) {
        for name in names {
            if self.subscriptions.count() >= SUBSCRIPTIONS_MAX {
                self.reply(&Value::error("ERR too many subscriptions on one connection"));
                return;
            }
            self.subscriptions.set(patterns).insert(name.clone());
            let verb = if patterns { "psubscribe" } else { "subscribe" };
            self.confirm(verb, Value::Bulk(name));
        }
        if self.events.is_none() {
            self.events = Some(self.shared.events.subscribe());
        }
    }

    fn unsubscribe(&mut self, patterns: bool, names: Vec<String>) {
        let verb = if patterns { "punsubscribe" } else { "unsubscribe" };
        let names = if names.is_empty() {
            self.subscriptions.set(patterns).iter().cloned().collect()
        } else {
            names
        };
        if names.is_empty() {
            self.confirm(verb, Value::NullBulk);
        }
        for name in names {
            self.subscriptions.set(patterns).remove(&name);
            self.confirm(verb, Value::Bulk(name));
        }
        if self.subscriptions.count() == 0 {
            self.events = None;
        }
    }

    fn confirm(&mut self, verb: &str, name: Value) {
        let count = i64::try_from(self.subscriptions.count()).unwrap_or(i64::MAX);
        self.reply(&Value::Push(vec![Value::bulk(verb), name, Value::Integer(count)]));
    }

    fn deliver(&mut self, event: &SentinelEvent) {
        let (channel, payload) = (Value::bulk(event.channel), Value::bulk(&event.payload));
        if self.subscriptions.channels.contains(event.channel) {
            let message = vec![Value::bulk("message"), channel.clone(), payload.clone()];
            Value::Push(message).encode(self.client.protocol, &mut self.output);
        }
        for name in &self.subscriptions.patterns {
            if pattern::matches(name.as_bytes(), event.channel.as_bytes()) {
                let head = [Value::bulk("pmessage"), Value::bulk(name)];
                let message = head.into_iter().chain([channel.clone(), payload.clone()]).collect();
                Value::Push(message).encode(self.client.protocol, &mut self.output);
            }
        }
    }

    fn reply(&mut self, value: &Value) {
        value.encode(self.client.protocol, &mut self.output);
    }

    async fn flush(&mut self) -> io::Result<()> {
        let write = async {
            self.stream.write_all(&self.output).await?;
            self.stream.flush().await
        };
        let written = timeout(WRITE_LIMIT, write).await;
        self.output.clear();
        written.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

/// The next event for a subscriber; never, for others.
async fn next_event(
    events: &mut Option<broadcast::Receiver<SentinelEvent>>,
) -> Result<SentinelEvent, broadcast::error::RecvError> {
    match events {
        Some(events) => events.recv().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use holdfast_telemetry::{Registry, metrics};
    use tokio::io::{DuplexStream, duplex};
    use tokio::time::Instant;

    use super::super::metrics::Metrics;
    use super::super::{Endpoint, Sentinels};
    use super::*;

    const DEADLINE: Duration = Duration::from_secs(30);

    /// A client's end of a connection, and the session.
    fn connection(registry: &Registry) -> (DuplexStream, Session) {
        let endpoint = Endpoint {
            primaries: Vec::new(),
            name: "supervisor-1".to_owned(),
            login: None,
            tls: None,
            peer_tls: None,
            sentinels: Arc::new(Sentinels::default),
            sink: Arc::new(|_| {}),
        };
        let shared = Shared {
            endpoint,
            login: None,
            events: broadcast::channel(1).0,
            metrics: Metrics::register(registry),
            my_id: String::new(),
            started: Instant::now(),
            port: 1,
            removed: Mutex::default(),
        };
        let (client, stream) = duplex(4096);
        let peer = ([127, 0, 0, 1], 1).into();
        (client, Session::new(Arc::new(shared), Box::new(stream), 1, peer))
    }

    fn silent(registry: &Registry) -> bool {
        let series = "supervisor_sentinel_refused_connections_total{reason=\"silent\"} 1";
        metrics::encode(registry).contains(series)
    }

    #[tokio::test]
    async fn a_client_without_a_command_loses_its_place() {
        let registry = Registry::new();
        let (mut client, session) = connection(&registry);
        client.write_all(b"\r\n*1\r\n$4\r\nPI").await.unwrap();
        let ended = timeout(DEADLINE, session.run(Duration::from_millis(50))).await;
        ended.expect("it ends by itself").unwrap();
        assert!(silent(&registry));
    }

    #[tokio::test]
    async fn a_client_that_has_asked_may_be_silent() {
        let registry = Registry::new();
        let (mut client, session) = connection(&registry);
        client.write_all(b"PING\r\n").await.unwrap();
        let patience = Duration::from_millis(500);
        let session = tokio::spawn(session.run(patience));
        let mut answer = [0; 7];
        timeout(DEADLINE, client.read_exact(&mut answer)).await.unwrap().unwrap();
        sleep(patience * 2).await;
        client.write_all(b"PING\r\n").await.unwrap();
        timeout(DEADLINE, client.read_exact(&mut answer)).await.unwrap().unwrap();
        assert_eq!(&answer, b"+PONG\r\n");
        assert!(!silent(&registry));
        drop(client);
        timeout(DEADLINE, session).await.unwrap().unwrap().unwrap();
    }
}
