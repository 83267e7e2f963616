//! What leads to a failover and what it does, gathered while it happens, for those who ask afterwards ([`crate::record::Account`]).
//!
//! [`Story`] is the controller's memory of the time before: when the first sign came, what the verdicts were, what was held back. It
//! begins anew whenever the primary is well. [`sightings`] adds what each server was last seen to do, at the moment of the decision.

use std::collections::VecDeque;
use std::time::{Duration, Instant, SystemTime};

use holdfast_telemetry::traces::{self, FinishedSpan, KeyValue};

use crate::cluster::Address;
use crate::judge::redis::{Fresh, Link, ProcessState, ServerView};
use crate::record::{Account, Hold, Sighting};

/// Verdicts and holds kept: a primary that comes and goes for hours must not fill the memory. The oldest go first.
const NOTES_MAX: usize = 64;

/// Who saw what we saw ourselves.
const OURSELVES: &str = "this supervisor";

/// The time before a failover.
#[derive(Debug, Default)]
pub(super) struct Story {
    notes: VecDeque<(Instant, String)>,
    holds: VecDeque<(Instant, Option<Instant>, String)>,
}

impl Story {
    /// The primary is well.
    pub(super) fn clear(&mut self) {
        self.notes.clear();
        self.holds.clear();
    }

    /// We changed our mind about the primary.
    pub(super) fn verdict(&mut self, now: Instant, text: String) {
        if self.notes.len() == NOTES_MAX {
            self.notes.pop_front();
        }
        self.notes.push_back((now, text));
    }

    /// What is held back now, and why; or nothing any more.
    pub(super) fn hold(&mut self, now: Instant, why: Option<&String>) {
        if let Some((_, end, _)) = self.holds.back_mut() {
            end.get_or_insert(now);
        }
        if let Some(why) = why {
            if self.holds.len() == NOTES_MAX {
                self.holds.pop_front();
            }
            self.holds.push_back((now, None, why.clone()));
        }
    }

    /// When it began; `None` if nothing was wrong.
    fn first_sign(&self) -> Option<Instant> {
        self.notes.front().map(|(at, _)| *at)
    }

    /// What was seen until `now`, oldest first, and what was held back.
    pub(super) fn tell(
        &self,
        now: Instant,
        primary: &Address,
        views: &[ServerView],
    ) -> (Vec<Sighting>, Vec<Hold>) {
        let own = self.notes.iter().map(|(at, text)| sighting(*at, now, OURSELVES, text.clone()));
        let mut seen: Vec<_> = own.chain(sightings(now, primary, views)).collect();
        seen.sort_by(|a, b| a.at_seconds.total_cmp(&b.at_seconds));
        let hold = |(at, end, why): &(Instant, Option<Instant>, String)| Hold {
            at_seconds: seconds_from(*at, now),
            seconds: (end.unwrap_or(now).saturating_duration_since(*at)).as_secs_f64(),
            why: why.clone(),
        };
        (seen, self.holds.iter().map(hold).collect())
    }

    /// When the trouble began that was decided about `now`.
    pub(super) fn began(&self, now: Instant, primary: &Address, views: &[ServerView]) -> Instant {
        let primary = views.iter().find(|view| view.address == *primary);
        let signs = primary.into_iter().flat_map(|view| {
            let lost = (view.link != Link::Open).then_some(view.link_since);
            let ended = view.process.filter(|process| is_bad(process.state));
            [lost, view.waiting_since, ended.map(|process| process.looked_at)]
        });
        signs.flatten().chain(self.first_sign()).min().unwrap_or(now).min(now)
    }
}

/// What each server was last seen to do, or said.
fn sightings(now: Instant, primary: &Address, views: &[ServerView]) -> Vec<Sighting> {
    let mut seen = Vec::new();
    for view in views {
        let name = &view.address;
        let is_primary = name == primary;
        let mut saw = |at: Instant, by: &str, text: String| seen.push(sighting(at, now, by, text));
        if is_primary {
            if let Some(at) = view.answered_at {
                saw(at, OURSELVES, format!("{name} answered for the last time"));
            }
            if let Some(at) = view.waiting_since {
                saw(at, OURSELVES, format!("{name} was asked and has not answered since"));
            }
            if let Some((at, fresh)) = &view.fresh {
                let what = match fresh {
                    Fresh::Silent => "is taken and stays silent".to_owned(),
                    Fresh::Answered => "is answered".to_owned(),
                    Fresh::Refused => "is refused".to_owned(),
                    Fresh::Unreachable(error) => format!("fails: {error}"),
                };
                saw(*at, OURSELVES, format!("a fresh connection to {name} {what}"));
            }
            if let Some(process) = view.process {
                let state = match process.state {
                    ProcessState::Runnable => "runs",
                    ProcessState::Asleep => "waits for work",
                    ProcessState::Stopped => "is stopped by a signal",
                    ProcessState::Blocked => "waits for disk or memory",
                    ProcessState::Exiting => "is ending",
                    ProcessState::Gone => "is gone",
                };
                let text = format!("process {} of {name} {state}", process.pid);
                saw(process.looked_at, "the kernel of this host", text);
            }
        }
        match &view.link {
            Link::Untried | Link::Open => {}
            Link::Closed(error) => {
                saw(view.link_since, OURSELVES, format!("{name}: connection lost ({error})"));
            }
            Link::Refused => {
                saw(view.link_since, OURSELVES, format!("{name} refuses connections"));
            }
            Link::Unreachable(error) => {
                saw(view.link_since, OURSELVES, format!("{name} cannot be reached ({error})"));
            }
        }
        let Some(sample) = view.sample.as_ref().filter(|_| !is_primary) else { continue };
        let by = format!("replica {name}");
        match sample.link_up {
            Some(true) => saw(sample.at, &by, "its link to the primary is up".to_owned()),
            Some(false) => saw(sample.at, &by, "its link to the primary is down".to_owned()),
            None => {}
        }
        if let Some((_, at)) = view.moved {
            saw(at, &by, format!("its offset moved for the last time, to {}", sample.offset));
        }
    }
    seen
}

