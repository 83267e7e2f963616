//! What the journal holds: events, each with the reasons for it, gathered into incidents by subject.
//!
//! An incident is "something is wrong with this subject". It opens with the first event that [`Draft::opens`] a cause for its subject
//! (a firing alert, a dead primary) and closes when the last open cause is closed. Events about the same subject in between join it.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// How much an operator should care.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Good to know.
    Info,
    /// Something is degraded and handled.
    Warning,
    /// Users notice, or soon will.
    Critical,
}

impl Severity {
    /// The name in metrics, logs and the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The supervisor started.
    Started,
    /// The supervisor is ending.
    Stopped,
    /// Settings or rules were read again, or could not be.
    Reload,
    /// An alert began to fire.
    AlertFiring,
    /// An alert is over.
    AlertResolved,
    /// Something was changed in the cluster.
    ActionTaken,
    /// Something was called for and not done.
    ActionWithheld,
    /// Something was tried and did not work.
    ActionFailed,
    /// A server's circuit changed its state.
    Circuit,
    /// The verdict about Redis changed.
    RedisVerdict,
    /// One step of a Redis failover.
    FailoverStep,
    /// A Redis failover ended well.
    FailoverDone,
    /// A Redis failover did not end well.
    FailoverFailed,
    /// A backup was taken.
    BackupTaken,
    /// A backup failed, or failed its verification.
    BackupFailed,
    /// A message to people could not be delivered.
    NotificationFailed,
    /// The canary lost sight of the service, or found it again.
    Canary,
    /// A drill began.
    DrillStarted,
    /// A drill ended.
    DrillFinished,
    /// The supervisors' group: leaders, members, majorities.
    Group,
}

impl Kind {
    /// Whether it is something that was done, or was not to be done: the other members of a group are told of it.
    pub fn is_deed(self) -> bool {
        match self {
            Self::ActionTaken
            | Self::ActionWithheld
            | Self::ActionFailed
            | Self::FailoverStep
            | Self::FailoverDone
            | Self::FailoverFailed
            | Self::BackupTaken
            | Self::BackupFailed
            | Self::NotificationFailed
            | Self::DrillStarted
            | Self::DrillFinished => true,
            Self::Started
            | Self::Stopped
            | Self::Reload
            | Self::AlertFiring
            | Self::AlertResolved
            | Self::Circuit
            | Self::RedisVerdict
            | Self::Canary
            | Self::Group => false,
        }
    }

    /// All kinds, for metrics.
    pub const ALL: [Self; 20] = [
        Self::Started,
        Self::Stopped,
        Self::Reload,
        Self::AlertFiring,
        Self::AlertResolved,
        Self::ActionTaken,
        Self::ActionWithheld,
        Self::ActionFailed,
        Self::Circuit,
        Self::RedisVerdict,
        Self::FailoverStep,
        Self::FailoverDone,
        Self::FailoverFailed,
        Self::BackupTaken,
        Self::BackupFailed,
        Self::NotificationFailed,
        Self::Canary,
        Self::DrillStarted,
        Self::DrillFinished,
        Self::Group,
    ];

    /// The name in metrics, logs and the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Stopped => "stopped",
            Self::Reload => "reload",
            Self::AlertFiring => "alert_firing",
            Self::AlertResolved => "alert_resolved",
            Self::ActionTaken => "action_taken",
            Self::ActionWithheld => "action_withheld",
            Self::ActionFailed => "action_failed",
            Self::Circuit => "circuit",
            Self::RedisVerdict => "redis_verdict",
            Self::FailoverStep => "failover_step",
            Self::FailoverDone => "failover_done",
            Self::FailoverFailed => "failover_failed",
            Self::BackupTaken => "backup_taken",
            Self::BackupFailed => "backup_failed",
            Self::NotificationFailed => "notification_failed",
            Self::Canary => "canary",
            Self::DrillStarted => "drill_started",
            Self::DrillFinished => "drill_finished",
            Self::Group => "group",
        }
    }
}

