//! `[listener.tcp]` and `[pool.tcp]`: when the kernel finds out that a peer is gone.
//!
//! A host that lost its power or its network says nothing. Keepalive asks a peer that has been silent; the user timeout ends a connection
//! on which what was sent is not acknowledged, or which has taken nothing in, for that long, so it also ends those who stop reading.

use std::time::Duration;

use holdfast_settings::duration;
use serde::Deserialize;

use super::check::Checker;

/// A peer whose host is gone is found within half a minute: 15 s + 3 × 5 s.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_PROBES: u32 = 3;
/// Unacknowledged data for this long means the same.
const USER_TIMEOUT: Duration = Duration::from_secs(30);
/// The kernel's own limits (`tcp(7)`).
const IDLE_MAX: Duration = Duration::from_secs(32_767);
const PROBES_MAX: u32 = 127;

/// The table as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    #[serde(with = "duration", default = "keepalive_idle")]
    keepalive_idle: Duration,
    #[serde(with = "duration", default = "keepalive_interval")]
    keepalive_interval: Duration,
    #[serde(default = "keepalive_probes")]
    keepalive_probes: u32,
    #[serde(with = "duration", default = "user_timeout")]
    user_timeout: Duration,
}

impl Default for File {
    fn default() -> Self {
        Self {
            keepalive_idle: KEEPALIVE_IDLE,
            keepalive_interval: KEEPALIVE_INTERVAL,
            keepalive_probes: KEEPALIVE_PROBES,
            user_timeout: USER_TIMEOUT,
        }
    }
}

/// When a silent peer counts as gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpRules {
    /// Silence after which a peer is asked; whole seconds.
    pub keepalive_idle: Duration,
    /// Time between two questions; whole seconds.
    pub keepalive_interval: Duration,
    /// Questions without an answer that end the connection.
    pub keepalive_probes: u32,
    /// How long sent data may stay unacknowledged or untaken; zero leaves it to the kernel.
    pub user_timeout: Duration,
}

impl Default for TcpRules {
    fn default() -> Self {
        Self {
            keepalive_idle: KEEPALIVE_IDLE,
            keepalive_interval: KEEPALIVE_INTERVAL,
            keepalive_probes: KEEPALIVE_PROBES,
            user_timeout: USER_TIMEOUT,
        }
    }
}

impl Checker<'_> {
    /// Checks the table at `key`.
    pub(super) fn tcp(&mut self, key: &str, written: &File) -> TcpRules {
        for (name, value) in [
            ("keepalive_idle", written.keepalive_idle),
            ("keepalive_interval", written.keepalive_interval),
        ] {
            let whole = value.subsec_nanos() == 0 && !value.is_zero() && value <= IDLE_MAX;
            self.require(format!("{key}.{name}"), whole, || {
                "expected whole seconds, \"1s\" to \"32767s\"".to_owned()
            });
        }
        let probes = written.keepalive_probes;
        self.require(format!("{key}.keepalive_probes"), (1..=PROBES_MAX).contains(&probes), || {
            format!("expected 1 to {PROBES_MAX}, found {probes}")
        });
        TcpRules {
            keepalive_idle: written.keepalive_idle,
            keepalive_interval: written.keepalive_interval,
            keepalive_probes: probes,
            user_timeout: written.user_timeout,
        }
    }
}

fn keepalive_idle() -> Duration {
    KEEPALIVE_IDLE
}
fn keepalive_interval() -> Duration {
    KEEPALIVE_INTERVAL
}
fn keepalive_probes() -> u32 {
    KEEPALIVE_PROBES
}
fn user_timeout() -> Duration {
    USER_TIMEOUT
}
