//! One run with its hands and eyes: what [`Run`] decides is done here, and what it wants to know is looked up here.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use holdfast_telemetry::errors::Chain;
use tokio::sync::watch;
use tokio::time::Instant;

use super::conditions::{self, View};
use super::held::Held;
use super::report::{Expectation, FaultRecord, Moment, Report, Versions};
use super::run::{Input, Measured, Observation, Phase, Run, Task, Verdict, seconds};
use super::scenario::{Blow, Scenario};
use super::victim::{self, Victim};
use crate::act::upstreams::HoldfastBalancer;
use crate::cluster::{AlertStatus, CanaryStatus, RedisStatus, ServersStatus};
use crate::config::Config;
use crate::observe::canary::{CanaryHandle, WindowReport};
use crate::record::{Draft, Filter, Journal, Kind, LIMIT_MAX, Severity, Sink};

/// What the journal calls the subject of a drill's events.
pub(super) const SUBJECT: &str = "drill";
/// The canary's messages of this long ago count for whether users are served now.
const RECENT: Duration = Duration::from_secs(3);
/// More open incidents than this need not be told apart.
const INCIDENTS_MAX: usize = 100;

/// The cluster as the other parts see it.
#[derive(Debug)]
pub(super) struct World {
    pub(super) config: Config,
    pub(super) servers: watch::Receiver<ServersStatus>,
    /// Each Redis in the order of the settings.
    pub(super) redis: Vec<watch::Receiver<RedisStatus>>,
    pub(super) alerts: watch::Receiver<Vec<AlertStatus>>,
    pub(super) journal: Arc<Journal>,
    /// The way to the servers, if it is Holdfast's.
    pub(super) balancer: Option<HoldfastBalancer>,
}

/// The canary: what it saw and how it is now.
pub(super) type Canary = (CanaryHandle, watch::Receiver<CanaryStatus>);

impl World {
    /// Whom to strike.
    pub(super) fn victim(&self, scenario: &Scenario) -> Result<Victim, String> {
        let redis = self.redis_now();
        Victim::choose(scenario.victim, &self.config, &self.servers.borrow(), &redis)
    }

    /// Whether the blow of `scenario` can be struck from here.
    pub(super) fn check_reach(&self, scenario: &Scenario) -> Result<(), String> {
        let victim = self.victim(scenario)?;
        match scenario.blow {
            Blow::Crash => victim.crash().map(drop),
            Blow::Delay { .. } => self.balancer().map(drop),
        }
    }

    fn balancer(&self) -> Result<&HoldfastBalancer, String> {
        self.balancer.as_ref().ok_or_else(|| {
            "the settings name no [balancer], at which the way to a server could be slowed down"
                .to_owned()
        })
    }

    fn redis_now(&self) -> Vec<RedisStatus> {
        self.redis.iter().map(|redis| redis.borrow().clone()).collect()
    }
}

/// A run that is going on.
pub(super) struct Active {
    pub(super) id: String,
    pub(super) scenario: &'static Scenario,
    by: String,
    started_at: DateTime<Utc>,
    begun: Instant,
    /// The journal's newest event before it.
    since_id: u64,
    run: Run,
    canary: Canary,
    fault: Option<(FaultRecord, Held)>,
    /// Why it could not be taken out.
    not_undone: Option<String>,
}

impl Active {
    pub(super) fn start(
        scenario: &'static Scenario,
        by: &str,
        world: &World,
        canary: Canary,
        now: DateTime<Utc>,
    ) -> Self {
        let scrape = world.config.scrape.interval;
        Self {
            id: format!("{}-{}", now.format("%Y%m%dT%H%M%SZ"), scenario.name),
            scenario,
            by: by.to_owned(),
            started_at: now,
            begun: Instant::now(),
            since_id: world.journal.last_id(),
            // A figure may be an interval old when it is read, and its successor takes up to one more.
            run: Run::new(scenario, 2 * scrape),
            canary,
            fault: None,
            not_undone: None,
        }
    }

    pub(super) fn phase(&self) -> Phase {
        self.run.phase()
    }

