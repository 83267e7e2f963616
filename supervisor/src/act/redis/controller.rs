//! The controller of one Redis primary and its replicas: looks, decides, acts, and says what it knows.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::{Notify, broadcast, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::agreement::Agreement;
use super::explain::Story;
use super::fence::Standing;
use super::metrics::{Families, Metrics};
use super::repair::Aside;
use super::sentinel::Sentinels;
use super::sync::Synchronous;
use super::{SentinelEvent, Topology};
use crate::cluster::{Address, Managed, RedisServerStatus, RedisState, RedisStatus};
use crate::config;
use crate::control::RedisCommand;
use crate::group::Group;
use crate::judge::redis::{Place, ServerView, Verdict};
use crate::observe::redis::{RedisSamples, Settings as WatchSettings, Watch};
use crate::plan::failover::{Action, Choice, Event, Planner, Readiness, Settings, next};
use crate::plan::rolling::Rolling;
use crate::record::Sink;

/// A look at least this often, whether or not a server has news: silence is no news.
const TICK: Duration = Duration::from_millis(20);

/// A round that comes this much later than the last one was held up on our side: stopped, starved or asleep.
const LATE: Duration = Duration::from_millis(250);

/// Time between two publications of `INFO` for the store.
const SAMPLES_EVERY: Duration = Duration::from_secs(1);

/// Messages a subscriber may be behind before it is cut off.
const EVENTS_MAX: usize = 1024;

/// The cause under which an incident about a missing primary is open.
pub(super) const CAUSE: &str = "redis-primary-down";

/// What the controller publishes.
#[derive(Debug, Clone)]
pub struct Handles {
    /// For people and programs.
    pub status: watch::Receiver<RedisStatus>,
    /// For the Sentinel-compatible endpoint.
    pub topology: watch::Receiver<Arc<Topology>>,
    /// For the store, once a second.
    pub samples: watch::Receiver<Vec<RedisSamples>>,
    /// For subscribers of the Sentinel-compatible endpoint.
    pub events: broadcast::Sender<SentinelEvent>,
}

/// Watches one primary and its replicas and fails over.
pub struct RedisController {
    pub(super) config: config::Redis,
    /// Where what is saved of former primaries is kept.
    pub(super) state_dir: PathBuf,
    /// What is agreed on, and the way to agree on more.
    pub(super) agreement: Agreement,
    /// The fences of the servers beside us.
    pub(super) fences: HashMap<Address, Standing>,
    /// The change that is under way, by its epoch, and since when we know.
    pub(super) change_seen: Option<(u64, Instant)>,
    pub(super) started: Instant,
    pub(super) planner: Planner,
    pub(super) watches: Vec<Watch>,
    pub(super) metrics: Metrics,
    pub(super) sink: Sink,
    pub(super) events: broadcast::Sender<SentinelEvent>,
    /// Fences that wait for their servers to run again, and former primaries on their way back.
    pub(super) asides: JoinSet<Aside>,
    /// The servers on their way back.
    pub(super) returning: HashSet<Address>,
    pub(super) state: RedisState,
    pub(super) reason: Option<String>,
    pub(super) last_failover: Option<DateTime<Utc>>,
    /// A planned switchover is going on.
    pub(super) is_planned: bool,
    pub(super) commands: mpsc::Receiver<RedisCommand>,
    /// Where somebody else changes roles.
    pub(super) sentinels: Sentinels,
    pub(super) is_incident_open: bool,
    /// The epoch of the run of ours that was begun last: what comes of it is recorded there.
    pub(super) attempting: Option<u64>,
    candidate: Option<Choice>,
    /// What was recorded last, so that nothing is recorded twice.
    pub(super) verdict: Option<Verdict>,
    pub(super) withheld: Option<String>,
    pub(super) up: HashMap<Address, bool>,
    /// What led to the present state of the primary.
    pub(super) story: Story,
    /// Salvages that are being replayed.
    pub(super) replaying: HashSet<String>,
    /// The managed synchronous mode, if it is on.
    pub(super) synchronous: Option<Synchronous>,
    /// The rolling restart that goes on, or the last one.
    pub(super) rolling: Option<Rolling>,
    /// Silence before this was our own.
    forgiven: Option<Instant>,
    pub(super) last_round: Instant,
    pub(super) changed: Arc<Notify>,
    status: watch::Sender<RedisStatus>,
    topology: watch::Sender<Arc<Topology>>,
    samples: watch::Sender<Vec<RedisSamples>>,
}

