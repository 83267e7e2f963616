//! What a pool does about servers that fail or are about to be overrun: outlier detection, retries, hedged connects, admission.

use std::num::NonZeroU32;
use std::time::Duration;

use holdfast_settings::duration;
use serde::Deserialize;

use super::check::Checker;
use crate::pool::ATTEMPTS_MAX;

/// As long as it takes to see a pattern at chat's request rates, and Envoy's default.
const SWEEP_INTERVAL: Duration = Duration::from_secs(10);
/// Long enough to leave a server alone that is ill, short enough to notice that it has recovered; Envoy's default.
const EJECTION_BASE: Duration = Duration::from_secs(30);
/// A server that was ejected ten times in a row is a case for a person, who is told long before.
const EJECTION_MAX: Duration = Duration::from_mins(5);
/// With a third of the servers out the others carry half as much again.
const EJECTED_SHARE_MAX: f64 = 0.34;
/// Five in a row are no accident at any error rate worth living with; Envoy's default.
const ERRORS_IN_ROW: u32 = 5;
/// Fewer servers do not make a standard to be judged by.
const SERVERS_MIN: usize = 3;
/// Below this number of requests in an interval, a share or an average says nothing.
const REQUESTS_MIN: u64 = 50;
/// Envoy's default: 1.9 standard deviations.
const DEVIATIONS: f64 = 1.9;
/// Three times as slow as the others: beyond what hardware of two generations differs by.
const LATENCY_FACTOR: f64 = 3.0;
/// Nobody feels a difference below this.
const LATENCY_MIN: Duration = Duration::from_millis(100);
/// A fifth more load at worst when everything fails; Envoy's and linkerd's default.
const RETRY_SHARE: f64 = 0.2;
/// So that a quiet pool can retry at all; linkerd's default.
const RETRIES_PER_SECOND: u32 = 10;
/// No more than a server accepts in a second on any hardware; a guard against a slip of the finger.
const RATE_MAX: u32 = 1_000_000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OutlierDetection {
    #[serde(with = "duration", default = "sweep_interval")]
    pub interval: Duration,
    #[serde(with = "duration", default = "ejection_base")]
    pub base_ejection_time: Duration,
    #[serde(with = "duration", default = "ejection_max")]
    pub max_ejection_time: Duration,
    #[serde(default = "ejected_share_max")]
    pub max_ejected: f64,
    #[serde(default = "errors_in_row")]
    pub consecutive_5xx: u32,
    #[serde(default = "servers_min")]
    pub min_servers: usize,
    #[serde(default = "requests_min")]
    pub min_requests: u64,
    #[serde(default = "deviations")]
    pub success_rate_stdev: f64,
    #[serde(default = "latency_factor")]
    pub latency_factor: f64,
    #[serde(with = "duration", default = "latency_min")]
    pub latency_min: Duration,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Retries {
    #[serde(default = "attempts")]
    pub max_servers: usize,
    #[serde(default = "retry_share")]
    pub budget: f64,
    #[serde(default = "retries_per_second")]
    pub min_per_second: u32,
    #[serde(with = "duration", default)]
    pub hedge_connect: Duration,
}

impl Default for Retries {
    fn default() -> Self {
        Self {
            max_servers: ATTEMPTS_MAX,
            budget: RETRY_SHARE,
            min_per_second: RETRIES_PER_SECOND,
            hedge_connect: Duration::ZERO,
        }
    }
}

/// When real traffic shows that a server is not like the others.
#[derive(Debug, Clone, PartialEq)]
pub struct OutlierRules {
    /// How often servers are compared.
    pub interval: Duration,
    /// How long the first ejection lasts; the n-th in a row lasts n times as long.
    pub ejection_base: Duration,
    /// And no longer than this.
    pub ejection_max: Duration,
    /// Share of the servers that may be out for what is detected here, 0 to 1.
    pub ejected_share_max: f64,
    /// Responses in a row with a status of 500 and above; `None` switches it off.
    pub errors_in_row: Option<NonZeroU32>,
    /// Servers that must be comparable before any is compared.
    pub servers_min: usize,
    /// Requests in an interval before a server is comparable.
    pub requests_min: u64,
    /// How many standard deviations below the others' success rate is too low; 0 switches it off.
    pub deviations: f64,
    /// How many times the others' median latency is too slow; 0 switches it off.
    pub latency_factor: f64,
    /// A server faster than this is never too slow.
    pub latency_min: Duration,
}

/// What is asked again elsewhere, and how often.
#[derive(Debug, Clone, PartialEq)]
pub struct RetryRules {
    /// Servers tried for one request or connection, 1 to [`ATTEMPTS_MAX`].
    pub servers_max: usize,
    /// Retries under way at a time, as a share of what is under way.
    pub share: f64,
    /// Retries a second that are allowed beyond it.
    pub per_second: u32,
    /// How long a connection may take before another server is asked as well; `None` waits.
    pub hedge_after: Option<Duration>,
}

impl Checker<'_> {
    pub(super) fn outliers(&mut self, at: &str, written: &OutlierDetection) -> OutlierRules {
        let key = |key: &str| format!("{at}.{key}");
        self.positive(key("interval"), written.interval);
        self.positive(key("base_ejection_time"), written.base_ejection_time);
        let (base, max) = (written.base_ejection_time, written.max_ejection_time);
        self.require(key("max_ejection_time"), max >= base, || {
            "expected at least base_ejection_time".to_owned()
        });
        self.share(key("max_ejected"), written.max_ejected);
        self.require(key("min_servers"), written.min_servers >= 2, || {
            format!("expected at least 2, found {}", written.min_servers)
        });
        self.require(key("min_requests"), written.min_requests > 0, || {
            "expected at least 1, found 0".to_owned()
        });
        let deviations = written.success_rate_stdev;
        self.require(key("success_rate_stdev"), (0.0..=10.0).contains(&deviations), || {
            format!("expected 0 to 10, found {deviations}")
        });
        let factor = written.latency_factor;
        let sound = factor == 0.0 || (1.1..=100.0).contains(&factor);
        self.require(key("latency_factor"), sound, || {
            format!("expected 1.1 to 100, or 0 to switch it off, found {factor}")
        });
        OutlierRules {
            interval: written.interval,
            ejection_base: base,
            ejection_max: max,
            ejected_share_max: written.max_ejected,
            errors_in_row: NonZeroU32::new(written.consecutive_5xx),
            servers_min: written.min_servers,
            requests_min: written.min_requests,
            deviations,
            latency_factor: factor,
            latency_min: written.latency_min,
        }
    }

    pub(super) fn retries(&mut self, at: &str, written: &Retries) -> RetryRules {
        let servers_max = written.max_servers;
        self.require(
            format!("{at}.max_servers"),
            (1..=ATTEMPTS_MAX).contains(&servers_max),
            || format!("expected 1 to {ATTEMPTS_MAX}, found {servers_max}"),
        );
        self.share(format!("{at}.budget"), written.budget);
        let hedge_after = Some(written.hedge_connect).filter(|after| !after.is_zero());
        let (share, per_second) = (written.budget, written.min_per_second);
        RetryRules { servers_max, share, per_second, hedge_after }
    }

    /// New connections a second.
    pub(super) fn rate(&mut self, key: String, rate: Option<u32>) -> Option<NonZeroU32> {
        let rate = rate?;
        self.require(key, (1..=RATE_MAX).contains(&rate), || {
            format!("expected 1 to {RATE_MAX}, found {rate}")
        });
        NonZeroU32::new(rate)
    }

    pub(super) fn share(&mut self, key: String, share: f64) {
        self.require(key, (0.0..=1.0).contains(&share), || {
            format!("expected 0 to 1, found {share}")
        });
    }
}

fn sweep_interval() -> Duration {
    SWEEP_INTERVAL
}
fn ejection_base() -> Duration {
    EJECTION_BASE
}
fn ejection_max() -> Duration {
    EJECTION_MAX
}
fn ejected_share_max() -> f64 {
    EJECTED_SHARE_MAX
}
fn errors_in_row() -> u32 {
    ERRORS_IN_ROW
}
fn servers_min() -> usize {
    SERVERS_MIN
}
fn requests_min() -> u64 {
    REQUESTS_MIN
}
fn deviations() -> f64 {
    DEVIATIONS
}
fn latency_factor() -> f64 {
    LATENCY_FACTOR
}
fn latency_min() -> Duration {
    LATENCY_MIN
}
fn attempts() -> usize {
    ATTEMPTS_MAX
}
fn retry_share() -> f64 {
    RETRY_SHARE
}
fn retries_per_second() -> u32 {
    RETRIES_PER_SECOND
}
