//! Stick tables: shown, looked up, and told to forget.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::api::Route;
use super::operator::Operator;
use super::{ApiError, read_query};
use crate::control::Balancer;
use crate::message::choice::Key;
use crate::pool::balance;
use crate::pool::{self, Pool};
use crate::proxy::forward;
use crate::stick::{StickKey, StickTable};

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/pools/{pool}/stick-table", "The stick table of a pool, and who is in it")
            .query::<LookUp>()
            .answers::<StickTableView>(200)
            .to(show),
        Route::delete("/pools/{pool}/stick-table", "Forget which server a client has been to")
            .query::<Forget>()
            .answers_nothing(204)
            .to(forget),
    ]
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct LookUp {
    /// The client: an address, or what its cookie, field or parameter holds; without it only the table is shown.
    value: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Forget {
    /// The client: an address, or what its cookie, field or parameter holds.
    value: String,
}

#[derive(Debug, Serialize, JsonSchema)]
struct StickTableView {
    /// What clients are known by, as in the settings.
    key: String,
    ttl_seconds: f64,
    /// Whether other balancers share it.
    shared: bool,
    /// Clients in it; those whose time is over may still be counted.
    entries: usize,
    max_entries: usize,
    /// The client that was asked for, if it is known.
    entry: Option<StickEntryView>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct StickEntryView {
    /// Its server; none if that is no longer in the pool.
    server: Option<Arc<str>>,
    /// Time left if it does not come back.
    seconds_left: f64,
}

/// `GET /pools/{pool}/stick-table`
async fn show(
    State(balancer): State<Arc<Balancer>>,
    Path(pool): Path<String>,
    query: Result<Query<LookUp>, QueryRejection>,
) -> Result<Json<StickTableView>, ApiError> {
    let LookUp { value } = read_query(query)?;
    let (pool, table) = find(&balancer, &pool)?;
    let subject = value.map(|value| subject(&table, &value)).transpose()?;
    let now = table.time(pool::now());
    let known = subject.and_then(|subject| table.look_up(subject, now));
    let entry = known.map(|(server, left)| {
        let members = pool.members();
        let server = members.iter().find(|member| member.key() == server);
        StickEntryView {
            server: server.map(|server| Arc::clone(server.name())),
            seconds_left: left.as_secs_f64(),
        }
    });
    let rules = table.rules();
    Ok(Json(StickTableView {
        key: key(&rules.key),
        ttl_seconds: rules.ttl.as_secs_f64(),
        shared: rules.shared,
        entries: table.len(),
        max_entries: rules.entries_max,
        entry,
    }))
}

/// `DELETE /pools/{pool}/stick-table`
async fn forget(
    State(balancer): State<Arc<Balancer>>,
    Path(name): Path<String>,
    operator: Operator,
    query: Result<Query<Forget>, QueryRejection>,
) -> Result<StatusCode, ApiError> {
    let Forget { value } = read_query(query)?;
    let (_, table) = find(&balancer, &name)?;
    let subject = subject(&table, &value)?;
    let entered = operator.enter(&balancer)?;
    if !table.forget(subject, table.time(pool::now())) {
        return Err(ApiError::not_found("there is no such client in the table"));
    }
    // Not who: it may be a secret of the client's.
    let target = format!("pools/{name}/stick-table");
    entered.done("client forgotten", &target, &Value::Null, &Value::Null);
    Ok(StatusCode::NO_CONTENT)
}

fn find(balancer: &Balancer, name: &str) -> Result<(Arc<Pool>, Arc<StickTable>), ApiError> {
    let pool = balancer.pools().get(name).cloned();
    let pool = pool.ok_or_else(|| ApiError::not_found(format!("there is no pool named {name}")))?;
    let table = pool.stick_table();
    let table =
        table.ok_or_else(|| ApiError::not_found(format!("the pool {name} has no stick table")))?;
    Ok((pool, table))
}

/// By what the client with this `value` is remembered.
fn subject(table: &StickTable, value: &str) -> Result<u64, ApiError> {
    match table.rules().key {
        StickKey::Part(_) => Ok(balance::hash(value.as_bytes())),
        StickKey::Source => {
            value.parse::<IpAddr>().map(|address| forward::source(address.to_canonical())).map_err(
                |_| ApiError::invalid(format!("value: expected an IP address, found {value:?}")),
            )
        }
    }
}

fn key(key: &StickKey) -> String {
    match key {
        StickKey::Source => "source".to_owned(),
        StickKey::Part(Key::Uri) => "uri".to_owned(),
        StickKey::Part(Key::Header(name)) => format!("header:{name}"),
        StickKey::Part(Key::Cookie(name)) => format!("cookie:{name}"),
        StickKey::Part(Key::Query(name)) => format!("query:{name}"),
    }
}
