//! Programs of the operator's that are told of a failover, and one that may stop it.
//!
//! A hook is told by its environment what happens ([`environment`]). Those that only are told run beside the controller and never delay
//! anything. A `before_fence` hook is asked: the run waits for it, at most as long as its own time-out, and another exit code than 0 is a
//! veto. Each run is journalled with its ending and the beginning of its output; its arguments are not, as they may hold secrets.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;

use super::RedisController;
use super::program::{self, Ended, Ending};
use super::repair::Aside;
use super::run::{Attempt, Stop};
use crate::cluster::Address;
use crate::config::{Hook, Moment, OnTimeout};
use crate::record::{Account, Kind, Severity};

/// Hooks that run beside the controller at once; a failover has a handful. One more is not run, and that is told.
const RUNNING_MAX: usize = 64;

/// A hook that has ended.
pub(super) struct HookRun {
    hook: Hook,
    ended: Ended,
}

/// What a hook is told about a change of the primary.
pub(super) struct Tidings<'a> {
    pub(super) what: &'a str,
    pub(super) epoch: u64,
    pub(super) from: &'a Address,
    pub(super) to: Option<&'a Address>,
    pub(super) reason: &'a str,
    pub(super) seconds: Option<f64>,
    pub(super) lost_bytes: Option<u64>,
}

impl<'a> Tidings<'a> {
    pub(super) fn of(account: &'a Account, reason: &'a str) -> Self {
        Self {
            what: &account.what,
            epoch: account.epoch,
            from: &account.from,
            to: account.to.as_ref(),
            reason,
            seconds: account.seconds,
            lost_bytes: account.lost_bytes,
        }
    }
}

/// The environment of a hook. What is not known (yet) is empty.
fn environment(redis: &str, on: Moment, tidings: &Tidings<'_>) -> Vec<(&'static str, String)> {
    let or_empty = |value: Option<String>| value.unwrap_or_default();
    vec![
        ("HOLDFAST_REDIS_NAME", redis.to_owned()),
        ("HOLDFAST_REDIS_HOOK", on.name().to_owned()),
        ("HOLDFAST_REDIS_CHANGE", tidings.what.to_owned()),
        ("HOLDFAST_REDIS_EPOCH", tidings.epoch.to_string()),
        ("HOLDFAST_REDIS_FROM", tidings.from.to_string()),
        ("HOLDFAST_REDIS_TO", or_empty(tidings.to.map(ToString::to_string))),
        ("HOLDFAST_REDIS_REASON", tidings.reason.to_owned()),
        ("HOLDFAST_REDIS_SECONDS", or_empty(tidings.seconds.map(|seconds| seconds.to_string()))),
        ("HOLDFAST_REDIS_LOST_BYTES", or_empty(tidings.lost_bytes.map(|bytes| bytes.to_string()))),
    ]
}

/// Whether the answers of hooks that may veto let a change happen; the first veto, if not.
fn verdict(runs: &[HookRun]) -> Result<(), String> {
    let veto = runs.iter().find(|run| match run.ended.ending {
        Ending::Exited(code) => code != 0,
        // It said nothing.
        Ending::Killed | Ending::TimedOut | Ending::NotStarted(_) => {
            run.hook.on_timeout == OnTimeout::Stop
        }
    });
    let Some(HookRun { hook, ended }) = veto else { return Ok(()) };
    let first = ended.output.lines().next().map(|line| format!(": {line}")).unwrap_or_default();
    Err(format!("the hook {} {}{first}", hook.command[0], ended.ending.words()))
}

impl RedisController {
    fn hooks(&self, on: Moment) -> Vec<Hook> {
        self.config.hooks.iter().filter(|hook| hook.on == on).cloned().collect()
    }

    /// Runs the hooks of a moment beside the controller.
    pub(super) fn tell_hooks(&mut self, on: Moment, tidings: &Tidings<'_>) {
        let environment = environment(&self.config.name, on, tidings);
        for hook in self.hooks(on) {
            if self.asides.len() >= RUNNING_MAX {
                let message = format!("hook {} ({}) was not run", hook.command[0], on.name());
                let draft = self.draft(Kind::ActionFailed, Severity::Warning, message);
                (self.sink)(draft.because(format!("{RUNNING_MAX} are running already")));
                continue;
            }
            let environment = environment.clone();
            self.asides.spawn(async move {
                let ended = program::run(&hook.command, &environment, hook.timeout).await;
                Aside::Hook(Box::new(HookRun { hook, ended }))
            });
        }
    }

