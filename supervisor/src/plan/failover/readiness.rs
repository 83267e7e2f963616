//! What would happen if the primary died now.
//!
//! Told all the time, so that a failover has no surprises: whether somebody can take over, what would be lost, how long it would take, and
//! how many replicas `WAIT` can count on. The expected time is made of what a failover consists of: the drain barrier, which must see the
//! replicas at rest, and round trips to the slowest of the servers that take part, at the time a probe of it takes now.

use std::time::{Duration, Instant};

use super::Choice;
use crate::cluster::{Address, RedisRole};
use crate::judge::redis::ServerView;

/// How long a replica must be at rest before the barrier lets it pass.
const DRAIN: Duration = Duration::from_millis(10);

/// Steps that wait for an answer one after the other: last look of the barrier, commit, promotion, repointing, connection and first write.
const ROUND_TRIPS: u32 = 6;

/// What would happen.
#[derive(Debug, Clone, PartialEq)]
pub struct Readiness {
    /// Who would take over.
    pub candidate: Option<Address>,
    /// How many bytes it lacks.
    pub loss_bytes: Option<u64>,
    /// Whether enough supervisors hear each other to decide it.
    pub majority: bool,
    /// From the decision to the first write; `None` if nobody can take over.
    pub expected: Option<Duration>,
    /// Replicas that are well: `WAIT` for this many is answered at once.
    pub wait_safe: u32,
}

impl Readiness {
    /// From what is seen now; `patience`: a server that is silent for longer is not there.
    pub fn of(
        views: &[ServerView],
        primary: Option<&Address>,
        candidate: Option<&Choice>,
        majority: bool,
        patience: Duration,
        now: Instant,
    ) -> Self {
        let others = || views.iter().filter(|view| Some(&view.address) != primary);
        let there = || others().filter(|view| view.is_reachable(now, patience));
        let slowest = there().filter_map(|view| view.probe_time).max();
        let is_possible = majority && candidate.is_some();
        Self {
            candidate: candidate.map(|choice| choice.address.clone()),
            loss_bytes: candidate.and_then(|choice| choice.lacks_bytes),
            majority,
            expected: slowest.filter(|_| is_possible).map(|time| DRAIN + time * ROUND_TRIPS),
            wait_safe: healthy_replicas(views, primary, patience, now),
        }
    }
}

/// Replicas that are connected to their primary and to us, and have a whole copy.
pub fn healthy_replicas(
    views: &[ServerView],
    primary: Option<&Address>,
    patience: Duration,
    now: Instant,
) -> u32 {
    let others = views.iter().filter(|view| Some(&view.address) != primary);
    let well = others.filter_map(|view| view.present(now, patience)).filter(|sample| {
        sample.role == RedisRole::Replica
            && sample.link_up == Some(true)
            && !sample.syncing
            && !sample.loading
    });
    u32::try_from(well.count()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::redis::{Link, Sample};

    fn replica(port: u16, now: Instant, link_up: bool) -> ServerView {
        let mut view = ServerView::new(Address::new("127.0.0.1", port), now);
        view.link = Link::Open;
        view.answered_at = Some(now);
        view.probe_time = Some(Duration::from_millis(u64::from(port)));
        view.sample = Some(Sample {
            at: now,
            role: RedisRole::Replica,
            run_id: String::new(),
            replid: "a".to_owned(),
            replid2: None,
            forked_at: None,
            offset: 1,
            link_up: Some(link_up),
            syncing: false,
            follows: None,
            quiet_seconds: Some(0),
            priority: 100,
            loading: false,
            replicas: 0,
            version: "7.0.15".to_owned(),
        });
        view
    }

    #[test]
    fn the_time_is_that_of_the_slowest_and_nothing_without_a_candidate() {
        let now = tokio::time::Instant::now().into_std();
        let views = [replica(1, now, true), replica(3, now, true), replica(2, now, false)];
        let choice = Choice {
            address: views[0].address.clone(),
            replid: "a".to_owned(),
            offset: 1,
            lacks_bytes: Some(7),
            reasons: Vec::new(),
        };
        let patience = Duration::from_secs(1);
        let of =
            |candidate, majority| Readiness::of(&views, None, candidate, majority, patience, now);
        let ready = of(Some(&choice), true);
        assert_eq!(ready.expected, Some(Duration::from_millis(28)));
        assert_eq!((ready.loss_bytes, ready.wait_safe), (Some(7), 2));
        assert_eq!(of(None, true).expected, None);
        assert_eq!(of(Some(&choice), false).expected, None);
    }
}
