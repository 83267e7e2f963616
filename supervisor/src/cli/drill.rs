//! `holdfast drill`: run a scenario, read reports.

use std::time::Duration;

use comfy_table::Cell;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::arguments::DrillCommand;
use super::client::{Client, ClientError, Run};
use super::cluster::Bar;
use super::print::{age, append, table};
use super::{CliError, Output, color};
use crate::config::SCENARIOS;

/// Time between two looks at a run.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// A drill ends by itself within minutes; a supervisor that says otherwise for this long is not believed.
const RUN_MAX: Duration = Duration::from_mins(30);

/// A supervisor that does not answer for this long in the middle of a run is gone.
const SILENCE_MAX: Duration = Duration::from_secs(30);

pub(super) async fn run(
    client: &Client,
    command: DrillCommand,
    output: Output,
) -> Result<(), CliError> {
    match command {
        DrillCommand::Run { scenario, no_wait } => {
            let run = client.start_drill(&scenario).await?;
            if no_wait {
                return output.result(&json!({ "run": run }), || run.clone());
            }
            let report = wait(client, &run).await?;
            output.result(&report, || text(&report, color()))?;
            judge(&report)
        }
        DrillCommand::Show { run } => match client.drill_run(&run).await? {
            Run::Report(report) => output.result(&report, || text(&report, color())),
            Run::Going(status) => {
                output.result(&status, || format!("{run} goes on: {}", phase(&status)))
            }
        },
        DrillCommand::List => list(client, output).await,
        DrillCommand::Abort => {
            client.abort_drill().await?;
            output.result(&json!({ "aborted": true }), || {
                "The drill is stopped and its fault undone.".to_owned()
            })
        }
    }
}

/// The report of a run, once there is one.
async fn wait(client: &Client, run: &str) -> Result<Value, CliError> {
    let bar = Bar::new();
    let begun = Instant::now();
    let mut answered = begun;
    let result = loop {
        match client.drill_run(run).await {
            Ok(Run::Report(report)) => break Ok(report),
            Ok(Run::Going(status)) => {
                answered = Instant::now();
                bar.say(format!("{run}: {}", phase(&status)));
            }
            // In a drill it may be the supervisor's own connection that is cut.
            Err(ClientError::Unreachable { .. }) if answered.elapsed() < SILENCE_MAX => {}
            Err(error) => break Err(error.into()),
        }
        if begun.elapsed() > RUN_MAX {
            break Err(CliError::Failed(format!(
                "{run} does not end; see `holdfast drill show {run}`"
            )));
        }
        sleep(LOOK_EVERY).await;
    };
    bar.clear();
    result
}

fn phase(status: &Value) -> String {
    status.get("phase").and_then(Value::as_str).unwrap_or("about to begin").replace('_', " ")
}

/// The exit code follows the verdict.
fn judge(report: &Value) -> Result<(), CliError> {
    match report.get("verdict").and_then(Value::as_str) {
        Some("pass") => Ok(()),
        verdict => Err(CliError::Verdict(format!(
            "the drill's verdict is {}",
            verdict.unwrap_or("not known")
        ))),
    }
}

async fn list(client: &Client, output: Output) -> Result<(), CliError> {
    let status = client.status().await?;
    let drill = status.drill;
    output.result(&json!({ "scenarios": SCENARIOS, "drill": drill }), || {
        let mut text = format!("Scenarios: {}", SCENARIOS.join(", "));
        let Some(drill) = &drill else {
            return text + "\nThis supervisor runs no drills.";
        };
        match (&drill.run, &drill.verdict, &drill.phase) {
            (Some(run), Some(verdict), _) => append!(text, "\nLast run: {run}: {verdict}"),
            (Some(run), None, Some(phase)) => append!(text, "\nGoing on: {run} ({phase})"),
            _ => text += "\nNone has run since the supervisor started.",
        }
        match &drill.next {
            Some((scenario, at)) => {
                append!(text, "\nNext: {scenario} in {}", age(*at - status.at));
            }
            None => text += "\nNone is scheduled.",
        }
        text
    })
}

/// A report as people read it.
fn text(report: &Value, colored: bool) -> String {
    let field = |name: &str| report.get(name).and_then(Value::as_str).unwrap_or("?");
    let list = |name: &str| report.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
    let verdict = field("verdict").to_uppercase();
    let code = if verdict == "PASS" { "1;32" } else { "1;31" };
    let verdict = if colored { format!("\x1b[{code}m{verdict}\x1b[0m") } else { verdict };
    let mut text = format!("{}: {verdict}\n{}.\n", field("run"), field("hypothesis"));
    if let Some(fault) = report.get("fault").filter(|fault| !fault.is_null()) {
        let of = |name: &str| fault.get(name).and_then(Value::as_str).unwrap_or("?");
        let pid = fault.get("pid").and_then(Value::as_i64);
        let pid = pid.map(|pid| format!(", pid {pid}")).unwrap_or_default();
        append!(text, "\nFault: {} {} ({}{pid})\n", of("action"), of("target"), of("program"));
    }
    let mut expectations = table(["", "expected", "measured", ""]);
    for expectation in list("expectations") {
        let of =
            |name: &str| expectation.get(name).and_then(Value::as_str).unwrap_or("?").to_owned();
        let met = match expectation.get("is_met").and_then(Value::as_bool) {
            Some(true) => "ok",
            Some(false) => "MISSED",
            None => "not known",
        };
        expectations.add_row([
            Cell::new(of("what")),
            Cell::new(of("expected")),
            Cell::new(of("measured")),
            Cell::new(met),
        ]);
    }
    append!(text, "\n{expectations}\n");
    for failure in list("failures") {
        append!(text, "  - {}\n", failure.as_str().unwrap_or_default());
    }
    text += "\nWhat happened:\n";
    for moment in list("timeline") {
        let of = |name: &str| moment.get(name).and_then(Value::as_str).unwrap_or("?").to_owned();
        let seconds = moment.get("after_ms").and_then(Value::as_f64).unwrap_or_default() / 1e3;
        append!(
            text,
            "  {seconds:>8.3} s  {:<8} {:<14} {}\n",
            of("severity"),
            of("subject"),
            of("message")
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(verdict: &str) -> Value {
        json!({
            "run": "chatnode-crash-1", "hypothesis": "If a chat node dies, nobody notices", "verdict": verdict,
            "fault": { "action": "kill -9", "program": "holdfast-chatnode", "target": "chatnode-2", "pid": 77, "after_ms": 10 },
            "expectations": [
                { "what": "recovery time", "expected": "at most 3 s", "measured": "0.4 s", "is_met": true },
                { "what": "lost messages", "expected": "at most 0", "measured": null, "is_met": null },
            ],
            "failures": ["the canary was off"],
            "timeline": [{ "after_ms": 1234, "severity": "warning", "subject": "chatnode-2", "message": "down" }],
        })
    }

    #[test]
    fn a_report_is_readable() {
        let text = text(&report("pass"), false);
        for part in [
            "chatnode-crash-1: PASS",
            "Fault: kill -9 chatnode-2 (holdfast-chatnode, pid 77)",
            "at most 3 s",
            "not known",
            "  - the canary was off",
            "1.234 s  warning  chatnode-2     down",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
    }

    #[test]
    fn the_exit_code_follows_the_verdict() {
        assert!(judge(&report("pass")).is_ok());
        for verdict in ["fail", "aborted"] {
            assert_eq!(judge(&report(verdict)).unwrap_err().exit_code(), 3);
        }
    }
}