    /// Asks the hooks that may veto and waits for them. Nothing has been changed yet.
    pub(super) async fn vet(&mut self, attempt: &mut Attempt, reason: &str) -> Result<(), Stop> {
        let hooks = self.hooks(Moment::BeforeFence);
        if hooks.is_empty() {
            return Ok(());
        }
        let tidings = Tidings::of(&attempt.run, reason);
        let environment = environment(&self.config.name, Moment::BeforeFence, &tidings);
        let asked = hooks.into_iter().map(async |hook| {
            let ended = program::run(&hook.command, &environment, hook.timeout).await;
            HookRun { hook, ended }
        });
        let runs = join_all(asked).await;
        let outcome = verdict(&runs);
        let count = runs.len();
        for run in runs {
            self.note_hook(&run);
        }
        let words = match &outcome {
            Ok(()) => format!("{count} hooks have nothing against it"),
            Err(veto) => format!("vetoed: {veto}"),
        };
        self.mark(attempt, "vetted", Instant::now(), words);
        outcome.map_err(Stop::Withheld)
    }

    /// Records how a hook ended.
    pub(super) fn note_hook(&mut self, run: &HookRun) {
        let HookRun { hook, ended: Ended { ending, took, output } } = run;
        let (result, kind, severity) = match ending {
            Ending::Exited(0) => ("succeeded", Kind::ActionTaken, Severity::Info),
            // It did what it is for.
            Ending::Exited(_) if hook.on == Moment::BeforeFence => {
                ("vetoed", Kind::ActionTaken, Severity::Info)
            }
            Ending::TimedOut => ("timed_out", Kind::ActionFailed, Severity::Warning),
            _ => ("failed", Kind::ActionFailed, Severity::Warning),
        };
        self.metrics.hook(hook.on, result);
        let (program, on) = (&hook.command[0], hook.on.name());
        let milliseconds = Duration::as_secs_f64(took) * 1e3;
        let words = ending.words();
        let message =
            format!("hook {program} ({on}) {words}, {milliseconds:.0} ms after its start");
        let code = if let Ending::Exited(code) = ending { Some(*code) } else { None };
        let detail = serde_json::json!({
            "hook": on, "program": program, "result": result, "code": code,
            "seconds": took.as_secs_f64(), "output": output,
        });
        (self.sink)(self.draft(kind, severity, message).detail(detail));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(ending: Ending, on_timeout: OnTimeout) -> HookRun {
        let hook = Hook {
            on: Moment::BeforeFence,
            command: vec!["/opt/veto".to_owned(), "secret".to_owned()],
            timeout: Duration::from_secs(1),
            on_timeout,
        };
        let ended = Ended { ending, took: Duration::ZERO, output: "maintenance\nmore".to_owned() };
        HookRun { hook, ended }
    }

    #[test]
    fn another_code_than_0_is_a_veto_and_silence_is_what_the_settings_say() {
        let go = |ending| verdict(&[run(ending, OnTimeout::Go)]);
        let stop = |ending| verdict(&[run(ending, OnTimeout::Stop)]);
        assert_eq!(go(Ending::Exited(0)), Ok(()));
        assert_eq!(stop(Ending::Exited(0)), Ok(()));
        let veto = go(Ending::Exited(3)).unwrap_err();
        assert_eq!(veto, "the hook /opt/veto exited with 3: maintenance");
        for silent in [Ending::TimedOut, Ending::Killed, Ending::NotStarted("no".to_owned())] {
            assert_eq!(go(silent.clone()), Ok(()));
            assert!(stop(silent).is_err());
        }
        let both = [run(Ending::Exited(0), OnTimeout::Go), run(Ending::Exited(1), OnTimeout::Go)];
        assert!(verdict(&both).is_err());
    }
}
