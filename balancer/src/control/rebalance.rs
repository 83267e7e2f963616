//! Rebalancing: where a pool asks for it, WebSockets leave servers that have more than their share, so many per second.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use super::Balancer;
use super::pace::Allowance;
use crate::config::Rebalance;
use crate::metrics::Close;
use crate::pool::Pool;
use crate::pool::rebalance::{Load, most_loaded};
use crate::proxy::registry::Selection;
use crate::proxy::session::Kind;

/// Slower than a drain: nobody waits for it, and clients that left shall have come back before it looks again.
const TICK: Duration = Duration::from_millis(250);

impl Balancer {
    /// Spreads connections anew until the end, where pools ask for it.
    pub(crate) async fn rebalance(&self) -> Infallible {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last = Instant::now();
        let mut paces: HashMap<Arc<str>, (Rebalance, Allowance)> = HashMap::new();
        loop {
            let now = ticks.tick().await;
            let passed = now.saturating_duration_since(last);
            last = now;
            let pools = self.pools();
            paces.retain(|name, _| pools.contains_key(name));
            for (name, pool) in pools.iter() {
                let Some(rules) = pool.rules().lifetime.rebalance else {
                    paces.remove(name);
                    continue;
                };
                let fresh = || (rules, Allowance::new(rules.pace));
                let entry = paces.entry(Arc::clone(name)).or_insert_with(fresh);
                if entry.0 != rules {
                    *entry = fresh();
                }
                let due = entry.1.take(passed);
                if due > 0 {
                    self.spread(pool, rules.tolerance, due).await;
                }
            }
        }
    }

    /// Tells at most `due` clients of the most loaded server to leave.
    async fn spread(&self, pool: &Pool, tolerance: f64, due: usize) {
        let members = pool.members();
        let loads: Vec<_> = members
            .iter()
            .map(|server| Load { share: server.share(), active: server.active() })
            .collect();
        let Some((index, excess)) = most_loaded(&loads, tolerance) else { return };
        let server = &members[index];
        let selection = Selection {
            servers: Some(vec![server.id()]),
            kind: Some(Kind::WebSocket),
            ..Selection::default()
        };
        // Those who have been told and are still here are on their way.
        let leaving = self.count(&Selection { leaving: true, ..selection.clone() }).await;
        let max = usize::try_from(excess).unwrap_or(usize::MAX).saturating_sub(leaving).min(due);
        let told = self.dismiss(&selection, max, Close::Rebalanced, index).await;
        if told > 0 {
            server.metrics.rebalanced.inc_by(told as u64);
            tracing::debug!(pool = %pool.name(), server = %server.name(), told, excess, "rebalancing");
        }
    }
}
