//! Settings around failovers of Redis: programs that are told or asked, the managed synchronous mode, how servers are restarted.

use std::time::Duration;

use holdfast_settings::duration;
use serde::{Deserialize, Serialize};

use super::check::Checker;

/// Hooks of one primary. Each may run as a process of its own at the same moment.
const HOOKS_MAX: usize = 16;

/// Longest time a hook that may veto holds a failover up.
const VETO_TIMEOUT_MAX: Duration = Duration::from_secs(30);

/// Longest time any other program runs.
const TIMEOUT_MAX: Duration = Duration::from_mins(10);

/// When a hook is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Moment {
    /// The primary was found to be down, whether or not something is done about it.
    Detect,
    /// Before the old primary is kept from taking writes: may veto.
    BeforeFence,
    /// Another server is the primary.
    AfterPromote,
    /// The change ended well.
    Done,
    /// It did not.
    Failed,
}

impl Moment {
    /// All, for metrics.
    pub const ALL: [Self; 5] =
        [Self::Detect, Self::BeforeFence, Self::AfterPromote, Self::Done, Self::Failed];

    /// The name in the settings, metrics and the environment of the hook.
    pub fn name(self) -> &'static str {
        match self {
            Self::Detect => "detect",
            Self::BeforeFence => "before_fence",
            Self::AfterPromote => "after_promote",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }
}

/// What it means that a hook that may veto says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnTimeout {
    /// Consent: a broken hook costs no availability.
    #[default]
    Go,
    /// A veto.
    Stop,
}

/// A program that is run at a moment of a failover or switchover.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// When.
    pub on: Moment,
    /// Program and arguments; never empty, and no shell.
    pub command: Vec<String>,
    /// It is killed after this long.
    pub timeout: Duration,
    /// For `before_fence`.
    pub on_timeout: OnTimeout,
}

/// The primary refuses writes that too few replicas could have; how many that is follows the replicas that are well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Synchronous {
    /// Replicas wanted.
    pub replicas: u32,
    /// A replica that has not been heard of for this long does not count.
    pub max_lag: Duration,
    /// Demand that many also when fewer are well: rather no writes than writes on one server.
    pub strict: bool,
}

/// How a server is restarted on order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restart {
    /// What does it.
    pub by: RestartBy,
    /// How long it may take until the server answers again and has its data.
    pub timeout: Duration,
}

/// What restarts a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RestartBy {
    /// This program; `{host}` and `{port}` in its arguments are those of the server. It may take as long as the whole restart.
    Command(Vec<String>),
    /// We send `SHUTDOWN`, and whatever keeps the server running starts it again.
    Shutdown,
}

/// As written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenHook {
    on: Moment,
    command: Vec<String>,
    #[serde(default = "hook_timeout", with = "duration")]
    timeout: Duration,
    on_timeout: Option<OnTimeout>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenSynchronous {
    replicas: u32,
    #[serde(default = "max_lag", with = "duration")]
    max_lag: Duration,
    #[serde(default)]
    strict: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenRestart {
    command: Option<Vec<String>>,
    #[serde(default)]
    shutdown: bool,
    #[serde(default = "restart_timeout", with = "duration")]
    timeout: Duration,
}

/// Long enough for a message over the network, short against a person's patience.
fn hook_timeout() -> Duration {
    Duration::from_secs(5)
}

/// Redis' own default: replicas report once a second.
fn max_lag() -> Duration {
    Duration::from_secs(10)
}

/// A server of some gigabytes loads its file and copies what it missed in this time.
fn restart_timeout() -> Duration {
    Duration::from_mins(5)
}

impl Checker<'_> {
    /// `key`: the Redis section's.
    pub(super) fn hooks(&mut self, key: &str, written: Vec<WrittenHook>) -> Vec<Hook> {
        self.require(
            written.len() <= HOOKS_MAX,
            &format!("{key}.hook"),
            format!("expected at most {HOOKS_MAX}, found {}", written.len()),
        );
        let mut hooks = Vec::new();
        for (index, hook) in written.into_iter().enumerate() {
            let key = |name: &str| format!("{key}.hook[{index}].{name}");
            self.program(&key("command"), &hook.command);
            let may_veto = hook.on == Moment::BeforeFence;
            let max = if may_veto { VETO_TIMEOUT_MAX } else { TIMEOUT_MAX };
            self.require(
                !hook.timeout.is_zero() && hook.timeout <= max,
                &key("timeout"),
                format!("expected more than 0s and at most {}s", max.as_secs()),
            );
            self.require(
                may_veto || hook.on_timeout.is_none(),
                &key("on_timeout"),
                "only a `before_fence` hook can stop anything",
            );
            hooks.push(Hook {
                on: hook.on,
                command: hook.command,
                timeout: hook.timeout,
                on_timeout: hook.on_timeout.unwrap_or_default(),
            });
        }
        hooks
    }

    /// `servers`: how many there are in all.
    pub(super) fn synchronous(
        &mut self,
        key: &str,
        written: &WrittenSynchronous,
        servers: usize,
    ) -> Synchronous {
        let replicas = usize::try_from(written.replicas).unwrap_or(usize::MAX);
        self.require(
            replicas >= 1 && replicas < servers,
            &format!("{key}.synchronous.replicas"),
            format!("expected 1 to {}, found {replicas}", servers.saturating_sub(1)),
        );
        // Redis counts in seconds.
        let lag = written.max_lag;
        self.require(
            lag.as_secs() >= 1 && lag.subsec_nanos() == 0,
            &format!("{key}.synchronous.max_lag"),
            "expected whole seconds, at least 1s",
        );
        Synchronous { replicas: written.replicas, max_lag: lag, strict: written.strict }
    }

    pub(super) fn restart(&mut self, key: &str, written: WrittenRestart) -> Option<Restart> {
        let key = |name: &str| format!("{key}.restart.{name}");
        self.require(
            !written.timeout.is_zero() && written.timeout <= TIMEOUT_MAX,
            &key("timeout"),
            format!("expected more than 0s and at most {}s", TIMEOUT_MAX.as_secs()),
        );
        let by = match (written.command, written.shutdown) {
            (Some(command), false) => {
                self.program(&key("command"), &command);
                RestartBy::Command(command)
            }
            (None, true) => RestartBy::Shutdown,
            _ => {
                self.fault(key("command"), "expected `command` or `shutdown = true`, and not both");
                return None;
            }
        };
        Some(Restart { by, timeout: written.timeout })
    }

    fn program(&mut self, key: &str, command: &[String]) {
        self.require(
            command.first().is_some_and(|program| program.starts_with('/')),
            key,
            "expected the absolute path of a program, and its arguments",
        );
        self.require(
            command.iter().all(|word| !word.contains('\0')),
            key,
            "expected words without a NUL character",
        );
    }
}
