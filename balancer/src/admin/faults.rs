//! Faults made on purpose: injected, shown, ended.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use holdfast_settings::duration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::api::Route;
use super::operator::Operator;
use super::{ApiError, read};
use crate::control::Balancer;
use crate::faults::{Effect, Fault, Order};

/// A fault that delays for longer is a hang.
const DELAY_MAX: Duration = Duration::from_mins(5);
/// A reason is a sentence, not a document.
const REASON_BYTES_MAX: usize = 1_000;

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/faults", "Faults in force").answers::<FaultsView>(200).to(list),
        Route::post("/faults", "Inject a fault; it ends by itself after its lease")
            .takes::<NewFault>()
            .answers::<FaultView>(201)
            .to(inject),
        Route::delete("/faults", "End all faults").answers::<Ended>(200).to(end_all),
        Route::delete("/faults/{fault}", "End a fault").answers_nothing(204).to(end),
    ]
}

/// What a fault does.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Latency,
    Error,
    Refuse,
    Reset,
    Bandwidth,
    Hang,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct NewFault {
    pool: String,
    /// One server of the pool; all of them without it.
    server: Option<String>,
    /// Share of the requests and connections it hits, above 0 to 1; all without it.
    share: Option<f64>,
    effect: Kind,
    /// With `latency`: how much later, such as `"200ms"`.
    delay: Option<String>,
    /// With `latency`: up to so much more.
    jitter: Option<String>,
    /// With `error`: the status, 400 to 599.
    status: Option<u16>,
    /// With `reset`: how long a connection lives; none without it.
    after: Option<String>,
    /// With `bandwidth`: for each connection and direction.
    bytes_per_second: Option<u64>,
    /// For how long, at most `faults.max_lease`.
    lease: String,
    reason: Option<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct FaultsView {
    /// Whether the settings allow any.
    enabled: bool,
    faults: Vec<FaultView>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct FaultView {
    id: u64,
    pool: Arc<str>,
    server: Option<Arc<str>>,
    share: f64,
    effect: &'static str,
    delay: Option<String>,
    jitter: Option<String>,
    status: Option<u16>,
    after: Option<String>,
    bytes_per_second: Option<u64>,
    ends: String,
    injected: u64,
    reason: Option<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Ended {
    /// How many were in force.
    ended: usize,
}

impl FaultView {
    fn new(pool: &Arc<str>, fault: &Fault) -> Self {
        let mut view = Self {
            id: fault.id,
            pool: Arc::clone(pool),
            server: fault.order.server.clone(),
            share: fault.order.share,
            effect: fault.order.effect.as_str(),
            delay: None,
            jitter: None,
            status: None,
            after: None,
            bytes_per_second: None,
            ends: fault.ends.to_rfc3339_opts(chrono::SecondsFormat::Millis, true),
            injected: fault.injected(),
            reason: fault.order.reason.clone(),
        };
        match fault.order.effect {
            Effect::Latency { delay, jitter } => {
                view.delay = Some(duration::format(delay));
                view.jitter = Some(duration::format(jitter));
            }
            Effect::Error(status) => view.status = Some(status.as_u16()),
            Effect::Reset(after) => view.after = Some(duration::format(after)),
            Effect::Bandwidth(rate) => view.bytes_per_second = Some(rate.get()),
            Effect::Refuse | Effect::Hang => {}
        }
        view
    }
}

/// `GET /faults`
async fn list(State(balancer): State<Arc<Balancer>>) -> Json<FaultsView> {
    let enabled = balancer.fault_rules().is_some();
    let pools = balancer.pools();
    let of_pool = |(name, pool): (&Arc<str>, &Arc<crate::pool::Pool>)| {
        let faults = pool.faults().list();
        faults.iter().map(|fault| FaultView::new(name, fault)).collect::<Vec<_>>()
    };
    Json(FaultsView { enabled, faults: pools.iter().flat_map(of_pool).collect() })
}

/// `POST /faults`
async fn inject(
    State(balancer): State<Arc<Balancer>>,
    operator: Operator,
    body: Bytes,
) -> Result<(StatusCode, Json<FaultView>), ApiError> {
    let new: NewFault = read(&body)?;
    let Some(rules) = balancer.fault_rules() else {
        let text = "faults are not enabled in the settings ([faults] enabled = true)";
        return Err(ApiError::new(StatusCode::FORBIDDEN, text));
    };
    let pools = balancer.pools();
    let pool = pools.get(&*new.pool);
    let pool =
        pool.ok_or_else(|| ApiError::not_found(format!("there is no pool named {}", new.pool)))?;
    if let Some(server) = &new.server
        && pool.member(server).is_none()
    {
        let text = format!("there is no server named {server} in the pool {}", new.pool);
        return Err(ApiError::not_found(text));
    }
    let order = order(&new, rules.lease_max)?;
    let entered = operator.enter(&balancer)?;
    let fault = pool.inject(order).map_err(|error| ApiError::conflict(error.to_string()))?;
    let view = FaultView::new(pool.name(), &fault);
    entered.done("fault injected", &target(fault.id), &Value::Null, &json!(view));
    Ok((StatusCode::CREATED, Json(view)))
}

/// `DELETE /faults`
async fn end_all(
    State(balancer): State<Arc<Balancer>>,
    operator: Operator,
) -> Result<Json<Ended>, ApiError> {
    let entered = operator.enter(&balancer)?;
    let ended = balancer.pools().values().map(|pool| pool.end_faults(|_| true)).sum();
    entered.done("all faults ended", "faults", &json!(ended), &Value::Null);
    Ok(Json(Ended { ended }))
}

/// `DELETE /faults/{fault}`
async fn end(
    State(balancer): State<Arc<Balancer>>,
    Path(id): Path<String>,
    operator: Operator,
) -> Result<StatusCode, ApiError> {
    let entered = operator.enter(&balancer)?;
    let id: u64 = id.parse().unwrap_or(0);
    let ended: usize =
        balancer.pools().values().map(|pool| pool.end_faults(|fault| fault.id == id)).sum();
    if ended == 0 {
        return Err(ApiError::not_found("there is no such fault in force"));
    }
    entered.done("fault ended", &target(id), &Value::Null, &Value::Null);
    Ok(StatusCode::NO_CONTENT)
}

/// Its path below the API, for the journal.
fn target(id: u64) -> String {
    format!("faults/{id}")
}

/// What `new` asks for, if that can be done.
fn order(new: &NewFault, lease_max: Duration) -> Result<Order, ApiError> {
    let share = new.share.unwrap_or(1.0);
    if !(share > 0.0 && share <= 1.0) {
        return Err(ApiError::invalid(format!("share: expected above 0 to 1, found {share}")));
    }
    let lease = time("lease", Some(&new.lease), lease_max)?.unwrap_or_default();
    if lease.is_zero() {
        return Err(ApiError::invalid("lease: expected a duration above 0"));
    }
    if new.reason.as_ref().is_some_and(|reason| reason.len() > REASON_BYTES_MAX) {
        return Err(ApiError::invalid(format!(
            "reason: expected at most {REASON_BYTES_MAX} bytes"
        )));
    }
    let server = new.server.as_deref().map(Arc::from);
    Ok(Order { server, share, effect: effect(new)?, lease, reason: new.reason.clone() })
}

fn effect(new: &NewFault) -> Result<Effect, ApiError> {
    let meant = |kind: Kind| kind == new.effect;
    for (key, given, sense) in [
        ("delay", new.delay.is_some(), meant(Kind::Latency)),
        ("jitter", new.jitter.is_some(), meant(Kind::Latency)),
        ("status", new.status.is_some(), meant(Kind::Error)),
        ("after", new.after.is_some(), meant(Kind::Reset)),
        ("bytes_per_second", new.bytes_per_second.is_some(), meant(Kind::Bandwidth)),
    ] {
        if given && !sense {
            return Err(ApiError::invalid(format!("{key}: has no meaning with this effect")));
        }
    }
    let missing = |key: &str| ApiError::invalid(format!("{key}: is needed with this effect"));
    Ok(match new.effect {
        Kind::Latency => Effect::Latency {
            delay: time("delay", new.delay.as_deref(), DELAY_MAX)?
                .ok_or_else(|| missing("delay"))?,
            jitter: time("jitter", new.jitter.as_deref(), DELAY_MAX)?.unwrap_or_default(),
        },
        Kind::Error => {
            let status = new.status.ok_or_else(|| missing("status"))?;
            let code = StatusCode::from_u16(status).ok();
            Effect::Error(code.filter(|_| (400..600).contains(&status)).ok_or_else(|| {
                ApiError::invalid(format!("status: expected 400 to 599, found {status}"))
            })?)
        }
        Kind::Refuse => Effect::Refuse,
        Kind::Reset => {
            Effect::Reset(time("after", new.after.as_deref(), DELAY_MAX)?.unwrap_or_default())
        }
        Kind::Bandwidth => {
            let rate = new.bytes_per_second.ok_or_else(|| missing("bytes_per_second"))?;
            Effect::Bandwidth(NonZeroU64::new(rate).ok_or_else(|| {
                ApiError::invalid("bytes_per_second: expected at least 1, found 0")
            })?)
        }
        Kind::Hang => Effect::Hang,
    })
}

fn time(key: &str, text: Option<&str>, max: Duration) -> Result<Option<Duration>, ApiError> {
    let Some(text) = text else { return Ok(None) };
    let time =
        duration::parse(text).map_err(|error| ApiError::invalid(format!("{key}: {error}")))?;
    if time > max {
        let max = duration::format(max);
        return Err(ApiError::invalid(format!("{key}: expected at most {max}, found {text}")));
    }
    Ok(Some(time))
}
