//! `holdfast events` and `holdfast incidents`.

use std::pin::pin;

use chrono::Local;
use comfy_table::Cell;
use futures_util::StreamExt as _;
use holdfast_telemetry::shutdown;
use serde_json::Value;

use super::arguments::{EventFilter, EventsCommand, IncidentsCommand};
use super::client::{Client, EventQuery};
use super::explain::explain;
use super::print::{age, append, event_line, table};
use super::{CliError, Output, color};
use crate::record::{Account, Event, Incident, Kind};

/// Events read to find the end of a failover and what became of the former primary: the API gives no more at once.
const LATER_MAX: usize = 1000;

/// Events listed unless more are asked for.
const LIMIT_DEFAULT: usize = 50;

impl EventFilter {
    fn query(self, since_id: Option<u64>) -> EventQuery {
        EventQuery {
            since_id,
            before_id: None,
            kind: self.kind,
            subject: self.subject,
            incident: self.incident,
            limit: self.limit,
        }
    }
}

pub(super) async fn run(
    client: &Client,
    command: Option<EventsCommand>,
    output: Output,
) -> Result<(), CliError> {
    match command.unwrap_or_else(|| EventsCommand::List(EventFilter::default())) {
        EventsCommand::List(mut filter) => {
            filter.limit = filter.limit.or(Some(LIMIT_DEFAULT));
            let events = client.events(&filter.query(None)).await?;
            output.result(&events, || list(&events))
        }
        EventsCommand::Show { id } => {
            let event = client.event(id).await?;
            let told = story(client, &event).await?;
            output.result(&event, || whole(&event, told.as_ref()))
        }
        EventsCommand::Follow { filter, since } => {
            tokio::select! {
                result = follow(client, filter.query(since), output) => result,
                () = shutdown::signal() => Ok(()),
            }
        }
    }
}

async fn follow(client: &Client, query: EventQuery, output: Output) -> Result<(), CliError> {
    let mut events = pin!(client.follow(&query).await?);
    while let Some(event) = events.next().await {
        let event = event?;
        if output.is_json() {
            output.json_line(&event)?;
        } else {
            output.line(&event_line(&event, color()))?;
        }
    }
    Err(CliError::Failed("the supervisor has ended".to_owned()))
}

fn list(events: &[Event]) -> String {
    if events.is_empty() {
        return "Nothing has happened.".to_owned();
    }
    events.iter().map(|event| event_line(event, color())).collect::<Vec<_>>().join("\n")
}

/// The failover that an event ended or was a step of, and what happened to the same Redis since.
async fn story(client: &Client, event: &Event) -> Result<Option<(Event, Vec<Event>)>, CliError> {
    let mut later = match event.kind {
        Kind::FailoverStep | Kind::FailoverDone | Kind::FailoverFailed => {
            let subject = Some(event.subject.clone());
            let since_id = Some(event.id.saturating_sub(1));
            client
                .events(&EventQuery {
                    subject,
                    since_id,
                    limit: Some(LATER_MAX),
                    ..EventQuery::default()
                })
                .await?
        }
        _ => return Ok(None),
    };
    let epoch = event.detail.get("epoch").and_then(Value::as_u64);
    let ends = |event: &Event| Account::of(event).is_some_and(|a| Some(a.epoch) == epoch);
    let Some(at) = later.iter().position(ends) else { return Ok(None) };
    later.drain(..at);
    Ok(Some((later.remove(0), later)))
}

