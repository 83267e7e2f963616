//! The settings of the Redis that several balancers share: as written, and checked.

use std::path::PathBuf;
use std::time::Duration;

use holdfast_settings::{Secret, duration};
use serde::Deserialize;

use super::Address;
use super::check::Checker;
use crate::limits::{OnFailure, Primary, RedisRules};

/// Nobody waits for it, so a slow answer is better than none; a dead server is given up soon enough.
const TIMEOUT: Duration = Duration::from_millis(250);
/// How far balancers may let pass too much before they hear of each other: a tenth of what a second allows.
const INTERVAL: Duration = Duration::from_millis(100);
const INTERVAL_MIN: Duration = Duration::from_millis(10);
const PREFIX: &str = "holdfast-balancer";
/// Sentinels asked one after the other; more than seven are not of more use.
const SENTINELS_MAX: usize = 16;

/// `[redis]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Redis {
    address: Option<String>,
    #[serde(default)]
    sentinels: Vec<String>,
    primary: Option<String>,
    username: Option<String>,
    password_file: Option<PathBuf>,
    #[serde(with = "duration", default = "timeout")]
    timeout: Duration,
    #[serde(with = "duration", default = "interval")]
    interval: Duration,
    #[serde(default = "prefix")]
    prefix: String,
    #[serde(default)]
    on_failure: OnFailure,
}

impl Checker<'_> {
    /// How Redis is reached; `None` after a fault.
    pub(super) fn redis(&mut self, written: &Redis) -> Option<RedisRules> {
        let primary = match (&written.address, written.sentinels.is_empty(), &written.primary) {
            (Some(address), true, None) => {
                self.redis_address("redis.address", address).map(Primary::At)
            }
            (None, false, Some(name)) => {
                let count = written.sentinels.len();
                self.require("redis.sentinels", count <= SENTINELS_MAX, || {
                    format!("expected at most {SENTINELS_MAX}, found {count}")
                });
                let sentinels = written.sentinels.iter().enumerate();
                let sentinels: Option<_> = sentinels
                    .map(|(n, text)| self.redis_address(&format!("redis.sentinels[{n}]"), text))
                    .collect();
                sentinels.map(|sentinels| Primary::Sentinels(sentinels, name.as_str().into()))
            }
            _ => {
                self.fault("redis", "expected either address, or sentinels and primary");
                None
            }
        };
        let password = written.password_file.as_ref().and_then(|file| {
            Secret::from_file(file).map_err(|error| self.fault("redis.password_file", error)).ok()
        });
        self.require(
            "redis.username",
            written.username.is_none() || written.password_file.is_some(),
            || "needs password_file".to_owned(),
        );
        self.positive("redis.timeout".to_owned(), written.timeout);
        self.require("redis.interval", written.interval >= INTERVAL_MIN, || {
            format!("expected at least {}", duration::format(INTERVAL_MIN))
        });
        let prefix = &written.prefix;
        let known = super::is_name(prefix);
        self.require("redis.prefix", known, || format!("{} {prefix:?}", super::EXPECTED_NAME));
        Some(RedisRules {
            primary: primary?,
            username: written.username.as_deref().map(Into::into),
            password,
            timeout: written.timeout,
            prefix: prefix.as_str().into(),
            interval: written.interval,
            on_failure: written.on_failure,
        })
    }

    fn redis_address(&mut self, key: &str, text: &str) -> Option<Address> {
        let address = Address::try_new(text);
        self.require(key, address.is_some(), || format!("expected host:port, found {text:?}"));
        address
    }
}

fn timeout() -> Duration {
    TIMEOUT
}
fn interval() -> Duration {
    INTERVAL
}
fn prefix() -> String {
    PREFIX.to_owned()
}
