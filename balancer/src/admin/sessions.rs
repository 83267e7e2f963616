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
            .query::<Selection>()
            .answers::<SessionsView>(200)
            .to(list),
        Route::delete("/sessions", "Tell clients to leave, chosen by at least one condition")
            .query::<Selection>()
            .answers::<Told>(200)
            .to(close_some),
        Route::delete("/sessions/{session}", "Tell a client to leave")
            .answers_nothing(204)
            .to(close),
    ]
}

/// Which sessions; whatever is not said does not matter.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Selection {
    /// At most this many. Without it, 100 are shown and all are told; shown are 1,000 at most.
    limit: Option<usize>,
    /// Only those with a larger number: the last one of the page before.
    after: Option<u64>,
    listener: Option<String>,
    pool: Option<String>,
    server: Option<String>,
    /// An address or a network.
    client: Option<String>,
    kind: Option<Kind>,
    /// As old as this or older, such as `1h`.
    age_min: Option<String>,
}

impl Selection {
    /// The same as the balancer understands it.
    fn query(&self, limit: usize) -> Result<SessionQuery, ApiError> {
        let client = self.client.as_deref().map(|text| {
            let net = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
            net.map_err(|_| {
                ApiError::invalid(format!("client: expected an address or network, found {text:?}"))
            })
        });
        let age_min = self.age_min.as_deref().map(duration::parse).transpose();
        let age_min = age_min.map_err(|error| ApiError::invalid(format!("age_min: {error}")))?;
        let filter = SessionFilter {
            listener: self.listener.as_deref().map(Into::into),
            pool: self.pool.clone(),
            server: self.server.clone(),
            client: client.transpose()?,
            kind: self.kind,
            age_min: age_min.unwrap_or(Duration::ZERO),
        };
        Ok(SessionQuery { after: self.after.unwrap_or(0), limit, filter })
    }

    /// Whether it names any.
    fn is_choice(&self) -> bool {
        let Self { limit, after, listener, pool, server, client, kind, age_min } = self;
        let by_number = limit.is_some() || after.is_some();
        let by_name = [listener, pool, server, client, age_min].iter().any(|text| text.is_some());
        by_number || by_name || kind.is_some()
    }
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
    query: Result<Query<Selection>, QueryRejection>,
) -> Result<Json<SessionsView>, ApiError> {
    let selection = read_query(query)?;
    let limit = selection.limit.unwrap_or(LIMIT);
    if limit > SESSIONS_PAGE_MAX {
        return Err(ApiError::invalid(format!("limit: expected at most {SESSIONS_PAGE_MAX}")));
    }
    Ok(Json(SessionsView { sessions: balancer.sessions(&selection.query(limit)?).await }))
}

/// `DELETE /sessions`
async fn close_some(
    State(balancer): State<Arc<Balancer>>,
    operator: Operator,
    query: Result<Query<Selection>, QueryRejection>,
) -> Result<Json<Told>, ApiError> {
    let selection = read_query(query)?;
    if !selection.is_choice() {
        return Err(ApiError::invalid("expected a condition: all of them at once is a restart"));
    }
    let query = selection.query(selection.limit.unwrap_or(usize::MAX))?;
    operator.enter(&balancer)?.done("sessions closed", "sessions", &Value::Null, &json!(selection));
    Ok(Json(Told { told: balancer.close_sessions(&query).await }))
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
