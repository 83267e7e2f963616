//! What is tried and what is expected of it, as data.
//!
//! A scenario names its victim by role (the busiest node, the present primary), never by address: the runner finds it when the moment has
//! come. The bounds are the promises of the README; a drill that misses one has found a fault before a real disaster did.

use std::time::Duration;

/// Who is struck.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The chat node with the most connections: the most users notice.
    BusiestNode,
    /// The Redis primary of the moment.
    RedisPrimary,
}

impl Role {
    /// What `/proc` calls such a process; nothing else is ever struck.
    pub fn program(self) -> &'static str {
        match self {
            Self::BusiestNode => "holdfast-chatnode",
            Self::RedisPrimary => "redis-server",
        }
    }
}

/// What is done to the victim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blow {
    /// Its process dies at once (SIGKILL).
    Crash,
    /// At the balancer, requests and connections to it begin later, until the lease is over.
    Delay {
        /// By how much.
        delay: Duration,
        /// For how long.
        lease: Duration,
    },
}

/// One kind of drill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scenario {
    /// Its name, as in [`crate::config::SCENARIOS`].
    pub name: &'static str,
    /// What should happen, as a sentence.
    pub hypothesis: &'static str,
    /// Who is struck.
    pub victim: Role,
    /// How.
    pub blow: Blow,
    /// Longest time without an acknowledged message.
    pub rto_max: Duration,
    /// Acknowledged messages that may be lost.
    pub rpo_messages_max: u64,
    /// The cluster must have been well this long before it is struck, and again afterwards. A dip between two looks is not a recovery.
    pub steady_for: Duration,
    /// Without a steady state by then nothing is struck.
    pub steady_max: Duration,
    /// From the fault until the cluster is whole again.
    pub recovery_max: Duration,
    /// The canary needs this long at most to settle what became of its last messages: 5 s patience and a few look-ups.
    pub settle_max: Duration,
}

/// All scenarios, in the order of [`crate::config::SCENARIOS`].
pub const ALL: [Scenario; 3] = [
    Scenario {
        name: "chatnode-crash",
        hypothesis: "If a chat node dies, its users are served by the other nodes and no acknowledged message is lost",
        victim: Role::BusiestNode,
        blow: Blow::Crash,
        rto_max: Duration::from_secs(3),
        rpo_messages_max: 0,
        steady_for: Duration::from_secs(3),
        steady_max: Duration::from_secs(30),
        recovery_max: Duration::from_mins(1),
        settle_max: Duration::from_secs(15),
    },
    Scenario {
        name: "redis-primary-crash",
        hypothesis: "If the Redis primary dies, a replica with all acknowledged messages takes over before users give up",
        victim: Role::RedisPrimary,
        blow: Blow::Crash,
        rto_max: Duration::from_secs(1),
        rpo_messages_max: 0,
        steady_for: Duration::from_secs(3),
        steady_max: Duration::from_secs(30),
        recovery_max: Duration::from_mins(1),
        settle_max: Duration::from_secs(15),
    },
    Scenario {
        name: "slow-upstream",
        hypothesis: "If a chat node answers newcomers slowly, those who are connected notice nothing and no acknowledged message is lost",
        victim: Role::BusiestNode,
        // Well above what people forgive, and well below every time-out on the way; ten seconds show whether anything comes of it.
        blow: Blow::Delay { delay: Duration::from_secs(1), lease: Duration::from_secs(10) },
        rto_max: Duration::from_secs(3),
        rpo_messages_max: 0,
        steady_for: Duration::from_secs(3),
        steady_max: Duration::from_secs(30),
        recovery_max: Duration::from_mins(1),
        settle_max: Duration::from_secs(15),
    },
];

/// The scenario called `name`.
pub fn find(name: &str) -> Option<&'static Scenario> {
    ALL.iter().find(|scenario| scenario.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SCENARIOS;

    #[test]
    fn every_scenario_of_the_settings_exists() {
        assert_eq!(ALL.map(|scenario| scenario.name), SCENARIOS);
        assert!(SCENARIOS.iter().all(|name| find(name).is_some()));
        assert_eq!(find("chatnode-fire"), None);
    }
}
