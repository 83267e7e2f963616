//! Client connections: listed, and told to leave.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use holdfast_settings::duration;
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::api::Route;
use super::operator::Operator;
use super::{ApiError, read_query};
use crate::control::{Balancer, SESSIONS_PAGE_MAX, SessionFilter, SessionQuery, SessionView};
use crate::proxy::session::Kind;

/// Sessions shown if no number is given.
const LIMIT: usize = 100;

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/sessions", "Client connections, by ascending number")
            .query::<Page>()
            .answers::<SessionsView>(200)
            .to(list),
        Route::delete("/sessions", "Tell clients to leave, chosen by at least one condition")
            .query::<Choice>()
            .answers::<Told>(200)
            .to(close_some),
        Route::delete("/sessions/{session}", "Tell a client to leave")
            .answers_nothing(204)
            .to(close),
    ]
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Page {
    /// Only those with a larger number: the last one of the page before.
    after: Option<u64>,
    /// At most this many; 100 without it, 1000 at most.
    limit: Option<usize>,
    listener: Option<String>,
    pool: Option<String>,
    server: Option<String>,
    /// An address or a network.
    client: Option<String>,
    kind: Option<Kind>,
    /// As old as this or older, such as `1h`.
    age_min: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Choice {
    /// At most this many; all without it.
    max: Option<usize>,
    listener: Option<String>,
    pool: Option<String>,
    server: Option<String>,
    /// An address or a network.
    client: Option<String>,
    kind: Option<Kind>,
    /// As old as this or older, such as `1h`.
    age_min: Option<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct SessionsView {
    sessions: Vec<SessionView>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Told {
    /// Clients that were told to leave.
    told: usize,
}

/// `GET /sessions`
async fn list(
    State(balancer): State<Arc<Balancer>>,
    query: Result<Query<Page>, QueryRejection>,
) -> Result<Json<SessionsView>, ApiError> {
    let Page { after, limit, listener, pool, server, client, kind, age_min } = read_query(query)?;
    let limit = limit.unwrap_or(LIMIT);
    if limit > SESSIONS_PAGE_MAX {
        return Err(ApiError::invalid(format!("limit: expected at most {SESSIONS_PAGE_MAX}")));
    }
    let filter = filter(Choice { max: None, listener, pool, server, client, kind, age_min })?;
    let query = SessionQuery { after: after.unwrap_or(0), limit, filter };
    Ok(Json(SessionsView { sessions: balancer.sessions(&query).await }))
}

/// `DELETE /sessions`
async fn close_some(
    State(balancer): State<Arc<Balancer>>,
    operator: Operator,
    query: Result<Query<Choice>, QueryRejection>,
) -> Result<Json<Told>, ApiError> {
    let choice = read_query(query)?;
    let shown = json!({
        "listener": choice.listener, "pool": choice.pool, "server": choice.server,
        "client": choice.client, "kind": choice.kind, "age_min": choice.age_min, "max": choice.max,
    });
    let all = shown.as_object().is_some_and(|fields| fields.values().all(Value::is_null));
    if all {
        return Err(ApiError::invalid("expected a condition: all of them at once is a restart"));
    }
    let max = choice.max.unwrap_or(usize::MAX);
    let filter = filter(choice)?;
    operator.enter(&balancer)?.done("sessions closed", "sessions", &Value::Null, &shown);
    Ok(Json(Told { told: balancer.close_sessions(&filter, max).await }))
}

/// `DELETE /sessions/{session}`
async fn close(
    State(balancer): State<Arc<Balancer>>,
    Path(session): Path<u64>,
    operator: Operator,
) -> Result<StatusCode, ApiError> {
    drop(operator.enter(&balancer)?);
    if !balancer.close_session(session).await {
        return Err(ApiError::not_found(format!("there is no session {session} to be told")));
    }
    let target = format!("sessions/{session}");
    operator.enter(&balancer)?.done("session closed", &target, &Value::Null, &Value::Null);
    Ok(StatusCode::NO_CONTENT)
}

fn filter(choice: Choice) -> Result<SessionFilter, ApiError> {
    let client = choice.client.map(|text| {
        let net = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        net.map_err(|_| {
            ApiError::invalid(format!("client: expected an address or network, found {text:?}"))
        })
    });
    let age_min = choice.age_min.map(|text| duration::parse(&text));
    let age_min =
        age_min.transpose().map_err(|error| ApiError::invalid(format!("age_min: {error}")))?;
    Ok(SessionFilter {
        listener: choice.listener.map(Into::into),
        pool: choice.pool,
        server: choice.server,
        client: client.transpose()?,
        kind: choice.kind,
        age_min: age_min.unwrap_or(Duration::ZERO),
    })
}
