//! Paced drains: the connections of a server that takes nothing new are told to leave, so many per second.
//!
//! A drain without a pace keeps what is open, as ever. With one, clients leave at a rate the other servers can take, WebSockets by a Close
//! frame that asks them to come back; what is left at the deadline is told at once. A drain is level-triggered: it looks a few times a
//! second at what is bound to the server, so a connection that was being made when it began is not forgotten. Requests in flight are left
//! to end by themselves. It ends with the last connection, or when the server is made ready again.

use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::Serialize;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::pace::Allowance;
use super::{Balancer, lock};
use crate::config::Pace;
use crate::config::lifetime::DEADLINE_MAX;
use crate::handover::link::{DrainWish, Drained};
use crate::metrics::Close;
use crate::pool::Pool;
use crate::pool::server::Server;
use crate::pool::state::AdminState;
use crate::proxy::registry::Selection;

/// How often it looks: twenty steps a second are smooth to those who take the clients.
const TICK: Duration = Duration::from_millis(50);

/// What an operator asks of a drain; what is not said is as the pool's settings have it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct DrainOrder {
    pub(crate) pace: Option<Pace>,
    pub(crate) period: Option<Duration>,
}

/// One drain.
#[derive(Debug)]
pub(super) struct Drain {
    /// Gone once it was taken out and is empty.
    server: Weak<Server>,
    pace: Option<Pace>,
    deadline: Instant,
    deadline_utc: DateTime<Utc>,
    /// Connections when it began.
    total: u64,
    /// Told to leave.
    moved: AtomicU64,
    cancelled: CancellationToken,
}

/// How far a drain has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct DrainView {
    /// Connections it had to bring to an end.
    total: u64,
    /// Connections that were told to leave.
    moved: u64,
    /// Connections that are still open.
    left: u64,
    /// Connections told to leave per second; none if only the deadline counts.
    rate: Option<u32>,
    /// When what is left is told at once.
    deadline: String,
}

impl Balancer {
    /// Begins, goes on with or cancels the drain of `server`, as its state has it.
    pub(crate) fn follow_state(
        self: &Arc<Self>,
        pool: &Pool,
        server: &Arc<Server>,
        order: Option<DrainOrder>,
    ) {
        if server.record().state.admin() != AdminState::Drain {
            return self.cancel_drain(server);
        }
        let rules = pool.rules().lifetime.clone();
        let under_way = lock(&self.drains).contains_key(&server.id());
        if order.is_none() && (under_way || rules.drain.is_none()) {
            return;
        }
        let order = order.unwrap_or_default();
        let period = order.period.unwrap_or(rules.drain_deadline);
        let rate = order.pace.or(rules.drain).map(Pace::per_second);
        self.begin_drain(pool, server, &DrainWish { rate, deadline: Utc::now() + period });
    }

    fn cancel_drain(&self, server: &Server) {
        if let Some(drain) = lock(&self.drains).remove(&server.id()) {
            drain.cancelled.cancel();
        }
    }

    /// What another process is to do about the connections of `server`, if it is drained at a pace or with a deadline.
    pub(super) fn drain_wish(&self, server: &Server) -> Option<DrainWish> {
        let drain = lock(&self.drains).get(&server.id()).cloned()?;
        Some(drain.wish())
    }

    /// How far the drain of `server` has come, here and in the process before this one.
    pub(super) fn drained(&self, pool: &Pool, server: &Server) -> Option<Drained> {
        let drain = lock(&self.drains).get(&server.id()).cloned()?;
        let (wish, moved) = (drain.wish(), drain.moved.load(Ordering::Relaxed));
        let before = self.left_before(pool, server).drained.filter(|before| before.wish == wish);
        let (total, moved_before) = before.map_or((0, 0), |before| (before.total, before.moved));
        Some(Drained { wish, total: drain.total.max(moved) + total, moved: moved + moved_before })
    }

    /// Begins, goes on with or cancels the drain of `server`, as another process has it.
    pub(super) fn follow_wish(
        self: &Arc<Self>,
        pool: &Pool,
        server: &Arc<Server>,
        wish: Option<&DrainWish>,
    ) {
        match wish {
            Some(wish) if server.record().state.admin() == AdminState::Drain => {
                if self.drain_wish(server) != Some(*wish) {
                    self.begin_drain(pool, server, wish);
                }
            }
            _ => self.cancel_drain(server),
        }
    }

