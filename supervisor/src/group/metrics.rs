//! Figures of the group.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use holdfast_telemetry::metrics;
use holdfast_telemetry::{Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};

use super::ledger::Applied;
use super::{ProposeError, Seat};
use crate::cluster::GroupBrief;

/// What `/metrics` shows of the group.
pub(super) struct GroupMetrics {
    seat: IntGaugeVec,
    term: IntGauge,
    members: IntGauge,
    majority: IntGauge,
    last: IntGauge,
    applied: IntGauge,
    changes: IntCounter,
    proposals: IntCounterVec,
    commit: Histogram,
    heard: IntGaugeVec,
    behind: IntGaugeVec,
    /// The members these two show.
    shown: Mutex<BTreeSet<String>>,
}

impl GroupMetrics {
    pub(super) fn register(registry: &Registry) -> Self {
        let seat = metrics::gauge_vec(
            registry,
            "supervisor_group_state",
            "What this supervisor is to the supervisors' group, 1 for the state it is in",
            &["state"],
        );
        let proposals = metrics::counter_vec(
            registry,
            "supervisor_group_proposals_total",
            "Entries this supervisor proposed to the group by result",
            &["result"],
        );
        for result in ["agreed", "refused", "failed"] {
            proposals.with_label_values(&[result]);
        }
        let gauge = |name, help| metrics::gauge(registry, name, help);
        let metrics = Self {
            seat,
            term: gauge("supervisor_group_term", "Term of the present leadership"),
            members: gauge("supervisor_group_members", "Supervisors that vote in the group"),
            majority: gauge(
                "supervisor_group_majority",
                "Whether this supervisor hears a majority of the group, or a leader that does",
            ),
            last: gauge("supervisor_group_log_last_index", "Last entry of this supervisor's log"),
            applied: gauge(
                "supervisor_group_log_applied_index",
                "Last entry of the log that this supervisor has applied",
            ),
            changes: metrics::counter(
                registry,
                "supervisor_group_leaders_total",
                "Leaderships that began since the start",
            ),
            proposals,
            commit: metrics::histogram(
                registry,
                "supervisor_group_commit_duration_seconds",
                "Time from a proposal until a majority had confirmed it and it was applied",
                &[0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0],
            ),
            heard: metrics::gauge_vec(
                registry,
                "supervisor_group_member_heard",
                "Whether this supervisor has heard another member of the group within 5 seconds",
                &["member"],
            ),
            behind: metrics::gauge_vec(
                registry,
                "supervisor_group_member_behind_entries",
                "Entries of the group's log that a member had not applied when it was heard last",
                &["member"],
            ),
            shown: Mutex::default(),
        };
        metrics.set_seat(&Seat::Outside);
        metrics
    }

    pub(super) fn set_seat(&self, seat: &Seat) {
        for name in Seat::NAMES {
            self.seat.with_label_values(&[name]).set(i64::from(name == seat.name()));
        }
        let hears = matches!(seat, Seat::Leading { .. } | Seat::Following { .. });
        self.majority.set(i64::from(hears));
    }

    pub(super) fn set_log(&self, last: Option<u64>, applied: Option<u64>) {
        self.last.set(figure(last.unwrap_or_default()));
        self.applied.set(figure(applied.unwrap_or_default()));
    }

    pub(super) fn set_members(&self, voters: usize, term: u64) {
        self.members.set(i64::try_from(voters).unwrap_or(i64::MAX));
        self.term.set(figure(term));
    }

    /// What is known of each member; those that have left are not shown any more.
    pub(super) fn set_others(&self, group: &GroupBrief) {
        let names = group.members.iter().map(|member| member.name.clone()).collect();
        let before = {
            let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *shown, names)
        };
        for gone in before.iter().filter(|name| !group.members.iter().any(|it| it.name == **name)) {
            // Not every member is in both.
            let _ = self.heard.remove_label_values(&[gone]);
            let _ = self.behind.remove_label_values(&[gone]);
        }
        for member in &group.members {
            let name = &[member.name.as_str()];
            if !member.is_self {
                self.heard.with_label_values(name).set(i64::from(!member.is_silent()));
            }
            if let Some(behind) = member.behind {
                self.behind.with_label_values(name).set(figure(behind));
            }
        }
    }

    /// A leadership began.
    pub(super) fn led(&self) {
        self.changes.inc();
    }

    pub(super) fn proposed(&self, took: Duration, result: &Result<Applied, ProposeError>) {
        let name = match result {
            Ok(_) => "agreed",
            Err(ProposeError::Refused(_)) => "refused",
            Err(_) => "failed",
        };
        self.proposals.with_label_values(&[name]).inc();
        if result.is_ok() {
            self.commit.observe(took.as_secs_f64());
        }
    }
}

fn figure(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
