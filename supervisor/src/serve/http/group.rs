//! The operator API's part about the supervisors' group and the silences it shares.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use chrono::{DateTime, TimeDelta, Utc};
use holdfast_telemetry::errors::Chain;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Handle;
use super::operator::{NoBody, number};
use super::reply::{Body, Failure, Operator};
use crate::cluster::Address;
use crate::group::{
    Applied, Entry, GroupStatus, MembershipError, NewSilence, ProposeError, parse_matcher,
};

/// Longest silence that is given in seconds.
const SILENCE_SECONDS_MAX: i64 = 366 * 24 * 3600;

pub(super) fn routes() -> Router<Handle> {
    Router::new()
        .route("/group", get(status))
        .route("/group/init", post(init))
        .route("/group/join", post(join))
        .route("/group/leave", post(leave))
        .route("/silences", get(silences).post(silence))
        .route("/silences/{id}/expire", post(expire))
}

impl From<MembershipError> for Failure {
    fn from(error: MembershipError) -> Self {
        let status = match error {
            MembershipError::Refused(_) => StatusCode::CONFLICT,
            MembershipError::NoLeader => StatusCode::SERVICE_UNAVAILABLE,
            MembershipError::Transport(_) => StatusCode::BAD_GATEWAY,
            MembershipError::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, Chain(&error).to_string())
    }
}

impl From<ProposeError> for Failure {
    fn from(error: ProposeError) -> Self {
        let status = match error {
            ProposeError::Refused(_) => StatusCode::CONFLICT,
            ProposeError::NotLeading { .. } => StatusCode::SERVICE_UNAVAILABLE,
            ProposeError::Late(_) => StatusCode::GATEWAY_TIMEOUT,
            ProposeError::Disk(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.to_string())
    }
}

async fn status(State(shared): State<Handle>) -> Json<GroupStatus> {
    Json(shared.api.group.status().await)
}

async fn init(
    State(shared): State<Handle>,
    _operator: Operator,
    Body(NoBody {}): Body<NoBody>,
) -> Result<Json<GroupStatus>, Failure> {
    shared.api.group.form().await?;
    Ok(status(State(shared)).await)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JoinBody {
    address: Address,
}

async fn join(
    State(shared): State<Handle>,
    _operator: Operator,
    Body(body): Body<JoinBody>,
) -> Result<Json<GroupStatus>, Failure> {
    shared.api.group.join(body.address).await?;
    Ok(status(State(shared)).await)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LeaveBody {
    name: Option<String>,
}

async fn leave(
    State(shared): State<Handle>,
    _operator: Operator,
    Body(body): Body<LeaveBody>,
) -> Result<Json<GroupStatus>, Failure> {
    shared.api.group.leave(body.name.as_deref()).await?;
    Ok(status(State(shared)).await)
}

async fn silences(State(shared): State<Handle>) -> Json<Value> {
    let ledger = std::sync::Arc::clone(&shared.api.group.ledger().borrow());
    let now = Utc::now();
    let silences = ledger.silences.iter().map(|silence| {
        let mut shown = serde_json::to_value(silence).expect("a silence has string keys");
        shown["state"] = json!(silence.state(now));
        shown
    });
    Json(json!({ "silences": silences.collect::<Vec<_>>() }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SilenceBody {
    /// `name=value` and the like; a word alone is the name of an alert.
    matchers: Vec<String>,
    /// From when; now if not given.
    starts_at: Option<DateTime<Utc>>,
    /// How long from then.
    seconds: i64,
    comment: String,
    created_by: Option<String>,
}

async fn silence(
    State(shared): State<Handle>,
    operator: Operator,
    Body(body): Body<SilenceBody>,
) -> Result<(StatusCode, Json<Value>), Failure> {
    if !(1..=SILENCE_SECONDS_MAX).contains(&body.seconds) {
        let text = format!("seconds is {}, expected 1 to {SILENCE_SECONDS_MAX}", body.seconds);
        return Err(Failure::unprocessable(text));
    }
    let matchers: Result<Vec<_>, _> =
        body.matchers.iter().map(|text| parse_matcher(text)).collect();
    let starts_at = body.starts_at.unwrap_or_else(Utc::now);
    let ends_at = starts_at.checked_add_signed(TimeDelta::seconds(body.seconds));
    let ends_at = ends_at.ok_or_else(|| {
        Failure::unprocessable(format!("starts_at is {starts_at}, after which no date is known"))
    })?;
    let new = NewSilence {
        matchers: matchers.map_err(Failure::unprocessable)?,
        starts_at,
        ends_at,
        created_by: body.created_by.unwrap_or(operator.by),
        comment: body.comment,
    };
    match shared.api.group.propose(Entry::Silence(new)).await? {
        Applied::Numbered(id) => Ok((StatusCode::CREATED, Json(json!({ "id": id })))),
        _ => Err(Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "no number was given")),
    }
}

async fn expire(
    State(shared): State<Handle>,
    Path(id): Path<String>,
    _operator: Operator,
    Body(NoBody {}): Body<NoBody>,
) -> Result<Json<Value>, Failure> {
    let id = number(&id)?;
    shared.api.group.propose(Entry::Unsilence { id }).await?;
    Ok(Json(json!({ "id": id })))
}