    /// In place of the one there may be.
    fn begin_drain(self: &Arc<Self>, pool: &Pool, server: &Arc<Server>, wish: &DrainWish) {
        let period = (wish.deadline - Utc::now()).to_std().unwrap_or_default().min(DEADLINE_MAX);
        let drain = Arc::new(Drain {
            server: Arc::downgrade(server),
            pace: wish.rate.and_then(Pace::try_new),
            deadline: Instant::now() + period,
            deadline_utc: wish.deadline,
            total: server.active(),
            moved: AtomicU64::new(0),
            cancelled: CancellationToken::new(),
        });
        let before = {
            let mut drains = lock(&self.drains);
            drains.retain(|_, drain| drain.server.strong_count() > 0);
            drains.insert(server.id(), Arc::clone(&drain))
        };
        if let Some(before) = before {
            before.cancelled.cancel();
        }
        tracing::info!(pool = %pool.name(), server = %server.name(), connections = drain.total,
            rate = drain.pace.map(Pace::per_second), deadline = ?period, "drain begins");
        let (balancer, server, pool) = (Arc::clone(self), Arc::clone(server), pool.name().clone());
        self.tasks.spawn(async move {
            let finished = tokio::select! {
                () = balancer.ended.cancelled() => false,
                () = drain.cancelled.cancelled() => false,
                () = drain.run(&balancer, &server) => true,
            };
            let moved = drain.moved.load(Ordering::Relaxed);
            tracing::info!(%pool, server = %server.name(), moved, finished, "drain ends");
        });
    }

    /// Tells relayed connections to leave at `pace` for as long as it is polled, whatever their servers; nothing without a pace.
    pub(crate) async fn say_goodbye(&self, pace: Option<Pace>) -> Infallible {
        let Some(pace) = pace else { return std::future::pending().await };
        let selection = Selection { relayed: true, ..Selection::default() };
        let mut allowance = Allowance::new(pace);
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last = Instant::now();
        for turn in 0.. {
            let now = ticks.tick().await;
            let due = allowance.take(now.saturating_duration_since(last));
            last = now;
            if due > 0 {
                self.dismiss(&selection, due, Close::Shutdown, turn).await;
            }
        }
        std::future::pending().await
    }

    /// Tells every client to leave.
    pub(crate) async fn dismiss_all(&self) {
        self.dismiss(&Selection::default(), usize::MAX, Close::Shutdown, 0).await;
    }

    /// The drain of `server`, if it is drained at a pace or with a deadline.
    pub(crate) fn drain_of(&self, pool: &Pool, server: &Server) -> Option<DrainView> {
        let Drained { wish, total, moved } = self.drained(pool, server)?;
        Some(DrainView {
            total,
            moved,
            left: server.active() + self.left_before(pool, server).connections,
            rate: wish.rate,
            deadline: wish.deadline.to_rfc3339_opts(chrono::SecondsFormat::Millis, true),
        })
    }
}

impl Drain {
    fn wish(&self) -> DrainWish {
        DrainWish { rate: self.pace.map(Pace::per_second), deadline: self.deadline_utc }
    }

    /// Returns once the server has no connection.
    async fn run(&self, balancer: &Balancer, server: &Server) {
        let selection = Selection { servers: Some(vec![server.id()]), ..Selection::default() };
        let mut allowance = self.pace.map(Allowance::new);
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last = Instant::now();
        let mut turn = 0;
        while server.active() > 0 {
            let now = ticks.tick().await;
            let passed = now.saturating_duration_since(last);
            last = now;
            let due = match &mut allowance {
                _ if now >= self.deadline => usize::MAX,
                Some(allowance) => allowance.take(passed),
                None => 0,
            };
            if due > 0 {
                // Each time another worker is first, so that they empty alike.
                turn += 1;
                let told = balancer.dismiss(&selection, due, Close::Drained, turn).await;
                self.moved.fetch_add(told as u64, Ordering::Relaxed);
                server.metrics.drained.inc_by(told as u64);
            }
        }
    }
}
