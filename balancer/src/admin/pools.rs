//! Pools and servers: shown, changed, added, removed.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{ApiError, epoch};
use crate::config::{Address, Algorithm, EXPECTED_NAME, ServerConfig, Weight, is_name};
use crate::control::Balancer;
use crate::pool::Pool;
use crate::pool::server::Server;
use crate::pool::state::{AdminState, Health, Passive};

/// As in the settings file: the choice looks at every server for each connection.
const SERVERS_MAX: usize = 256;
/// Weight of a server that is added without one, as in the settings file.
const WEIGHT: i64 = 100;
/// A reason is a sentence, not a document.
const REASON_BYTES_MAX: usize = 1_000;

#[derive(Debug, Serialize)]
pub(super) struct PoolsView {
    pools: Vec<PoolView>,
}

#[derive(Debug, Serialize)]
pub(super) struct PoolView {
    name: Arc<str>,
    algorithm: Algorithm,
    servers: Vec<ServerView>,
}

#[derive(Debug, Serialize)]
pub(super) struct ServerView {
    name: Arc<str>,
    address: String,
    state: AdminState,
    weight: u16,
    configured_weight: u16,
    effective_weight: f64,
    health: Health,
    passive: Passive,
    usable: bool,
    active_connections: u64,
    connections_total: u64,
    last_change: String,
    reason: Option<String>,
}

impl From<&Pool> for PoolView {
    fn from(pool: &Pool) -> Self {
        Self {
            name: Arc::clone(pool.name()),
            algorithm: pool.rules().algorithm,
            servers: pool.members().iter().map(|server| ServerView::from(&**server)).collect(),
        }
    }
}

