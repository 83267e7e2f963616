//! Pages for people: the cluster at a glance, an incident from beginning to end, an event, a runbook, what is scraped.
//!
//! Rendered here, without a script: the page must be readable from a phone at night, by a text browser over SSH, and when half of the
//! network is gone. Values are put into words in [`view`] (pure, tested); templates only lay out. The content security policy allows our
//! own style sheet and nothing else, so that even an escaping mistake could not run anything.

mod format;
mod metrics;
mod view;

use std::sync::LazyLock;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use chrono::Utc;
use minijinja::value::Serde;
use minijinja::{Environment, Value, context};
use serde::Serialize;

use super::operator::incident_with_events;
use super::{Handle, runbooks};
use crate::record::{Event, Filter, Kind};

/// Events read for a page; what it shows is chosen among them.
const EVENTS_READ: usize = 200;

/// Open incidents shown.
const INCIDENTS_SHOWN: usize = 20;

/// Seconds between two loads of the status page, and of an incident that goes on.
const REFRESH_SECONDS: u32 = 2;

/// Style, images in the page itself, and nothing else.
const POLICY: &str =
    "default-src 'none'; style-src 'self'; img-src data:; base-uri 'none'; form-action 'none'";

const STYLE: &str = include_str!("templates/style.css");

static TEMPLATES: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut environment = Environment::new();
    let templates = [
        ("layout.html", include_str!("templates/layout.html")),
        ("status.html", include_str!("templates/status.html")),
        ("event.html", include_str!("templates/event.html")),
        ("failover.html", include_str!("templates/failover.html")),
        ("incident.html", include_str!("templates/incident.html")),
        ("runbook.html", include_str!("templates/runbook.html")),
        ("notice.html", include_str!("templates/notice.html")),
        ("targets.html", include_str!("templates/targets.html")),
        ("cardinality.html", include_str!("templates/cardinality.html")),
    ];
    for (name, source) in templates {
        environment.add_template(name, source).expect("the tests load every template");
    }
    environment
});

pub(super) fn routes() -> Router<Handle> {
    Router::new()
        .route("/", get(status))
        .route("/events/{id}", get(event))
        .route("/incidents/{id}", get(incident))
        .route("/targets", get(metrics::all_targets))
        .route("/cardinality", get(metrics::largest))
        .route("/runbooks", get(all_runbooks))
        .route("/runbooks/{name}", get(runbook))
        .route("/assets/style.css", get(style))
}

/// What every page has around its body.
#[derive(Serialize)]
struct Frame<'a> {
    title: &'a str,
    supervisor: &'a str,
    /// Colour of the icon: `ok`, `warn`, `bad` or `none`.
    mark: &'a str,
    refresh: Option<u32>,
}

fn render(status: StatusCode, frame: &Frame<'_>, template: &str, values: Value) -> Response {
    let lay_out = || {
        let body = TEMPLATES.get_template(template)?.render(values)?;
        let layout = TEMPLATES.get_template("layout.html")?;
        layout.render(context! { frame => Value::from(Serde(frame)), body, version => env!("CARGO_PKG_VERSION") })
    };
    match lay_out() {
        Ok(html) => {
            let headers = [
                (header::CONTENT_TYPE, "text/html; charset=utf-8"),
                (header::CONTENT_SECURITY_POLICY, POLICY),
                (header::CACHE_CONTROL, "no-store"),
                (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            ];
            (status, headers, html).into_response()
        }
        Err(error) => {
            tracing::error!(template, error = %holdfast_telemetry::errors::Chain(&error), "cannot render page");
            (StatusCode::INTERNAL_SERVER_ERROR, "this page cannot be rendered; see the log")
                .into_response()
        }
    }
}

async fn status(State(shared): State<Handle>) -> Response {
    let status = shared.status();
    let (incidents, events) = shared
        .journal(|journal| {
            let filter = Filter { limit: EVENTS_READ, ..Filter::default() };
            (journal.incidents(true, INCIDENTS_SHOWN), journal.events(&filter))
        })
        .await;
    let page = view::status(&status, &incidents, &events);
    let title = format!("{}: {}", page.headline, status.name);
    let frame = Frame {
        title: &title,
        supervisor: &status.name,
        mark: page.mark,
        refresh: Some(REFRESH_SECONDS),
    };
    render(StatusCode::OK, &frame, "status.html", context! { page => Value::from(Serde(&page)) })
}

async fn incident(State(shared): State<Handle>, Path(id): Path<String>) -> Response {
    let supervisor = shared.api.name.as_str();
    let found = match id.parse() {
        Ok(id) => incident_with_events(&shared, id).await.ok(),
        Err(_) => None,
    };
    let Some((incident, events)) = found else {
        return notice(supervisor, &format!("There is no incident {id}"));
    };
    let first = events.first().map(|event| event.id);
    let later = later(&shared, first, incident.subject.clone()).await;
    let page = view::incident(&incident, &events, &later, Utc::now());
    let title = format!("Incident {}: {}", incident.id, incident.title);
    let refresh = incident.closed.is_none().then_some(REFRESH_SECONDS);
    let frame = Frame { title: &title, supervisor, mark: page.mark, refresh };
    render(StatusCode::OK, &frame, "incident.html", context! { page => Value::from(Serde(&page)) })
}

async fn event(State(shared): State<Handle>, Path(id): Path<String>) -> Response {
    let supervisor = shared.api.name.as_str();
    let found = match id.parse() {
        Ok(id) => shared.journal(move |journal| journal.event(id)).await,
        Err(_) => None,
    };
    let Some(event) = found else {
        return notice(supervisor, &format!("There is no event {id}"));
    };
    let later = later(&shared, Some(event.id), event.subject.clone()).await;
    let page = view::event(&event, &later, Utc::now());
    let title = format!("Event {}: {}", event.id, event.message);
    let frame = Frame { title: &title, supervisor, mark: page.mark(), refresh: None };
    render(StatusCode::OK, &frame, "event.html", context! { page => Value::from(Serde(&page)) })
}

/// What was done about a subject after an event: what a former primary had is known when it comes back, which may be after the incident.
async fn later(shared: &Handle, since_id: Option<u64>, subject: String) -> Vec<Event> {
    let filter = Filter {
        since_id,
        subject: Some(subject),
        kind: Some(Kind::ActionTaken),
        limit: EVENTS_READ,
        ..Filter::default()
    };
    shared.journal(move |journal| journal.events(&filter)).await
}

async fn all_runbooks(State(shared): State<Handle>) -> Response {
    let names: Vec<_> = runbooks::names().collect();
    let frame =
        Frame { title: "Runbooks", supervisor: &shared.api.name, mark: "none", refresh: None };
    render(StatusCode::OK, &frame, "runbook.html", context! { names })
}

async fn runbook(State(shared): State<Handle>, Path(name): Path<String>) -> Response {
    let supervisor = shared.api.name.as_str();
    let Some(html) = runbooks::html(&name) else {
        return notice(supervisor, &format!("There is no runbook named {name}"));
    };
    let frame = Frame { title: &name, supervisor, mark: "none", refresh: None };
    render(StatusCode::OK, &frame, "runbook.html", context! { html })
}

fn notice(supervisor: &str, text: &str) -> Response {
    let frame = Frame { title: text, supervisor, mark: "none", refresh: None };
    render(StatusCode::NOT_FOUND, &frame, "notice.html", context! { text })
}

async fn style() -> Response {
    let headers = [(header::CONTENT_TYPE, "text/css"), (header::CACHE_CONTROL, "max-age=3600")];
    (headers, STYLE).into_response()
}
