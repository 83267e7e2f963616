//! The one connection kept to a server, and what it brings to light.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

use bytes::{Buf as _, BytesMut};
use holdfast_psync::Tls;
use holdfast_psync::resp::{Reply, encode_command, parse_reply};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Duration, Instant, MissedTickBehavior, interval, timeout, timeout_at};

use super::{Ask, AskError, Command, Info, REPLICATION, Settings, command, info};
use crate::cluster::Address;
use crate::judge::redis::{Fresh, Link, Sample, ServerView};

/// The whole `INFO` is asked for this often; in between only its replication section is.
const FULL_INFO_EVERY: Duration = Duration::from_secs(1);

/// A connection that is silent while fresh ones are answered this often in a row is broken on its way, and given up.
const FRESH_ANSWERS_MAX: u32 = 2;

/// A host that neither takes nor refuses connections right after one was lost is asked again after the pause, this long: the end of a
/// large process takes a while.
const UNDECIDED_MAX: Duration = Duration::from_secs(1);
const UNDECIDED_PAUSE: Duration = Duration::from_millis(1);

/// Where a keeper publishes.
pub(super) struct Outlets {
    pub(super) view: watch::Sender<ServerView>,
    pub(super) info: watch::Sender<Info>,
    pub(super) changed: Arc<Notify>,
}

/// What replies in the order of the connection are for.
enum Pending {
    /// Login and naming: only a refused login matters, and the probes show that by themselves.
    Greeting {
        left: usize,
    },
    Probe {
        sent: Instant,
        full: bool,
        replies: Vec<Reply>,
    },
    Ask {
        left: usize,
        replies: Vec<Reply>,
        name: String,
        reply: oneshot::Sender<Result<Vec<Reply>, AskError>>,
    },
}

type FreshTry = Pin<Box<dyn Future<Output = Fresh> + Send>>;

/// Keeps the connection.
pub(super) struct Keeper {
    address: Address,
    settings: Settings,
    outlets: Outlets,
    asks: mpsc::Receiver<Ask>,
    full: Info,
}

impl Keeper {
    pub(super) fn new(
        address: Address,
        settings: Settings,
        outlets: Outlets,
        asks: mpsc::Receiver<Ask>,
    ) -> Self {
        Self { address, settings, outlets, asks, full: Info::new() }
    }

    /// Connects, converses, connects again. Ends when nobody holds the other end.
    pub(super) async fn run(mut self) {
        let mut lost = Instant::now();
        loop {
            let (address, settings) = (self.address.clone(), &self.settings);
            let attempt = connect(address, settings.tls.clone(), settings.probe_timeout);
            let Some(outcome) = self.meanwhile(attempt).await else { return };
            match outcome {
                Ok(stream) => {
                    let error = self.converse(stream).await;
                    // Whether it still listens is the next question, at once.
                    self.publish_link(Link::Closed(error));
                    lost = Instant::now();
                }
                Err(link) => {
                    // While a process ends, its kernel resets what it does not refuse yet.
                    let undecided = link != Link::Refused && lost.elapsed() < UNDECIDED_MAX;
                    let pause =
                        if undecided { UNDECIDED_PAUSE } else { self.settings.probe_interval };
                    self.publish_link(link);
                    let pause = tokio::time::sleep(pause);
                    if self.meanwhile(pause).await.is_none() {
                        return;
                    }
                }
            }
        }
    }

