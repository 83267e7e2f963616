//! Bans: shown, added, lifted.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::api::Route;
use super::operator::Operator;
use super::{ApiError, read};
use crate::control::Balancer;
use crate::limits::bans::Ban;

/// Bans shown at a time; `total` says how many there are.
const SHOWN_MAX: usize = 1_000;
/// A ban beyond a year belongs into the `deny` list of the settings.
const SECONDS_MAX: u64 = 365 * 24 * 3_600;

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/bans", "Clients that are banned").answers::<BansView>(200).to(list),
        Route::post("/bans", "Ban a client; an open HTTP connection ends with its next request")
            .takes::<NewBan>()
            .answers::<BanView>(201)
            .to(add),
        Route::delete("/bans/{address}", "Lift a ban and forget what led to it")
            .answers_nothing(204)
            .to(lift),
    ]
}

/// Bans in force, the longest left first.
#[derive(Debug, Serialize, JsonSchema)]
struct BansView {
    bans: Vec<BanView>,
    /// How many there are; at most 1,000 are shown.
    total: usize,
}

/// A ban in force.
#[derive(Debug, Serialize, JsonSchema)]
struct BanView {
    /// The client; of an IPv6 client, the first address of its network.
    address: IpAddr,
    /// What it was banned for last.
    offence: &'static str,
    /// Time left.
    seconds_left: u64,
    /// How often it was banned, this time included.
    times: u8,
}

impl From<&Ban> for BanView {
    fn from(ban: &Ban) -> Self {
        Self {
            address: ban.address,
            offence: ban.offence.as_str(),
            seconds_left: ban.left.as_secs(),
            times: ban.times,
        }
    }
}

/// A ban to add.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct NewBan {
    /// The client's address.
    address: String,
    /// For how long.
    seconds: u64,
}

/// `GET /bans`
async fn list(State(balancer): State<Arc<Balancer>>) -> Json<BansView> {
    let limits = balancer.limits();
    let (bans, total) = limits.bans.list(limits.clock.now(), SHOWN_MAX);
    Json(BansView { bans: bans.iter().map(BanView::from).collect(), total })
}

/// `POST /bans`
async fn add(
    State(balancer): State<Arc<Balancer>>,
    operator: Operator,
    body: Bytes,
) -> Result<(StatusCode, Json<BanView>), ApiError> {
    let new: NewBan = read(&body)?;
    let address = new.address.parse::<IpAddr>().map_err(|_| {
        ApiError::invalid(format!("address: expected an IP address, found {:?}", new.address))
    })?;
    if !(1..=SECONDS_MAX).contains(&new.seconds) {
        let text = format!("seconds: expected 1 to {SECONDS_MAX}, found {}", new.seconds);
        return Err(ApiError::invalid(text));
    }
    let entered = operator.enter(&balancer)?;
    let limits = balancer.limits();
    let left = Duration::from_secs(new.seconds);
    let ban = limits.bans.add(address, left, limits.clock.now());
    let ban = ban.ok_or_else(|| {
        ApiError::new(StatusCode::INSUFFICIENT_STORAGE, "there are too many bans already")
    })?;
    let target = format!("bans/{}", ban.address);
    entered.done("client banned", &target, &Value::Null, &json!({ "seconds": new.seconds }));
    Ok((StatusCode::CREATED, Json(BanView::from(&ban))))
}

/// `DELETE /bans/{address}`
async fn lift(
    State(balancer): State<Arc<Balancer>>,
    Path(address): Path<String>,
    operator: Operator,
) -> Result<StatusCode, ApiError> {
    let unknown = || ApiError::new(StatusCode::NOT_FOUND, format!("{address:?} is not banned"));
    let client = address.parse::<IpAddr>().map_err(|_| unknown())?;
    let entered = operator.enter(&balancer)?;
    let limits = balancer.limits();
    if !limits.bans.lift(client, limits.clock.now()) {
        return Err(unknown());
    }
    entered.done("ban lifted", &format!("bans/{client}"), &json!({}), &Value::Null);
    Ok(StatusCode::NO_CONTENT)
}
