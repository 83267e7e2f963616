//! `[pool.lifetime]`: how connections that live long are brought to an end.
//!
//! Everything here but the code of the Close frame is off unless it is set: a balancer that ends connections nobody asked it to end would
//! be a surprise.

use std::num::NonZeroU32;
use std::time::Duration;

use holdfast_settings::duration;
use serde::Deserialize;

use super::check::Checker;
use super::file::Algorithm;

/// "Service Restart": clients come back, after a pause of their own choosing (IANA registry of RFC 6455).
const CLOSE_CODE: u16 = 1012;
/// Codes a server may send that ask a client to come back or leave it the choice; the rest of 1000 to 2999 mean something else.
const CLOSE_CODES: [u16; 4] = [1000, 1001, 1012, 1013];
/// Codes free for applications.
const CLOSE_CODES_PRIVATE: std::ops::RangeInclusive<u16> = 3000..=4999;
/// A tenth: connections that came in one second leave over an hour if they may live for ten.
const AGE_JITTER: f64 = 0.1;
/// Long enough for 6,000 connections at 50 a second, short enough for a maintenance window.
const DRAIN_DEADLINE: Duration = Duration::from_mins(2);
/// A tenth above the fair share is what random arrival makes of it anyway.
const REBALANCE_TOLERANCE: f64 = 0.1;
/// Faster than a chat cluster takes new connections, so a higher number is a mistake.
pub(crate) const RATE_MAX: u32 = 100_000;
/// Shorter lives would be nothing but reconnecting.
const AGE_MIN: Duration = Duration::from_secs(1);
/// A deadline further away is none.
pub(crate) const DEADLINE_MAX: Duration = Duration::from_hours(24 * 7);

/// The table as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    #[serde(default = "close_code")]
    close_code: u16,
    /// None if 0.
    #[serde(with = "duration", default)]
    max_age: Duration,
    #[serde(default = "age_jitter")]
    max_age_jitter: f64,
    drain_rate: Option<u32>,
    #[serde(with = "duration", default = "drain_deadline")]
    drain_deadline: Duration,
    rebalance_rate: Option<u32>,
    #[serde(default = "rebalance_tolerance")]
    rebalance_tolerance: f64,
}

impl Default for File {
    fn default() -> Self {
        Self {
            close_code: CLOSE_CODE,
            max_age: Duration::ZERO,
            max_age_jitter: AGE_JITTER,
            drain_rate: None,
            drain_deadline: DRAIN_DEADLINE,
            rebalance_rate: None,
            rebalance_tolerance: REBALANCE_TOLERANCE,
        }
    }
}

/// How a pool's connections that live long end.
#[derive(Debug, Clone, PartialEq)]
pub struct Lifetime {
    /// What the Close frame says when a WebSocket is told to leave.
    pub close_code: u16,
    /// How old a relayed connection may grow.
    pub age_max: Option<Duration>,
    /// By how much of that sooner or later it ends, drawn for each.
    pub age_jitter: f64,
    /// The pace of every drain that names none.
    pub drain: Option<Pace>,
    /// The deadline of a drain that names none.
    pub drain_deadline: Duration,
    /// Whether connections leave servers that have more than their share.
    pub rebalance: Option<Rebalance>,
}

impl Default for Lifetime {
    fn default() -> Self {
        Self {
            close_code: CLOSE_CODE,
            age_max: None,
            age_jitter: AGE_JITTER,
            drain: None,
            drain_deadline: DRAIN_DEADLINE,
            rebalance: None,
        }
    }
}

/// Connections told to leave per second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace(NonZeroU32);

impl Pace {
    /// `None` for 0, and for more than a cluster could take elsewhere.
    pub fn try_new(per_second: u32) -> Option<Self> {
        NonZeroU32::new(per_second).filter(|rate| rate.get() <= RATE_MAX).map(Self)
    }

    /// The number.
    pub fn per_second(self) -> u32 {
        self.0.get()
    }
}

/// How connections are spread anew.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rebalance {
    /// How fast.
    pub pace: Pace,
    /// How much of its share a server may have beyond it.
    pub tolerance: f64,
}

impl Checker<'_> {
    /// Checks the table at `key` of a pool.
    pub(super) fn lifetime(&mut self, key: &str, written: &File, algorithm: Algorithm) -> Lifetime {
        let at = |name: &str| format!("{key}.{name}");
        let code = written.close_code;
        let valid = CLOSE_CODES.contains(&code) || CLOSE_CODES_PRIVATE.contains(&code);
        self.require(at("close_code"), valid, || {
            format!("expected 1000, 1001, 1012, 1013 or 3000 to 4999, found {code}")
        });
        let age = written.max_age;
        self.require(at("max_age"), age.is_zero() || age >= AGE_MIN, || {
            "expected at least \"1s\"".to_owned()
        });
        self.require(at("max_age_jitter"), (0.0..=0.5).contains(&written.max_age_jitter), || {
            format!("expected 0 to 0.5, found {}", written.max_age_jitter)
        });
        self.positive(at("drain_deadline"), written.drain_deadline);
        self.require(at("drain_deadline"), written.drain_deadline <= DEADLINE_MAX, || {
            "expected a week at most".to_owned()
        });
        let tolerance = written.rebalance_tolerance;
        self.require(at("rebalance_tolerance"), (0.0..=1.0).contains(&tolerance), || {
            format!("expected 0 to 1, found {tolerance}")
        });
        let hashed = matches!(algorithm, Algorithm::SourceHash | Algorithm::Hash);
        self.require(at("rebalance_rate"), !(hashed && written.rebalance_rate.is_some()), || {
            "has no meaning with an algorithm that sends a client where it was".to_owned()
        });
        let drain = self.pace(at("drain_rate"), written.drain_rate);
        let rebalance = self.pace(at("rebalance_rate"), written.rebalance_rate);
        Lifetime {
            close_code: code,
            age_max: (!age.is_zero()).then_some(age),
            age_jitter: written.max_age_jitter,
            drain,
            drain_deadline: written.drain_deadline,
            rebalance: rebalance.map(|pace| Rebalance { pace, tolerance }),
        }
    }

    /// Connections per second at `key`.
    pub(super) fn pace(&mut self, key: String, written: Option<u32>) -> Option<Pace> {
        let pace = written.and_then(Pace::try_new);
        if written.is_some() && pace.is_none() {
            self.fault(key, format!("expected 1 to {RATE_MAX}"));
        }
        pace
    }
}

fn close_code() -> u16 {
    CLOSE_CODE
}
fn age_jitter() -> f64 {
    AGE_JITTER
}
fn drain_deadline() -> Duration {
    DRAIN_DEADLINE
}
fn rebalance_tolerance() -> f64 {
    REBALANCE_TOLERANCE
}