    /// Does `work` while questions are turned away; `None` if nobody can ask any more.
    async fn meanwhile<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Some(done),
                ask = self.asks.recv() => {
                    let error = AskError::NotConnected(self.address.clone());
                    // Nobody may be waiting for the answer.
                    let _ = ask?.reply.send(Err(error));
                }
            }
        }
    }

    /// Probes and asks until the connection ends; says how.
    async fn converse(&mut self, stream: Box<dyn Stream>) -> String {
        let (mut reader, writer) = tokio::io::split(stream);
        let mut talk =
            Talk { writer, patience: self.settings.probe_timeout, pending: VecDeque::new() };
        let mut buffer = BytesMut::new();
        let mut fresh: Option<FreshTry> = None;
        let mut fresh_answers = 0;
        let mut full_due = Instant::now();
        let mut tick = interval(self.settings.probe_interval);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        if let Err(error) = talk.greet(&self.settings).await {
            return error.to_string();
        }
        self.publish_link(Link::Open);
        let error = loop {
            // Biased: what has already arrived is read before its lateness is judged.
            tokio::select! {
                biased;
                read = reader.read_buf(&mut buffer) => match read {
                    Ok(0) => break "closed by the server".to_owned(),
                    Ok(_) => match self.take_replies(&mut buffer, &mut talk) {
                        Ok(answered) => if answered { fresh = None; fresh_answers = 0; },
                        Err(error) => break error,
                    },
                    Err(error) => break error.to_string(),
                },
                Some(ask) = self.asks.recv() => {
                    if let Err(error) = talk.ask(ask).await {
                        break error.to_string();
                    }
                },
                outcome = async { fresh.as_mut().expect("guarded by is_some").await }, if fresh.is_some() => {
                    fresh = None;
                    fresh_answers = if outcome == Fresh::Answered { fresh_answers + 1 } else { 0 };
                    self.publish(|view| view.fresh = Some((Instant::now().into_std(), outcome)));
                    if fresh_answers == FRESH_ANSWERS_MAX {
                        break "silent, while fresh connections are answered".to_owned();
                    }
                },
                now = tick.tick() => match talk.waiting_since() {
                    None => {
                        let full = now >= full_due;
                        if full {
                            full_due = now + FULL_INFO_EVERY;
                        }
                        if let Err(error) = talk.probe(full).await {
                            break error.to_string();
                        }
                    }
                    Some(since) => {
                        self.publish(|view| view.waiting_since = Some(since.into_std()));
                        if fresh.is_none() {
                            let tls = self.settings.tls.clone();
                            let patience = self.settings.probe_timeout / 2;
                            fresh = Some(Box::pin(try_fresh(self.address.clone(), tls, patience)));
                        }
                    }
                },
            }
        };
        for pending in talk.pending {
            if let Pending::Ask { name, reply, .. } = pending {
                let lost = AskError::Lost { address: self.address.clone(), command: name };
                // Nobody may be waiting for the answer.
                let _ = reply.send(Err(lost));
            }
        }
        error
    }

    /// Hands every whole reply in `buffer` to what it is for; true if a probe was answered.
    fn take_replies(&mut self, buffer: &mut BytesMut, talk: &mut Talk) -> Result<bool, String> {
        let mut answered = false;
        while let Some((reply, length)) = parse_reply(buffer).map_err(|e| e.to_string())? {
            buffer.advance(length);
            let Some(pending) = talk.pending.front_mut() else {
                return Err("it sent a reply nobody asked for".to_owned());
            };
            let done = match pending {
                Pending::Greeting { left } => {
                    *left -= 1;
                    *left == 0
                }
                Pending::Probe { full, replies, .. } => {
                    replies.push(reply);
                    replies.len() == if *full { 3 } else { 2 }
                }
                Pending::Ask { left, replies, .. } => {
                    replies.push(reply);
                    *left -= 1;
                    *left == 0
                }
            };
            if !done {
                continue;
            }
            match talk.pending.pop_front() {
                Some(Pending::Probe { sent, full, replies }) => {
                    self.answered(sent, full, &replies);
                    answered = true;
                }
                Some(Pending::Ask { replies, reply, name, .. }) => {
                    if name == REPLICATION {
                        self.asked(&replies);
                    }
                    // Nobody may be waiting for the answer.
                    let _ = reply.send(Ok(replies));
                }
                Some(Pending::Greeting { .. }) | None => {}
            }
        }
        Ok(answered)
    }

    fn answered(&mut self, sent: Instant, full: bool, replies: &[Reply]) {
        let now = Instant::now();
        let complaint = replies.iter().find_map(|reply| match reply {
            Reply::Error(text) => Some(text.clone()),
            _ => None,
        });
        let fields = replies.get(1).and_then(Reply::text).map(|text| info::parse(&text));
        if let Some(fields) = fields.as_ref().filter(|_| full) {
            self.full.clone_from(fields);
            let calls = replies.get(2).and_then(Reply::text).map(|text| info::parse(&text));
            self.full.extend(calls.unwrap_or_default());
            self.outlets.info.send_replace(self.full.clone());
        }
        let sample = fields.and_then(|fields| info::sample(&fields, &self.full, now.into_std()));
        self.publish(|view| {
            observe(view, sample, now.into_std());
            view.waiting_since = None;
            view.fresh = None;
            view.answered_at = Some(now.into_std());
            view.complaint = complaint;
            view.probe_time = Some(now - sent);
        });
    }

    /// An answer between two probes is as good as theirs, and newer.
    fn asked(&mut self, replies: &[Reply]) {
        let now = Instant::now().into_std();
        let fields = replies.last().and_then(Reply::text).map(|text| info::parse(&text));
        let sample = fields.and_then(|fields| info::sample(&fields, &self.full, now));
        if sample.is_some() {
            self.publish(|view| observe(view, sample, now));
        }
    }

    fn publish_link(&self, link: Link) {
        self.publish(|view| {
            // A state that lasts keeps its beginning; its words may change.
            if std::mem::discriminant(&view.link) != std::mem::discriminant(&link) {
                view.link_since = Instant::now().into_std();
            }
            view.link = link;
            view.waiting_since = None;
            view.answered_at = None;
            view.fresh = None;
        });
    }

    fn publish(&self, change: impl FnOnce(&mut ServerView)) {
        self.outlets.view.send_modify(change);
        self.outlets.changed.notify_one();
    }
}

