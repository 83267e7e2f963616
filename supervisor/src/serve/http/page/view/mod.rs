//! What the pages say, as text ready to be laid out. Every `mark` is `ok`, `warn`, `bad` or `none` and comes with words: colour alone
//! says nothing to those who cannot see it.

pub(super) mod cardinality;
mod failover;
mod group;
mod parts;
pub(super) mod targets;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::format;
use crate::cluster::{AlertState, AlertStatus, GroupBrief, Health, Status};
use crate::record::{Event, Incident, Kind, Severity};

pub(super) use parts::{BalancerView, NodeView, RedisView, Tile};

/// Decisions shown, newest first.
const DECISIONS_SHOWN: usize = 8;

/// Events of any kind shown, newest first.
const EVENTS_SHOWN: usize = 14;

#[derive(Debug, Serialize)]
pub(super) struct StatusView {
    pub(super) headline: &'static str,
    pub(super) explanation: &'static str,
    pub(super) mark: &'static str,
    at: String,
    observe_only: bool,
    /// Why nothing is changed from here.
    watches_only: Option<String>,
    group: Option<group::GroupView>,
    problems: Vec<String>,
    balancer: Option<BalancerView>,
    nodes: Vec<NodeView>,
    redis: Vec<RedisView>,
    tiles: Vec<Tile>,
    incidents: Vec<IncidentRow>,
    alerts: Vec<AlertRow>,
    decisions: Vec<EventRow>,
    events: Vec<EventRow>,
}

#[derive(Debug, Serialize)]
struct IncidentRow {
    id: u64,
    subject: String,
    title: String,
    severity: &'static str,
    mark: &'static str,
    since: String,
    events: u64,
}

#[derive(Debug, Serialize)]
struct AlertRow {
    name: String,
    state: &'static str,
    mark: &'static str,
    subject: String,
    summary: String,
    since: String,
}

/// One event of a list or a timeline.
#[derive(Debug, Serialize)]
pub(super) struct EventRow {
    id: u64,
    at: String,
    ago: String,
    offset: String,
    kind: String,
    mark: &'static str,
    subject: String,
    message: String,
    incident: Option<u64>,
    /// The member of the group that recorded it, if that was another one.
    by: Option<String>,
    reasons: Vec<ReasonRow>,
    detail: Option<String>,
}

#[derive(Debug, Serialize)]
struct ReasonRow {
    favours: bool,
    text: String,
}

#[derive(Debug, Serialize)]
pub(super) struct IncidentView {
    pub(super) mark: &'static str,
    id: u64,
    title: String,
    subject: String,
    severity: &'static str,
    is_open: bool,
    opened: String,
    closed: Option<String>,
    duration: String,
    causes: Vec<String>,
    failovers: Vec<failover::FailoverView>,
    timeline: Vec<EventRow>,
    /// Events that retention or the page's limit left out, or that the leader of the group saw and this supervisor did not.
    missing: u64,
}

/// The status page.
pub(super) fn status(status: &Status, incidents: &[Incident], events: &[Event]) -> StatusView {
    let now = status.at;
    let (headline, explanation, mark) = match status.health {
        Health::Ok => ("All is well", "Everything observed is as it should be.", "ok"),
        Health::Degraded => {
            ("Degraded", "Users are served, but something is missing or being handled.", "warn")
        }
        Health::Down => ("Down", "Users are not served.", "bad"),
    };
    let row = |event: &Event| event_row(event, now, None);
    let is_decision = |event: &&Event| match event.kind {
        Kind::ActionTaken
        | Kind::ActionWithheld
        | Kind::ActionFailed
        | Kind::FailoverDone
        | Kind::FailoverFailed => true,
        Kind::Circuit | Kind::RedisVerdict => !event.reasons.is_empty(),
        _ => false,
    };
    let newest_first = || events.iter().rev();
    StatusView {
        headline,
        explanation,
        mark,
        at: format::instant(now),
        observe_only: status.observe_only,
        watches_only: status.group.as_ref().and_then(GroupBrief::watches_only),
        group: status.group.as_ref().map(group::view),
        problems: status.problems.clone(),
        balancer: status.servers.balancer.as_ref().map(parts::balancer),
        nodes: status.servers.nodes.iter().map(parts::node).collect(),
        redis: status.redis.iter().map(|redis| parts::redis(redis, now)).collect(),
        tiles: parts::tiles(status),
        incidents: incidents.iter().map(|incident| incident_row(incident, now)).collect(),
        alerts: status.alerts.iter().map(|alert| alert_row(alert, now)).collect(),
        decisions: newest_first().filter(is_decision).take(DECISIONS_SHOWN).map(row).collect(),
        events: newest_first().take(EVENTS_SHOWN).map(row).collect(),
    }
}

/// One event with everything that is known of it.
#[derive(Debug, Serialize)]
pub(super) struct EventView {
    row: EventRow,
    failover: Option<failover::FailoverView>,
}

impl EventView {
    pub(super) fn mark(&self) -> &'static str {
        self.row.mark
    }
}

/// One event; `later` tell what became of a former primary.
pub(super) fn event(event: &Event, later: &[Event], now: DateTime<Utc>) -> EventView {
    let failover = failover::failovers(std::slice::from_ref(event), later).pop();
    EventView { row: event_row(event, now, None), failover }
}

