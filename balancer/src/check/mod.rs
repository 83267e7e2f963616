//! Active health checks: one task per server asks it, and its [`agent`] if it has one, again and again and tells its pool.
//!
//! The rules are read anew for each check, so a reload needs to start and stop nothing. A failure of real traffic brings the next check
//! forward: whether a server is dead is known within a round trip, not within an interval. The [`probe`] is a connection of its own;
//! an idle one that still works proves nothing about the next client's.

mod agent;
mod probe;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::metrics::Close;
use crate::pool::Pool;
use crate::pool::server::Server;
use crate::pool::state::{AdminState, Change, CheckResult};
use crate::proxy::worker::{Command, Handle};

/// How much earlier or later than its interval an agent is asked, so that the questions of many balancers drift apart.
const JITTER: f64 = 0.1;
/// Share of the interval that passes at least, however often traffic fails.
const EARLY: f64 = 0.2;
/// How often a server that is not to be checked looks whether it is.
const REST: Duration = Duration::from_secs(1);

/// Checks `server` until it is removed from its pool.
pub(crate) async fn watch(pool: Arc<Pool>, server: Arc<Server>, workers: Arc<[Handle]>) {
    let removed = server.removed.clone();
    tokio::select! {
        () = removed.cancelled() => {}
        () = check_on(&pool, &server, &workers) => {}
        () = agent::listen(&pool, &server) => {}
    }
}

async fn check_on(pool: &Pool, server: &Server, workers: &[Handle]) {
    loop {
        let of_pool = pool.rules();
        let in_maintenance = server.record().state.admin() == AdminState::Maintenance;
        let Some(rules) = of_pool.check.as_ref().filter(|_| !in_maintenance) else {
            // Awaited in turn with the notice of a change; whichever comes first.
            let _ = timeout(REST, server.check_now.notified()).await;
            continue;
        };
        let place = server.record().check.clone();
        let probed =
            timeout(rules.timeout, probe::probe(rules, &place, server.address(), &of_pool)).await;
        let (result, detail) = match probed {
            Ok(Ok(())) => (CheckResult::Pass, None),
            Ok(Err(error)) => (CheckResult::Fail, Some(error.to_string())),
            Err(_) => (CheckResult::Silent, Some("no answer in time".to_owned())),
        };
        if let Some(detail) = detail {
            tracing::debug!(pool = %pool.name(), server = %server.name(), detail, "check failed");
        }
        if pool.handle_check(server, result) == Some(Change::Down { silent: true }) {
            for worker in workers {
                worker.tell(Command::CloseServer(server.id(), Close::ServerSilent)).await;
            }
        }
        let early = rules.interval.mul_f64(EARLY);
        let rest = spread(rules.interval, rules.jitter).saturating_sub(early);
        sleep(early).await;
        // Either the time is over or traffic has failed; both mean the next check.
        let _ = timeout(rest, server.check_now.notified()).await;
    }
}

/// `interval`, or up to a share of `jitter` earlier or later.
fn spread(interval: Duration, jitter: f64) -> Duration {
    interval.mul_f64(1.0 + jitter * (fastrand::f64() * 2.0 - 1.0))
}
