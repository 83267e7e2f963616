//! Figures of the Redis controllers. The families are registered once; each Redis has its own series in them.

use std::time::Duration;

use holdfast_telemetry::{
    Gauge, GaugeVec, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Registry, metrics,
};

use super::sentinel;
use crate::cluster::{Address, RedisState};
use crate::config::{Moment, Redis};
use crate::plan::failover::Readiness;

/// Around the objectives: 20 ms for a crash, 350 ms for a hang, a second at most.
const SECONDS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// What a run can consist of.
const STEPS: [&str; 12] = [
    "detected",
    "drained",
    "elected",
    "vetted",
    "committed",
    "detached",
    "fenced",
    "promoted",
    "told",
    "repointed",
    "verified",
    "confirmed",
];

/// The families of all Redis controllers' figures.
pub struct Families {
    failovers: IntCounterVec,
    primary: IntGaugeVec,
    state: IntGaugeVec,
    seconds: HistogramVec,
    steps: HistogramVec,
    epoch: IntGaugeVec,
    loss: IntGaugeVec,
    candidate: IntGaugeVec,
    majority: IntGaugeVec,
    expected: GaugeVec,
    wait_safe: IntGaugeVec,
    demanded: IntGaugeVec,
    hooks: IntCounterVec,
    diverged: IntCounterVec,
    salvaged: IntCounterVec,
    late: IntCounterVec,
    save_failures: IntCounterVec,
    pub(super) managers: sentinel::Families,
}

impl Families {
    /// Registers them, without series yet.
    pub fn register(registry: &Registry) -> Self {
        let label = ["redis"];
        let gauge = |metric: &str, help: &str| metrics::gauge_vec(registry, metric, help, &label);
        let counter =
            |metric: &str, help: &str| metrics::counter_vec(registry, metric, help, &label);
        Self {
            failovers: metrics::counter_vec(
                registry,
                "supervisor_redis_failovers_total",
                "Failovers and switchovers by result",
                &["redis", "result"],
            ),
            primary: metrics::gauge_vec(
                registry,
                "supervisor_redis_primary_info",
                "1 for the server that clients are told is the primary",
                &["redis", "address"],
            ),
            state: metrics::gauge_vec(
                registry,
                "supervisor_redis_state",
                "State of the failover state machine, 1 for the state it is in",
                &["redis", "state"],
            ),
            seconds: metrics::histogram_vec(
                registry,
                "supervisor_redis_failover_seconds",
                "Time from the decision to the new primary's first accepted write",
                &label,
                &SECONDS,
            ),
            steps: metrics::histogram_vec(
                registry,
                "supervisor_redis_failover_step_seconds",
                "Duration of the steps of failovers",
                &["redis", "step"],
                &SECONDS,
            ),
            epoch: gauge(
                "supervisor_redis_epoch",
                "Fencing epoch, grows with every change of the primary",
            ),
            loss: gauge(
                "supervisor_redis_loss_estimate_bytes",
                "Bytes the best candidate lacks if the primary died now, -1 if that is not known",
            ),
            candidate: gauge(
                "supervisor_redis_has_candidate",
                "1 if a server could take the primary's place now",
            ),
            majority: gauge(
                "supervisor_redis_has_majority",
                "1 if enough supervisors hear each other for a failover to be decided now",
            ),
            expected: metrics::float_gauge_vec(
                registry,
                "supervisor_redis_failover_expected_seconds",
                "Time a failover would take now from the decision to the first write, -1 if that is not known",
                &label,
            ),
            wait_safe: gauge(
                "supervisor_redis_wait_safe_replicas",
                "Replicas that are well: WAIT for this many is answered at once",
            ),
            demanded: gauge(
                "supervisor_redis_synchronous_replicas",
                "min-replicas-to-write that the managed synchronous mode has set, 0 without it",
            ),
            hooks: metrics::counter_vec(
                registry,
                "supervisor_redis_hook_runs_total",
                "Runs of hooks by moment and result",
                &["redis", "on", "result"],
            ),
            diverged: counter(
                "supervisor_redis_diverged_bytes_total",
                "Bytes that former primaries had and the present one never got",
            ),
            salvaged: counter(
                "supervisor_redis_salvaged_commands_total",
                "Commands of former primaries that the present one never got and that were saved in files",
            ),
            late: counter(
                "supervisor_redis_late_ticks_total",
                "Rounds of the controller that came so late that silence was forgiven",
            ),
            save_failures: counter(
                "supervisor_redis_state_write_failures_total",
                "Failed attempts to keep epoch and primary on disk",
            ),
            managers: sentinel::Families::register(registry),
        }
    }

