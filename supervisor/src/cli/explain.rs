//! A failover for people at a terminal: what was seen, held back and done, with a bar for each step, and what was lost.

use chrono::Local;

use super::print::{append, millis, table};
use crate::record::{Account, Event, Reason, losses};

/// Characters from the decision to the last step's end. What was before it may be many times longer, and would leave nothing to see.
const BAR_CHARS: f64 = 40.0;

/// Everything about a failover; `reasons` are those of its event, `later` what happened to the same Redis since.
pub(super) fn explain(account: &Account, reasons: &[Reason], later: &[Event]) -> String {
    let Account { what, from, to, epoch, .. } = account;
    let to = to.as_ref().map(|to| format!(" to {to}")).unwrap_or_default();
    let decided = account.decided.with_timezone(&Local).format("%Y-%m-%d %H:%M:%S%.3f %:z");
    let mut text =
        format!("The {what} from {from}{to}, epoch {epoch}, was decided at {decided}.\n");
    if let Some(seconds) = account.seconds {
        append!(text, "The new primary took its first write {} later.\n", millis(seconds));
    }
    text.push_str("All times below count from the decision.\n");
    text.push_str("\nWhat was seen\n");
    for sighting in &account.seen {
        append!(
            text,
            "  {:>11}  {}: {}\n",
            signed(sighting.at_seconds),
            sighting.by,
            sighting.text
        );
    }
    if account.seen.is_empty() {
        text.push_str("  nothing unusual\n");
    }
    text.push_str("\nWhy\n");
    for reason in reasons {
        append!(text, "  {} {}\n", if reason.favours { "because" } else { "despite" }, reason.text);
    }
    text.push_str("\nWhat was held back\n");
    for hold in &account.held {
        let (at, lasted) = (signed(hold.at_seconds), millis(hold.seconds));
        append!(text, "  {at:>11}  for {lasted}: {}\n", hold.why);
    }
    if account.held.is_empty() {
        text.push_str("  nothing\n");
    }
    append!(text, "\nWhat was done\n{}\n", steps(account));
    text.push_str("\nWhat was lost\n");
    for line in losses(account, later) {
        append!(text, "  {line}\n");
    }
    if let Some(trace) = &account.trace {
        append!(text, "\nThe same as an OpenTelemetry trace: {trace}\n");
    }
    text
}

fn steps(account: &Account) -> String {
    let (_, end) = account.span();
    let mut table = table(["step", "at", "took", "", "outcome"]);
    for step in &account.steps {
        table.add_row([
            step.step.clone(),
            signed(step.at_seconds),
            millis(step.seconds),
            bar(step.at_seconds, step.seconds, end),
            step.outcome.clone(),
        ]);
    }
    table.to_string()
}

/// Where a step lies in the whole: at least one character, so that none is invisible; nothing if it was before.
fn bar(from: f64, length: f64, whole: f64) -> String {
    if from < 0.0 {
        return String::new();
    }
    let whole = if whole > 0.0 { whole } else { 1.0 };
    let position = |seconds: f64| (seconds / whole * BAR_CHARS).clamp(0.0, BAR_CHARS);
    let begin = position(from).floor().min(BAR_CHARS - 1.0);
    let end = position(from + length).ceil().max(begin + 1.0);
    (0..40)
        .map(f64::from)
        .map(|at| if at < begin || at >= end { ' ' } else { '█' })
        .collect::<String>()
        .trim_end()
        .to_owned()
}

fn signed(seconds: f64) -> String {
    let sign = if seconds < 0.0 { '-' } else { '+' };
    format!("{sign}{}", millis(seconds.abs()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::account_tests::account;

    #[test]
    fn a_failover_is_told_from_its_first_sign_to_what_was_lost() {
        let reasons = [Reason { favours: true, text: "it refuses connections".to_owned() }];
        let text = explain(&account(), &reasons, &[]);
        for part in [
            "The failover from 127.0.0.1:1 to 127.0.0.1:2, epoch 3, was decided at ",
            "took its first write 12.0 ms later",
            "-3.0 ms  this supervisor: 127.0.0.1:1 closed the connection",
            "because it refuses connections",
            "-2.0 ms  for 1.0 ms: approval",
            "40 bytes further",
            "trace: 0af7651916cd43dd8448eb211c80319c",
        ] {
            assert!(text.contains(part), "no {part:?} in {text}");
        }
        let detected = text.lines().find(|line| line.contains("detected")).unwrap();
        assert!(!detected.contains('█'), "{detected}");
        let drained = text.lines().find(|line| line.contains("drained")).unwrap();
        assert_eq!(drained.matches('█').count(), 34, "{drained}");
        assert!(drained.contains("+0.0 ms") && drained.contains("10.0 ms"), "{drained}");
    }

    #[test]
    fn bars_lie_where_the_step_was_and_none_is_invisible() {
        assert_eq!(bar(0.0, 1.0, 1.0).chars().count(), 40);
        assert_eq!(bar(0.5, 0.0, 1.0), format!("{}█", " ".repeat(20)));
        assert_eq!(bar(1.0, 0.0, 1.0), format!("{}█", " ".repeat(39)));
        assert_eq!((bar(0.0, 0.0, 0.0).as_str(), bar(-1.0, 1.0, 1.0).as_str()), ("█", ""));
    }
}
