//! The `holdfast-chatnode` binary.

use std::path::PathBuf;
use std::pin::pin;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use futures_util::FutureExt as _;
use holdfast_chatnode::config::Config;
use holdfast_chatnode::{Listeners, run};
use holdfast_telemetry::{announce, logs, shutdown};

/// Exit code for settings that cannot be used.
const BAD_CONFIG: u8 = 2;

/// Serves chat clients over the Centrifuge protocol, with history and presence in Redis.
#[derive(Debug, Parser)]
#[command(name = "holdfast-chatnode", version)]
struct Arguments {
    /// Settings file; deploy/config/chatnode.toml shows every key
    #[arg(long, value_name = "FILE", default_value = "/etc/holdfast/chatnode.toml")]
    config: PathBuf,
    /// Check the settings and exit: 0 if they can be used, 2 if not
    #[arg(long)]
    check_config: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let config = match Config::load(&arguments.config) {
        Ok(config) => config,
        Err(faults) => {
            complain(&faults);
            return ExitCode::from(BAD_CONFIG);
        }
    };
    if arguments.check_config {
        return ExitCode::SUCCESS;
    }
    match start(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format_args!("holdfast-chatnode: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn start(config: Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let listeners = Listeners::bind(&config).await?;
        let endpoint = config.otlp_endpoint.as_deref();
        let _logs = logs::init(config.log_level, config.log_format, endpoint, "holdfast-chatnode")
            .context("cannot set up logs")?;
        // Polled once, so that a signal is caught from before the first line is printed.
        let mut stop = pin!(shutdown::signal());
        if stop.as_mut().now_or_never().is_some() {
            return Ok(());
        }
        announce::listening("client", listeners.client.local_addr()?);
        announce::listening("admin", listeners.admin.local_addr()?);
        run(listeners, config, stop).await?;
        Ok(())
    })
}

fn complain(text: &dyn std::fmt::Display) {
    use std::io::Write as _;
    // Without stderr there is nobody left to tell.
    let _ = writeln!(std::io::stderr(), "{text}");
}
