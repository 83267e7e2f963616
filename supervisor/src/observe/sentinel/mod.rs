//! Other people's Redis Sentinels: what each says about the primary, and asking one for a failover.
//!
//! A task per Sentinel keeps two connections: one is subscribed to `+switch-master`, so that a new primary is known when clients learn of
//! it, the other asks once a second, because an event can be missed. Every step has a time-out; a Sentinel that cannot be asked keeps its
//! last answer together with the reason.

mod parse;

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use holdfast_psync::{Address as Place, Connection, Credentials, Endpoint, Error, Tls};
use holdfast_telemetry::errors::Chain;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use crate::cluster::Address;
use crate::judge::sentinel::{Seen, SentinelView};
use crate::observe::redis::Login;

/// Time between two questions while nothing happens.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// A Sentinel answers from memory; one that does not within this time counts as gone.
const PATIENCE: Duration = Duration::from_secs(1);

/// An order is worth a longer wait than a question that is repeated anyway.
const ORDER_PATIENCE: Duration = Duration::from_secs(3);

/// Pause before the next attempt to connect.
const RETRY_AFTER: Duration = Duration::from_millis(500);

const EVENT: &str = "+switch-master";

/// Who we are to it, and how we talk.
#[derive(Debug, Clone, Copy, Default)]
pub struct Access<'a> {
    /// What we say first.
    pub login: Option<&'a Login>,
    /// How to encrypt; `None`: not at all.
    pub tls: Option<&'a Tls>,
}

/// One watched Sentinel.
#[derive(Clone)]
pub struct SentinelWatch {
    endpoint: Endpoint,
    name: String,
    view: watch::Receiver<SentinelView>,
}

impl fmt::Debug for SentinelWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SentinelWatch")
            .field("address", &self.endpoint.address)
            .finish_non_exhaustive()
    }
}

impl SentinelWatch {
    /// Starts to watch what the Sentinel at `address` says about the primary `name`; `changed` is woken when that changes.
    pub fn start(
        address: Address,
        name: String,
        access: Access<'_>,
        changed: Arc<Notify>,
        tasks: &mut JoinSet<()>,
        shutdown: &CancellationToken,
    ) -> Self {
        let mut endpoint = Endpoint::new(Place::Tcp(address.to_string()));
        endpoint.connect_timeout = PATIENCE;
        endpoint.command_timeout = PATIENCE;
        endpoint.tls = access.tls.cloned();
        let endpoint = endpoint.with_credentials(access.login.map(|login| Credentials {
            username: login.username.clone(),
            password: login.password.expose().to_owned(),
        }));
        let (sender, view) = watch::channel(SentinelView::new(address));
        let keeper =
            Keeper { endpoint: endpoint.clone(), name: name.clone(), view: sender, changed };
        let shutdown = shutdown.clone();
        tasks.spawn(async move {
            shutdown.run_until_cancelled(keeper.run()).await;
        });
        Self { endpoint, name, view }
    }

    /// What it says now.
    pub fn view(&self) -> SentinelView {
        self.view.borrow().clone()
    }

    /// Asks it for a failover. It answers when it has begun one.
    ///
    /// # Errors
    /// It cannot be reached, or does not want to.
    pub async fn fail_over(&self) -> Result<(), Error> {
        let endpoint = Endpoint { command_timeout: ORDER_PATIENCE, ..self.endpoint.clone() };
        let mut connection = Connection::open(&endpoint).await?;
        connection.command(&["SENTINEL", "FAILOVER", &self.name]).await.map(drop)
    }
}

struct Keeper {
    endpoint: Endpoint,
    name: String,
    view: watch::Sender<SentinelView>,
    changed: Arc<Notify>,
}

impl Keeper {
    async fn run(self) {
        loop {
            let Err(error) = self.listen().await;
            let fault = Chain(&error).to_string();
            self.publish(|view| view.fault = Some(fault));
            sleep(RETRY_AFTER).await;
        }
    }

    async fn listen(&self) -> Result<Infallible, Error> {
        let mut events = Connection::open(&self.endpoint).await?;
        events.command(&["SUBSCRIBE", EVENT]).await?;
        let mut questions = Connection::open(&self.endpoint).await?;
        let mut ticks = interval(ASK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                // Silence is not for this connection to judge: the other one asks every second.
                event = events.message(Duration::MAX) => {
                    if parse::switched(&event?, &self.name).is_none() {
                        continue;
                    }
                }
                _ = ticks.tick() => {}
            }
            let seen = self.ask(&mut questions).await?;
            self.publish(|view| {
                view.fault = None;
                view.seen = Some(seen);
            });
        }
    }

    async fn ask(&self, connection: &mut Connection) -> Result<Seen, Error> {
        let reply = connection.command(&["SENTINEL", "MASTER", &self.name]).await?;
        let no_quorum = match connection.command(&["SENTINEL", "CKQUORUM", &self.name]).await {
            Ok(_) => None,
            Err(Error::Refused { reply, .. }) => Some(reply),
            Err(error) => return Err(error),
        };
        parse::seen(&reply, no_quorum).ok_or_else(|| Error::Protocol {
            address: self.endpoint.address.clone(),
            during: "SENTINEL MASTER".to_owned(),
            detail: "expected ip, port, config-epoch and down-after-milliseconds".to_owned(),
        })
    }

    fn publish(&self, change: impl FnOnce(&mut SentinelView)) {
        let changed = self.view.send_if_modified(|view| {
            let before = view.clone();
            change(view);
            *view != before
        });
        if changed {
            self.changed.notify_one();
        }
    }
}
