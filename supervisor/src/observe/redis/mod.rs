//! Watches each Redis server over one connection that stays open.
//!
//! The open connection is the point: the kernel closes it within a millisecond of the process's death, and what is written into it while
//! the process is stopped will be the first thing it reads when it runs again. So a connection is never given up because it is silent;
//! whether the path or the process is at fault is tried out on fresh connections beside it.
//!
//! Each [`Watch`] publishes its [`ServerView`] on a `watch` channel and wakes the controller, which looks at all of them afresh:
//! nothing is lost if it is busy, and nothing queues up.

mod connection;
mod exposition;
mod info;
mod process;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use holdfast_psync::Tls;
use holdfast_psync::resp::Reply;
use holdfast_settings::Secret;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use exposition::{Exposed, RedisSamples, exposition};
pub use info::Info;
pub(crate) use info::parse;

use crate::cluster::Address;
use crate::judge::redis::{Process, Sample, ServerView};

/// Questions waiting for one server; a failover asks a handful at a time.
const ASKS_MAX: usize = 64;

/// The question whose answer is taken into the view, whoever asks.
const REPLICATION: &str = "INFO replication";

/// How to log in.
#[derive(Debug, Clone)]
pub struct Login {
    /// ACL user; `None`: the default user.
    pub username: Option<String>,
    /// Its password.
    pub password: Secret,
}

/// How servers are watched.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How to log in, if that is asked for.
    pub login: Option<Login>,
    /// How to encrypt; `None`: not at all.
    pub tls: Option<Tls>,
    /// Time between two probes.
    pub probe_interval: Duration,
    /// A connection attempt or a write that takes longer has failed.
    pub probe_timeout: Duration,
}

/// Why a question was not answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// There is no connection.
    #[error("{0} is not connected")]
    NotConnected(Address),
    /// The connection was lost before the answer came.
    #[error("{address} closed the connection during {command}")]
    Lost {
        /// The server.
        address: Address,
        /// What was asked.
        command: String,
    },
    /// Too many questions wait already.
    #[error("{0} has too many commands waiting")]
    Busy(Address),
    /// No answer in time.
    #[error("{address} did not answer {command} within {} ms", after.as_millis())]
    TimedOut {
        /// The server.
        address: Address,
        /// What was asked.
        command: String,
        /// The limit.
        after: Duration,
    },
    /// The answer is an error.
    #[error("{address} answers {command} with {reply}")]
    Refused {
        /// The server.
        address: Address,
        /// What was asked.
        command: String,
        /// Its words.
        reply: String,
    },
    /// The answer is not what the command should return.
    #[error("{address} gives {command} an answer that makes no sense")]
    Odd {
        /// The server.
        address: Address,
        /// What was asked.
        command: String,
    },
}

/// A command and its arguments.
pub(crate) type Command = Vec<String>;

/// Makes a command from words.
pub(crate) fn command<const N: usize>(words: [&str; N]) -> Command {
    words.map(str::to_owned).to_vec()
}

/// Commands for the kept connection, written at once and in one piece.
struct Ask {
    commands: Vec<Command>,
    reply: oneshot::Sender<Result<Vec<Reply>, AskError>>,
}

/// Answers to a question that was written, whenever they come.
pub(crate) struct Answers {
    address: Address,
    command: String,
    receiver: oneshot::Receiver<Result<Vec<Reply>, AskError>>,
}

impl Answers {
    /// Waits for them without a limit of its own: until they come or the connection is lost.
    pub(crate) async fn wait(self) -> Result<Vec<Reply>, AskError> {
        let Self { address, command, receiver } = self;
        receiver.await.unwrap_or(Err(AskError::Lost { address, command }))
    }

    /// Waits for them at most `limit`.
    pub(crate) async fn within(self, limit: Duration) -> Result<Vec<Reply>, AskError> {
        let (address, command) = (self.address.clone(), self.command.clone());
        tokio::time::timeout(limit, self.wait()).await.unwrap_or(Err(AskError::TimedOut {
            address,
            command,
            after: limit,
        }))
    }
}

