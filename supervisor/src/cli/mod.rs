//! The command line: what operators and scripts use.
//!
//! Each command calls the operator API through [`client`] and prints what came of it: tables and sentences for people, one JSON document
//! for scripts (`--json`; a stream prints one per line). Results go to standard output, progress and complaints to standard error.

mod arguments;
mod chat;
mod check;
pub mod client;
mod cluster;
mod context;
#[cfg(test)]
mod documented;
mod drill;
mod events;
mod explain;
mod group;
pub(crate) mod http;
mod metrics;
pub mod print;
mod redis;
mod restore;
mod salvage;
mod status;

use std::io::Write as _;
use std::process::ExitCode;

use serde::Serialize;

pub use arguments::Cli;
use arguments::{Command, Global, RedisCommand};
use client::ClientError;

use crate::up::{self, UpError};

/// Exit code: it did not work.
const FAILED: u8 = 1;

/// Exit code: the command line or a settings file is wrong.
const USAGE: u8 = 2;

/// Exit code: a drill ended with another verdict than `pass`.
const VERDICT: u8 = 3;

/// Why a command did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The command line is wrong, or a file it names.
    #[error("{0}")]
    Usage(String),
    /// Settings cannot be used.
    #[error(transparent)]
    Settings(#[from] holdfast_settings::Faults),
    /// The supervisor cannot be reached, or refuses.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The local cluster could not be run.
    #[error(transparent)]
    Up(#[from] UpError),
    /// Something else did not work.
    #[error("{0}")]
    Failed(String),
    /// A drill did not pass.
    #[error("{0}")]
    Verdict(String),
    /// Nobody reads our output any more, as with `| head`.
    #[error("the output was closed")]
    Output,
}

impl CliError {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Settings(_) | Self::Client(ClientError::NoToken) => USAGE,
            Self::Up(error) if error.is_usage() => USAGE,
            Self::Verdict(_) => VERDICT,
            Self::Client(_) | Self::Up(_) | Self::Failed(_) | Self::Output => FAILED,
        }
    }
}

/// Where results go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    json: bool,
}

impl Output {
    /// Whether scripts read it.
    fn is_json(self) -> bool {
        self.json
    }

    /// A result: one JSON document, or the text for people.
    fn result(self, value: &impl Serialize, text: impl FnOnce() -> String) -> Result<(), CliError> {
        if self.json { self.json_line(value) } else { self.line(&text()) }
    }

    /// One JSON document in a line.
    fn json_line(self, value: &impl Serialize) -> Result<(), CliError> {
        let text =
            serde_json::to_string(value).map_err(|error| CliError::Failed(error.to_string()))?;
        self.line(&text)
    }

    /// A line of text.
    #[expect(clippy::unused_self, reason = "whoever prints holds an Output")]
    fn line(self, text: &str) -> Result<(), CliError> {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{}", text.trim_end())
            .and_then(|()| out.flush())
            .map_err(|_| CliError::Output)
    }
}

/// Whether standard output shows colours: it is a terminal, and nobody has set `NO_COLOR`.
pub(crate) fn color() -> bool {
    use std::io::IsTerminal as _;
    std::io::stdout().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Runs a command other than `supervise` to its end; what is wrong goes to standard error.
pub async fn run(cli: Cli) -> ExitCode {
    match dispatch(cli.command, &cli.global).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(CliError::Output) => ExitCode::from(FAILED),
        Err(error) => {
            // Without standard error there is nobody left to tell.
            let _unseen = writeln!(std::io::stderr(), "holdfast: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

impl Cli {
    /// The settings file, if this is the daemon to be run.
    pub fn supervise(&self) -> Option<&std::path::Path> {
        match &self.command {
            Command::Supervise { config, check_config: false } => Some(config),
            _ => None,
        }
    }
}

async fn dispatch(command: Command, global: &Global) -> Result<(), CliError> {
    let output = Output { json: global.json };
    let client = || context::client(global);
    match command {
        Command::Up(options) => Ok(up::run(options).await?),
        Command::Supervise { config, .. } | Command::CheckConfig { config } => {
            check::run(&config, output).await
        }
        Command::Status => status::run(&client()?, output).await,
        Command::Targets { down } => metrics::targets(&client()?, down, output).await,
        Command::Cardinality { limit } => metrics::cardinality(&client()?, limit, output).await,
        Command::Events { command } => events::run(&client()?, command, output).await,
        Command::Incidents { command } => events::incidents(&client()?, command, output).await,
        Command::Drain { server, force } => {
            cluster::drain(&client()?, &server, force, output).await
        }
        Command::Weight { server, weight, force } => {
            cluster::weight(&client()?, &server, weight, force, output).await
        }
        Command::Ready { server } => cluster::ready(&client()?, &server, output).await,
        Command::Failover { which, cancel: true, .. } => {
            let done = "No switchover is set any more.";
            redis::order(&client()?, &which, "switchover/cancel", done, output).await
        }
        Command::Failover { which, to, at, .. } => {
            redis::failover(&client()?, &which, to.as_ref(), at, output).await
        }
        Command::Pause { which, reason, limit } => {
            redis::pause(&client()?, &which, &reason, limit, output).await
        }
        Command::Resume(which) => {
            let done = "The supervisor acts by itself again.";
            redis::order(&client()?, &which, "resume", done, output).await
        }
        Command::Approve(which) => {
            let done = "Approved; `holdfast events follow` shows the failover.";
            redis::order(&client()?, &which, "approve", done, output).await
        }
        Command::Acknowledge(which) => {
            let done = "The cool-down after the last failover is over.";
            redis::order(&client()?, &which, "acknowledge", done, output).await
        }
        Command::Redis { which, command: RedisCommand::Restart(restart) } => {
            redis::restart(&client()?, &which, &restart, output).await
        }
        Command::Redis { which, command: RedisCommand::Salvage { command } } => {
            salvage::run(&client()?, &which, command, output).await
        }
        Command::Backup { command } => cluster::backup(&client()?, command, output).await,
        Command::Restore(restore) => restore::run(restore, output).await,
        Command::Group { command } => group::run(&client()?, command, output).await,
        Command::Silence { command } => group::silence(&client()?, command, output).await,
        Command::Drill { command } => drill::run(&client()?, command, output).await,
        Command::Token { user, secret_file, lifetime } => {
            chat::token(&user, secret_file, lifetime, output)
        }
        Command::Chat { user, channel, url, secret_file } => {
            chat::run(user, channel, url, secret_file, output).await
        }
    }
}
