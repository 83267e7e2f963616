//! The managed synchronous mode carried out: `min-replicas-to-write` of the primary follows the replicas that are well.
//!
//! The present value is read before each decision to write, about once a second and at once when the number of replicas changes, so a
//! primary that was restarted or changed by hand is brought in line. A value that a supervisor beside the primary has raised to fence it
//! off is left alone. How many replicas are well is also kept under [`KEY`] in the primary, for whoever chooses a number for `WAIT`.

use std::time::Duration;

use holdfast_psync::Reply;
use holdfast_telemetry::errors::Chain;
use tokio::time::Instant;

use super::RedisController;
use super::commands::ORDER_LIMIT;
use super::repair::Aside;
use crate::cluster::{Address, RedisState};
use crate::judge::redis::ServerView;
use crate::observe::redis::{AskError, Watch, command};
use crate::plan::failover::healthy_replicas;
use crate::record::{Kind, Severity};

/// Time between two looks at what the primary demands.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A demand of at least this much is the fence of a supervisor that has lost the others.
const FENCE_MIN: u32 = 1_000_000;

/// Where the number of replicas that are well is kept.
const KEY: &str = "holdfast:wait-safe-replicas";

/// The number goes with us: nobody relies on one that is older.
const KEY_SECONDS: &str = "30";

/// What came of a look.
#[derive(Debug)]
pub(super) struct Looked {
    primary: Address,
    demanded: u32,
    /// What it was before, if it was changed.
    changed: Result<Option<u32>, String>,
}

/// What the controller remembers.
#[derive(Debug)]
pub(super) struct Synchronous {
    pub(super) demand: crate::plan::synchronous::Demand,
    /// The primary and what it was to demand at the last look.
    last: Option<(Address, u32, Instant)>,
    is_looking: bool,
    failure: Option<String>,
}

impl Synchronous {
    pub(super) fn new(settings: crate::config::Synchronous) -> Self {
        let demand = crate::plan::synchronous::Demand::new(settings);
        Self { demand, last: None, is_looking: false, failure: None }
    }
}

impl RedisController {
    /// Has the primary demand what it should, beside the loop.
    pub(super) fn keep_synchronous(&mut self, views: &[ServerView]) {
        let is_ours = self.planner.forbidden().is_none() && self.state == RedisState::Healthy;
        let now = Instant::now();
        let Some(primary) = self.planner.primary().filter(|_| is_ours).cloned() else { return };
        let Some(watch) = self.watch(&primary).cloned() else { return };
        let Some(synchronous) = self.synchronous.as_mut() else { return };
        let patience = self.config.probe_timeout;
        let healthy = healthy_replicas(views, Some(&primary), patience, now.into_std());
        let demand = synchronous.demand.follow(now.into_std(), healthy);
        let is_due = synchronous.last.as_ref().is_none_or(|(server, last, at)| {
            *server != primary || *last != demand || now - *at >= LOOK_EVERY
        });
        if !is_due || synchronous.is_looking {
            return;
        }
        synchronous.is_looking = true;
        synchronous.last = Some((primary.clone(), demand, now));
        let lag = synchronous.demand.max_lag();
        self.asides.spawn(async move {
            let changed = demand_of(&watch, demand, lag, healthy).await;
            let changed = changed.map_err(|error| Chain(&error).to_string());
            Aside::Demanded(Looked { primary, demanded: demand, changed })
        });
    }

    /// Records what came of a look, if it is news.
    pub(super) fn note_demand(&mut self, looked: Looked) {
        let Looked { primary, demanded, changed } = looked;
        let Some(synchronous) = self.synchronous.as_mut() else { return };
        synchronous.is_looking = false;
        let before = std::mem::take(&mut synchronous.failure);
        match changed {
            Ok(None) => self.metrics.set_demanded(demanded),
            Ok(Some(value)) if value >= FENCE_MIN => {}
            Ok(Some(value)) => {
                self.metrics.set_demanded(demanded);
                let message = format!(
                    "{primary} takes writes with at least {demanded} replicas, not {value}"
                );
                let reason = format!("{demanded} of those that are wanted are well");
                (self.sink)(self.draft(Kind::ActionTaken, Severity::Info, message).because(reason));
            }
            Err(error) => {
                synchronous.failure = Some(error.clone());
                if before.as_ref() != Some(&error) {
                    let message = format!("{primary} cannot be told how many replicas to demand");
                    let draft = self.draft(Kind::ActionFailed, Severity::Warning, message);
                    (self.sink)(draft.despite(error));
                }
            }
        }
    }
}

/// Reads what the server demands and changes it if need be; what it was before, if it is not `demand`.
async fn demand_of(
    watch: &Watch,
    demand: u32,
    max_lag: Duration,
    healthy: u32,
) -> Result<Option<u32>, AskError> {
    let odd = || AskError::Odd {
        address: watch.address().clone(),
        command: "CONFIG GET min-replicas-*".to_owned(),
    };
    let reply = watch.order(command(["CONFIG", "GET", "min-replicas-*"]), ORDER_LIMIT).await?;
    let Reply::Array(Some(words)) = reply else { return Err(odd()) };
    let words: Vec<String> = words.iter().filter_map(Reply::text).collect();
    let value = |name: &str| {
        let pair = words.chunks_exact(2).find(|pair| pair[0] == name);
        pair.and_then(|pair| pair[1].parse::<u32>().ok()).ok_or_else(odd)
    };
    let (present, lag) = (value("min-replicas-to-write")?, value("min-replicas-max-lag")?);
    if present >= FENCE_MIN {
        return Ok(Some(present));
    }
    let wanted_lag = max_lag.as_secs().to_string();
    if lag.to_string() != wanted_lag {
        let order = command(["CONFIG", "SET", "min-replicas-max-lag", &wanted_lag]);
        watch.order(order, ORDER_LIMIT).await?;
    }
    if present != demand {
        let order = command(["CONFIG", "SET", "min-replicas-to-write", &demand.to_string()]);
        watch.order(order, ORDER_LIMIT).await?;
    }
    let order = command(["SET", KEY, &healthy.to_string(), "EX", KEY_SECONDS]);
    match watch.order(order, ORDER_LIMIT).await {
        // Too few replicas for any write: then nobody needs the number.
        Err(AskError::Refused { reply, .. }) if reply.starts_with("NOREPLICAS") => {}
        answer => drop(answer?),
    }
    Ok((present != demand).then_some(present))
}
