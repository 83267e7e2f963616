//! Faults made on purpose, for drills: what a server's clients would see if it were slow, failing, refusing, cut off or hung.
//!
//! Each one hits a share of the requests and connections that begin at a pool or one of its servers while it is in force, and ends by itself
//! after its lease, whatever becomes of whoever asked for it. Nothing is injected into health checks: whether the traffic alone
//! shows what is wrong is what a drill wants to know. Whom a fault hits is drawn at the edge; this module only knows what is in force.
//!
//! While nothing is injected, a request pays for one look at a flag.

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use http::StatusCode;
use tokio_util::sync::CancellationToken;

use crate::metrics::FaultMetrics;

/// Faults in force in one pool: a drill makes one or two; more are a mistake in a loop.
pub const FAULTS_MAX: usize = 16;

/// Numbers faults over the life of the process.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// What a fault does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Requests and connections begin this much later, plus up to `jitter`.
    Latency {
        /// At least.
        delay: Duration,
        /// Up to so much more, evenly.
        jitter: Duration,
    },
    /// Requests are answered with this status as if by the server; connections that are no requests are closed.
    Error(StatusCode),
    /// Connections are refused, as by a host on which nobody listens.
    Refuse,
    /// Connections to the server break after this time.
    Reset(Duration),
    /// Connections to the server carry so many bytes per second, each way.
    Bandwidth(NonZeroU64),
    /// Connections to the server carry nothing, and stay open.
    Hang,
}

impl Effect {
    /// Names of all effects, in the order of [`Self::position`].
    pub const NAMES: [&str; 6] = ["latency", "error", "refuse", "reset", "bandwidth", "hang"];

    /// As in the API and in metrics.
    pub fn as_str(&self) -> &'static str {
        Self::NAMES[self.position()]
    }

    /// Its place among the names.
    pub fn position(&self) -> usize {
        match self {
            Self::Latency { .. } => 0,
            Self::Error(_) => 1,
            Self::Refuse => 2,
            Self::Reset(_) => 3,
            Self::Bandwidth(_) => 4,
            Self::Hang => 5,
        }
    }
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Order {
    /// The server it is for; all of the pool without one.
    pub server: Option<Arc<str>>,
    /// Share of the traffic it hits, above 0 to 1.
    pub share: f64,
    /// What it does.
    pub effect: Effect,
    /// For how long.
    pub lease: Duration,
    /// What for.
    pub reason: Option<String>,
}

/// A fault in force.
#[derive(Debug)]
pub struct Fault {
    /// Unique in this process.
    pub id: u64,
    /// What was asked for.
    pub order: Order,
    /// When it ends.
    pub until: Instant,
    /// The same for people.
    pub ends: DateTime<Utc>,
    injected: AtomicU64,
    ended: CancellationToken,
}

impl Fault {
    /// How often it has hit.
    pub fn injected(&self) -> u64 {
        self.injected.load(Ordering::Relaxed)
    }

    /// Cancelled when it is over.
    pub(crate) fn ended(&self) -> &CancellationToken {
        &self.ended
    }
}

/// Too many faults are in force.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{FAULTS_MAX} faults are in force in this pool already")]
pub struct TooMany;

/// The faults of one pool.
#[derive(Debug)]
pub struct Faults {
    any: AtomicBool,
    list: RwLock<Arc<[Arc<Fault>]>>,
    /// One change at a time.
    changing: Mutex<()>,
    metrics: FaultMetrics,
}

impl Faults {
    /// None, counted by `metrics`.
    pub(crate) fn new(metrics: FaultMetrics) -> Self {
        let list = RwLock::new(Arc::default());
        Self { any: AtomicBool::new(false), list, changing: Mutex::default(), metrics }
    }

    /// Whether anything is injected.
    pub(crate) fn is_any(&self) -> bool {
        self.any.load(Ordering::Relaxed)
    }

