//! The `holdfast` binary: the daemon and the operator's command line.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use holdfast_supervisor::cli::{self, Cli};
use holdfast_supervisor::config::Config;
use holdfast_supervisor::supervise;
use holdfast_telemetry::{logs, shutdown};
use tokio_util::sync::CancellationToken;

/// Exit code for settings that cannot be used.
const BAD_CONFIG: u8 = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    rustls::crypto::ring::default_provider()
        .install_default()
        .expect("nothing has installed a TLS provider before the first line of main");
    match cli.supervise() {
        Some(path) => daemon(path),
        // One thread: what `holdfast up` starts must be started by the thread that lives longest.
        None => match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime.block_on(cli::run(cli)),
            Err(error) => complain(&error, ExitCode::FAILURE),
        },
    }
}

fn daemon(path: &Path) -> ExitCode {
    let config = match Config::read(path) {
        Ok(config) => config,
        Err(faults) => return complain(&faults, ExitCode::from(BAD_CONFIG)),
    };
    match supervise_with(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let bad_rules = matches!(error.downcast_ref(), Some(supervise::StartError::Rules(_)));
            let code = if bad_rules { ExitCode::from(BAD_CONFIG) } else { ExitCode::FAILURE };
            complain(&format_args!("{error:#}"), code)
        }
    }
}

fn supervise_with(config: Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let endpoint = config.otlp_endpoint.as_deref();
        let _logs = logs::init(config.log.level, config.log.format, endpoint, "holdfast")
            .context("cannot set up logs")?;
        let stop = CancellationToken::new();
        let stopper = stop.clone();
        tokio::spawn(async move {
            shutdown::signal().await;
            stopper.cancel();
        });
        supervise::run(config, stop).await
    })
}

fn complain(error: &dyn std::fmt::Display, code: ExitCode) -> ExitCode {
    // Without standard error there is nobody left to tell.
    let _unseen = writeln!(std::io::stderr(), "holdfast: {error}");
    code
}
