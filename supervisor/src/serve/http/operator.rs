//! The operator API, `/operator/v1`: status, journal, and commands to the running parts.

use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::reply::{Body, Failure, Operator, Params};
use super::{Handle, group, redis, stream};
use crate::cluster::{ServerState, ServerStatus, Status};
use crate::control::{ControlError, DrillCommand, Reload, SetServer, StartDrill, ask};
use crate::record::{Event, Filter, Incident, LIMIT_MAX};

/// How long a command may take before the answer says that nobody knows. A failover with a slow candidate stays well below.
const COMMAND_TIMEOUT: Duration = Duration::from_mins(1);

/// Incidents listed when the request does not say.
const INCIDENTS_DEFAULT: usize = 50;

/// Largest weight of a server.
const WEIGHT_MAX: u16 = 256;

/// Longest identifier of a drill's run.
const RUN_CHARS_MAX: usize = 128;

pub(super) fn routes() -> Router<Handle> {
    let api = Router::new()
        .route("/status", get(status))
        .route("/events", get(events))
        .route("/events/stream", get(stream::events))
        .route("/events/{id}", get(event))
        .route("/incidents", get(incidents))
        .route("/incidents/{id}", get(incident))
        .route("/servers/{name}", post(set_server))
        .route("/backups", get(backups).post(stream::backup))
        .route("/drills/abort", post(abort_drill))
        .route("/drills/{scenario}", post(start_drill))
        .route("/drills/runs/{id}", get(drill_run))
        .merge(group::routes())
        .merge(redis::routes());
    Router::new().nest("/operator/v1", api).route("/-/reload", post(reload))
}

/// Waits for a part's answer, but not for ever.
pub(super) async fn answer<T>(
    command: impl Future<Output = Result<T, ControlError>>,
) -> Result<T, Failure> {
    let Ok(result) = timeout(COMMAND_TIMEOUT, command).await else {
        let seconds = COMMAND_TIMEOUT.as_secs();
        let text = format!("no answer within {seconds} s; the command may still be carried out");
        return Err(Failure::new(StatusCode::GATEWAY_TIMEOUT, text));
    };
    result.map_err(Failure::from)
}

async fn status(State(shared): State<Handle>) -> Json<Status> {
    Json(shared.status())
}

async fn events(State(shared): State<Handle>, Params(filter): Params<Filter>) -> Json<Value> {
    let events = shared.journal(move |journal| journal.events(&filter)).await;
    Json(json!({ "events": events }))
}

