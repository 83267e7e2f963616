//! The daemon: wires the parts together and keeps them running.

use crate::config::Config;

/// Runs the supervisor until `shutdown`.
///
/// # Errors
/// A part could not start.
pub async fn run(
    _config: Config,
    shutdown: tokio_util::sync::CancellationToken,
) -> anyhow::Result<()> {
    shutdown.cancelled().await;
    Ok(())
}