/// Takes in what a server says about itself.
fn observe(view: &mut ServerView, sample: Option<Sample>, now: std::time::Instant) {
    let Some(sample) = sample else { return };
    if let Some(before) = &view.sample
        && (before.offset, &before.replid) != (sample.offset, &sample.replid)
    {
        view.moved = Some((before.at, now));
    }
    view.sample = Some(sample);
}

/// The writing side, and what is still to be answered.
struct Talk {
    writer: WriteHalf<Box<dyn Stream>>,
    patience: Duration,
    pending: VecDeque<Pending>,
}

impl Talk {
    async fn greet(&mut self, settings: &Settings) -> io::Result<()> {
        let mut commands = Vec::new();
        if let Some(login) = &settings.login {
            let mut auth = vec!["AUTH".to_owned()];
            auth.extend(login.username.clone());
            auth.push(login.password.expose().to_owned());
            commands.push(auth);
        }
        commands.push(command(["CLIENT", "SETNAME", "holdfast"]));
        self.pending.push_back(Pending::Greeting { left: commands.len() });
        self.write(&commands).await
    }

    async fn probe(&mut self, full: bool) -> io::Result<()> {
        let mut commands = vec![command(["PING"])];
        if full {
            // The whole leaves the counts by command out, and Redis 6.2 takes one section at a time.
            commands.extend([command(["INFO"]), command(["INFO", "commandstats"])]);
        } else {
            commands.push(command(["INFO", "replication"]));
        }
        self.pending.push_back(Pending::Probe { sent: Instant::now(), full, replies: Vec::new() });
        self.write(&commands).await
    }

    async fn ask(&mut self, ask: Ask) -> io::Result<()> {
        let Ask { commands, reply } = ask;
        let name = commands.first().map(|command| command.join(" ")).unwrap_or_default();
        self.pending.push_back(Pending::Ask {
            left: commands.len(),
            replies: Vec::new(),
            name,
            reply,
        });
        self.write(&commands).await
    }

    async fn write(&mut self, commands: &[Command]) -> io::Result<()> {
        let bytes: Vec<u8> = commands.iter().flat_map(|command| encode_command(command)).collect();
        let write = async {
            self.writer.write_all(&bytes).await?;
            self.writer.flush().await
        };
        timeout(self.patience, write)
            .await
            .unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut)))
    }

    /// Since when a probe waits for its answer.
    fn waiting_since(&self) -> Option<Instant> {
        self.pending.iter().find_map(|pending| match pending {
            Pending::Probe { sent, .. } => Some(*sent),
            _ => None,
        })
    }
}

/// A connection, encrypted or not.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

async fn connect(
    address: Address,
    tls: Option<Tls>,
    patience: Duration,
) -> Result<Box<dyn Stream>, Link> {
    let deadline = Instant::now() + patience;
    let stream = connect_plain(&address, patience).await?;
    let Some(tls) = tls else { return Ok(Box::new(stream)) };
    match timeout_at(deadline, tls.connect(address.host(), stream)).await {
        Ok(Ok(stream)) => Ok(Box::new(stream)),
        Ok(Err(error)) => Err(Link::Unreachable(format!("no TLS: {error}"))),
        Err(_) => Err(Link::Unreachable(format!("no TLS within {} ms", patience.as_millis()))),
    }
}

async fn connect_plain(address: &Address, patience: Duration) -> Result<TcpStream, Link> {
    match timeout(patience, TcpStream::connect((address.host(), address.port()))).await {
        Ok(Ok(stream)) => {
            // Without it probes are merely slower.
            let _ = stream.set_nodelay(true);
            Ok(stream)
        }
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => Err(Link::Refused),
        Ok(Err(error)) => Err(Link::Unreachable(format!("cannot connect: {error}"))),
        Err(_) => {
            Err(Link::Unreachable(format!("no connection within {} ms", patience.as_millis())))
        }
    }
}

/// Does it answer somebody new?
async fn try_fresh(address: Address, tls: Option<Tls>, patience: Duration) -> Fresh {
    let stream = match connect_plain(&address, patience).await {
        Ok(stream) => stream,
        Err(Link::Refused) => return Fresh::Refused,
        Err(link) => {
            return Fresh::Unreachable(match link {
                Link::Unreachable(error) => error,
                _ => "no connection".to_owned(),
            });
        }
    };
    let exchange = async {
        let mut stream: Box<dyn Stream> = match tls {
            // Whoever shakes hands is at work.
            Some(tls) => Box::new(tls.connect(address.host(), stream).await?),
            None => Box::new(stream),
        };
        stream.write_all(&encode_command(&["PING"])).await?;
        stream.flush().await?;
        // Any answer will do, `-NOAUTH` and `-LOADING` included.
        let mut first = [0];
        stream.read_exact(&mut first).await
    };
    match timeout(patience, exchange).await {
        Ok(Ok(_)) => Fresh::Answered,
        Ok(Err(_)) | Err(_) => Fresh::Silent,
    }
}
