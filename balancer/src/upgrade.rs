//! `holdfast-balancer upgrade`: the program started anew takes over from the running one, and the one who asks learns whether it has.

use std::io::{self, Write as _};

use tokio::runtime::Builder;

use crate::admin::upgrade::UpgradeView;
use crate::client::{Client, ClientError, Running};

const PATH: &str = "/api/v1/upgrade";

/// What it is asked for on the command line.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    running: Running,
}

/// Why nobody has taken over, or nobody knows.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    /// The running one says so, or nothing.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The system refused something basic.
    #[error("start a runtime or write to stdout")]
    System(#[from] io::Error),
}

/// Returns once the new process serves, and says which it is.
///
/// # Errors
/// The old one serves on, or cannot be asked.
pub fn run(arguments: &Arguments) -> Result<(), UpgradeError> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let client = Client::new(&arguments.running)?;
    let taken_over: UpgradeView = runtime.block_on(client.post(PATH, client.upgrade_timeout()))?;
    writeln!(io::stdout(), "process {} has taken over", taken_over.process)?;
    Ok(())
}