    /// The series of one Redis.
    pub(super) fn of(&self, config: &Redis) -> Metrics {
        let name = config.name.clone();
        let gauge = |family: &IntGaugeVec| family.with_label_values(&[&name]);
        let counter = |family: &IntCounterVec| family.with_label_values(&[&name]);
        let metrics = Metrics {
            failovers: self.failovers.clone(),
            primary: self.primary.clone(),
            state: self.state.clone(),
            seconds: self.seconds.with_label_values(&[&name]),
            steps: self.steps.clone(),
            epoch: gauge(&self.epoch),
            loss: gauge(&self.loss),
            candidate: gauge(&self.candidate),
            majority: gauge(&self.majority),
            expected: self.expected.with_label_values(&[&name]),
            wait_safe: gauge(&self.wait_safe),
            demanded: gauge(&self.demanded),
            hooks: self.hooks.clone(),
            diverged: counter(&self.diverged),
            salvaged: counter(&self.salvaged),
            late: counter(&self.late),
            save_failures: counter(&self.save_failures),
            servers: config.servers.iter().map(|server| server.address.clone()).collect(),
            name,
        };
        for result in ["succeeded", "failed"] {
            metrics.failovers.with_label_values(&[&metrics.name, result]);
        }
        for on in Moment::ALL {
            for result in ["succeeded", "failed", "timed_out", "vetoed"] {
                metrics.hooks.with_label_values(&[&metrics.name, on.name(), result]);
            }
        }
        for step in STEPS {
            metrics.steps.with_label_values(&[&metrics.name, step]);
        }
        metrics.set_state(RedisState::Unknown);
        metrics.set_primary(None, 0);
        metrics
    }
}

pub(super) struct Metrics {
    name: String,
    servers: Vec<Address>,
    failovers: IntCounterVec,
    primary: IntGaugeVec,
    state: IntGaugeVec,
    seconds: Histogram,
    steps: HistogramVec,
    epoch: IntGauge,
    loss: IntGauge,
    candidate: IntGauge,
    majority: IntGauge,
    expected: Gauge,
    wait_safe: IntGauge,
    demanded: IntGauge,
    hooks: IntCounterVec,
    diverged: IntCounter,
    salvaged: IntCounter,
    late: IntCounter,
    save_failures: IntCounter,
}

impl Metrics {
    pub(super) fn ended(&self, seconds: Option<Duration>) {
        let result = if seconds.is_some() { "succeeded" } else { "failed" };
        self.failovers.with_label_values(&[&self.name, result]).inc();
        if let Some(seconds) = seconds {
            self.seconds.observe(seconds.as_secs_f64());
        }
    }

    pub(super) fn step(&self, step: &str, took: Duration) {
        self.steps.with_label_values(&[&self.name, step]).observe(took.as_secs_f64());
    }

    pub(super) fn set_state(&self, state: RedisState) {
        for each in RedisState::ALL {
            let value = i64::from(each == state);
            self.state.with_label_values(&[&self.name, each.name()]).set(value);
        }
    }

    pub(super) fn set_primary(&self, primary: Option<&Address>, epoch: u64) {
        for server in &self.servers {
            let value = i64::from(Some(server) == primary);
            self.primary.with_label_values(&[&self.name, &server.to_string()]).set(value);
        }
        self.epoch.set(i64::try_from(epoch).unwrap_or(i64::MAX));
    }

    pub(super) fn set_readiness(&self, readiness: &Readiness) {
        let Readiness { candidate, loss_bytes, majority, expected, wait_safe } = readiness;
        self.candidate.set(i64::from(candidate.is_some()));
        self.loss.set(loss_bytes.and_then(|bytes| i64::try_from(bytes).ok()).unwrap_or(-1));
        self.majority.set(i64::from(*majority));
        self.expected.set(expected.map_or(-1.0, |time| time.as_secs_f64()));
        self.wait_safe.set(i64::from(*wait_safe));
    }

    /// What the primary demands by our order.
    pub(super) fn set_demanded(&self, replicas: u32) {
        self.demanded.set(i64::from(replicas));
    }

    pub(super) fn hook(&self, on: Moment, result: &str) {
        self.hooks.with_label_values(&[&self.name, on.name(), result]).inc();
    }

    pub(super) fn add_diverged(&self, bytes: u64) {
        self.diverged.inc_by(bytes);
    }

    pub(super) fn add_salvaged(&self, commands: u64) {
        self.salvaged.inc_by(commands);
    }

    pub(super) fn add_late(&self) {
        self.late.inc();
    }

    pub(super) fn save_failures(&self) -> IntCounter {
        self.save_failures.clone()
    }
}
