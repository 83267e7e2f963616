//! The settings of the Redis that several balancers share: as written, and checked.

use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast_settings::{Secret, duration};
use serde::Deserialize;

use super::Address;
use super::check::Checker;
use super::file::PoolTls;
use crate::store::{Access, OnFailure, Primary, RedisRules};
use crate::tls::ClientTls;

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
    tls: Option<PoolTls>,
    sentinel_username: Option<String>,
    sentinel_password_file: Option<PathBuf>,
    #[serde(default)]
    sentinel_tls: bool,
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
        let tls = written.tls.as_ref().and_then(|tls| self.pool_tls("redis.tls", tls));
        // Redis knows nothing of protocols to choose from.
        let tls = tls.map(ClientTls::without_protocol);
        self.require("redis.sentinel_tls", !written.sentinel_tls || written.tls.is_some(), || {
            "needs [redis.tls]: whom to trust".to_owned()
        });
        let of_sentinels = tls.clone().filter(|_| written.sentinel_tls);
        let access = self.access(
            "redis.",
            written.username.as_deref(),
            written.password_file.as_deref(),
            tls,
        );
        let sentinel_access = self.access(
            "redis.sentinel_",
            written.sentinel_username.as_deref(),
            written.sentinel_password_file.as_deref(),
            of_sentinels,
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
            access,
            sentinel_access,
            timeout: written.timeout,
            prefix: prefix.as_str().into(),
            interval: written.interval,
            on_failure: written.on_failure,
        })
    }

    /// What is shown to servers whose keys begin with `at`.
    fn access(
        &mut self,
        at: &str,
        username: Option<&str>,
        password_file: Option<&Path>,
        tls: Option<ClientTls>,
    ) -> Access {
        let password = password_file.and_then(|file| {
            let key = format!("{at}password_file");
            Secret::from_file(file).map_err(|error| self.fault(key, error)).ok()
        });
        self.require(
            format!("{at}username"),
            username.is_none() || password_file.is_some(),
            || format!("needs {}password_file", at.trim_start_matches("redis.")),
        );
        Access { username: username.map(Into::into), password, tls }
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
