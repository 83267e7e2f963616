//! The handle by which the rest of the supervisor uses the group.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::Utc;
use openraft::error::{ClientWriteError, RaftError};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};

use super::contacts::Contacts;
use super::ledger::{Applied, Command, Entry, Ledger, MemberId};
use super::member::Order;
use super::metrics::GroupMetrics;
use super::store::{Identity, Published};
use super::transport::Peers;
use super::types::{Raft, Vote};
use super::{ClientWords, Members, ProposeError, Report, Reports, Seat, Settings};
use crate::judge::redis::{Client, Opinion};
use crate::record::Sink;

/// An entry is confirmed within this time or nobody knows: a majority on a local network with busy disks needs some 20 ms.
const PROPOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The group as seen from here. Cheap to clone.
#[derive(Clone)]
pub struct Group {
    pub(super) inner: Arc<Inner>,
}

/// What the handle, the keeper and the listener share.
pub(super) struct Inner {
    pub(super) settings: Settings,
    pub(super) peers: Arc<Peers>,
    pub(super) contacts: Arc<Contacts>,
    pub(super) metrics: GroupMetrics,
    pub(super) sink: Sink,
    pub(super) seat: watch::Sender<Seat>,
    pub(super) published: Published,
    pub(super) members: watch::Sender<Arc<Members>>,
    pub(super) own_report: watch::Sender<Report>,
    pub(super) reports: watch::Sender<Arc<Reports>>,
    pub(super) clients: watch::Sender<Arc<ClientWords>>,
    pub(super) orders: mpsc::Sender<Order>,
    /// Members are added and removed one at a time.
    pub(super) changing: tokio::sync::Mutex<()>,
    running: Mutex<Option<Running>>,
}

/// The consensus library while it runs.
#[derive(Clone)]
pub(super) struct Running {
    pub(super) raft: Raft,
    pub(super) identity: Identity,
    /// By which vote this member leads, and the term the ledger gave it.
    pub(super) led: Option<(Vote, u64)>,
    /// Since when it runs.
    pub(super) since: std::time::Instant,
}

