//! The drill runner: starts drills by schedule and by command, one at a time, carries them to their end and keeps the report.
//!
//! It refuses rather than waits: a drill on a cluster that is not well, or without the means to measure, proves nothing and may hurt.
//! A scheduled drill that is refused is in the journal with the reason. Whatever ends a run (result, operator, shutdown), its fault is
//! undone and its report written.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Local, Utc};
use croner::Cron;
use holdfast_telemetry::Registry;
use holdfast_telemetry::errors::Chain;
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::active::{Active, Canary, SUBJECT, World};
use super::metrics::Metrics;
use super::report::Report;
use super::run::{Phase, Verdict};
use super::scenario::{self, Role, Scenario};
use crate::act::upstreams::HoldfastBalancer;
use crate::cluster::{AlertStatus, CanaryStatus, DrillStatus, Manager, RedisStatus, ServersStatus};
use crate::config::{Config, SCENARIOS};
use crate::control::{ControlError, DrillCommand, Leads};
use crate::observe::canary::CanaryHandle;
use crate::record::{Draft, Journal, Kind, Severity, Sink};

/// How often a run looks at the cluster: far below the bounds it measures, and nothing for a CPU.
const TICK: Duration = Duration::from_millis(100);
/// Longest sleep towards the next scheduled time: a clock that is set differently is noticed within it.
const SLEEP_MAX: Duration = Duration::from_secs(30);

/// What the runner needs of the other parts.
#[derive(Debug)]
pub struct DrillInputs<'a> {
    /// The checked settings.
    pub config: &'a Config,
    /// Nodes and balancer.
    pub servers: watch::Receiver<ServersStatus>,
    /// Redis, if set.
    pub redis: Vec<watch::Receiver<RedisStatus>>,
    /// The canary, if on.
    pub canary: Option<(CanaryHandle, watch::Receiver<CanaryStatus>)>,
    /// Alerts.
    pub alerts: watch::Receiver<Vec<AlertStatus>>,
    /// The journal.
    pub journal: Arc<Journal>,
    /// The balancer, if it is Holdfast's.
    pub balancer: Option<HoldfastBalancer>,
    /// What operators want.
    pub commands: mpsc::Receiver<DrillCommand>,
}

/// A line of the schedule and its next time.
struct Planned {
    scenario: &'static Scenario,
    cron: Cron,
    at: Option<DateTime<Utc>>,
}

impl Planned {
    fn plan(&mut self, now: DateTime<Utc>) {
        let next = self.cron.find_next_occurrence(&now.with_timezone(&Local), false);
        self.at = next.ok().map(|next| next.with_timezone(&Utc));
    }
}

/// Runs drills.
pub struct DrillRunner {
    world: Arc<World>,
    canary: Option<Canary>,
    commands: mpsc::Receiver<DrillCommand>,
    schedule: Vec<Planned>,
    active: Option<Active>,
    metrics: Metrics,
    status: watch::Sender<DrillStatus>,
    sink: Sink,
    leads: Leads,
}

impl DrillRunner {
    /// A runner, and where it publishes how drills stand.
    ///
    /// # Panics
    /// If the schedule was not checked when the settings were read.
    pub fn new(
        inputs: DrillInputs<'_>,
        registry: &Registry,
        sink: Sink,
    ) -> (Self, watch::Receiver<DrillStatus>) {
        let DrillInputs { config, servers, redis, canary, alerts, journal, balancer, commands } =
            inputs;
        let checked = "the settings were checked when they were read";
        let schedule = config.drills.schedule.iter().map(|line| Planned {
            scenario: scenario::find(&line.scenario).expect(checked),
            cron: Cron::from_str(&line.cron).expect(checked),
            at: None,
        });
        let (status, receiver) = watch::channel(DrillStatus {
            run: None,
            scenario: None,
            phase: None,
            verdict: None,
            finished_at: None,
            next: None,
        });
        let runner = Self {
            schedule: schedule.collect(),
            world: Arc::new(World {
                config: config.clone(),
                servers,
                redis,
                alerts,
                journal,
                balancer,
            }),
            canary,
            commands,
            active: None,
            metrics: Metrics::register(registry),
            status,
            sink,
            leads: Arc::new(|| true),
        };
        (runner, receiver)
    }

    /// What the schedule starts depends on `leads`: of several supervisors only one rehearses.
    #[must_use]
    pub fn scheduled_if(self, leads: Leads) -> Self {
        Self { leads, ..self }
    }