    /// Those in force, the oldest first.
    pub fn list(&self) -> Arc<[Arc<Fault>]> {
        Arc::clone(&self.list.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts a fault in force.
    ///
    /// # Errors
    /// There are too many already.
    pub fn inject(
        &self,
        now: Instant,
        today: DateTime<Utc>,
        order: Order,
    ) -> Result<Arc<Fault>, TooMany> {
        let fault = Arc::new(Fault {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            until: now + order.lease,
            ends: today + order.lease,
            order,
            injected: AtomicU64::new(0),
            ended: CancellationToken::new(),
        });
        let mut taken = Err(TooMany);
        self.change(|list| {
            if list.len() < FAULTS_MAX {
                list.push(Arc::clone(&fault));
                taken = Ok(fault);
            }
        });
        taken
    }

    /// Ends those for which `over` holds, and returns them.
    pub fn end(&self, over: impl Fn(&Fault) -> bool) -> Vec<Arc<Fault>> {
        let mut ended = Vec::new();
        self.change(|list| {
            list.retain(|fault| {
                let stays = !over(fault);
                if !stays {
                    ended.push(Arc::clone(fault));
                }
                stays
            });
        });
        for fault in &ended {
            fault.ended.cancel();
        }
        ended
    }

    /// Ends those whose lease is over, and returns them.
    pub(crate) fn tick(&self, now: Instant) -> Vec<Arc<Fault>> {
        if !self.is_any() {
            return Vec::new();
        }
        self.end(|fault| fault.until <= now)
    }

    /// What hits a request or connection to `server` at `now`; `random` yields numbers from 0 to 1.
    pub(crate) fn strike(
        &self,
        now: Instant,
        server: &str,
        mut random: impl FnMut() -> f64,
    ) -> Vec<Arc<Fault>> {
        let hits = |fault: &&Arc<Fault>| {
            let order = &fault.order;
            // A late tick prolongs no lease.
            let applies = now < fault.until && order.server.as_deref().is_none_or(|s| s == server);
            applies && (order.share >= 1.0 || random() < order.share)
        };
        let hit: Vec<_> = self.list().iter().filter(hits).cloned().collect();
        for fault in &hit {
            fault.injected.fetch_add(1, Ordering::Relaxed);
            self.metrics.injected[fault.order.effect.position()].inc();
        }
        hit
    }

    fn change(&self, change: impl FnOnce(&mut Vec<Arc<Fault>>)) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut list = self.list().to_vec();
        change(&mut list);
        for (position, gauge) in self.metrics.active.iter().enumerate() {
            let count = list.iter().filter(|f| f.order.effect.position() == position).count();
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        self.any.store(!list.is_empty(), Ordering::Relaxed);
        *self.list.write().unwrap_or_else(PoisonError::into_inner) = list.into();
    }
}

#[cfg(test)]
mod tests {
    use holdfast_telemetry::Registry;

    use super::*;
    use crate::metrics::Metrics;

    #[expect(clippy::disallowed_methods, reason = "tests take one instant and add to it")]
    fn start() -> Instant {
        Instant::now()
    }

    fn faults() -> Faults {
        Faults::new(Metrics::register(&Registry::new()).faults.handles("p"))
    }

    fn order(server: Option<&str>, share: f64) -> Order {
        Order {
            server: server.map(Arc::from),
            share,
            effect: Effect::Refuse,
            lease: Duration::from_secs(10),
            reason: None,
        }
    }

    #[test]
    fn a_fault_hits_its_share_of_its_server_until_its_lease_is_over() {
        let (faults, now) = (faults(), start());
        assert!(!faults.is_any());
        let fault = faults.inject(now, Utc::now(), order(Some("a"), 0.25)).unwrap();
        let mut rng = fastrand::Rng::with_seed(7);
        let mut hits = |server: &str, now| {
            (0..10_000).filter(|_| !faults.strike(now, server, || rng.f64()).is_empty()).count()
        };
        let hit = hits("a", now);
        // Five standard deviations of a quarter of 10,000 are 217.
        assert!(hit.abs_diff(2_500) < 217, "{hit}");
        assert_eq!(fault.injected(), hit as u64);
        assert_eq!(hits("b", now), 0);
        let late = now + Duration::from_secs(10);
        assert_eq!(hits("a", late), 0, "though no tick has come");
        assert!(
            faults.tick(now + Duration::from_millis(9_999)).is_empty()
                && !fault.ended().is_cancelled()
        );
        assert_eq!(faults.tick(late).len(), 1);
        assert!(fault.ended().is_cancelled() && !faults.is_any());
    }

    #[test]
    fn one_can_be_ended_early_and_there_are_not_too_many() {
        let (faults, now) = (faults(), start());
        let ids: Vec<_> = (0..FAULTS_MAX)
            .map(|_| faults.inject(now, Utc::now(), order(None, 1.0)).unwrap().id)
            .collect();
        assert_eq!(faults.inject(now, Utc::now(), order(None, 1.0)).unwrap_err(), TooMany);
        assert_eq!(faults.metrics.active[Effect::Refuse.position()].get(), 16);
        assert_eq!(faults.end(|fault| fault.id == ids[3]).len(), 1);
        assert_eq!(faults.strike(now, "any", || 0.99).len(), FAULTS_MAX - 1);
        assert_eq!(faults.end(|_| true).len(), FAULTS_MAX - 1);
        assert!(!faults.is_any() && faults.metrics.active.iter().all(|gauge| gauge.get() == 0));
    }
}
