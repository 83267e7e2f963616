//! Have the replicas applied everything they received?
//!
//! Offsets can be compared only when they stand still. A replica has drained when its link to the primary is down, or when its offset has
//! not moved for a moment. If the primary is said to be dead, at least one replica must have noticed, or it is not.

use std::time::{Duration, Instant};

use crate::cluster::{Address, RedisRole};
use crate::judge::redis::Sample;

/// A replica whose offset has not moved for this long has applied what it received: many times the time between two reads of its event
/// loop, and short against a failover.
const STABLE_FOR: Duration = Duration::from_millis(10);

/// How long the barrier holds before it says that the replicas still hear their primary.
pub const DRAIN_LIMIT: Duration = Duration::from_millis(300);

/// What one look at the replicas shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drain {
    /// Something may still come: look again.
    Open,
    /// They are at rest, or time is up.
    Shut {
        /// At least one has lost its link to the primary, or none was left to ask.
        link_lost: bool,
    },
}

/// The barrier between the verdict and the comparison of offsets.
#[derive(Debug, Clone)]
pub struct Barrier {
    deadline: Instant,
    until_link_lost: bool,
    moved: Vec<(Address, u64, Instant)>,
}

impl Barrier {
    /// `until_link_lost`: the primary is said to be dead, so its replicas must notice.
    pub fn new(now: Instant, until_link_lost: bool) -> Self {
        Self { deadline: now + DRAIN_LIMIT, until_link_lost, moved: Vec::new() }
    }

    /// Takes in what the replicas that can be asked say at `now`.
    pub fn look(&mut self, now: Instant, samples: &[(Address, Sample)]) -> Drain {
        let mut calm = true;
        for (address, sample) in samples {
            let known = self.moved.iter_mut().find(|(known, ..)| known == address);
            let since = if let Some((_, offset, since)) = known {
                if *offset != sample.offset {
                    (*offset, *since) = (sample.offset, now);
                }
                *since
            } else {
                self.moved.push((address.clone(), sample.offset, now));
                now
            };
            let is_down = sample.link_up != Some(true);
            calm &= is_down || now.duration_since(since) >= STABLE_FOR;
        }
        let mut replicas =
            samples.iter().filter(|(_, sample)| sample.role == RedisRole::Replica).peekable();
        let link_lost =
            replicas.peek().is_none() || replicas.any(|(_, s)| s.link_up == Some(false));
        if (calm && (link_lost || !self.until_link_lost)) || now >= self.deadline {
            Drain::Shut { link_lost }
        } else {
            Drain::Open
        }
    }
}
