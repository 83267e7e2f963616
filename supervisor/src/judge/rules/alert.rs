//! One alert and its life: pending → firing → resolved.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use holdfast_series::Labels;

use super::rule::Action;
use crate::cluster::{AlertState, AlertStatus};

/// How long a resolved alert is kept, so that whoever missed its end still sees it. As in Prometheus.
pub(super) const RESOLVED_KEPT_MS: i64 = 15 * 60 * 1000;

/// An alert: one series for which a rule's expression has a result.
#[derive(Debug, Clone, PartialEq)]
pub struct Alert {
    /// Name of the rule.
    pub name: String,
    /// Where it stands.
    pub state: AlertState,
    /// Labels of the series and of the rule, `alertname` among them.
    pub labels: Labels,
    /// Annotations with their templates filled in.
    pub annotations: BTreeMap<String, String>,
    /// When it became true.
    pub active_at_ms: i64,
    /// When it began to fire.
    pub fired_at_ms: Option<i64>,
    /// When it was resolved.
    pub resolved_at_ms: Option<i64>,
    /// Since when it only fires because its rule keeps it firing.
    pub(super) kept_since_ms: Option<i64>,
    /// Value of the expression when it was last true.
    pub value: f64,
    /// The rule's file.
    pub file: Arc<PathBuf>,
    /// The rule's group.
    pub group: Arc<str>,
    /// What it asks for.
    pub action: Option<Action>,
}

impl Alert {
    /// A number that identifies its labels.
    pub fn fingerprint(&self) -> u64 {
        self.labels.fingerprint()
    }

    /// What it asks to be done, while it fires.
    pub fn action(&self) -> Option<Action> {
        self.action.filter(|_| self.state == AlertState::Firing)
    }

    /// It as people see it.
    pub fn status(&self) -> AlertStatus {
        AlertStatus {
            name: self.name.clone(),
            state: self.state,
            labels: self.labels.iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect(),
            annotations: self.annotations.clone(),
            active_at: date(self.active_at_ms),
            fired_at: self.fired_at_ms.map(date),
            resolved_at: self.resolved_at_ms.map(date),
            value: self.value,
        }
    }

    /// The next state at `now_ms`, the rule's expression being true for it or not. `None`: it is over and may be forgotten.
    pub(super) fn next(
        &mut self,
        now_ms: i64,
        is_true: bool,
        hold_ms: i64,
        keep_ms: i64,
    ) -> Option<AlertState> {
        match self.state {
            AlertState::Pending if !is_true => return None,
            AlertState::Firing if !is_true => {
                let since = *self.kept_since_ms.get_or_insert(now_ms);
                if now_ms - since >= keep_ms {
                    self.state = AlertState::Resolved;
                    self.resolved_at_ms = Some(now_ms);
                }
            }
            AlertState::Resolved if !is_true => {
                let since = self.resolved_at_ms.unwrap_or(now_ms);
                if now_ms - since > RESOLVED_KEPT_MS {
                    return None;
                }
            }
            AlertState::Firing => self.kept_since_ms = None,
            AlertState::Pending | AlertState::Resolved => {
                if self.state == AlertState::Resolved {
                    // True again: a life of its own, from the start.
                    self.state = AlertState::Pending;
                    self.active_at_ms = now_ms;
                    (self.fired_at_ms, self.resolved_at_ms) = (None, None);
                    self.kept_since_ms = None;
                }
                if now_ms - self.active_at_ms >= hold_ms {
                    self.state = AlertState::Firing;
                    self.fired_at_ms = Some(now_ms);
                }
            }
        }
        Some(self.state)
    }
}

fn date(ms: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(ms).unwrap_or_default()
}

/// A change of an alert's state.
#[derive(Debug, Clone, PartialEq)]
pub struct AlertTransition {
    /// The state before; `None` for an alert that was not there.
    pub from: Option<AlertState>,
    /// The state now; `None` for a pending alert that ended before it fired.
    pub to: Option<AlertState>,
    /// The alert, after the change.
    pub alert: Alert,
}