/// One watched server: what is seen of it, and a way to ask it something.
#[derive(Clone)]
pub struct Watch {
    address: Address,
    view: watch::Receiver<ServerView>,
    info: watch::Receiver<Info>,
    process: watch::Receiver<Option<Process>>,
    asks: mpsc::Sender<Ask>,
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Watch {
    /// Starts to watch `address` on a task of `tasks` until `shutdown`; `changed` is woken whenever there is news. `pid_file` names its
    /// process, if that is on this host.
    pub fn start(
        address: Address,
        settings: Settings,
        pid_file: Option<PathBuf>,
        changed: Arc<Notify>,
        tasks: &mut JoinSet<()>,
        shutdown: &CancellationToken,
    ) -> Self {
        let now = Instant::now().into_std();
        let (view_sender, view) = watch::channel(ServerView::new(address.clone(), now));
        let (info_sender, info) = watch::channel(Info::new());
        let looked = Arc::clone(&changed);
        let (asks, receiver) = mpsc::channel(ASKS_MAX);
        let keeper = connection::Keeper::new(
            address.clone(),
            settings,
            connection::Outlets { view: view_sender, info: info_sender, changed },
            receiver,
        );
        let (process_sender, process) = watch::channel(None);
        if let Some(pid_file) = pid_file {
            let shutdown = shutdown.clone();
            tasks.spawn(async move {
                let look = process::look(pid_file, process_sender, looked);
                shutdown.run_until_cancelled(look).await;
            });
        }
        let shutdown = shutdown.clone();
        tasks.spawn(async move {
            shutdown.run_until_cancelled(keeper.run()).await;
        });
        Self { address, view, info, process, asks }
    }

    /// Where the server is.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// What is seen of it now.
    pub fn view(&self) -> ServerView {
        let mut view = self.view.borrow().clone();
        view.process = *self.process.borrow();
        // The file may name another process than the one that answers, or one in another container.
        let own = self.info.borrow().get("process_id").and_then(|id| id.parse().ok());
        view.process = view.process.filter(|process| Some(process.pid) == own);
        view
    }

    /// Its `INFO` for the store.
    pub fn samples(&self) -> RedisSamples {
        let view = self.view.borrow();
        let up = view.fault().is_none() && view.waiting_since.is_none() && view.sample.is_some();
        RedisSamples {
            address: self.address.clone(),
            up,
            info: if up { self.info.borrow().clone() } else { Info::new() },
            probe_seconds: view.probe_time.map(|time| time.as_secs_f64()),
        }
    }

    /// Writes commands into the kept connection. The answers may be waited for, or not.
    pub(crate) fn send(&self, commands: Vec<Command>) -> Result<Answers, AskError> {
        let name = commands.first().map(|command| command.join(" ")).unwrap_or_default();
        let (reply, receiver) = oneshot::channel();
        self.asks.try_send(Ask { commands, reply }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => AskError::Busy(self.address.clone()),
            mpsc::error::TrySendError::Closed(_) => AskError::NotConnected(self.address.clone()),
        })?;
        Ok(Answers { address: self.address.clone(), command: name, receiver })
    }

    /// Asks and waits at most `limit`. Error replies are among the answers.
    pub(crate) async fn ask(
        &self,
        commands: Vec<Command>,
        limit: Duration,
    ) -> Result<Vec<Reply>, AskError> {
        self.send(commands)?.within(limit).await
    }

    /// One command whose error reply is an error.
    pub(crate) async fn order(&self, command: Command, limit: Duration) -> Result<Reply, AskError> {
        let name = command.join(" ");
        let replies = self.ask(vec![command], limit).await?;
        match replies.into_iter().next() {
            Some(Reply::Error(reply)) => {
                Err(AskError::Refused { address: self.address.clone(), command: name, reply })
            }
            Some(reply) => Ok(reply),
            None => Err(AskError::Odd { address: self.address.clone(), command: name }),
        }
    }

    /// Asks for the replication state now. Fields that only the whole `INFO` has are taken from the last one.
    pub(crate) async fn sample(&self, limit: Duration) -> Result<Sample, AskError> {
        let odd = || AskError::Odd { address: self.address.clone(), command: "INFO".to_owned() };
        let reply = self.order(command(["INFO", "replication"]), limit).await?;
        let replication = parse(&reply.text().ok_or_else(odd)?);
        let full = self.info.borrow().clone();
        info::sample(&replication, &full, Instant::now().into_std()).ok_or_else(odd)
    }
}
