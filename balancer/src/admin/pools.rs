//! Pools and servers: shown, changed, added, removed.

use std::num::NonZeroU32;
use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};

use super::api::Route;
use super::operator::Operator;
use super::{ApiError, read, read_query};
use crate::config::Pace;
use crate::config::lifetime::{DEADLINE_MAX, RATE_MAX};
use crate::config::{Address, Algorithm, EXPECTED_NAME, ServerConfig, Weight, is_name};
use crate::control::{Balancer, DrainOrder, DrainView};
use crate::pool::Pool;
use crate::pool::agent::Agent;
use crate::pool::server::Server;
use crate::pool::state::{AdminState, Cause, Ejection, Health, Passive};

/// As in the settings file: the choice looks at every server for each connection.
const SERVERS_MAX: usize = 256;
/// Weight of a server that is added without one, as in the settings file.
const WEIGHT: i64 = 100;
/// A reason is a sentence, not a document.
const REASON_BYTES_MAX: usize = 1_000;

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/pools", "All pools and their servers").answers::<PoolsView>(200).to(list),
        Route::get("/pools/{pool}", "A pool and its servers").answers::<PoolView>(200).to(show),
        Route::post("/pools/{pool}/servers", "Add a server; it begins with a ramp")
            .takes::<NewServer>()
            .answers::<ServerView>(201)
            .to(add),
        Route::patch(
            "/pools/{pool}/servers/{server}",
            "Set state, weight, limit and the reason for it",
        )
        .takes::<ServerChange>()
        .answers::<ServerView>(200)
        .to(change),
        Route::delete("/pools/{pool}/servers/{server}", "Take a server out")
            .query::<Removal>()
            .answers_nothing(204)
            .to(remove),
    ]
}

