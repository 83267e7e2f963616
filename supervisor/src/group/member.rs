//! The keeper: opens the file, runs the consensus library on it, and keeps everybody told.
//!
//! It is a loop around the library's life. The library ends for good at the first write that fails; the keeper then says why, lets the
//! others elect a leader, and opens the file again until the disk takes writes. It also ends when this member leaves the group.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use holdfast_telemetry::Registry;
use holdfast_telemetry::errors::Chain;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::handle::{Group, Inner, Running};
use super::ledger::{Applied, Command, Entry, FOUNDER, Leadership, Ledger};
use super::metrics::GroupMetrics;
use super::network::Network;
use super::store::{Identity, Opener, Store, opener};
use super::types::{Raft, RaftMetrics, Vote};
use super::{FILE, GroupError, Members, Seat, Settings, StoreError, serve};
use crate::record::{Draft, Kind, Severity, Sink};

/// Wait before a file that could not be written is opened again.
const REOPEN_AFTER: Duration = Duration::from_secs(1);
/// A leadership's first entry must be confirmed within this time, or it is proposed again.
const LEAD_TIMEOUT: Duration = Duration::from_secs(2);
/// The library may take this long to end.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);
/// What the journal calls the group.
const SUBJECT: &str = "group";
/// Cause under which the journal keeps a lost majority.
const MINORITY: &str = "no-majority";
/// Cause under which the journal keeps a disk that refuses.
const DISK: &str = "group-disk";

/// What the keeper is asked for; answered when it is on the disk.
pub(super) enum Order {
    /// Form a group with this member as the only one.
    Form(oneshot::Sender<Result<(), StoreError>>),
    /// Be this member of a group that has taken us in.
    Become(Identity, oneshot::Sender<Result<(), StoreError>>),
    /// This member has left.
    Forget(oneshot::Sender<Result<(), StoreError>>),
}

/// Runs the group's part of this process.
pub struct Keeper {
    inner: Arc<Inner>,
    path: PathBuf,
    opener: Opener,
    store: Option<Store>,
    orders: mpsc::Receiver<Order>,
}

/// Why a life of the library ended.
enum End {
    Shutdown,
    /// It cannot write.
    Failed(String),
    Forget(oneshot::Sender<Result<(), StoreError>>),
}

impl Group {
    /// Opens this member's file, without touching the network. A member without credentials forms a group of one by itself.
    ///
    /// # Errors
    /// The file cannot be used, or it belongs to a group that the settings know nothing of.
    pub fn open(
        settings: Settings,
        registry: &Registry,
        sink: Sink,
    ) -> Result<(Self, Keeper), GroupError> {
        let opener = opener(&settings.state_dir.join(FILE));
        Self::open_with(settings, opener, registry, sink)
    }

    pub(super) fn open_with(
        settings: Settings,
        opener: Opener,
        registry: &Registry,
        sink: Sink,
    ) -> Result<(Self, Keeper), GroupError> {
        let path = settings.state_dir.join(FILE);
        let store = Store::open(&path, &opener)?;
        let others = store.members().saturating_sub(1);
        if others > 0 && settings.credentials.is_none() {
            return Err(GroupError::Settings(format!(
                "group: expected a [group] section: {} belongs to a group with {others} other members. To go on alone: \
                 `holdfast group leave` first",
                path.display()
            )));
        }
        let (sender, orders) = mpsc::channel(4);
        let metrics = GroupMetrics::register(registry);
        let inner = Arc::new(Inner::new(settings, metrics, sink, sender));
        let keeper = Keeper { inner: Arc::clone(&inner), path, opener, store: Some(store), orders };
        Ok((Self { inner }, keeper))
    }
}

impl Keeper {
    /// Runs until `shutdown`, with the listener for the other members if there is one.
    pub async fn run(mut self, listener: Option<TcpListener>, shutdown: CancellationToken) {
        let mut tasks = JoinSet::new();
        if let Some((listener, credentials)) = listener.zip(self.inner.settings.credentials.clone())
        {
            let handler = Arc::new(serve::Desk(Group { inner: Arc::clone(&self.inner) }));
            let serving = super::transport::serve(listener, credentials, handler, shutdown.clone());
            tasks.spawn(serving);
        }
        tasks.spawn(serve::exchange_reports(Arc::clone(&self.inner), shutdown.clone()));
        loop {
            let Some(store) = self.opened(&shutdown).await else { break };
            let Some(store) = self.identified(store, &shutdown).await else { break };
            match self.live(store, &shutdown).await {
                End::Shutdown => break,
                End::Failed(why) => self.failed(&why),
                End::Forget(reply) => {
                    self.inner.members.send_replace(Arc::default());
                    self.inner.reports.send_replace(Arc::default());
                    let moved = put_away(&self.path);
                    // The asker may have gone; the file is away.
                    let _ = reply.send(moved);
                }
            }
        }
        tasks.shutdown().await;
    }

