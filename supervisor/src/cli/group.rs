//! `holdfast group` and `holdfast silence`.

use std::time::Duration;

use chrono::{DateTime, Local, Utc};
use clap::Subcommand;
use comfy_table::Cell;
use serde_json::{Value, json};

use super::client::Client;
use super::print::{append, table};
use super::{CliError, Output};
use crate::cluster::Address;
use crate::group::{GroupStatus, Silence};

/// A member comes or goes within a minute, or not at all.
const MEMBERSHIP_TIMEOUT: Duration = Duration::from_mins(2);

#[derive(Debug, Clone, Subcommand)]
pub(super) enum GroupCommand {
    /// Form a group with this supervisor as its first member
    Init,
    /// Make this supervisor a member of a group that exists
    Join {
        /// Any member's group listener
        #[arg(value_name = "HOST:PORT")]
        address: Address,
    },
    /// Take a member out of the group; a leader hands over first
    Leave {
        /// Which; this supervisor if not given
        #[arg(value_name = "NAME")]
        name: Option<String>,
    },
    /// Members, leader, term, log positions, when each was heard
    Status,
}

#[derive(Debug, Clone, Subcommand)]
pub(super) enum SilenceCommand {
    /// Silence the alerts that all matchers match
    Add {
        /// An alert's name, or name=value, name!=value, name=~regex, name!~regex
        #[arg(value_name = "MATCHER", required = true)]
        matchers: Vec<String>,
        /// How long, such as 2h or 30m
        #[arg(long = "for", value_name = "DURATION", value_parser = holdfast_settings::duration::parse)]
        limit: Duration,
        /// Why, for whoever wonders
        #[arg(long)]
        comment: String,
        /// Who wants it; default: your address
        #[arg(long, value_name = "NAME")]
        by: Option<String>,
    },
    /// Silences that count or will count
    List {
        /// Those that are over lately, too
        #[arg(long)]
        all: bool,
    },
    /// End a silence now
    Expire {
        /// Its number
        id: u64,
    },
}

pub(super) async fn run(
    client: &Client,
    command: GroupCommand,
    output: Output,
) -> Result<(), CliError> {
    let done = match command {
        GroupCommand::Status => None,
        GroupCommand::Init => Some(("group/init", json!({}), "The group is formed.".to_owned())),
        GroupCommand::Join { address } => {
            let done = format!("Joined the group of {address}.");
            Some(("group/join", json!({ "address": address }), done))
        }
        GroupCommand::Leave { name } => {
            let who = name.clone().unwrap_or_else(|| "This supervisor".to_owned());
            Some(("group/leave", json!({ "name": name }), format!("{who} left the group.")))
        }
    };
    let (status, done) = match done {
        None => (client.read::<GroupStatus>("group").await?, None),
        Some((path, body, done)) => {
            (client.order::<GroupStatus>(path, &body, MEMBERSHIP_TIMEOUT).await?, Some(done))
        }
    };
    output.result(&status, || {
        let mut text = String::new();
        if let Some(done) = done {
            append!(text, "{done}\n\n");
        }
        append!(text, "{}", show(&status));
        text
    })
}

fn show(status: &GroupStatus) -> String {
    let leader = status.leader.as_deref().unwrap_or("nobody");
    let mut text = format!("This supervisor: {}", status.state);
    if let Some(reason) = &status.reason {
        append!(text, " ({reason})");
    }
    append!(text, "\nLeader: {leader}   term: {}", status.term);
    append!(text, "   members that may fail: {}\n", status.tolerates);
    if status.members.is_empty() {
        return text;
    }
    let newest = status.members.iter().filter_map(|member| member.last_log).max().unwrap_or(0);
    let mut rows = table(["Member", "Address", "Role", "Log", "Behind", "Heard"]);
    for member in &status.members {
        let role = match (member.leads, member.votes) {
            (true, _) => "leader",
            (false, true) => "follower",
            (false, false) => "catching up",
        };
        let heard = match (member.is_self, member.heard_seconds) {
            (true, _) => "itself".to_owned(),
            (false, Some(seconds)) => format!("{seconds:.1} s ago"),
            (false, None) => "never".to_owned(),
        };
        let log = member.last_log.map_or_else(|| "?".to_owned(), |index| index.to_string());
        let behind = member
            .applied
            .map_or_else(|| "?".to_owned(), |at| newest.saturating_sub(at).to_string());
        let address = member.address.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string);
        rows.add_row([&member.name, &address, role, &log, &behind, &heard].map(Cell::new));
    }
    append!(text, "{rows}");
    text
}

pub(super) async fn silence(
    client: &Client,
    command: SilenceCommand,
    output: Output,
) -> Result<(), CliError> {
    match command {
        SilenceCommand::Add { matchers, limit, comment, by } => {
            let body = json!({
                "matchers": matchers,
                "seconds": limit.as_secs(),
                "comment": comment,
                "created_by": by,
            });
            let answer: Value = client.order("silences", &body, MEMBERSHIP_TIMEOUT).await?;
            output.result(&answer, || {
                format!(
                    "Silence {} is set. `holdfast silence expire {}` ends it.",
                    answer["id"], answer["id"]
                )
            })
        }
        SilenceCommand::Expire { id } => {
            let path = format!("silences/{id}/expire");
            let answer: Value = client.order(&path, &json!({}), MEMBERSHIP_TIMEOUT).await?;
            output.result(&answer, || format!("Silence {id} is over."))
        }
        SilenceCommand::List { all } => {
            let mut answer: Value = client.read("silences").await?;
            let silences: Vec<Silence> = serde_json::from_value(answer["silences"].take())
                .map_err(|error| CliError::Failed(error.to_string()))?;
            let now = Utc::now();
            let shown: Vec<_> =
                silences.into_iter().filter(|it| all || it.state(now) != "expired").collect();
            output.result(&shown, || list(&shown, now))
        }
    }
}

fn list(silences: &[Silence], now: DateTime<Utc>) -> String {
    if silences.is_empty() {
        return "No silences.".to_owned();
    }
    let time = |at: DateTime<Utc>| at.with_timezone(&Local).format("%Y-%m-%d %H:%M:%S").to_string();
    let mut rows = table(["Id", "State", "Matches", "Until", "By", "Why"]);
    for silence in silences {
        let wanted = &silence.wanted;
        let matchers: Vec<_> = wanted.matchers.iter().map(ToString::to_string).collect();
        rows.add_row([
            Cell::new(silence.id),
            Cell::new(silence.state(now)),
            Cell::new(matchers.join("\n")),
            Cell::new(time(wanted.ends_at)),
            Cell::new(&wanted.created_by),
            Cell::new(&wanted.comment),
        ]);
    }
    rows.to_string()
}