    /// Looks, decides, acts.
    pub(super) async fn step(&mut self, world: &World, sink: &Sink) {
        let now = self.begun.elapsed();
        let input = match (self.run.phase(), self.run.window()) {
            (Phase::Verification, Some((from, to))) => {
                Input::Measured(measured(&self.window(from, to)))
            }
            _ => Input::Observed(self.observe(world, now).await),
        };
        let task = self.run.next(now, input);
        if task == Some(Task::Inject) {
            // The window begins before the blow, or the blow would fall out of it.
            let now = self.begun.elapsed();
            let input = match self.strike(world, sink).await {
                Ok(()) => Input::Injected,
                Err(why) => Input::NotInjected(why),
            };
            self.run.next(now, input);
        }
    }

    /// Ends the run without a result.
    pub(super) fn abort(&mut self, why: String) {
        self.run.next(self.begun.elapsed(), Input::Abort(why));
    }

    fn window(&self, from: Duration, to: Duration) -> WindowReport {
        self.canary.0.window(self.begun + from, self.begun + to)
    }

    async fn observe(&mut self, world: &World, now: Duration) -> Observation {
        let is_over = match &mut self.fault {
            Some((_, held)) => held.is_over().await,
            None => false,
        };
        let incidents = world.journal.incidents(true, INCIDENTS_MAX);
        let end = self.begun + now;
        let recent = self.canary.0.window(end.checked_sub(RECENT).unwrap_or(self.begun), end);
        let redis = world.redis_now();
        let view = View {
            servers: &world.servers.borrow(),
            redis: &redis,
            canary: &self.canary.1.borrow(),
            recent: &recent,
            alerts: &world.alerts.borrow(),
            incidents: &incidents,
        };
        let Some((fault, _)) = &self.fault else {
            let unmet = conditions::unmet_before(view);
            return Observation { unmet, ..Observation::default() };
        };
        let role = self.scenario.victim;
        let unrelated = incidents.iter().find(|incident| {
            victim::is_unrelated(role, &fault.target, &world.config, &incident.subject)
        });
        Observation {
            unmet: conditions::unmet_after(view),
            is_over,
            stop: unrelated.map(|incident| {
                format!(
                    "incident {} ({}) opened meanwhile and does not come from this drill: {}",
                    incident.id, incident.subject, incident.title
                )
            }),
        }
    }

    async fn strike(&mut self, world: &World, sink: &Sink) -> Result<(), String> {
        // The primary may be another one by now.
        let victim = world.victim(self.scenario)?;
        let (held, action) = match self.scenario.blow {
            Blow::Crash => {
                let injected = victim.crash()?.inject();
                let injected = injected.map_err(|error| Chain(&error).to_string())?;
                (Held::Process(injected), "killed".to_owned())
            }
            Blow::Delay { delay, lease } => {
                let reason = format!("drill {}", self.id);
                let balancer = world.balancer()?;
                let held = Held::delay(balancer, &victim.name, delay, lease, &reason).await;
                let held = held.map_err(|error| Chain(&error).to_string())?;
                (held, format!("delayed ({} for {})", seconds(delay), seconds(lease)))
            }
        };
        let pid = held.pid();
        tracing::warn!(
            run = self.id,
            action,
            program = victim.program,
            target = victim.name,
            pid,
            "fault injected"
        );
        let process = pid.map(|pid| format!(" (process {pid})")).unwrap_or_default();
        let message = format!("{action} {} {}{process}", victim.program, victim.name);
        let draft = Draft::new(Kind::ActionTaken, Severity::Warning, SUBJECT, message);
        sink(
            draft
                .because(format!(
                    "drill {} is to show: {}",
                    self.scenario.name, self.scenario.hypothesis
                ))
                .because("the cluster was well and no incident was open"),
        );
        let record = FaultRecord {
            after_ms: (Utc::now() - self.started_at).num_milliseconds(),
            action,
            program: victim.program.to_owned(),
            target: victim.name,
            pid,
        };
        self.fault = Some((record, held));
        Ok(())
    }

