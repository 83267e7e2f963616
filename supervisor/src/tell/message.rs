//! What a message says: which alerts, since when, what Holdfast did about them, where to read on.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::Sender;
use super::grouping::Batch;
use crate::cluster::{AlertState, AlertStatus};
use crate::record::{Event, Filter, Incident, Journal, Kind};

/// Alerts in one message; more are counted. A mail with hundreds of them says no more than one with these.
const ALERTS_SHOWN: usize = 30;

/// Events of one incident in a message, the newest.
const EVENTS_SHOWN: usize = 8;

/// Incidents looked through for those of the message's alerts.
const INCIDENTS_READ: usize = 50;

/// What goes out to every channel.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Message {
    /// The rule.
    pub(super) name: String,
    /// The supervisor.
    pub(super) supervisor: String,
    /// Where people reach it.
    pub(super) external_url: String,
    /// Nothing changed since the last message.
    pub(super) is_repeat: bool,
    /// Firing ones first.
    pub(super) alerts: Vec<Alert>,
    /// How many fire, shown or not.
    pub(super) firing_count: usize,
    /// How many are left out.
    pub(super) truncated: usize,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Alert {
    pub(super) is_firing: bool,
    /// What it is about, as in the journal.
    pub(super) subject: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) starts_at: DateTime<Utc>,
    pub(super) ends_at: Option<DateTime<Utc>>,
    /// The incident in the journal.
    pub(super) incident: Option<u64>,
    /// What was done and what was held back, oldest first.
    pub(super) events: Vec<Line>,
}

/// An event in a message.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Line {
    pub(super) at: DateTime<Utc>,
    pub(super) text: String,
    pub(super) reasons: Vec<String>,
}

/// The journal's name for what an alert with these labels is about: the server, `redis/<name>`, the part its rule is named after or
/// whose scrapes it is about, or else the instance.
pub fn subject_of(labels: &BTreeMap<String, String>) -> String {
    const PARTS: [(&str, &str); 5] = [
        ("Backup", "backup"),
        ("Balancer", "balancer"),
        ("Canary", "canary"),
        ("Drill", "drill"),
        ("Pool", "balancer"),
    ];
    let label = |name: &str| labels.get(name).filter(|value| !value.is_empty()).cloned();
    let named_after = || {
        let name = label("alertname")?;
        let part = PARTS.iter().find(|(prefix, _)| name.starts_with(prefix));
        part.map(|(_, part)| (*part).to_owned())
    };
    label("server")
        .or_else(|| label("redis").map(|name| format!("redis/{name}")))
        .or_else(named_after)
        .or_else(|| label("job").filter(|job| matches!(job.as_str(), "balancer" | "supervisor")))
        .or_else(|| label("instance"))
        .unwrap_or_else(|| "cluster".to_owned())
}

/// Puts the message together. Reads the journal, which may wait for the disk.
pub(super) fn compose(
    batch: Batch,
    sender: &Sender,
    journal: &Journal,
    now: DateTime<Utc>,
) -> Message {
    let incidents = journal.incidents(false, INCIDENTS_READ);
    let (firing_count, resolved_count) = (batch.firing.len(), batch.resolved.len());
    let alert = |status: AlertStatus| {
        let subject = subject_of(&status.labels);
        let incident = incidents.iter().find(|incident| concerns(incident, &subject, &status));
        Alert {
            is_firing: status.state == AlertState::Firing,
            events: incident.map(|incident| done(journal, incident)).unwrap_or_default(),
            incident: incident.map(|incident| incident.id),
            subject,
            labels: status.labels,
            annotations: status.annotations,
            starts_at: status.fired_at.unwrap_or(status.active_at),
            ends_at: match status.state {
                AlertState::Resolved => Some(status.resolved_at.unwrap_or(now)),
                AlertState::Pending | AlertState::Firing => None,
            },
        }
    };
    Message {
        name: batch.name,
        supervisor: sender.name.clone(),
        external_url: sender.external_url.trim_end_matches('/').to_owned(),
        is_repeat: batch.is_repeat,
        firing_count,
        truncated: (firing_count + resolved_count).saturating_sub(ALERTS_SHOWN),
        alerts: batch
            .firing
            .into_iter()
            .chain(batch.resolved)
            .take(ALERTS_SHOWN)
            .map(alert)
            .collect(),
    }
}

/// Whether an incident is about the alert's subject and was open while the alert was true.
fn concerns(incident: &Incident, subject: &str, alert: &AlertStatus) -> bool {
    incident.subject == subject && incident.closed.is_none_or(|closed| closed >= alert.active_at)
}

/// What happened in an incident beyond the alerts themselves.
fn done(journal: &Journal, incident: &Incident) -> Vec<Line> {
    let filter = Filter { incident: Some(incident.id), ..Filter::default() };
    let is_told = |event: &Event| {
        !matches!(event.kind, Kind::AlertFiring | Kind::AlertResolved | Kind::NotificationFailed)
    };
    let events: Vec<Event> = journal.events(&filter).into_iter().filter(is_told).collect();
    let line = |event: &Event| Line {
        at: event.at,
        text: event.message.clone(),
        reasons: event
            .reasons
            .iter()
            .map(|reason| {
                format!("{} {}", if reason.favours { "because" } else { "despite" }, reason.text)
            })
            .collect(),
    };
    events[events.len().saturating_sub(EVENTS_SHOWN)..].iter().map(line).collect()
}