    fn failed(&self, why: &str) {
        let text = format!("the group's file cannot be written: {why}");
        if !matches!(&*self.inner.seat.borrow(), Seat::Failed { .. }) {
            tracing::error!(why, "the group's file cannot be written; this member steps back");
            let draft = Draft::new(Kind::Group, Severity::Critical, SUBJECT, text.clone());
            (self.inner.sink)(draft.opens(DISK));
        }
        self.inner.set_seat(Seat::Failed { why: text });
    }

    /// The file, as soon as it can be written; `None` at shutdown.
    async fn opened(&mut self, shutdown: &CancellationToken) -> Option<Store> {
        if let Some(store) = self.store.take() {
            return Some(store);
        }
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return None,
                () = sleep(REOPEN_AFTER) => {}
            }
            let (path, opener) = (self.path.clone(), Arc::clone(&self.opener));
            let read = tokio::task::spawn_blocking(move || Store::open(&path, &opener)).await;
            let error = match read {
                Ok(Ok(mut store)) => match store.try_writing().await {
                    Ok(()) => return Some(store),
                    Err(error) => Chain(&error).to_string(),
                },
                Ok(Err(error)) => Chain(&error).to_string(),
                Err(error) => error.to_string(),
            };
            self.failed(&error);
        }
    }

    /// Waits until we are somebody; `None` at shutdown.
    async fn identified(
        &mut self,
        mut store: Store,
        shutdown: &CancellationToken,
    ) -> Option<Store> {
        let is_alone = self.inner.settings.credentials.is_none();
        if store.identity.is_none()
            && is_alone
            && let Err(error) = store.name(founder()).await
        {
            self.failed(&Chain(&error).to_string());
            return self.again(shutdown).await;
        }
        while store.identity.is_none() {
            self.inner.set_seat(Seat::Outside);
            let order = tokio::select! {
                () = shutdown.cancelled() => return None,
                order = self.orders.recv() => order?,
            };
            let (identity, reply) = match order {
                Order::Form(reply) => (founder(), reply),
                Order::Become(identity, reply) => (identity, reply),
                Order::Forget(reply) => {
                    // The asker may have gone.
                    let _ = reply.send(Ok(()));
                    continue;
                }
            };
            let written = store.name(identity).await;
            let is_written = written.is_ok();
            // The asker may have gone.
            let _ = reply.send(written);
            if !is_written {
                return self.again(shutdown).await;
            }
        }
        Some(store)
    }

    async fn again(&mut self, shutdown: &CancellationToken) -> Option<Store> {
        let store = self.opened(shutdown).await?;
        Box::pin(self.identified(store, shutdown)).await
    }

    /// One life of the library.
    async fn live(&mut self, store: Store, shutdown: &CancellationToken) -> End {
        let Some(identity) = store.identity else { return End::Failed("nobody".to_owned()) };
        let inner = Arc::clone(&self.inner);
        let (log, machine) = store.split(inner.published.clone());
        let timing = inner.settings.timing;
        let network = Network {
            identity,
            peers: Arc::clone(&inner.peers),
            contacts: Arc::clone(&inner.contacts),
            retry: timing.heartbeat * 2,
        };
        inner.peers.forget();
        let begun = Instant::now();
        let config = Arc::new(timing.library());
        let raft = match Raft::new(identity.member, config, network, log, machine).await {
            Ok(raft) => raft,
            Err(error) => return End::Failed(error.to_string()),
        };
        // Only whoever forms a group has this number. It may have been stopped between naming itself and this.
        let is_new = identity.member == FOUNDER && !raft.is_initialized().await.unwrap_or(true);
        if is_new {
            let members = std::collections::BTreeMap::from([(FOUNDER, inner.settings.own.clone())]);
            if let Err(error) = raft.initialize(members).await {
                return End::Failed(error.to_string());
            }
        }
        *inner.lock() =
            Some(Running { raft: raft.clone(), identity, led: None, since: begun.into_std() });
        let end = self.watch(&raft, identity, begun, shutdown).await;
        *inner.lock() = None;
        if timeout(SHUTDOWN_TIMEOUT, raft.shutdown()).await.is_err() {
            tracing::warn!("the group's consensus did not end in time");
        }
        end
    }

    /// Keeps everybody told while the library lives.
    async fn watch(
        &mut self,
        raft: &Raft,
        identity: Identity,
        begun: Instant,
        shutdown: &CancellationToken,
    ) -> End {
        let inner = Arc::clone(&self.inner);
        let mut metrics = raft.metrics();
        let mut ledger = inner.published.ledger.subscribe();
        let mut leadership = None;
        let mut tick = interval(inner.settings.timing.heartbeat / 2);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut leading: JoinSet<Option<(Vote, u64)>> = JoinSet::new();
        let mut stood = None;
        loop {
            let current = metrics.borrow_and_update().clone();
            if let Err(fatal) = &current.running_state {
                return End::Failed(fatal.to_string());
            }
            note_members(&inner, identity, &current);
            let is_led = inner
                .running()
                .is_some_and(|running| running.led.is_some_and(|(vote, _)| vote == current.vote));
            if current.state == openraft::ServerState::Leader && !is_led && leading.is_empty() {
                leading.spawn(lead(raft.clone(), identity, current.vote, inner.name()));
            }
            // The library's own timer asks this as well.
            let may_stand = inner.may_stand(&current, identity.member);
            raft.runtime_config().elect(may_stand);
            if may_stand
                && inner.has_lost_leader(&current, identity.member)
                && stood != Some(current.vote)
            {
                stood = Some(current.vote);
                tracing::info!("the leader's process has ended; this member stands for election");
                if let Err(fatal) = raft.trigger().elect().await {
                    return End::Failed(fatal.to_string());
                }
            }
            let newest = Arc::clone(&ledger.borrow_and_update());
            note_ledger(&inner, &newest, &mut leadership, &current);
            inner.set_seat(inner.seat_now(&current, begun));
            tokio::select! {
                () = shutdown.cancelled() => return End::Shutdown,
                changed = metrics.changed() => {
                    if changed.is_err() {
                        return End::Failed("the consensus ended".to_owned());
                    }
                }
                // The sender is ours.
                _ = ledger.changed() => {}
                _ = tick.tick() => {}
                Some(led) = leading.join_next() => {
                    if let Ok(Some(led)) = led {
                        if let Some(running) = inner.lock().as_mut() {
                            running.led = Some(led);
                        }
                        // The settings may say another address, or the first one at all.
                        Group { inner: Arc::clone(&inner) }
                            .moved(identity.member, inner.settings.own.clone());
                    }
                }
                Some(order) = self.orders.recv() => match order {
                    Order::Forget(reply) => return End::Forget(reply),
                    // The asker is told that it is one already.
                    Order::Form(reply) | Order::Become(_, reply) => drop(reply),
                },
            }
        }
    }
}