impl RedisController {
    /// A controller for the servers of `config`. `group` agrees on it, salvages are kept in `state_dir`; `commands` are operators'.
    pub fn new(
        config: config::Redis,
        observe_only: bool,
        state_dir: PathBuf,
        group: Group,
        families: &Families,
        sink: Sink,
        commands: mpsc::Receiver<RedisCommand>,
    ) -> (Self, Handles) {
        let now = Instant::now();
        let agreement = Agreement::new(group, config.name.clone());
        let settings = settings_of(&config, observe_only);
        let mut planner = Planner::new(settings, now.into_std());
        planner.follow(now.into_std(), Utc::now(), &agreement.register(), &[]);
        let views: Vec<_> = config
            .servers
            .iter()
            .map(|server| ServerView::new(server.address.clone(), now.into_std()))
            .collect();
        let metrics = families.of(&config);
        let empty = RedisStatus {
            name: config.name.clone(),
            state: RedisState::Unknown,
            reason: None,
            primary: None,
            epoch: planner.epoch(),
            servers: Vec::new(),
            candidate: None,
            loss_estimate_bytes: None,
            last_failover: None,
            pause: planner.register().orders.pause.clone(),
            switchover: planner.register().orders.appointment.clone(),
            awaits_approval: false,
            managed: Managed { by: config.manager, ..Managed::default() },
            has_majority: true,
            expected_seconds: None,
            wait_safe_replicas: 0,
            restart: None,
        };
        let (status, status_receiver) = watch::channel(empty.clone());
        let (topology, topology_receiver) = watch::channel(Arc::new(Topology {
            status: empty,
            views: views.clone(),
            hang_after: config.hang_after,
            is_planned: false,
        }));
        let (samples, samples_receiver) = watch::channel(Vec::new());
        let (events, _) = broadcast::channel(EVENTS_MAX);
        let handles = Handles {
            status: status_receiver,
            topology: topology_receiver,
            samples: samples_receiver,
            events: events.clone(),
        };
        let synchronous = config.synchronous.clone().map(Synchronous::new);
        let sentinels = Sentinels::new(families.managers.of(&config));
        let controller = Self {
            config,
            state_dir,
            fences: HashMap::new(),
            change_seen: None,
            started: now,
            agreement,
            planner,
            watches: Vec::new(),
            metrics,
            sink,
            events,
            asides: JoinSet::new(),
            returning: HashSet::new(),
            state: RedisState::Unknown,
            reason: None,
            last_failover: None,
            is_planned: false,
            commands,
            sentinels,
            is_incident_open: false,
            attempting: None,
            candidate: None,
            verdict: None,
            withheld: None,
            up: HashMap::new(),
            story: Story::default(),
            replaying: HashSet::new(),
            synchronous,
            rolling: None,
            forgiven: None,
            last_round: now,
            changed: Arc::new(Notify::new()),
            status,
            topology,
            samples,
        };
        controller.publish(&views);
        (controller, handles)
    }