#[derive(Debug, Serialize, JsonSchema)]
struct PoolsView {
    pools: Vec<PoolView>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct PoolView {
    name: Arc<str>,
    algorithm: Algorithm,
    servers: Vec<ServerView>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct ServerView {
    name: Arc<str>,
    address: String,
    state: AdminState,
    weight: u16,
    configured_weight: u16,
    effective_weight: f64,
    health: Health,
    passive: Passive,
    /// Why the traffic has taken it out, if it has.
    ejection: Option<EjectionView>,
    /// What its agent has said.
    agent: Agent,
    usable: bool,
    active_connections: u64,
    /// Of these, how many the process has that this one has replaced.
    connections_of_old_process: u64,
    /// Connections it may have, from the settings, the operator or its agent; without a limit if there is none.
    max_connections: Option<u64>,
    connections_total: u64,
    last_change: String,
    reason: Option<String>,
    /// How far its drain has come, if it has a pace or a deadline.
    drain: Option<DrainView>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct EjectionView {
    cause: Cause,
    seconds_left: f64,
}

impl From<Ejection> for EjectionView {
    fn from(ejection: Ejection) -> Self {
        let left = ejection.until.saturating_duration_since(crate::pool::now());
        Self { cause: ejection.cause, seconds_left: left.as_secs_f64() }
    }
}

impl PoolView {
    fn new(balancer: &Balancer, pool: &Pool) -> Self {
        let view = |server: &Arc<Server>| ServerView::new(balancer, pool, server);
        Self {
            name: Arc::clone(pool.name()),
            algorithm: pool.rules().algorithm,
            servers: pool.members().iter().map(view).collect(),
        }
    }
}

impl ServerView {
    fn new(balancer: &Balancer, pool: &Pool, server: &Server) -> Self {
        let drain = balancer.drain_of(pool, server);
        let before = balancer.left_before(pool, server).connections;
        let record = server.record();
        Self {
            name: Arc::clone(server.name()),
            address: server.address().to_string(),
            state: record.state.admin(),
            weight: record.state.weight().get(),
            configured_weight: record.configured_weight.get(),
            effective_weight: server.metrics.effective_weight.get(),
            health: record.state.health(),
            passive: record.state.passive(),
            ejection: record.state.ejection().map(EjectionView::from),
            agent: record.state.agent(),
            usable: server.is_usable(),
            active_connections: server.active() + before,
            connections_of_old_process: before,
            max_connections: Some(server.connections_max()).filter(|max| *max < u64::MAX),
            connections_total: server.metrics.connections.get(),
            last_change: record.last_change.to_rfc3339_opts(chrono::SecondsFormat::Millis, true),
            reason: record.reason.clone(),
            drain,
        }
    }
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ServerChange {
    state: Option<AdminState>,
    weight: Option<i64>,
    /// Connections it may have at a time; `null` for what the settings say.
    #[serde(default, deserialize_with = "given")]
    max_connections: Option<Limit>,
    reason: Option<String>,
    /// With the state `drain`: clients are told to leave.
    drain: Option<DrainChange>,
}

/// A number, or `null`.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(transparent)]
struct Limit(Option<NonZeroU32>);

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct DrainChange {
    /// So many per second; without it the settings of the pool, or none before the deadline.
    rate: Option<u32>,
    /// Time after which all that are left are told at once, such as `"90s"`.
    #[serde(default)]
    deadline: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct NewServer {
    name: String,
    address: String,
    weight: Option<i64>,
    /// Connections it may have at a time; as many as its pool says without it.
    max_connections: Option<NonZeroU32>,
}

/// What is there, `null` too.
fn given<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    T::deserialize(deserializer).map(Some)
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Removal {
    #[serde(default)]
    force: bool,
}

/// `GET /pools`
async fn list(State(balancer): State<Arc<Balancer>>) -> Json<PoolsView> {
    let pools = balancer.pools().values().map(|pool| PoolView::new(&balancer, pool)).collect();
    Json(PoolsView { pools })
}

/// `GET /pools/{pool}`
async fn show(
    State(balancer): State<Arc<Balancer>>,
    Path(name): Path<String>,
) -> Result<Json<PoolView>, ApiError> {
    let pool = find_pool(&balancer, &name)?;
    Ok(Json(PoolView::new(&balancer, &pool)))
}

/// `PATCH /pools/{pool}/servers/{server}`
async fn change(
    State(balancer): State<Arc<Balancer>>,
    Path((pool, name)): Path<(String, String)>,
    operator: Operator,
    body: Bytes,
) -> Result<Json<ServerView>, ApiError> {
    let pool = find_pool(&balancer, &pool)?;
    let server = find_server(&pool, &name)?;
    let change: ServerChange = read(&body)?;
    let weight = change.weight.map(read_weight).transpose()?;
    if change.reason.as_ref().is_some_and(|reason| reason.len() > REASON_BYTES_MAX) {
        return Err(ApiError::invalid(format!(
            "reason: expected at most {REASON_BYTES_MAX} bytes"
        )));
    }
    let order = change.drain.as_ref().map(read_order).transpose()?;
    let entered = operator.enter(&balancer)?;
    let state = change.state.unwrap_or_else(|| server.record().state.admin());
    if order.is_some() && state != AdminState::Drain {
        return Err(ApiError::invalid("drain: needs the state drain"));
    }
    let changes_limits = weight.is_some() || change.max_connections.is_some();
    if change.state.is_none() && !changes_limits && change.reason.is_none() && order.is_none() {
        return Ok(Json(ServerView::new(&balancer, &pool, &server)));
    }
    let old = settings(&server);
    pool.change(&server, |record, now| {
        if let Some(weight) = weight {
            record.state.set_weight(weight);
        }
        if let Some(max) = change.max_connections {
            record.connections_max = max.0.or(record.configured_connections_max);
        }
        if let Some(state) = change.state {
            record.state.set_admin(now, state);
        }
        record.reason = change.reason;
    });
    balancer.follow_state(&pool, &server, order);
    entered.done("server changed", &target(&pool, &name), &old, &settings(&server));
    Ok(Json(ServerView::new(&balancer, &pool, &server)))
}

/// `POST /pools/{pool}/servers`
async fn add(
    State(balancer): State<Arc<Balancer>>,
    Path(pool): Path<String>,
    operator: Operator,
    body: Bytes,
) -> Result<(StatusCode, Json<ServerView>), ApiError> {
    let pool = find_pool(&balancer, &pool)?;
    let new: NewServer = read(&body)?;
    if !is_name(&new.name) {
        return Err(ApiError::invalid(format!("name: {EXPECTED_NAME} {:?}", new.name)));
    }
    let address = Address::try_new(&new.address).ok_or_else(|| {
        ApiError::invalid(format!("address: expected host:port, found {:?}", new.address))
    })?;
    let weight = read_weight(new.weight.unwrap_or(WEIGHT))?;
    let entered = operator.enter(&balancer)?;
    if pool.member(&new.name).is_some() {
        let text = format!("there is a server named {} already", new.name);
        return Err(ApiError::conflict(text));
    }
    if pool.members().len() >= SERVERS_MAX {
        return Err(ApiError::invalid(format!("the pool has {SERVERS_MAX} servers already")));
    }
    let config = ServerConfig {
        connections_max: new.max_connections,
        ..ServerConfig::new(&new.name, address, weight)
    };
    let server = balancer.add_server(&pool, &config);
    let new = settings(&server);
    entered.done("server added", &target(&pool, &config.name), &Value::Null, &new);
    Ok((StatusCode::CREATED, Json(ServerView::new(&balancer, &pool, &server))))
}

/// `DELETE /pools/{pool}/servers/{server}`
async fn remove(
    State(balancer): State<Arc<Balancer>>,
    Path((pool, name)): Path<(String, String)>,
    query: Result<Query<Removal>, QueryRejection>,
    operator: Operator,
) -> Result<StatusCode, ApiError> {
    let removal = read_query(query)?;
    let pool = find_pool(&balancer, &pool)?;
    let server = find_server(&pool, &name)?;
    {
        let entered = operator.enter(&balancer)?;
        let active = server.active() + balancer.left_before(&pool, &server).connections;
        if active > 0 && !removal.force {
            let text = format!("{name} has {active} connections; drain it first, or force=true");
            return Err(ApiError::conflict(text));
        }
        let old = settings(&server);
        balancer.note_removed(&pool, &server);
        pool.remove(&server);
        let new = json!({ "force": removal.force });
        entered.done("server removed", &target(&pool, &name), &old, &new);
    }
    if removal.force {
        balancer.close_server(&server).await;
    }
    Ok(StatusCode::NO_CONTENT)
}

fn find_pool(balancer: &Balancer, name: &str) -> Result<Arc<Pool>, ApiError> {
    let pool = balancer.pools().get(name).cloned();
    pool.ok_or_else(|| ApiError::not_found(format!("there is no pool named {name}")))
}

fn find_server(pool: &Pool, name: &str) -> Result<Arc<Server>, ApiError> {
    pool.member(name).ok_or_else(|| {
        let text = format!("there is no server named {name} in the pool {}", pool.name());
        ApiError::not_found(text)
    })
}

/// Its path below the API, for the journal.
fn target(pool: &Pool, server: &str) -> String {
    format!("pools/{}/servers/{server}", pool.name())
}

/// What operators can set of it, for the journal.
fn settings(server: &Server) -> Value {
    let record = server.record();
    json!({
        "address": server.address().as_str(),
        "state": record.state.admin(),
        "weight": record.state.weight().get(),
        "max_connections": record.connections_max,
        "reason": record.reason,
    })
}

fn read_order(change: &DrainChange) -> Result<DrainOrder, ApiError> {
    let pace = change.rate.map(|rate| {
        Pace::try_new(rate).ok_or_else(|| {
            ApiError::invalid(format!("drain.rate: expected 1 to {RATE_MAX}, found {rate}"))
        })
    });
    let period = change.deadline.as_ref().map(|text| {
        let period = holdfast_settings::duration::parse(text).ok();
        period.filter(|period| *period <= DEADLINE_MAX).ok_or_else(|| {
            let expected = "expected a duration of a week at most, such as \"90s\"";
            ApiError::invalid(format!("drain.deadline: {expected}, found {text:?}"))
        })
    });
    Ok(DrainOrder { pace: pace.transpose()?, period: period.transpose()? })
}

fn read_weight(weight: i64) -> Result<Weight, ApiError> {
    u16::try_from(weight).ok().and_then(Weight::try_new).ok_or_else(|| {
        let text = format!("weight: expected 0 to {}, found {weight}", Weight::MAX);
        ApiError::invalid(text)
    })
}
