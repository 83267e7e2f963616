//! May this member act as the leader at this very moment?
//!
//! A leader that was stopped, or cut off, does not know it yet when it goes on. So it asks the clock before it acts: it leads only while
//! a majority has answered something it sent within the lease. The others promise the same from their side: whoever has heard a leader
//! votes for no other until the lease is over, counted from when the message *arrived*, which is later than when it was sent. So two
//! members never hold the lease at once, as long as their clocks run at the same speed; no clock needs to be right. Rejected: the
//! library's own figure, which is as old as its last report and therefore wrong just after a pause.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::ledger::MemberId;

/// How fast the group notices that its leader is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Time between two messages of the leader to each member, and between two reports.
    pub heartbeat: Duration,
    /// The longest a member waits without its leader before it stands for election.
    pub election: Duration,
}

impl Default for Timing {
    /// Eight heartbeats may be lost before an election, which then takes some 20 ms: a leader that is cut off is replaced within half a second,
    /// one whose process has ended within a quarter. Less, and a host that stalls for a moment loses the leadership for nothing.
    fn default() -> Self {
        Self { heartbeat: Duration::from_millis(50), election: Duration::from_millis(400) }
    }
}

impl Timing {
    /// How long a leader may act after a majority has answered: half of the wait, so that the rest spreads the candidates.
    pub fn lease(&self) -> Duration {
        self.election / 2
    }

    /// A member that no majority has answered for this long keeps the Redis primary beside it from taking writes. It is over when the
    /// others can have another leader, so that they need not wait for it as well; and it outlasts the stalls of a busy host.
    pub fn self_fence(&self) -> Duration {
        self.election * 3 / 4
    }

    /// When a member stands for election whose leader's process has ended; `heard` is when it last heard that leader. Before the lease is
    /// over the others vote for nobody. `rank` counts the members that might stand: one after the other, so that they do not divide the votes.
    pub(super) fn stands_at(&self, heard: Instant, rank: usize) -> Instant {
        let turn = u32::try_from(rank).unwrap_or(u32::MAX);
        heard + self.lease() + self.heartbeat / 2 + self.heartbeat.saturating_mul(turn)
    }

    /// A member that has not heard a leader for this long says that there is none. An election that has to be held twice takes less.
    pub fn alone_after(&self) -> Duration {
        self.election * 3
    }

    /// The consensus library waits its greatest timeout (the lease) and then a random time from the least to the greatest.
    pub(super) fn library(&self) -> openraft::Config {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let (heartbeat, lease) = (millis(self.heartbeat), millis(self.lease()));
        openraft::Config {
            cluster_name: "holdfast".to_owned(),
            heartbeat_interval: heartbeat,
            // Allowed from moment to moment (`elections`).
            enable_elect: false,
            // Also how long a vote is waited for, which takes an fsync of the voter's.
            election_timeout_min: (lease * 3 / 4).max(heartbeat + 1),
            election_timeout_max: lease,
            install_snapshot_timeout: 5_000,
            max_payload_entries: 256,
            // An entry is some hundred bytes: a snapshot every few hundred keeps file, memory and a start small.
            snapshot_policy: openraft::SnapshotPolicy::LogsSinceLast(SNAPSHOT_EVERY),
            replication_lag_threshold: 2 * SNAPSHOT_EVERY,
            max_in_snapshot_log_to_keep: LOG_KEPT,
            ..openraft::Config::default()
        }
    }
}

/// Entries between two snapshots.
const SNAPSHOT_EVERY: u64 = 500;
/// Entries kept before the snapshot for members that are a little behind.
const LOG_KEPT: u64 = 200;

/// When was the oldest message sent that a majority has answered since? `configs` are the sets of voters that must each have a majority:
/// one, or two while the membership changes. A group of one has always heard itself. `None`: some majority never answered.
pub(super) fn majority_since(
    configs: &[BTreeSet<MemberId>],
    own: MemberId,
    now: Instant,
    answered: impl Fn(MemberId) -> Option<Instant>,
) -> Option<Instant> {
    let mut since = now;
    for voters in configs {
        let mut times: Vec<_> = voters
            .iter()
            .filter_map(|voter| if *voter == own { Some(now) } else { answered(*voter) })
            .collect();
        times.sort_unstable_by(|a, b| b.cmp(a));
        since = since.min(*times.get(voters.len() / 2)?);
    }
    Some(since)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn set(members: &[MemberId]) -> BTreeSet<MemberId> {
        members.iter().copied().collect()
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "an instant to count from; no test waits")]
    fn the_lease_counts_from_the_majoritys_oldest_answer() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let now = at(1_000);
        let heard: BTreeMap<_, _> = [(2, at(900)), (3, at(700)), (4, at(500))].into();
        let since = |configs: &[BTreeSet<MemberId>]| {
            majority_since(configs, 1, now, |member| heard.get(&member).copied())
        };
        assert_eq!(since(&[set(&[1])]), Some(now), "alone");
        assert_eq!(since(&[set(&[1, 2])]), Some(at(900)), "two need each other");
        assert_eq!(since(&[set(&[1, 2, 3])]), Some(at(900)), "one other is enough");
        assert_eq!(since(&[set(&[1, 2, 3, 4])]), Some(at(700)));
        assert_eq!(since(&[set(&[1, 2, 3, 4, 5])]), Some(at(700)), "one never answered");
        assert_eq!(since(&[set(&[1, 5])]), None);
        assert_eq!(since(&[set(&[1, 2, 3]), set(&[1, 3, 4])]), Some(at(700)), "both majorities");
        assert_eq!(since(&[set(&[2, 3, 4])]), Some(at(700)), "a leader that is no voter any more");
    }

    #[test]
    fn a_leader_gives_up_before_the_others_may_elect_another() {
        let timing = Timing::default();
        let library = timing.library().validate().unwrap();
        let longest = 2 * library.election_timeout_max;
        assert_eq!(u128::from(longest), timing.election.as_millis());
        assert_eq!(u128::from(library.election_timeout_max), timing.lease().as_millis());
        assert!(timing.lease() >= 4 * timing.heartbeat, "one late heartbeat does not end it");
        assert!(timing.self_fence() > timing.lease(), "an election alone fences nothing");
        assert!(timing.self_fence() < timing.election, "the others need not wait for it");
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "an instant to count from; no test waits")]
    fn members_stand_one_after_the_other_when_the_leader_has_ended() {
        let (timing, heard) = (Timing::default(), Instant::now());
        let lease = heard + timing.lease();
        let first = timing.stands_at(heard, 0);
        assert!(first > lease, "nobody would vote");
        assert_eq!(timing.stands_at(heard, 1) - first, timing.heartbeat);
        assert!(timing.stands_at(heard, 1) < heard + timing.election);
    }
}
