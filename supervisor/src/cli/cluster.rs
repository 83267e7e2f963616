//! Commands that change something: servers, backups.

use std::pin::pin;

use futures_util::StreamExt as _;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use super::arguments::BackupCommand;
use super::client::{BackupStep, Client};
use super::print::{bytes, millis, table};
use super::{CliError, Output};
use crate::cluster::{ServerState, ServerStatus};
use crate::control::{BackupProgress, BackupReport};

pub(super) async fn drain(
    client: &Client,
    server: &str,
    force: bool,
    output: Output,
) -> Result<(), CliError> {
    let status = client.set_server(server, Some(ServerState::Drain), None, force).await?;
    output.result(&status, || {
        let left = match status.active_connections {
            0 => "it has none".to_owned(),
            count => format!("it keeps its {count}"),
        };
        format!(
            "{} gets no new connections; {left}. `holdfast ready {server}` brings it back.",
            status.name
        )
    })
}

pub(super) async fn weight(
    client: &Client,
    server: &str,
    weight: u16,
    force: bool,
    output: Output,
) -> Result<(), CliError> {
    let status = client.set_server(server, None, Some(weight), force).await?;
    output.result(&status, || server_text(&status))
}

pub(super) async fn ready(client: &Client, server: &str, output: Output) -> Result<(), CliError> {
    let status = client.set_server(server, Some(ServerState::Ready), None, false).await?;
    output.result(&status, || server_text(&status))
}

fn server_text(status: &ServerStatus) -> String {
    let ServerStatus { name, state, weight, .. } = status;
    let usable = if status.usable { "" } else { "; the balancer does not use it at the moment" };
    format!("{name} is {state} with weight {weight}{usable}.")
}

pub(super) async fn backup(
    client: &Client,
    command: Option<BackupCommand>,
    output: Output,
) -> Result<(), CliError> {
    match command.unwrap_or(BackupCommand::Take) {
        BackupCommand::Take => take(client, output).await,
        BackupCommand::List => {
            let backups = client.backups().await?;
            output.result(&backups, || list(&backups))
        }
    }
}

async fn take(client: &Client, output: Output) -> Result<(), CliError> {
    let mut steps = pin!(client.backup().await?);
    let bar = Bar::new();
    while let Some(step) = steps.next().await {
        match step? {
            BackupStep::Progress(BackupProgress { phase, done_bytes, total_bytes }) => {
                bar.show(&phase, done_bytes, total_bytes);
            }
            BackupStep::Result(report) => {
                bar.clear();
                return output.result(&report, || report_text(&report));
            }
            BackupStep::Error(text) => {
                bar.clear();
                return Err(CliError::Failed(text));
            }
        }
    }
    Err(CliError::Failed("the supervisor went away before the backup was done".to_owned()))
}

fn report_text(report: &BackupReport) -> String {
    let verified = if report.verified {
        "restored into a scratch server and compared"
    } else {
        "NOT verified"
    };
    format!(
        "Backup {} of {}: {} keys, {} ({} stored), {verified}, in {}.",
        report.id,
        report.source,
        report.keys,
        bytes(report.raw_bytes as f64),
        bytes(report.stored_bytes as f64),
        millis(report.seconds)
    )
}

fn list(backups: &[Value]) -> String {
    if backups.is_empty() {
        return "There are no backups yet.".to_owned();
    }
    let mut table = table(["backup", "taken", "keys", "size", "stored", "verified"]);
    let mut remarks = Vec::new();
    for backup in backups {
        if let Some(damaged) = backup.get("damaged").and_then(Value::as_str) {
            remarks.push(format!("\ndamaged: {damaged}"));
            continue;
        }
        let text = |name: &str| match backup.get(name) {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Null) | None => String::new(),
            Some(value) => value.to_string(),
        };
        let size =
            |name: &str| backup.get(name).and_then(Value::as_f64).map(bytes).unwrap_or_default();
        let verified = match backup.get("verified").and_then(Value::as_bool) {
            Some(true) => "yes",
            Some(false) => "no",
            None => "?",
        };
        let taken = text("taken_at").parse::<chrono::DateTime<chrono::Utc>>().map_or_else(
            |_| String::new(),
            |at| at.with_timezone(&chrono::Local).format("%Y-%m-%d %H:%M:%S").to_string(),
        );
        table.add_row([
            &text("id"),
            &taken,
            &text("keys"),
            &size("raw_bytes"),
            &size("stored_bytes"),
            verified,
        ]);
    }
    format!("{table}{}", remarks.concat())
}

/// Progress of long work, on standard error, if that is a terminal.
#[derive(Clone)]
pub(super) struct Bar(ProgressBar);

impl Bar {
    pub(super) fn new() -> Self {
        let bar = ProgressBar::new_spinner();
        bar.enable_steady_tick(std::time::Duration::from_millis(120));
        Self(bar)
    }

    pub(super) fn show(&self, phase: &str, done_bytes: u64, total_bytes: Option<u64>) {
        let template = match total_bytes {
            Some(total) => {
                self.0.set_length(total);
                "{spinner} {msg:<9} {wide_bar} {bytes}/{total_bytes}"
            }
            None => "{spinner} {msg:<9} {bytes}",
        };
        self.0.set_style(ProgressStyle::with_template(template).expect("the template is constant"));
        self.0.set_position(done_bytes);
        self.0.set_message(phase.to_owned());
    }

    /// Work whose amount is unknown.
    pub(super) fn say(&self, text: String) {
        self.0.set_message(text);
    }

    pub(super) fn clear(&self) {
        self.0.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn damaged_backups_are_listed_too() {
        let backups = [
            json!({ "id": "a/2", "taken_at": "2026-01-02T03:04:05Z", "keys": 5, "raw_bytes": 2048, "verified": false }),
            json!({ "damaged": "the manifest x is damaged" }),
        ];
        let text = list(&backups);
        assert!(text.contains("a/2") && text.contains("2.0 KiB"), "{text}");
        assert!(text.ends_with("\ndamaged: the manifest x is damaged"), "{text}");
    }
}
