//! The signal on which a program ends: SIGTERM from a service manager, SIGINT from a terminal. Both mean the same graceful end.

use tokio::signal::unix::{SignalKind, signal as stream};

/// Returns on the first SIGTERM or SIGINT that arrives after the first poll.
///
/// # Cancel safety
/// Safe to drop and call again; a signal between the two is seen by neither.
///
/// # Panics
/// Outside a Tokio runtime with IO enabled.
pub async fn signal() {
    let installable = "SIGTERM and SIGINT can always be handled inside a runtime with IO";
    let mut terminate = stream(SignalKind::terminate()).expect(installable);
    let mut interrupt = stream(SignalKind::interrupt()).expect(installable);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