    /// Undoes what is left of the fault.
    pub(super) async fn undo(&mut self) {
        if let Some((_, held)) = &mut self.fault
            && let Err(error) = held.undo().await
        {
            self.not_undone = Some(format!("the fault was not undone: {}", Chain(&error)));
        }
    }

    /// Puts together what happened. Reads the journal, which may wait for the disk.
    pub(super) fn report(self, world: &World, now: DateTime<Utc>) -> Report {
        let mut failures = self.run.failures().to_vec();
        failures.extend(self.not_undone.clone());
        let filter =
            Filter { since_id: Some(self.since_id), limit: LIMIT_MAX, ..Filter::default() };
        let events = world.journal.events(&filter).into_iter();
        let servers = world.redis_now().into_iter().flat_map(|redis| redis.servers);
        let mut redis: Vec<_> = servers.filter_map(|server| server.version).collect();
        redis.sort_unstable();
        redis.dedup();
        let measured = self.run.measured();
        let Scenario { rto_max, rpo_messages_max, recovery_max, .. } = *self.scenario;
        Report {
            run: self.id.clone(),
            scenario: self.scenario.name.to_owned(),
            hypothesis: self.scenario.hypothesis.to_owned(),
            by: self.by.clone(),
            verdict: self.run.verdict().unwrap_or(Verdict::Aborted),
            started_at: self.started_at,
            finished_at: now,
            fault: self.fault.as_ref().map(|(record, _)| record.clone()),
            rto_seconds: measured.map(|measured| measured.longest_gap.as_secs_f64()),
            rto_limit_seconds: rto_max.as_secs_f64(),
            rpo_messages: measured.map(|measured| measured.lost),
            rpo_limit_messages: rpo_messages_max,
            first_ack_seconds: measured
                .and_then(|measured| measured.first_ack_after)
                .map(|after| after.as_secs_f64()),
            recovery_seconds: self.run.recovery().map(|recovery| recovery.as_secs_f64()),
            recovery_limit_seconds: recovery_max.as_secs_f64(),
            availability_ratio: measured
                .filter(|measured| measured.sent > 0)
                .map(|measured| measured.acked as f64 / measured.sent as f64),
            messages_sent: measured.map(|measured| measured.sent),
            messages_acked: measured.map(|measured| measured.acked),
            expectations: expectations(self.scenario, &self.run),
            failures,
            timeline: events.map(|event| Moment::new(event, self.started_at)).collect(),
            versions: Versions { holdfast: env!("CARGO_PKG_VERSION").to_owned(), redis },
        }
    }
}

fn measured(window: &WindowReport) -> Measured {
    let unanswered = window.sent.saturating_sub(window.acked + window.failed);
    Measured {
        longest_gap: window.longest_gap,
        first_ack_after: window.first_ack_after,
        sent: window.sent,
        acked: window.acked,
        failed: window.failed,
        lost: window.lost,
        unsettled: window.unsettled + unanswered,
    }
}

fn expectations(scenario: &Scenario, run: &Run) -> Vec<Expectation> {
    let gap = run.measured().map(|measured| measured.longest_gap);
    let lost = run.measured().map(|measured| measured.lost);
    // As long as the fate of some is open, only "too many" is certain.
    let is_settled = run.measured().is_some_and(|measured| measured.unsettled == 0);
    let is_lossless = lost.map(|lost| lost <= scenario.rpo_messages_max);
    let (recovery, is_over) = (run.recovery(), run.measured().is_some());
    vec![
        Expectation {
            what: "longest time without an acknowledged message (RTO)".to_owned(),
            expected: seconds(scenario.rto_max),
            measured: gap.map(seconds),
            is_met: gap.map(|gap| gap <= scenario.rto_max),
        },
        Expectation {
            what: "acknowledged messages lost (RPO)".to_owned(),
            expected: scenario.rpo_messages_max.to_string(),
            measured: lost.map(|lost| lost.to_string()),
            is_met: is_lossless.filter(|kept| is_settled || !kept),
        },
        Expectation {
            what: "cluster whole again".to_owned(),
            expected: seconds(scenario.recovery_max),
            measured: recovery.map(seconds),
            is_met: is_over.then_some(recovery.is_some()),
        },
    ]
}