/// One reason for or against what was decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// True: speaks for acting; false: against.
    pub favours: bool,
    /// As a sentence.
    pub text: String,
}

/// An event as it is handed to the journal.
#[derive(Debug, Clone, PartialEq)]
pub struct Draft {
    pub(super) kind: Kind,
    pub(super) severity: Severity,
    pub(super) subject: String,
    pub(super) message: String,
    pub(super) reasons: Vec<Reason>,
    pub(super) detail: serde_json::Value,
    pub(super) opens: Option<String>,
    pub(super) closes: Option<String>,
}

impl Draft {
    /// An event about `subject` (`chatnode-1`, `redis/main`, `backup`, …) with a one-line message.
    pub fn new(
        kind: Kind,
        severity: Severity,
        subject: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            severity,
            subject: subject.into(),
            message: message.into(),
            reasons: Vec::new(),
            detail: serde_json::Value::Null,
            opens: None,
            closes: None,
        }
    }

    /// Adds a reason that spoke for acting.
    #[must_use]
    pub fn because(mut self, text: impl Into<String>) -> Self {
        self.reasons.push(Reason { favours: true, text: text.into() });
        self
    }

    /// Adds a reason that spoke against acting.
    #[must_use]
    pub fn despite(mut self, text: impl Into<String>) -> Self {
        self.reasons.push(Reason { favours: false, text: text.into() });
        self
    }

    /// Adds reasons as they are.
    #[must_use]
    pub fn reasons(mut self, reasons: impl IntoIterator<Item = Reason>) -> Self {
        self.reasons.extend(reasons);
        self
    }

    /// Attaches figures and structure for programs.
    #[must_use]
    pub fn detail(mut self, detail: serde_json::Value) -> Self {
        self.detail = detail;
        self
    }

    /// Opens `cause` for the subject, and with it an incident if none is open.
    #[must_use]
    pub fn opens(mut self, cause: impl Into<String>) -> Self {
        self.opens = Some(cause.into());
        self
    }

    /// Closes `cause` for the subject, and with it the incident if it was the last.
    #[must_use]
    pub fn closes(mut self, cause: impl Into<String>) -> Self {
        self.closes = Some(cause.into());
        self
    }
}

/// An event as the journal keeps it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Grows by one with each event.
    pub id: u64,
    /// When it happened.
    pub at: DateTime<Utc>,
    /// What happened.
    pub kind: Kind,
    /// How much it matters.
    pub severity: Severity,
    /// What it is about.
    pub subject: String,
    /// The incident it belongs to.
    pub incident: Option<u64>,
    /// In one line.
    pub message: String,
    /// Why, for and against.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<Reason>,
    /// Figures and structure for programs.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub detail: serde_json::Value,
    /// This member did it as the leader of a group, so the others keep it too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_common: bool,
    /// The member of the group that recorded it, if that was another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
}

/// Where an event of another member is from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The member's name.
    pub member: String,
    /// The event's number in its journal.
    pub id: u64,
}

/// Something was wrong with a subject, from its first sign to its end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Incident {
    /// Grows by one with each incident.
    pub id: u64,
    /// What it is about.
    pub subject: String,
    /// The message of the event that opened it.
    pub title: String,
    /// The worst severity among its events.
    pub severity: Severity,
    /// When it began.
    pub opened: DateTime<Utc>,
    /// When it ended; `None` while it goes on.
    pub closed: Option<DateTime<Utc>>,
    /// Causes still open.
    pub causes: BTreeSet<String>,
    /// Events that belong to it.
    pub events: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_api() {
        for kind in Kind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
        }
        for severity in [Severity::Info, Severity::Warning, Severity::Critical] {
            assert_eq!(serde_json::to_value(severity).unwrap(), severity.name());
        }
    }
}