impl Message {
    /// `firing` as long as anything fires.
    pub(super) fn status(&self) -> &'static str {
        if self.firing_count > 0 { "firing" } else { "resolved" }
    }

    /// Labels that all alerts share.
    pub(super) fn common_labels(&self) -> BTreeMap<&str, &str> {
        common(self.alerts.iter().map(|alert| &alert.labels))
    }

    /// Annotations that all alerts share.
    pub(super) fn common_annotations(&self) -> BTreeMap<&str, &str> {
        common(self.alerts.iter().map(|alert| &alert.annotations))
    }
}

fn common<'a>(
    mut sets: impl Iterator<Item = &'a BTreeMap<String, String>>,
) -> BTreeMap<&'a str, &'a str> {
    let Some(first) = sets.next() else { return BTreeMap::new() };
    let mut shared: BTreeMap<&str, &str> =
        first.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    for set in sets {
        shared.retain(|name, value| set.get(*name).is_some_and(|other| other == value));
    }
    shared
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::record::{Draft, Retention, Severity};

    pub(in crate::tell) fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + second, 0).unwrap()
    }

    pub(in crate::tell) fn alert(server: &str, state: AlertState) -> AlertStatus {
        let labels = [("alertname", "NodeDown"), ("server", server), ("severity", "critical")];
        let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        AlertStatus {
            name: "NodeDown".to_owned(),
            state,
            labels: labels.map(owned).into(),
            annotations: [owned(("summary", &format!("{server} is down")))].into(),
            active_at: at(0),
            fired_at: Some(at(3)),
            resolved_at: (state == AlertState::Resolved).then(|| at(60)),
            value: 0.0,
        }
    }

    /// Two nodes, of which one is back; the journal knows what was done about the first.
    pub(in crate::tell) fn message() -> Message {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(&dir.path().join("j.redb"), Retention::default()).unwrap();
        let draft = |kind, text: &str| Draft::new(kind, Severity::Warning, "chatnode-1", text);
        journal.append(draft(Kind::AlertFiring, "NodeDown is firing").opens("NodeDown"), at(3));
        let action = draft(Kind::ActionWithheld, "Not drained <chatnode-1>");
        journal.append(action.because("it is down").despite("one node is out already"), at(4));
        let batch = Batch {
            name: "NodeDown".to_owned(),
            firing: vec![alert("chatnode-1", AlertState::Firing)],
            resolved: vec![alert("chatnode-2", AlertState::Resolved)],
            is_repeat: false,
        };
        let sender = Sender {
            name: "supervisor-1".to_owned(),
            external_url: "http://h.example/".to_owned(),
        };
        compose(batch, &sender, &journal, at(61))
    }

    #[test]
    fn a_message_says_what_was_done_about_each_alert() {
        let message = message();
        assert_eq!(
            (message.status(), message.external_url.as_str()),
            ("firing", "http://h.example")
        );
        let [down, back] = &message.alerts[..] else { panic!("{message:?}") };
        assert_eq!((down.subject.as_str(), down.incident), ("chatnode-1", Some(1)));
        assert_eq!(down.events.len(), 1);
        assert_eq!(
            down.events[0].reasons,
            ["because it is down", "despite one node is out already"]
        );
        assert_eq!((back.ends_at, back.incident), (Some(at(60)), None));
        let shared = BTreeMap::from([("alertname", "NodeDown"), ("severity", "critical")]);
        assert_eq!(message.common_labels(), shared);
        assert!(message.common_annotations().is_empty());
    }

    #[test]
    fn an_alert_names_its_subject_as_the_journal_does() {
        let of = |pairs: &[(&str, &str)]| {
            subject_of(&pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect())
        };
        assert_eq!(of(&[("server", "chatnode-1"), ("instance", "x")]), "chatnode-1");
        assert_eq!(of(&[("redis", "main"), ("instance", "x")]), "redis/main");
        let refused =
            |job| of(&[("alertname", "ConfigReloadFailed"), ("job", job), ("instance", "x")]);
        assert_eq!(
            ["supervisor", "balancer", "other"].map(refused),
            ["supervisor", "balancer", "x"]
        );
        assert_eq!(of(&[("instance", "x"), ("server", "")]), "x");
        assert_eq!(of(&[("alertname", "BackupTooOld"), ("instance", "x")]), "backup");
        assert_eq!(of(&[("alertname", "SupervisorDown"), ("instance", "x")]), "x");
        assert_eq!(of(&[]), "cluster");
    }

    #[test]
    fn a_message_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(&dir.path().join("j.redb"), Retention::default()).unwrap();
        let firing = (0..100).map(|n| alert(&format!("n{n}"), AlertState::Firing)).collect();
        let batch = Batch { name: "A".to_owned(), firing, resolved: Vec::new(), is_repeat: false };
        let sender = Sender { name: "s".to_owned(), external_url: String::new() };
        let message = compose(batch, &sender, &journal, at(0));
        assert_eq!((message.alerts.len(), message.firing_count, message.truncated), (30, 100, 70));
    }
}