/// An incident with its events, oldest first; `later` tell what became of former primaries.
pub(super) fn incident(
    incident: &Incident,
    events: &[Event],
    later: &[Event],
    now: DateTime<Utc>,
) -> IncidentView {
    let timeline: Vec<_> =
        events.iter().map(|event| event_row(event, now, Some(incident.opened))).collect();
    let shown = u64::try_from(timeline.len()).unwrap_or(u64::MAX);
    IncidentView {
        mark: if incident.closed.is_some() { "ok" } else { severity_mark(incident.severity) },
        id: incident.id,
        title: incident.title.clone(),
        subject: incident.subject.clone(),
        severity: incident.severity.name(),
        is_open: incident.closed.is_none(),
        opened: format::instant(incident.opened),
        closed: incident.closed.map(format::instant),
        duration: format::span(incident.closed.unwrap_or(now) - incident.opened),
        causes: incident.causes.iter().cloned().collect(),
        failovers: failover::failovers(events, later),
        timeline,
        missing: incident.events.saturating_sub(shown),
    }
}

fn severity_mark(severity: Severity) -> &'static str {
    match severity {
        Severity::Info => "none",
        Severity::Warning => "warn",
        Severity::Critical => "bad",
    }
}

fn incident_row(incident: &Incident, now: DateTime<Utc>) -> IncidentRow {
    IncidentRow {
        id: incident.id,
        subject: incident.subject.clone(),
        title: incident.title.clone(),
        severity: incident.severity.name(),
        mark: severity_mark(incident.severity),
        since: format::span(now - incident.opened),
        events: incident.events,
    }
}

fn alert_row(alert: &AlertStatus, now: DateTime<Utc>) -> AlertRow {
    let label = |name: &str| alert.labels.get(name).cloned();
    let is_critical = label("severity").as_deref() == Some("critical");
    let (state, mark) = match alert.state {
        AlertState::Pending => ("pending", "none"),
        AlertState::Firing if is_critical => ("firing", "bad"),
        AlertState::Firing => ("firing", "warn"),
        AlertState::Resolved => ("resolved", "ok"),
    };
    let subject = label("server").or_else(|| label("redis")).or_else(|| label("instance"));
    AlertRow {
        name: alert.name.clone(),
        state,
        mark,
        subject: subject.unwrap_or_default(),
        summary: alert.annotations.get("summary").cloned().unwrap_or_default(),
        since: format::span(now - alert.active_at),
    }
}

fn event_row(event: &Event, now: DateTime<Utc>, begin: Option<DateTime<Utc>>) -> EventRow {
    let mark = match event.kind {
        Kind::AlertResolved | Kind::FailoverDone | Kind::BackupTaken => "ok",
        _ => severity_mark(event.severity),
    };
    let reason = |r: &crate::record::Reason| ReasonRow { favours: r.favours, text: r.text.clone() };
    let detail = (!event.detail.is_null()).then(|| {
        serde_json::to_string_pretty(&event.detail).expect("a JSON value has string keys")
    });
    EventRow {
        id: event.id,
        at: format::instant(event.at),
        ago: format::relative(event.at, now),
        offset: begin.map(|begin| format::span(event.at - begin)).unwrap_or_default(),
        kind: event.kind.name().replace('_', " "),
        mark,
        subject: event.subject.clone(),
        message: event.message.clone(),
        incident: event.incident,
        by: event.origin.as_ref().map(|origin| origin.member.clone()),
        reasons: event.reasons.iter().map(reason).collect(),
        detail,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Reason, Severity};

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + second, 0).unwrap()
    }

    fn event(id: u64, kind: Kind, second: i64) -> Event {
        Event {
            id,
            at: at(second),
            kind,
            severity: Severity::Warning,
            subject: "chatnode-1".to_owned(),
            incident: Some(1),
            message: format!("event {id}"),
            reasons: vec![Reason { favours: false, text: "guard".to_owned() }],
            detail: serde_json::Value::Null,
            is_common: false,
            origin: None,
        }
    }

    fn empty_status(health: Health) -> Status {
        Status {
            at: at(60),
            name: "s".to_owned(),
            version: "0".to_owned(),
            observe_only: false,
            group: None,
            health,
            problems: Vec::new(),
            servers: crate::cluster::ServersStatus::default(),
            redis: Vec::new(),
            canary: None,
            backup: None,
            alerts: Vec::new(),
            drill: None,
        }
    }

    #[test]
    fn the_headline_is_the_health_and_decisions_are_chosen_newest_first() {
        let events = [
            event(1, Kind::ActionTaken, 0),
            event(2, Kind::FailoverStep, 1),
            event(3, Kind::ActionWithheld, 2),
        ];
        let view = status(&empty_status(Health::Down), &[], &events);
        assert_eq!((view.headline, view.mark), ("Down", "bad"));
        let ids = |rows: &[EventRow]| rows.iter().map(|row| row.id).collect::<Vec<_>>();
        assert_eq!(ids(&view.decisions), [3, 1]);
        assert_eq!(ids(&view.events), [3, 2, 1]);
        assert_eq!(view.decisions[0].ago, "58 s ago");
        assert!(!view.decisions[0].reasons[0].favours);
    }

    #[test]
    fn an_incident_counts_time_from_its_beginning() {
        let about = Incident {
            id: 1,
            subject: "chatnode-1".to_owned(),
            title: "down".to_owned(),
            severity: Severity::Critical,
            opened: at(0),
            closed: None,
            causes: ["NodeDown".to_owned()].into(),
            events: 5,
        };
        let events = [event(4, Kind::AlertFiring, 0), event(5, Kind::ActionTaken, 75)];
        let view = incident(&about, &events, &[], at(90));
        assert_eq!((view.mark, view.duration.as_str(), view.missing), ("bad", "1 min 30 s", 3));
        assert_eq!(view.timeline[1].offset, "1 min 15 s");
        let ended = Incident { closed: Some(at(30)), ..about };
        let view = incident(&ended, &events, &[], at(90));
        assert_eq!((view.mark, view.duration.as_str(), view.is_open), ("ok", "30 s", false));
    }
}