impl From<&Server> for ServerView {
    fn from(server: &Server) -> Self {
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
            usable: server.is_usable(),
            active_connections: server.active(),
            connections_total: server.metrics.connections.get(),
            last_change: record.last_change.to_rfc3339_opts(chrono::SecondsFormat::Millis, true),
            reason: record.reason.clone(),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ServerChange {
    state: Option<AdminState>,
    weight: Option<i64>,
    reason: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewServer {
    name: String,
    address: String,
    weight: Option<i64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Removal {
    #[serde(default)]
    force: bool,
}

/// `GET /pools`
pub(super) async fn list(State(balancer): State<Arc<Balancer>>) -> Json<PoolsView> {
    let pools = balancer.pools().values().map(|pool| PoolView::from(&**pool)).collect();
    Json(PoolsView { pools })
}

/// `GET /pools/{pool}`
pub(super) async fn show(
    State(balancer): State<Arc<Balancer>>,
    Path(name): Path<String>,
) -> Result<Json<PoolView>, ApiError> {
    Ok(Json(PoolView::from(&*find_pool(&balancer, &name)?)))
}

/// `PATCH /pools/{pool}/servers/{server}`
pub(super) async fn change(
    State(balancer): State<Arc<Balancer>>,
    Path((pool, name)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<ServerView>, ApiError> {
    let pool = find_pool(&balancer, &pool)?;
    let server = find_server(&pool, &name)?;
    let change: ServerChange = read(&body)?;
    let weight = change.weight.map(read_weight).transpose()?;
    if change.reason.as_ref().is_some_and(|reason| reason.len() > REASON_BYTES_MAX) {
        let text = format!("reason: expected at most {REASON_BYTES_MAX} bytes");
        return Err(ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, text));
    }
    let _entered = balancer.enter(epoch(&headers)?)?;
    tracing::info!(pool = %pool.name(), server = %name, state = ?change.state, weight = ?change.weight,
        reason = change.reason, "operator's change");
    if change.state.is_none() && weight.is_none() && change.reason.is_none() {
        return Ok(Json(ServerView::from(&*server)));
    }
    pool.change(&server, |record, now| {
        if let Some(weight) = weight {
            record.state.set_weight(weight);
        }
        if let Some(state) = change.state {
            record.state.set_admin(now, state);
        }
        record.reason = change.reason;
    });
    Ok(Json(ServerView::from(&*server)))
}

/// `POST /pools/{pool}/servers`
pub(super) async fn add(
    State(balancer): State<Arc<Balancer>>,
    Path(pool): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<(StatusCode, Json<ServerView>), ApiError> {
    let invalid = |text: String| ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, text);
    let pool = find_pool(&balancer, &pool)?;
    let new: NewServer = read(&body)?;
    if !is_name(&new.name) {
        return Err(invalid(format!("name: {EXPECTED_NAME} {:?}", new.name)));
    }
    let address = Address::try_new(&new.address)
        .ok_or_else(|| invalid(format!("address: expected host:port, found {:?}", new.address)))?;
    let weight = read_weight(new.weight.unwrap_or(WEIGHT))?;
    let _entered = balancer.enter(epoch(&headers)?)?;
    if pool.member(&new.name).is_some() {
        let text = format!("there is a server named {} already", new.name);
        return Err(ApiError::new(StatusCode::CONFLICT, text));
    }
    if pool.members().len() >= SERVERS_MAX {
        return Err(invalid(format!("the pool has {SERVERS_MAX} servers already")));
    }
    let config = ServerConfig { name: new.name.into(), address, weight };
    let server = balancer.add_server(&pool, &config);
    tracing::info!(pool = %pool.name(), server = %config.name, address = %config.address, "server added");
    Ok((StatusCode::CREATED, Json(ServerView::from(&*server))))
}

/// `DELETE /pools/{pool}/servers/{server}`
pub(super) async fn remove(
    State(balancer): State<Arc<Balancer>>,
    Path((pool, name)): Path<(String, String)>,
    query: Result<Query<Removal>, QueryRejection>,
    headers: HeaderMap,
) -> Result<StatusCode, ApiError> {
    let Query(removal) =
        query.map_err(|error| ApiError::new(StatusCode::BAD_REQUEST, error.body_text()))?;
    let pool = find_pool(&balancer, &pool)?;
    let server = find_server(&pool, &name)?;
    {
        let _entered = balancer.enter(epoch(&headers)?)?;
        let active = server.active();
        if active > 0 && !removal.force {
            let text = format!("{name} has {active} connections; drain it first, or force=true");
            return Err(ApiError::new(StatusCode::CONFLICT, text));
        }
        pool.remove(&server);
    }
    tracing::info!(pool = %pool.name(), server = %name, force = removal.force, "server removed");
    if removal.force {
        balancer.close_server(&server).await;
    }
    Ok(StatusCode::NO_CONTENT)
}

fn find_pool(balancer: &Balancer, name: &str) -> Result<Arc<Pool>, ApiError> {
    balancer.pools().get(name).cloned().ok_or_else(|| {
        ApiError::new(StatusCode::NOT_FOUND, format!("there is no pool named {name}"))
    })
}

fn find_server(pool: &Pool, name: &str) -> Result<Arc<Server>, ApiError> {
    pool.member(name).ok_or_else(|| {
        let text = format!("there is no server named {name} in the pool {}", pool.name());
        ApiError::new(StatusCode::NOT_FOUND, text)
    })
}

fn read_weight(weight: i64) -> Result<Weight, ApiError> {
    u16::try_from(weight).ok().and_then(Weight::try_new).ok_or_else(|| {
        let text = format!("weight: expected 0 to {}, found {weight}", Weight::MAX);
        ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, text)
    })
}

/// Reads a JSON body; one that is no JSON is the caller's mistake in form, one of another shape in content.
fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    // A list would be taken for the fields in their order.
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err(ApiError::new(StatusCode::BAD_REQUEST, "expected a JSON object"));
    }
    let mut json = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let status = if error.inner().is_data() {
            StatusCode::UNPROCESSABLE_ENTITY
        } else {
            StatusCode::BAD_REQUEST
        };
        let at = error.path().to_string();
        let error = error.into_inner();
        let at_root = at == ".";
        ApiError::new(status, if at_root { error.to_string() } else { format!("{at}: {error}") })
    })?;
    json.end().map_err(|error| ApiError::new(StatusCode::BAD_REQUEST, error.to_string()))?;
    Ok(value)
}
