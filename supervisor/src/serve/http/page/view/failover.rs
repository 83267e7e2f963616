//! A failover of an incident, for its page: the same account the command line explains.

use serde::Serialize;

use super::super::format;
use crate::record::{Account, Event, losses};

/// Width of the picture of the steps, in its own units.
const WIDTH: f64 = 1000.0;

/// Narrowest bar that can be seen.
const BAR_MIN: f64 = 4.0;

#[derive(Debug, Serialize)]
pub(super) struct FailoverView {
    what: String,
    from: String,
    to: Option<String>,
    epoch: u64,
    decided: String,
    seconds: Option<String>,
    seen: Vec<Sighting>,
    held: Vec<Sighting>,
    steps: Vec<StepRow>,
    losses: Vec<String>,
    trace: Option<String>,
}

/// A time, who or how long, and what.
#[derive(Debug, Serialize)]
struct Sighting {
    at: String,
    by: String,
    text: String,
}

#[derive(Debug, Serialize)]
struct StepRow {
    step: String,
    at: String,
    took: String,
    /// Where its bar begins, and how long it is.
    x: f64,
    width: f64,
    outcome: String,
}

/// The failovers among an incident's events; `later` are events about the same subject since the incident began.
pub(super) fn failovers(events: &[Event], later: &[Event]) -> Vec<FailoverView> {
    let account = |event: &Event| Some((event.id, Account::of(event)?));
    events
        .iter()
        .filter_map(account)
        .map(|(id, account)| view(&account, since(later, id)))
        .collect()
}

fn since(later: &[Event], id: u64) -> &[Event] {
    let begin = later.partition_point(|event| event.id <= id);
    &later[begin..]
}

fn view(account: &Account, later: &[Event]) -> FailoverView {
    // From the decision on: what was before it may be many times longer, and would leave nothing to see.
    let (_, end) = account.span();
    let scale = WIDTH / end.max(f64::EPSILON);
    let seen = account.seen.iter().map(|sighting| Sighting {
        at: signed(sighting.at_seconds),
        by: sighting.by.clone(),
        text: sighting.text.clone(),
    });
    let held = account.held.iter().map(|hold| Sighting {
        at: signed(hold.at_seconds),
        by: format!("for {}", format::seconds(hold.seconds)),
        text: hold.why.clone(),
    });
    let steps = account.steps.iter().map(|step| {
        let x = (step.at_seconds * scale).clamp(0.0, WIDTH - BAR_MIN);
        let width = (step.seconds * scale).clamp(BAR_MIN, WIDTH - x);
        StepRow {
            step: step.step.clone(),
            at: signed(step.at_seconds),
            took: format::seconds(step.seconds),
            x,
            width: if step.at_seconds < 0.0 { 0.0 } else { width },
            outcome: step.outcome.clone(),
        }
    });
    FailoverView {
        what: account.what.clone(),
        from: account.from.to_string(),
        to: account.to.as_ref().map(ToString::to_string),
        epoch: account.epoch,
        decided: format::instant(account.decided),
        seconds: account.seconds.map(format::seconds),
        seen: seen.collect(),
        held: held.collect(),
        steps: steps.collect(),
        losses: losses(account, later),
        trace: account.trace.clone(),
    }
}

fn signed(seconds: f64) -> String {
    let sign = if seconds < 0.0 { "−" } else { "+" };
    format!("{sign}{}", format::seconds(seconds.abs()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Kind;
    use crate::record::account_tests::{account, event};

    #[test]
    fn the_bars_lie_within_the_picture_and_in_order() {
        let done = event(Kind::FailoverDone, serde_json::to_value(account()).unwrap());
        let views = failovers(&[done], &[]);
        let [view] = &views[..] else { panic!("one failover, not {views:?}") };
        assert_eq!(view.steps[0].at, "−3.0 ms");
        let bars: Vec<_> = view.steps.iter().map(|step| (step.x, step.width)).collect();
        assert!(bars.is_sorted_by(|a, b| a.0 <= b.0), "{bars:?}");
        assert!(bars.iter().all(|(x, width)| x + width <= WIDTH + 1e-6), "{bars:?}");
        assert!(bars[0].1.abs() < f64::EPSILON && (bars[1].1 - 833.333).abs() < 1e-3, "{bars:?}");
    }
}
