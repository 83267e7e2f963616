//! `holdfast-balancer health`: whether the balancer on this host is ready, for programs that decide by an exit code.

use std::io;

use tokio::runtime::Builder;

use crate::client::{Client, ClientError, Running};

/// Answered with 200 as long as connections are accepted.
const PATH: &str = "/health/ready";

/// What it is asked for on the command line.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    running: Running,
}

/// Why it is not known to be ready.
#[derive(Debug, thiserror::Error)]
pub enum HealthError {
    /// It says so, or nothing.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The system refused something basic.
    #[error("start a runtime")]
    System(#[from] io::Error),
}

/// Asks once.
///
/// # Errors
/// It is not ready, or there is no telling.
pub fn run(arguments: &Arguments) -> Result<(), HealthError> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let client = Client::new(&arguments.running)?;
    runtime.block_on(client.get::<serde_json::Value>(PATH))?;
    Ok(())
}