    /// Runs until `shutdown`; a drill that is going on is aborted then.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let begun = Utc::now();
        for planned in &mut self.schedule {
            planned.plan(begun);
        }
        loop {
            self.publish();
            let until = until(self.next().map(|(_, at)| at), Utc::now());
            tokio::select! {
                () = shutdown.cancelled() => break,
                Some(command) = self.commands.recv() => self.command(command).await,
                () = tokio::time::sleep(until) => self.start_due(Utc::now()),
                _ = ticks.tick(), if self.active.is_some() => {
                    if let Some(active) = &mut self.active {
                        active.step(&self.world, &self.sink).await;
                    }
                }
            }
            let is_over = |active: &mut Active| active.phase() == Phase::Finished;
            if let Some(active) = self.active.take_if(is_over) {
                self.finish(active).await;
            }
        }
        if let Some(mut active) = self.active.take() {
            active.abort("the supervisor is ending".to_owned());
            self.finish(active).await;
        }
    }

    async fn command(&mut self, command: DrillCommand) {
        match command {
            DrillCommand::Start(start) => {
                let result = self.start(&start.scenario, &start.by, Utc::now());
                // The asker may have gone; the drill goes on.
                let _ = start.reply.send(result);
            }
            DrillCommand::Abort { by, reply } => {
                let result = match self.active.take() {
                    Some(mut active) => {
                        active.abort(format!("{by} aborted it"));
                        self.finish(active).await;
                        Ok(())
                    }
                    None => Err(ControlError::Refused("no drill is running".to_owned())),
                };
                // The asker may have gone; the drill is over all the same.
                let _ = reply.send(result);
            }
        }
    }

    fn start_due(&mut self, now: DateTime<Utc>) {
        let mut due = Vec::new();
        for planned in &mut self.schedule {
            if planned.at.is_some_and(|at| at <= now) {
                due.push(planned.scenario.name);
                planned.plan(now);
            }
        }
        for name in due {
            if !(self.leads)() {
                tracing::debug!(scenario = name, "a scheduled drill is left to the leader");
                continue;
            }
            if let Err(error) = self.start(name, "the schedule", now) {
                tracing::warn!(scenario = name, %error, "scheduled drill not started");
                let message = format!("the scheduled drill {name} was not started");
                let draft = Draft::new(Kind::ActionWithheld, Severity::Info, SUBJECT, message);
                (self.sink)(draft.despite(error.to_string()));
            }
        }
    }

    fn start(&mut self, name: &str, by: &str, now: DateTime<Utc>) -> Result<String, ControlError> {
        let scenario = scenario::find(name).ok_or_else(|| {
            let known = SCENARIOS.join(", ");
            ControlError::NotFound(format!("there is no scenario {name:?}; there are {known}"))
        })?;
        if let Some(active) = &self.active {
            return Err(ControlError::Busy(format!("drill {} is running", active.id)));
        }
        let canary = self.admit(scenario).map_err(ControlError::Refused)?;
        let active = Active::start(scenario, by, &self.world, canary, now);
        tracing::info!(run = active.id, by, "drill started");
        let message = format!("drill {name} started by {by}");
        let draft = Draft::new(Kind::DrillStarted, Severity::Info, SUBJECT, message);
        (self.sink)(
            draft
                .because(format!("it is to show: {}", scenario.hypothesis))
                .detail(serde_json::json!({"run": active.id, "scenario": name})),
        );
        let id = active.id.clone();
        self.active = Some(active);
        Ok(id)
    }

    /// Whether a drill may start at all; how the cluster is doing right now is judged by the run itself.
    fn admit(&self, scenario: &Scenario) -> Result<Canary, String> {
        let config = &self.world.config;
        if config.supervisor.observe_only {
            return Err("supervisor.observe_only is on: this supervisor changes nothing".to_owned());
        }
        let Some(canary) = &self.canary else {
            return Err("the canary is off, and it is what measures a drill".to_owned());
        };
        match scenario.victim {
            Role::BusiestNode if config.nodes.len() < 2 => {
                return Err("there is no other chat node to take over".to_owned());
            }
            Role::RedisPrimary
                if config.redis.first().is_none_or(|redis| redis.manager == Manager::None) =>
            {
                return Err(
                    "Redis is not managed by this supervisor or by Redis Sentinel, so nobody would fail it over"
                        .to_owned(),
                );
            }
            Role::BusiestNode | Role::RedisPrimary => {}
        }
        if let Some(incident) = self.world.journal.incidents(true, 1).first() {
            return Err(format!(
                "incident {} ({}) is open: {}",
                incident.id, incident.subject, incident.title
            ));
        }
        self.world.check_reach(scenario)?;
        Ok(canary.clone())
    }

    async fn finish(&mut self, mut active: Active) {
        active.undo().await;
        let (id, scenario) = (active.id.clone(), active.scenario);
        let world = Arc::clone(&self.world);
        let dir = world.config.drills.report_dir.clone();
        let written = tokio::task::spawn_blocking(move || {
            let report = active.report(&world, Utc::now());
            let path = dir.join(format!("{}.md", report.run));
            let result = report.write(&dir).map(|()| path);
            (report, result.map_err(|error| Chain(&error).to_string()))
        });
        match written.await {
            Ok((report, path)) => {
                self.tell(&report, path);
                self.metrics.count(&report);
                self.publish_finished(&id, scenario, report.verdict, report.finished_at);
            }
            Err(error) => {
                // Only a fault of ours, a panic, leads here; nobody is to wait for the end of this run.
                tracing::error!(run = id, scenario = scenario.name, %error, "drill without a report");
                self.publish_finished(&id, scenario, Verdict::Aborted, Utc::now());
            }
        }
    }

    fn tell(&self, report: &Report, path: Result<PathBuf, String>) {
        let (run, verdict) = (&report.run, report.verdict.name());
        tracing::info!(
            run,
            verdict,
            rto_seconds = report.rto_seconds,
            rpo_messages = report.rpo_messages,
            "drill finished"
        );
        let severity = match report.verdict {
            Verdict::Fail => Severity::Warning,
            Verdict::Pass | Verdict::Aborted => Severity::Info,
        };
        let figures = match (report.rto_seconds, report.rpo_messages) {
            (Some(rto), Some(rpo)) => format!(", RTO {rto:.3} s, RPO {rpo} messages"),
            _ => String::new(),
        };
        let message = format!("drill {}: {verdict}{figures}", report.scenario);
        let mut draft = Draft::new(Kind::DrillFinished, severity, SUBJECT, message);
        for failure in &report.failures {
            draft = draft.despite(failure.clone());
        }
        for kept in report.expectations.iter().filter(|kept| kept.is_met == Some(true)) {
            let measured = kept.measured.as_deref().unwrap_or("unknown");
            draft = draft.because(format!("{}: {measured}, limit {}", kept.what, kept.expected));
        }
        let report_path = match path {
            Ok(path) => Some(path.display().to_string()),
            Err(error) => {
                tracing::warn!(run, error, "drill report not written");
                draft = draft.despite(format!("the report was not kept: {error}"));
                None
            }
        };
        (self.sink)(draft.detail(serde_json::json!({
            "run": run,
            "scenario": report.scenario,
            "verdict": verdict,
            "rto_seconds": report.rto_seconds,
            "rpo_messages": report.rpo_messages,
            "recovery_seconds": report.recovery_seconds,
            "report": report_path,
        })));
    }

    fn next(&self) -> Option<(String, DateTime<Utc>)> {
        let planned = self.schedule.iter().filter_map(|planned| Some((planned.at?, planned)));
        let (at, planned) = planned.min_by_key(|(at, _)| *at)?;
        Some((planned.scenario.name.to_owned(), at))
    }

    /// Tells only what changed: this is called many times a second while a drill runs.
    fn publish(&self) {
        let next = self.next();
        self.status.send_if_modified(|status| {
            let mut new = DrillStatus { next, ..status.clone() };
            if let Some(active) = &self.active {
                new.run = Some(active.id.clone());
                new.scenario = Some(active.scenario.name.to_owned());
                new.phase = Some(active.phase().name().to_owned());
                (new.verdict, new.finished_at) = (None, None);
            }
            let is_new = new != *status;
            *status = new;
            is_new
        });
    }

    fn publish_finished(&self, id: &str, scenario: &Scenario, verdict: Verdict, at: DateTime<Utc>) {
        self.status.send_modify(|status| {
            status.run = Some(id.to_owned());
            status.scenario = Some(scenario.name.to_owned());
            status.phase = Some(Phase::Finished.name().to_owned());
            status.verdict = Some(verdict.name().to_owned());
            status.finished_at = Some(at);
        });
    }
}

fn until(next: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Duration {
    next.map_or(SLEEP_MAX, |next| (next - now).to_std().unwrap_or_default().min(SLEEP_MAX))
}

#[cfg(test)]
mod tests;