async fn event(
    State(shared): State<Handle>,
    Path(id): Path<String>,
) -> Result<Json<Event>, Failure> {
    let id = number(&id)?;
    let event = shared.journal(move |journal| journal.event(id)).await;
    event.map(Json).ok_or_else(|| Failure::not_found(format!("there is no event {id}")))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IncidentParams {
    #[serde(default)]
    open: bool,
    limit: Option<usize>,
}

async fn incidents(
    State(shared): State<Handle>,
    Params(params): Params<IncidentParams>,
) -> Json<Value> {
    let limit = params.limit.unwrap_or(INCIDENTS_DEFAULT);
    let incidents = shared.journal(move |journal| journal.incidents(params.open, limit)).await;
    Json(json!({ "incidents": incidents }))
}

async fn incident(
    State(shared): State<Handle>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Failure> {
    let id = number(&id)?;
    let (incident, events) = incident_with_events(&shared, id).await?;
    let mut body = serde_json::to_value(incident).expect("an incident has string keys");
    body["timeline"] = json!(events);
    Ok(Json(body))
}

/// An incident and its events, oldest first.
pub(super) async fn incident_with_events(
    shared: &Handle,
    id: u64,
) -> Result<(Incident, Vec<Event>), Failure> {
    let filter = Filter { incident: Some(id), limit: LIMIT_MAX, ..Filter::default() };
    let found = shared
        .journal(move |journal| {
            let incident = journal.incident(id)?;
            Some((incident, journal.events(&filter)))
        })
        .await;
    found.ok_or_else(|| Failure::not_found(format!("there is no incident {id}")))
}

pub(super) fn number(text: &str) -> Result<u64, Failure> {
    let fail = || Failure::new(StatusCode::BAD_REQUEST, format!("{text:?} is not a number"));
    text.parse().map_err(|_| fail())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ServerBody {
    state: Option<ServerState>,
    weight: Option<u16>,
    #[serde(default)]
    force: bool,
}

async fn set_server(
    State(shared): State<Handle>,
    Path(name): Path<String>,
    operator: Operator,
    Body(body): Body<ServerBody>,
) -> Result<Json<ServerStatus>, Failure> {
    if body.state.is_none() && body.weight.is_none() {
        return Err(Failure::unprocessable("give `state`, `weight` or both"));
    }
    if let Some(weight) = body.weight.filter(|weight| *weight > WEIGHT_MAX) {
        return Err(Failure::unprocessable(format!(
            "weight is {weight}, expected 0 to {WEIGHT_MAX}"
        )));
    }
    let command = |reply| SetServer {
        server: name,
        state: body.state,
        weight: body.weight,
        force: body.force,
        by: operator.by,
        reply,
    };
    answer(ask("the balancer", shared.api.control.servers.as_ref(), command)).await.map(Json)
}

async fn backups(State(shared): State<Handle>) -> Result<Json<Value>, Failure> {
    let Some(list) = shared.api.backups.clone() else {
        return Err(Failure::not_found("backup is not configured on this supervisor"));
    };
    let listed = tokio::task::spawn_blocking(move || list()).await;
    match listed {
        Ok(Ok(backups)) => Ok(Json(json!({ "backups": backups }))),
        Ok(Err(text)) => Err(Failure::new(StatusCode::INTERNAL_SERVER_ERROR, text)),
        Err(_) => {
            Err(Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "the backups cannot be listed"))
        }
    }
}

/// For commands without parameters.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NoBody {}

async fn start_drill(
    State(shared): State<Handle>,
    Path(scenario): Path<String>,
    operator: Operator,
    Body(NoBody {}): Body<NoBody>,
) -> Result<(StatusCode, Json<Value>), Failure> {
    let command = |reply| DrillCommand::Start(StartDrill { scenario, by: operator.by, reply });
    let run = answer(ask("drills", shared.api.control.drills.as_ref(), command)).await?;
    Ok((StatusCode::ACCEPTED, Json(json!({ "run": run }))))
}

async fn abort_drill(
    State(shared): State<Handle>,
    operator: Operator,
    Body(NoBody {}): Body<NoBody>,
) -> Result<Json<Value>, Failure> {
    let command = |reply| DrillCommand::Abort { by: operator.by, reply };
    answer(ask("drills", shared.api.control.drills.as_ref(), command)).await?;
    Ok(Json(json!({ "aborted": true })))
}

/// The report of a finished run, or how far the present one is.
async fn drill_run(
    State(shared): State<Handle>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Failure> {
    // Only what is a plain file name can name a report: nothing outside the folder is ever opened.
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if id.is_empty() || id.len() > RUN_CHARS_MAX || id.starts_with('.') || !id.chars().all(is_plain)
    {
        let text = format!("{id:?} is not the identifier of a run");
        return Err(Failure::new(StatusCode::BAD_REQUEST, text));
    }
    let path = shared.api.report_dir.join(format!("{id}.json"));
    let broken = |cause: String| {
        let text = format!("the report of run {id} cannot be read: {cause}");
        Failure::new(StatusCode::INTERNAL_SERVER_ERROR, text)
    };
    match tokio::fs::read(&path).await {
        Ok(report) => {
            serde_json::from_slice(&report).map(Json).map_err(|error| broken(error.to_string()))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let drill = shared.api.sources.drill.as_ref().map(|part| part.borrow().clone());
            match drill.filter(|drill| drill.run.as_deref() == Some(id.as_str())) {
                Some(drill) => Ok(Json(json!(drill))),
                None => Err(Failure::not_found(format!("there is no run {id}"))),
            }
        }
        Err(error) => Err(broken(error.to_string())),
    }
}

async fn reload(
    State(shared): State<Handle>,
    _operator: Operator,
    Body(NoBody {}): Body<NoBody>,
) -> Result<Json<Value>, Failure> {
    let command = |reply| Reload { reply };
    let changed = answer(ask("reload", shared.api.control.reload.as_ref(), command)).await?;
    Ok(Json(json!({ "changed": changed })))
}
