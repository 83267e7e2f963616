//! Real servers for the tests of what they say to each other.

pub(crate) mod prometheus;
pub(crate) mod supervisor;

use std::time::Duration;

/// Longest wait for anything. Generous, as the machine may be busy with other things.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// Waits until a condition holds.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "not within {PATIENCE:?}: {what}");
}

/// A port that nobody else gets while this process lives.
pub(crate) fn free_port() -> u16 {
    holdfast_ports::take().unwrap()
}

/// A child that dies with the test, even when that is killed.
pub(crate) fn bound_to_us(program: &str) -> std::process::Command {
    let mut command = std::process::Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", program]);
    command
}
