//! The operator API's commands about Redis: move the primary now or later, pause, resume, approve, acknowledge.
//!
//! `?name=` says which Redis is meant where there are several.

use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::routing::post;
use axum::{Json, Router};
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::Handle;
use super::operator::{NoBody, answer};
use super::reply::{Body, Failure, Operator, Params};
use crate::cluster::{Address, Appointment, Pause};
use crate::control::{ControlError, Failover, FailoverReport, RedisCommand, Reply, ask};

/// Longest reason of a pause: it is shown in one line.
const REASON_CHARS_MAX: usize = 200;

/// Longest pause that is given in seconds: whoever needs more leaves them out.
const PAUSE_SECONDS_MAX: u64 = 366 * 24 * 3600;

pub(super) fn routes() -> Router<Handle> {
    Router::new()
        .route("/redis/failover", post(failover))
        .route("/redis/switchover", post(appoint))
        .route("/redis/switchover/cancel", post(cancel))
        .route("/redis/pause", post(pause))
        .route("/redis/resume", post(resume))
        .route("/redis/approve", post(approve))
        .route("/redis/acknowledge", post(acknowledge))
}

/// The controller that the request names by `?name=`.
struct Redis(mpsc::Sender<RedisCommand>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Name {
    name: Option<String>,
}

impl FromRequestParts<Handle> for Redis {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, shared: &Handle) -> Result<Self, Failure> {
        let Params(Name { name }) = Params::from_request_parts(parts, shared).await?;
        Ok(Self(shared.api.control.redis_named(name.as_deref())?.clone()))
    }
}

async fn order(
    Redis(redis): Redis,
    command: impl FnOnce(Reply<()>) -> RedisCommand,
) -> Result<Json<Value>, Failure> {
    answer(ask("Redis", Some(&redis), command)).await?;
    Ok(Json(json!({})))
}

fn refuse(text: impl Into<String>) -> Failure {
    Failure::from(ControlError::Refused(text.into()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FailoverBody {
    target: Option<Address>,
}

async fn failover(
    operator: Operator,
    redis: Redis,
    Body(body): Body<FailoverBody>,
) -> Result<Json<FailoverReport>, Failure> {
    let command =
        |reply| RedisCommand::FailOver(Failover { target: body.target, by: operator.by, reply });
    answer(ask("Redis", Some(&redis.0), command)).await.map(Json)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AppointBody {
    at: DateTime<Utc>,
    target: Option<Address>,
}

async fn appoint(
    operator: Operator,
    redis: Redis,
    Body(AppointBody { at, target }): Body<AppointBody>,
) -> Result<Json<Value>, Failure> {
    let appointment = Appointment { at, target, by: operator.by };
    order(redis, |reply| RedisCommand::Appoint { appointment, reply }).await
}

async fn cancel(
    operator: Operator,
    redis: Redis,
    Body(NoBody {}): Body<NoBody>,
) -> Result<Json<Value>, Failure> {
    order(redis, |reply| RedisCommand::Cancel { by: operator.by, reply }).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PauseBody {
    reason: String,
    seconds: Option<u64>,
}

async fn pause(
    operator: Operator,
    redis: Redis,
    Body(PauseBody { reason, seconds }): Body<PauseBody>,
) -> Result<Json<Value>, Failure> {
    if reason.trim().is_empty() || reason.chars().count() > REASON_CHARS_MAX {
        return Err(refuse(format!("`reason`: expected 1 to {REASON_CHARS_MAX} characters")));
    }
    let range = 1..=PAUSE_SECONDS_MAX;
    if let Some(seconds) = seconds.filter(|seconds| !range.contains(seconds)) {
        return Err(refuse(format!(
            "`seconds`: expected 1 to {PAUSE_SECONDS_MAX}, found {seconds}"
        )));
    }
    let until = seconds.map(|seconds| Utc::now() + Duration::from_secs(seconds));
    let pause = Pause { reason, by: operator.by, until };
    order(redis, |reply| RedisCommand::Pause { pause, reply }).await
}

async fn resume(
    operator: Operator,
    redis: Redis,
    Body(NoBody {}): Body<NoBody>,
) -> Result<Json<Value>, Failure> {
    order(redis, |reply| RedisCommand::Resume { by: operator.by, reply }).await
}

async fn approve(
    operator: Operator,
    redis: Redis,
    Body(NoBody {}): Body<NoBody>,
) -> Result<Json<Value>, Failure> {
    order(redis, |reply| RedisCommand::Approve { by: operator.by, reply }).await
}

async fn acknowledge(
    operator: Operator,
    redis: Redis,
    Body(NoBody {}): Body<NoBody>,
) -> Result<Json<Value>, Failure> {
    order(redis, |reply| RedisCommand::Acknowledge { by: operator.by, reply }).await
}
