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
use crate::cluster::{Address, Appointment, Pause, RestartStatus};
use crate::control::{
    ControlError, Failover, FailoverReport, RedisCommand, Reply, RestartOrder, SalvageOrder, ask,
};

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
        .route("/redis/restart", post(restart))
        .route("/redis/salvage/list", post(salvages))
        .route("/redis/salvage/show", post(show_salvage))
        .route("/redis/salvage/replay", post(replay_salvage))
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RestartBody {
    #[serde(default)]
    force: bool,
    #[serde(default)]
    resume: bool,
    #[serde(default)]
    stop: bool,
}

async fn restart(
    Redis(redis): Redis,
    operator: Operator,
    Body(body): Body<RestartBody>,
) -> Result<Json<RestartStatus>, Failure> {
    let order = match body {
        RestartBody { force, resume: false, stop: false } => RestartOrder::Begin { force },
        RestartBody { force: false, resume: true, stop: false } => RestartOrder::Resume,
        RestartBody { force: false, resume: false, stop: true } => RestartOrder::Stop,
        _ => return Err(refuse("give one of `force`, `resume` and `stop`")),
    };
    let command = |reply| RedisCommand::Restart { order, by: operator.by, reply };
    answer(ask("Redis", Some(&redis), command)).await.map(Json)
}

/// Salvages hold what users wrote, so that looking at them needs the token too.
async fn salvages(
    Redis(redis): Redis,
    _operator: Operator,
    Body(NoBody {}): Body<NoBody>,
) -> Result<Json<Value>, Failure> {
    let command = |reply| RedisCommand::Salvage(SalvageOrder::List { reply });
    answer(ask("Redis", Some(&redis), command)).await.map(Json)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ShowBody {
    id: String,
    #[serde(default)]
    from: usize,
    #[serde(default)]
    values: bool,
}

async fn show_salvage(
    Redis(redis): Redis,
    _operator: Operator,
    Body(ShowBody { id, from, values }): Body<ShowBody>,
) -> Result<Json<Value>, Failure> {
    let command = |reply| RedisCommand::Salvage(SalvageOrder::Show { id, from, values, reply });
    answer(ask("Redis", Some(&redis), command)).await.map(Json)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReplayBody {
    id: String,
    /// Nothing is changed unless this says so.
    #[serde(default)]
    apply: bool,
    #[serde(default)]
    force: bool,
}

async fn replay_salvage(
    Redis(redis): Redis,
    operator: Operator,
    Body(ReplayBody { id, apply, force }): Body<ReplayBody>,
) -> Result<Json<Value>, Failure> {
    let by = operator.by;
    let replay = |reply| SalvageOrder::Replay { id, dry_run: !apply, force, by, reply };
    let command = |reply| RedisCommand::Salvage(replay(reply));
    answer(ask("Redis", Some(&redis), command)).await.map(Json)
}