fn founder() -> Identity {
    Identity { group: uuid::Uuid::new_v4().as_u64_pair().0, member: FOUNDER }
}

/// Begins a leadership: its first entry gives it a term, and once that is applied everything before it is known here.
async fn lead(raft: Raft, identity: Identity, vote: Vote, name: String) -> Option<(Vote, u64)> {
    let entry = Entry::Lead { member: identity.member, name };
    let command = Command { term: 0, at: Utc::now(), entry };
    match timeout(LEAD_TIMEOUT, raft.client_write(command)).await {
        Ok(Ok(response)) => match response.data {
            // By the vote the entry was written under; the leadership may have changed meanwhile.
            Applied::Led { term } if response.log_id.leader_id == vote.leader_id => {
                Some((vote, term))
            }
            _ => None,
        },
        Ok(Err(error)) => {
            tracing::debug!(%error, "a leadership was not confirmed");
            None
        }
        Err(_) => None,
    }
}

fn note_members(inner: &Inner, identity: Identity, metrics: &RaftMetrics) {
    let membership = metrics.membership_config.membership();
    let members = Members {
        own: Some(identity.member),
        voters: membership.get_joint_config().clone(),
        all: membership.nodes().map(|(id, node)| (*id, node.clone())).collect(),
    };
    inner.members.send_if_modified(|current| {
        let changed = **current != members;
        if changed {
            *current = Arc::new(members);
        }
        changed
    });
}