impl Inner {
    pub(super) fn new(
        settings: Settings,
        metrics: GroupMetrics,
        sink: Sink,
        orders: mpsc::Sender<Order>,
    ) -> Self {
        Self {
            peers: Peers::new(settings.credentials.clone()),
            settings,
            contacts: Arc::default(),
            metrics,
            sink,
            seat: watch::Sender::new(Seat::Outside),
            published: Published::default(),
            members: watch::Sender::new(Arc::default()),
            own_report: watch::Sender::new(Report::default()),
            reports: watch::Sender::new(Arc::default()),
            clients: watch::Sender::new(Arc::default()),
            orders,
            changing: tokio::sync::Mutex::default(),
            running: Mutex::default(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn running(&self) -> Option<Running> {
        self.lock().clone()
    }

    /// Since when a majority answers this member as the leader; `None` if it does not lead, or none ever answered. With it the term, once
    /// the ledger has given one.
    pub(super) fn leads_since(&self) -> Option<(Option<u64>, std::time::Instant)> {
        let running = self.running()?;
        let metrics = running.raft.metrics().borrow().clone();
        if metrics.state != openraft::ServerState::Leader {
            return None;
        }
        let own = running.identity.member;
        let configs = metrics.membership_config.membership().get_joint_config();
        let now = Instant::now().into_std();
        let since = self.contacts.majority_since(configs, own, metrics.vote, now)?;
        let term = running.led.filter(|(vote, _)| *vote == metrics.vote).map(|(_, term)| term);
        Some((term, since))
    }
}

impl Group {
    /// What this member is now. For acting ask [`Group::leading`] as well: a process that was stopped finds an old answer here.
    pub fn seat(&self) -> watch::Receiver<Seat> {
        self.inner.seat.subscribe()
    }

    /// The term this member leads in at this very moment; `None`: it may not act.
    pub fn leading(&self) -> Option<u64> {
        let (term, since) = self.inner.leads_since()?;
        (since.elapsed() < self.inner.settings.timing.lease()).then_some(term)?
    }

    /// The ledger as applied here.
    pub fn ledger(&self) -> watch::Receiver<Arc<Ledger>> {
        self.inner.published.ledger.subscribe()
    }

    /// Who belongs to the group.
    pub fn members(&self) -> watch::Receiver<Arc<Members>> {
        self.inner.members.subscribe()
    }

    /// How this member was set up.
    pub fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    /// Makes this member's newest observations known to the others, at once if they changed.
    pub fn share(&self, report: Report) {
        self.inner.own_report.send_if_modified(|current| {
            let changed = *current != report;
            *current = report;
            changed
        });
    }

    /// Makes known what this member sees of one Redis primary, at once if that changed.
    pub fn share_redis(&self, name: &str, opinion: Option<Opinion>) {
        self.inner.own_report.send_if_modified(|report| {
            if report.redis.get(name) == opinion.as_ref() {
                return false;
            }
            match opinion {
                Some(opinion) => report.redis.insert(name.to_owned(), opinion),
                None => report.redis.remove(name),
            };
            true
        });
    }

    /// Makes known what chat nodes say of Redis; it goes with the next report.
    pub fn share_clients(&self, words: ClientWords) {
        self.inner.clients.send_replace(Arc::new(words));
    }

    /// What chat nodes say of Redis, each by its newest word to any member.
    pub fn clients(&self) -> Vec<Client> {
        let mut newest = ClientWords::clone(&self.inner.clients.borrow());
        for heard in self.inner.reports.borrow().values() {
            for (name, word) in &heard.report.clients {
                let Some(at) = heard.at.checked_sub(Duration::from_millis(word.age)) else {
                    continue;
                };
                let known = newest.entry(name.clone()).or_insert((word.up, at));
                if at > known.1 {
                    *known = (word.up, at);
                }
            }
        }
        newest.into_iter().map(|(name, (up, at))| Client { name, at, up }).collect()
    }

    /// What the others reported, and when it was heard.
    pub fn reports(&self) -> watch::Receiver<Arc<Reports>> {
        self.inner.reports.subscribe()
    }

    /// Has `entry` confirmed by a majority and applied here. Only the leader can.
    ///
    /// # Errors
    /// See [`ProposeError`]; after [`ProposeError::Late`] it may still come.
    ///
    /// # Cancel safety
    /// Dropping the future leaves open whether the entry is agreed on.
    pub async fn propose(&self, entry: Entry) -> Result<Applied, ProposeError> {
        let leader = || match &*self.inner.seat.borrow() {
            Seat::Following { leader } => *leader,
            _ => None,
        };
        let Some(term) = self.leading() else {
            return Err(ProposeError::NotLeading { leader: leader() });
        };
        let running = self.inner.running();
        let Some(Running { raft, .. }) = running else {
            return Err(ProposeError::NotLeading { leader: None });
        };
        let begun = Instant::now();
        let command = Command { term, at: Utc::now(), entry };
        let written = timeout(PROPOSE_TIMEOUT, raft.client_write(command)).await;
        let result = match written {
            Err(_) => Err(ProposeError::Late(PROPOSE_TIMEOUT)),
            Ok(Ok(response)) => match response.data {
                Applied::Refused(why) => Err(ProposeError::Refused(why)),
                applied => Ok(applied),
            },
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to)))) => {
                Err(ProposeError::NotLeading { leader: to.leader_id })
            }
            Ok(Err(error)) => Err(ProposeError::Disk(error.to_string())),
        };
        self.inner.metrics.proposed(begun.elapsed(), &result);
        result
    }

    /// The number this member has in the group.
    pub fn own(&self) -> Option<MemberId> {
        self.inner.running().map(|running| running.identity.member)
    }
}