fn sighting(at: Instant, now: Instant, by: &str, text: String) -> Sighting {
    Sighting { at_seconds: seconds_from(at, now), by: by.to_owned(), text }
}

fn is_bad(state: ProcessState) -> bool {
    !matches!(state, ProcessState::Runnable | ProcessState::Asleep)
}

/// Seconds from `origin` to `at`, negative if that is before.
pub(super) fn seconds_from(at: Instant, origin: Instant) -> f64 {
    match at.checked_duration_since(origin) {
        Some(after) => after.as_secs_f64(),
        None => -(origin.saturating_duration_since(at).as_secs_f64()),
    }
}

/// Sends the account as a trace: a span for the whole, one for each step, with the account's own figures. Returns the trace's identifier.
pub(super) fn trace(account: &Account, redis: &str, error: Option<&str>) -> Option<String> {
    let (begin, end) = account.span();
    let decided = SystemTime::from(account.decided);
    let at = |seconds: f64| {
        let by = Duration::from_secs_f64(seconds.abs());
        if seconds < 0.0 { decided - by } else { decided + by }
    };
    let text = |key: &'static str, value: &str| KeyValue::new(key, value.to_owned());
    let epoch = || KeyValue::new("epoch", i64::try_from(account.epoch).unwrap_or(i64::MAX));
    let mut attributes =
        vec![text("redis", redis), text("from", &account.from.to_string()), epoch()];
    attributes.extend(account.to.as_ref().map(|to| text("to", &to.to_string())));
    attributes.extend(account.seconds.map(|seconds| KeyValue::new("seconds", seconds)));
    let lost = account.lost_bytes.and_then(|bytes| i64::try_from(bytes).ok());
    attributes.extend(lost.map(|bytes| KeyValue::new("lost_bytes", bytes)));
    let whole = FinishedSpan {
        name: format!("redis {}", account.what).into(),
        began: at(begin),
        took: Duration::from_secs_f64(end - begin),
        attributes,
        error: error.map(str::to_owned),
    };
    let steps = account.steps.iter().map(|step| FinishedSpan {
        name: step.step.clone().into(),
        began: at(step.at_seconds),
        took: Duration::from_secs_f64(step.seconds),
        attributes: vec![
            text("redis", redis),
            epoch(),
            KeyValue::new("seconds", step.seconds),
            text("outcome", &step.outcome),
        ],
        error: None,
    });
    traces::record(whole, steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_story_has_its_first_sign_its_holds_and_its_order() {
        let begin = tokio::time::Instant::now().into_std();
        let at = |ms| begin + Duration::from_millis(ms);
        let primary: Address = "127.0.0.1:1".parse().unwrap();
        let mut view = ServerView::new(primary.clone(), begin);
        (view.link, view.link_since) = (Link::Refused, at(50));
        view.answered_at = Some(at(20));
        let mut story = Story::default();
        assert_eq!(story.began(at(70), &primary, std::slice::from_ref(&view)), at(50));
        story.verdict(at(40), "in doubt".to_owned());
        story.hold(at(60), Some(&"approval".to_owned()));
        story.hold(at(160), None);
        let views = [view];
        assert_eq!(story.began(at(200), &primary, &views), at(40));
        let (seen, held) = story.tell(at(200), &primary, &views);
        let texts: Vec<_> = seen.iter().map(|s| s.text.as_str()).collect();
        assert_eq!(
            texts,
            [
                "127.0.0.1:1 answered for the last time",
                "in doubt",
                "127.0.0.1:1 refuses connections"
            ]
        );
        assert!((seen[0].at_seconds + 0.18).abs() < 1e-9);
        assert!((held[0].at_seconds + 0.14).abs() < 1e-9 && (held[0].seconds - 0.1).abs() < 1e-9);
        story.clear();
        assert_eq!(story.first_sign(), None);
    }

    #[test]
    fn a_story_does_not_grow_without_end() {
        let now = tokio::time::Instant::now().into_std();
        let mut story = Story::default();
        for number in 0..2 * NOTES_MAX {
            story.verdict(now, number.to_string());
            story.hold(now, Some(&number.to_string()));
        }
        assert_eq!((story.notes.len(), story.holds.len()), (NOTES_MAX, NOTES_MAX));
    }
}
