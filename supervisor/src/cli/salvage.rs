//! `holdfast redis salvage`: what former primaries had that nobody else has.

use chrono::{DateTime, Local, Utc};
use clap::Subcommand;
use comfy_table::Cell;
use serde_json::{Value, json};

use super::arguments::Which;
use super::client::Client;
use super::print::{append, bytes, table};
use super::{CliError, Output};

#[derive(Debug, Clone, Subcommand)]
pub(super) enum SalvageCommand {
    /// Which there are, newest first
    List,
    /// The commands in one, with their keys
    Show {
        /// Its name, as `list` shows it
        id: String,
        /// Also what users wrote
        #[arg(long)]
        values: bool,
        /// Begin with this one
        #[arg(long, value_name = "N", default_value_t = 0)]
        from: usize,
    },
    /// Say what carrying its commands out on the present primary would do, or do it
    #[command(
        long_about = "Carries the saved commands out on the present primary, those left out that touch a key written there since. Without \
            --apply it only says what it would do. A salvage is replayed once."
    )]
    Replay {
        /// Its name, as `list` shows it
        id: String,
        /// Do it
        #[arg(long)]
        apply: bool,
        /// Also commands that touch keys written since: what was written since is lost then
        #[arg(long)]
        force: bool,
    },
}

pub(super) async fn run(
    client: &Client,
    which: &Which,
    command: SalvageCommand,
    output: Output,
) -> Result<(), CliError> {
    let name = which.name();
    match command {
        SalvageCommand::List => {
            let answer = client.redis("salvage/list", name, &json!({})).await?;
            output.result(&answer, || list(&answer))
        }
        SalvageCommand::Show { id, values, from } => {
            let body = json!({ "id": id, "values": values, "from": from });
            let answer = client.redis("salvage/show", name, &body).await?;
            output.result(&answer, || show(&answer))
        }
        SalvageCommand::Replay { id, apply, force } => {
            let body = json!({ "id": id, "apply": apply, "force": force });
            let answer = client.redis("salvage/replay", name, &body).await?;
            output.result(&answer, || replayed(&answer))
        }
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_default()
}

fn list(answer: &Value) -> String {
    let salvages = answer["salvages"].as_array().map(Vec::as_slice).unwrap_or_default();
    if salvages.is_empty() {
        return "Nothing was salvaged: no former primary came back with anything of its own."
            .to_owned();
    }
    let mut table = table(["salvage", "of", "saved", "commands", "size", "replayed"]);
    for salvage in salvages {
        let at = text(&salvage["at"]).parse::<DateTime<Utc>>();
        let at = at.map(|at| at.with_timezone(&Local).format("%Y-%m-%d %H:%M:%S").to_string());
        let replay = &salvage["replay"];
        let replayed = if replay.is_null() {
            "no".to_owned()
        } else {
            format!("{} by {}", number(&replay["applied"]), text(&replay["by"]))
        };
        #[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
        let size = number(&salvage["bytes"]) as f64;
        table.add_row([
            Cell::new(text(&salvage["id"])),
            Cell::new(text(&salvage["server"])),
            Cell::new(at.unwrap_or_default()),
            Cell::new(number(&salvage["commands"])),
            Cell::new(bytes(size)),
            Cell::new(replayed),
        ]);
    }
    table.to_string()
}

fn show(answer: &Value) -> String {
    let salvage = &answer["salvage"];
    let mut shown = format!(
        "{} of {}: {} commands, in {}\n",
        text(&salvage["id"]),
        text(&salvage["server"]),
        number(&salvage["commands"]),
        text(&answer["file"])
    );
    for unit in answer["units"].as_array().into_iter().flatten() {
        let commands = unit["commands"].as_array().map(Vec::as_slice).unwrap_or_default();
        for (index, command) in commands.iter().enumerate() {
            let mark =
                if commands.len() > 1 { if index == 0 { "┌" } else { "│" } } else { " " };
            let words = |name: &str| {
                let words = command[name].as_array().into_iter().flatten().map(text);
                words.collect::<Vec<_>>().join(" ")
            };
            let told = if command["values"].is_null() { words("keys") } else { words("values") };
            let arguments = number(&command["arguments"]);
            append!(
                shown,
                "{mark} db{} {:<12} {told}",
                number(&unit["database"]),
                text(&command["command"])
            );
            if command["values"].is_null() {
                append!(shown, "  ({arguments} arguments)");
            }
            shown.push('\n');
        }
    }
    if let Some(next) = answer["next"].as_u64() {
        append!(shown, "More: --from {next} (of {})\n", number(&answer["of"]));
    }
    shown
}

fn replayed(answer: &Value) -> String {
    let report = &answer["report"];
    let count = |name: &str| number(&report[name]);
    let is_dry = report["dry_run"] == true;
    let by = if report["newer_by"] == "stream" {
        "written on the present primary since, as its command stream says"
    } else {
        "that exist on the present primary: its stream no longer says which of them were written since"
    };
    let mut shown = format!(
        "{} {} commands.\n  left out: {} about keys {by}\n  left out: {} without keys (messages, FLUSHALL and the like)\n",
        if is_dry { "Would carry out" } else { "Carried out" },
        count("applied"),
        count("newer"),
        count("keyless"),
    );
    if count("before") > 0 {
        append!(shown, "  dealt with before, by a replay that broke off: {}\n", count("before"));
    }
    if is_dry {
        shown.push_str("Nothing was changed; --apply does it.\n");
    } else {
        append!(shown, "  refused by the primary: {}\n", count("failed"));
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preview_says_that_nothing_was_changed() {
        let report = json!({"dry_run": true, "newer_by": "stream", "applied": 5, "newer": 2});
        let shown = replayed(&json!({ "report": report }));
        assert!(shown.starts_with("Would carry out 5") && shown.contains("--apply"), "{shown}");
        let report = json!({"dry_run": false, "newer_by": "existence", "applied": 5});
        let shown = replayed(&json!({ "report": report }));
        assert!(shown.starts_with("Carried out 5") && shown.contains("no longer says"), "{shown}");
    }

    #[test]
    fn commands_are_listed_with_their_keys_or_their_values() {
        let command = json!({"command": "set", "keys": ["a"], "arguments": 2});
        let with =
            json!({"command": "set", "keys": ["a"], "arguments": 2, "values": ["a", "hello"]});
        let units = json!([{"database": 1, "commands": [command, with]}]);
        let shown = show(&json!({"salvage": {"id": "x"}, "units": units, "of": 9, "next": 1}));
        assert!(shown.contains("┌ db1 set          a  (2 arguments)"), "{shown}");
        assert!(shown.contains("a hello\n") && shown.contains("--from 1 (of 9)"), "{shown}");
    }
}