fn note_ledger(
    inner: &Inner,
    ledger: &Ledger,
    before: &mut Option<Leadership>,
    metrics: &RaftMetrics,
) {
    let applied = metrics.last_applied.map(|applied| applied.index);
    inner.metrics.set_log(metrics.last_log_index, applied);
    inner.metrics.set_members(metrics.membership_config.voter_ids().count(), ledger.term());
    let Some(leadership) = ledger.leadership.as_ref().filter(|new| Some(*new) != before.as_ref())
    else {
        return;
    };
    // What a former run already knew is no news.
    if before.is_some() || Some(leadership.member) == inner.members.borrow().own {
        inner.metrics.led();
        let (name, term) = (&leadership.name, leadership.term);
        tracing::info!(leader = name, term, "the group has a leader");
        let text = format!("{name} leads the supervisors' group");
        let draft = Draft::new(Kind::Group, Severity::Info, SUBJECT, text);
        (inner.sink)(draft.detail(serde_json::json!({"term": term, "leader": name})));
    }
    *before = Some(leadership.clone());
}

impl Inner {
    pub(super) fn name(&self) -> String {
        self.settings.own.name.clone()
    }

    fn seat_now(&self, metrics: &RaftMetrics, begun: Instant) -> Seat {
        let timing = self.settings.timing;
        if metrics.state == openraft::ServerState::Leader {
            let (term, since) = self.leads_since().unwrap_or_else(|| (None, begun.into_std()));
            return match term {
                Some(term) if since.elapsed() < timing.lease() => Seat::Leading { term },
                _ if since.elapsed() >= timing.alone_after() => Seat::Minority { since },
                _ => Seat::Following { leader: None },
            };
        }
        let begun = begun.into_std();
        let since = self.contacts.leader().map_or(begun, |leader| leader.max(begun));
        if since.elapsed() >= timing.alone_after() {
            return Seat::Minority { since };
        }
        Seat::Following { leader: metrics.current_leader }
    }

    /// Publishes the seat; says so once.
    pub(super) fn set_seat(&self, seat: Seat) {
        let before = self.seat.borrow().clone();
        if before == seat {
            return;
        }
        self.metrics.set_seat(&seat);
        let draft = |severity, text: &str| Draft::new(Kind::Group, severity, SUBJECT, text);
        match (&before, &seat) {
            (Seat::Minority { .. }, Seat::Minority { .. }) => {}
            (_, Seat::Minority { .. }) => {
                tracing::warn!("no majority of the group is heard; this member only watches");
                let text = "no majority of the supervisors' group is heard: this one only watches";
                (self.sink)(draft(Severity::Critical, text).opens(MINORITY));
            }
            (Seat::Minority { .. }, Seat::Leading { .. } | Seat::Following { .. }) => {
                tracing::info!("a majority of the group is heard again");
                let text = "a majority of the supervisors' group is heard again";
                (self.sink)(draft(Severity::Info, text).closes(MINORITY));
            }
            (Seat::Failed { .. }, Seat::Leading { .. } | Seat::Following { .. }) => {
                tracing::info!("the group's file can be written again");
                let text = "the group's file can be written again";
                (self.sink)(draft(Severity::Info, text).closes(DISK));
            }
            _ => {}
        }
        self.seat.send_replace(seat);
    }
}

/// A member that has left keeps its file beside, in case somebody wants to look; the one before is replaced.
fn put_away(path: &Path) -> Result<(), StoreError> {
    let away = path.with_extension("redb.left");
    std::fs::rename(path, away).map_err(|error| StoreError::Write(Arc::new(redb::Error::Io(error))))
}

/// The seat as others may wait for it, with a limit.
pub(super) async fn seated(
    seat: &mut watch::Receiver<Seat>,
    limit: Duration,
    is_it: impl Fn(&Seat) -> bool,
) -> bool {
    matches!(timeout(limit, seat.wait_for(|seat| is_it(seat))).await, Ok(Ok(_)))
}
