//! `[drain]`: how the program ends, or makes way for the one that follows it.

use std::time::Duration;

use holdfast_settings::duration;
use serde::Deserialize;

use super::check::Checker;
use super::lifetime::Pace;

/// Requests in flight are done in this time; relayed connections are told to leave after it.
const PERIOD: Duration = Duration::from_secs(5);
/// Most chat clients have come back for reasons of their own within hours; what is left then is told to leave.
const UPGRADE_PERIOD: Duration = Duration::from_hours(1);
/// A new process reads its settings and is ready within a second; certificates by the hundred or a slow disk may take more.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(30);

/// The table as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    #[serde(with = "duration", default = "period")]
    period: Duration,
    rate: Option<u32>,
    #[serde(with = "duration", default = "upgrade_period")]
    upgrade_period: Duration,
    #[serde(with = "duration", default = "upgrade_timeout")]
    upgrade_timeout: Duration,
}

impl Default for File {
    fn default() -> Self {
        Self {
            period: PERIOD,
            rate: None,
            upgrade_period: UPGRADE_PERIOD,
            upgrade_timeout: UPGRADE_TIMEOUT,
        }
    }
}

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainRules {
    /// How long a graceful end waits for what is in flight.
    pub period: Duration,
    /// Relayed connections told to leave per second, from the beginning of the end on; without it all are told when the period is over.
    pub pace: Option<Pace>,
    /// How long a process goes on with its connections once another one has taken over.
    pub upgrade_period: Duration,
    /// How long the other one may take to be ready.
    pub upgrade_timeout: Duration,
}

impl Checker<'_> {
    pub(super) fn drain(&mut self, written: &File) -> DrainRules {
        self.positive("drain.upgrade_timeout".to_owned(), written.upgrade_timeout);
        DrainRules {
            period: written.period,
            pace: self.pace("drain.rate".to_owned(), written.rate),
            upgrade_period: written.upgrade_period,
            upgrade_timeout: written.upgrade_timeout,
        }
    }
}

fn period() -> Duration {
    PERIOD
}
fn upgrade_period() -> Duration {
    UPGRADE_PERIOD
}
fn upgrade_timeout() -> Duration {
    UPGRADE_TIMEOUT
}