/// One event with everything that is known of it; `story` explains the failover it belongs to.
fn whole(event: &Event, story: Option<&(Event, Vec<Event>)>) -> String {
    let mut text = format!(
        "Event {} at {}\n{} ({}), about {}\n\n{}\n",
        event.id,
        event.at.with_timezone(&Local).format("%Y-%m-%d %H:%M:%S%.3f %:z"),
        event.kind.name(),
        event.severity.name(),
        event.subject,
        event.message
    );
    if let Some(origin) = &event.origin {
        append!(text, "  recorded by {}, as its event {}\n", origin.member, origin.id);
    }
    let account = story.and_then(|(end, later)| Some((Account::of(end)?, end, later)));
    if let Some((account, end, later)) = &account {
        append!(text, "\n{}", explain(account, &end.reasons, later));
    } else {
        for reason in &event.reasons {
            let mark = if reason.favours { "because" } else { "despite" };
            append!(text, "  {mark} {}\n", reason.text);
        }
    }
    if let Some(incident) = event.incident {
        append!(text, "\nPart of incident {incident}: holdfast incidents show {incident}\n");
    }
    if !event.detail.is_null() && account.is_none() {
        append!(text, "\n{:#}\n", event.detail);
    }
    text
}

pub(super) async fn incidents(
    client: &Client,
    command: Option<IncidentsCommand>,
    output: Output,
) -> Result<(), CliError> {
    match command.unwrap_or(IncidentsCommand::List { open: false }) {
        IncidentsCommand::List { open } => {
            let incidents = client.incidents(open).await?;
            output.result(&incidents, || incident_list(&incidents))
        }
        IncidentsCommand::Show { id } => {
            let incident = client.incident(id).await?;
            output.result(&incident, || incident_whole(&incident))
        }
    }
}

fn incident_list(incidents: &[Incident]) -> String {
    if incidents.is_empty() {
        return "There are no incidents.".to_owned();
    }
    let mut table = table(["incident", "severity", "subject", "began", "lasted", "what"]);
    for incident in incidents {
        let lasted = incident.closed.map(|closed| age(closed - incident.opened));
        table.add_row([
            Cell::new(incident.id),
            Cell::new(incident.severity.name()),
            Cell::new(&incident.subject),
            Cell::new(incident.opened.with_timezone(&Local).format("%m-%d %H:%M:%S")),
            Cell::new(lasted.as_deref().unwrap_or("goes on")),
            Cell::new(&incident.title),
        ]);
    }
    table.to_string()
}

/// An incident as the API gives it: its fields, and its events under `events` or `timeline`.
fn incident_whole(answer: &Value) -> String {
    let fields = answer.get("incident").unwrap_or(answer);
    let mut text = match serde_json::from_value::<Incident>(fields.clone()) {
        Ok(incident) => incident_list(&[incident]),
        Err(_) => format!("{answer:#}"),
    };
    let events =
        answer.get("timeline").or_else(|| answer.get("events")).cloned().unwrap_or_default();
    for event in serde_json::from_value::<Vec<Event>>(events).unwrap_or_default() {
        append!(text, "\n{}", event_line(&event, color()));
        for reason in &event.reasons {
            let mark = if reason.favours { "because" } else { "despite" };
            append!(text, "\n{:27}{mark} {}", "", reason.text);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn event() -> Value {
        json!({
            "id": 7, "at": "2026-01-02T03:04:05Z", "kind": "action_withheld", "severity": "warning",
            "subject": "chatnode-1", "incident": 3, "message": "drain withheld",
            "reasons": [
                { "favours": true, "text": "NodeSlow fires" },
                { "favours": false, "text": "one of three is out already" },
            ],
        })
    }

    #[test]
    fn an_event_shows_its_reasons_for_and_against() {
        let text = whole(&serde_json::from_value(event()).unwrap(), None);
        assert!(text.contains("because NodeSlow fires\n  despite one of three"), "{text}");
        assert!(text.contains("holdfast incidents show 3"), "{text}");
    }

    #[test]
    fn an_incident_shows_its_events() {
        let incident = json!({
            "id": 3, "subject": "chatnode-1", "title": "NodeSlow fires", "severity": "warning",
            "opened": "2026-01-02T03:04:05Z", "closed": "2026-01-02T03:05:05Z", "causes": [], "events": 1,
            "timeline": [event()],
        });
        let text = incident_whole(&incident);
        assert!(text.contains("1 m") && text.contains("drain withheld"), "{text}");
        assert!(text.contains("despite one of three"), "{text}");
    }
}