    /// Runs until `shutdown`; a failover that has begun is finished first. The servers stay as they are then.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let settings = WatchSettings {
            login: self.config.login(),
            tls: self.config.tls.clone(),
            probe_interval: self.config.probe_interval,
            probe_timeout: self.config.probe_timeout,
        };
        let mut watchers = JoinSet::new();
        for server in &self.config.servers {
            self.watches.push(Watch::start(
                server.address.clone(),
                settings.clone(),
                server.pid_file.clone(),
                Arc::clone(&self.changed),
                &mut watchers,
                &shutdown,
            ));
        }
        self.watch_sentinels(&mut watchers, &shutdown);
        let changed = Arc::clone(&self.changed);
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut samples_tick = interval(SAMPLES_EVERY);
        samples_tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = changed.notified() => self.round().await,
                () = self.agreement.changed() => self.round().await,
                _ = tick.tick() => self.round().await,
                _ = samples_tick.tick() => {
                    self.samples.send_replace(self.watches.iter().map(Watch::samples).collect());
                }
                Some(command) = self.commands.recv() => self.command(command).await,
                Some(done) = self.asides.join_next() => match done {
                    Ok(aside) => self.note_aside(aside),
                    Err(error) => tracing::error!(%error, "task of the Redis controller failed"),
                },
                Some(ended) = watchers.join_next() => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "a watch of Redis failed");
                    }
                    break;
                }
            }
        }
    }

    /// One full round: look, decide, act, publish.
    pub(super) async fn round(&mut self) {
        let late = self.forgive_own_lateness();
        let views = self.views();
        self.follow(&views);
        self.mind_fences();
        self.follow_sentinels(&views).await;
        let before = self.planner.lineage().cloned();
        let council = self.agreement.council();
        let decision = self.planner.decide(Instant::now().into_std(), &views, &council);
        self.share(&decision, &views, late);
        self.note(&decision, before.as_ref());
        self.candidate.clone_from(&decision.candidate);
        self.note_servers(&views);
        self.enter(decision.event, decision.summary.clone());
        match &decision.action {
            Action::Nothing => {}
            Action::Adopt { primary, why } => self.adopt(primary, why, &views).await,
            Action::FailOver => {
                // Its end has been recorded and published.
                let _ = self.fail_over(&decision, &views, false, None).await;
            }
            Action::Resume(resume) => self.resume(resume).await,
            Action::Repair(repairs) => self.repair(repairs).await,
            Action::HandOver(choice) => self.hand_back(choice.clone()).await,
        }
        if council.place == Place::Leads {
            self.keep_appointments().await;
            self.keep_agreement_true().await;
            self.keep_synchronous(&views);
            self.roll(&views).await;
        } else {
            // Whoever leads now goes on with it.
            self.rolling = None;
        }
        self.publish(&self.views());
        self.last_round = Instant::now();
    }

    /// The servers as seen, with the silence that was ours taken off.
    pub(super) fn views(&self) -> Vec<ServerView> {
        let mut views: Vec<_> = self.watches.iter().map(Watch::view).collect();
        if let Some(forgiven) = self.forgiven.map(Instant::into_std) {
            for view in &mut views {
                view.waiting_since = view.waiting_since.map(|since| since.max(forgiven));
                view.link_since = view.link_since.max(forgiven);
            }
        }
        views
    }

    /// How late this round is.
    fn forgive_own_lateness(&mut self) -> Duration {
        let now = Instant::now();
        let gap = now - self.last_round;
        if gap >= TICK + LATE {
            tracing::warn!(gap_milliseconds = gap.as_millis(), "we were late, silence is forgiven");
            self.metrics.add_late();
            self.forgiven = Some(now);
        }
        gap.saturating_sub(TICK)
    }

    pub(super) fn watch(&self, address: &Address) -> Option<&Watch> {
        self.watches.iter().find(|watch| watch.address() == address)
    }

    /// Moves the state machine; says so once.
    pub(super) fn enter(&mut self, event: Event, reason: Option<String>) {
        let Some(state) = next(self.state, event) else {
            tracing::error!(
                state = self.state.name(),
                ?event,
                "impossible move of the Redis state machine"
            );
            return;
        };
        self.reason = reason;
        if state != self.state {
            tracing::info!(
                redis = self.config.name,
                from = self.state.name(),
                to = state.name(),
                reason = self.reason,
                "Redis state changed"
            );
            self.state = state;
            self.metrics.set_state(state);
        }
    }

    /// Whether enough supervisors hear each other to decide anything. One alone always does.
    fn has_majority(&self) -> bool {
        self.agreement.council().place != Place::Minority
    }

    /// Publishes what is known now.
    pub(super) fn publish(&self, views: &[ServerView]) {
        let now = Instant::now().into_std();
        let primary = self.planner.primary().cloned();
        let head = self.planner.lineage().map(|lineage| lineage.offset);
        let servers = views
            .iter()
            .map(|view| {
                let reachable = view.is_reachable(now, self.config.probe_timeout);
                let tried = view.answered_at.is_some() || view.fault().is_some();
                let sample = view.sample.as_ref().filter(|_| reachable);
                RedisServerStatus {
                    address: view.address.clone(),
                    up: tried.then_some(reachable && view.complaint.is_none()),
                    error: match view.fault() {
                        None if !reachable && tried => Some("does not answer".to_owned()),
                        fault => fault,
                    },
                    role: sample.map(|sample| sample.role),
                    offset: sample.map(|sample| sample.offset),
                    replid: sample.map(|sample| sample.replid.clone()),
                    link_up: sample.and_then(|sample| sample.link_up),
                    lag_bytes: sample
                        .filter(|sample| sample.link_up.is_some())
                        .and_then(|sample| Some(head?.saturating_sub(sample.offset))),
                    version: sample.map(|sample| sample.version.clone()),
                }
            })
            .collect();
        let readiness = Readiness::of(
            views,
            primary.as_ref(),
            self.candidate.as_ref(),
            self.has_majority(),
            self.config.probe_timeout,
            now,
        );
        self.metrics.set_primary(primary.as_ref(), self.planner.epoch());
        self.metrics.set_readiness(&readiness);
        let status = RedisStatus {
            name: self.config.name.clone(),
            state: self.state,
            reason: self.reason.clone(),
            primary,
            epoch: self.planner.epoch(),
            servers,
            candidate: readiness.candidate,
            loss_estimate_bytes: readiness.loss_bytes,
            last_failover: self.last_failover,
            pause: self.planner.register().orders.pause.clone(),
            switchover: self.planner.register().orders.appointment.clone(),
            awaits_approval: self.planner.awaits_approval(),
            managed: self.managed(),
            has_majority: readiness.majority,
            expected_seconds: readiness.expected.map(|time| time.as_secs_f64()),
            wait_safe_replicas: readiness.wait_safe,
            restart: self.restart_status(),
        };
        self.topology.send_replace(Arc::new(Topology {
            status: status.clone(),
            views: views.to_vec(),
            hang_after: self.config.hang_after,
            is_planned: self.is_planned,
        }));
        self.status.send_if_modified(|current| {
            let changed = *current != status;
            *current = status;
            changed
        });
    }
}

/// What the decisions depend on.
fn settings_of(config: &config::Redis, observe_only: bool) -> Settings {
    Settings {
        manager: config.manager,
        observe_only,
        probe_timeout: config.probe_timeout,
        hang_after: config.hang_after,
        failover_cooldown: config.failover_cooldown,
        loss_bytes_max: config.loss_bytes_max,
        approval: config.approval,
        standings: config
            .servers
            .iter()
            .map(|server| (server.address.clone(), server.standing.clone()))
            .collect(),
    }
}
