//! The `holdfast-balancer` binary: settings, logs, addresses, serve, drain, exit code.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use holdfast_balancer::handover::{self, Inherited, Program};
use holdfast_balancer::{Bound, Config, config, health, import, top, upgrade};
use holdfast_telemetry::errors::Chain;
use holdfast_telemetry::{logs, shutdown};

/// Exit code for settings that cannot run.
const BAD_SETTINGS: u8 = 2;

/// Exit code of a strict import that has left something out.
const NOT_UNDERSTOOD: u8 = 3;

/// HTTP, WebSocket and TCP load balancer made for long-lived connections.
///
/// SIGHUP reads the settings again, SIGUSR1 opens the access log anew, SIGUSR2 starts the program anew without dropping a connection,
/// SIGTERM and SIGINT end it gracefully.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Settings file (TOML).
    #[arg(long, value_name = "FILE", required = true)]
    config: Option<PathBuf>,
    /// Check the settings and exit: 0 if they are right, 2 with every fault on stderr if not.
    #[arg(long)]
    check_config: bool,
    /// Take over from the process at standard input.
    #[arg(long, hide = true)]
    take_over: bool,
}

/// What else it does than balance.
#[derive(Subcommand)]
enum Command {
    /// Ends with 0 if a running balancer is ready, with 1 if not; for keepalived and the like.
    Health(health::Arguments),
    /// Writes settings of nginx or HAProxy as ours to stdout, and to stderr what was not understood.
    Import(import::Arguments),
    /// Shows a running balancer in the terminal.
    Top(top::Arguments),
    /// Has the program at hand by now take over from the running one without dropping a connection; ends with 0 once it serves.
    Upgrade(upgrade::Arguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome: Result<(), Box<dyn std::error::Error>> = match arguments.command {
        Some(Command::Top(arguments)) => top::run(&arguments),
        Some(Command::Health(arguments)) => health::run(&arguments).map_err(Box::from),
        Some(Command::Upgrade(arguments)) => upgrade::run(&arguments).map_err(Box::from),
        Some(Command::Import(arguments)) => match import::run(&arguments) {
            Ok(true) => return ExitCode::from(NOT_UNDERSTOOD),
            Ok(false) => Ok(()),
            Err(error) => Err(error.into()),
        },
        None => {
            let file = arguments.config.unwrap_or_default();
            return balance(&file, arguments.check_config, arguments.take_over);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&Chain(&*error));
            ExitCode::FAILURE
        }
    }
}

fn balance(file: &Path, only_check: bool, take_over: bool) -> ExitCode {
    let config = match config::load(file) {
        Ok(config) => config,
        Err(faults) => return give_up(&faults, BAD_SETTINGS.into(), take_over),
    };
    if only_check {
        return ExitCode::SUCCESS;
    }
    match serve(config, take_over) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => give_up(&Chain(&*error), ExitCode::FAILURE, take_over),
    }
}

/// Says why the program does not run, also to the process it was to follow.
fn give_up(why: &dyn std::fmt::Display, code: ExitCode, take_over: bool) -> ExitCode {
    complain(why);
    if take_over {
        handover::refuse(&why.to_string());
    }
    code
}

fn serve(config: Config, take_over: bool) -> Result<(), Box<dyn std::error::Error>> {
    let _logs = logs::init(config.log_level, config.log_format, None, "balancer")?;
    let arguments = ["--take-over".into(), "--config".into(), config.file.clone().into()];
    let program = Program { file: own_file()?, arguments: arguments.into() };
    let inherited =
        if take_over { Inherited::from_process() } else { Inherited::from_service_manager() }?;
    let bound = Bound::bind_beside(config, inherited)?.succeeded_by(program);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(bound.run(shutdown::signal(), None))?;
    Ok(())
}

/// The file this program was started from, as it was named: a link may lead to a newer version by the time it is started again.
fn own_file() -> std::io::Result<PathBuf> {
    let named = std::env::args_os().next().map(PathBuf::from);
    // A bare name was looked up by a shell.
    let named = named.filter(|path| path.components().count() > 1);
    named.map_or_else(std::env::current_exe, Ok)
}

/// Tells whoever started the program why it does not run; logs may not be set up, or be in a form for machines.
fn complain(what: &dyn std::fmt::Display) {
    // Without a stderr there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "{what}");
}
