//! How a program tells where it listens: one line per address on stdout, so that whoever started it on port 0 learns the port.
//!
//! Not a log line: logs go to stderr in a format of the operator's choice, and a script must be able to wait for these.

use std::io::Write as _;
use std::net::SocketAddr;

/// Writes `listening <purpose> <address>` to stdout and flushes.
pub fn listening(purpose: &str, address: SocketAddr) {
    let mut stdout = std::io::stdout().lock();
    // A closed stdout (daemon without one) costs only this line; the address stands in the settings or the logs as well.
    let _ = writeln!(stdout, "listening {purpose} {address}").and_then(|()| stdout.flush());
}
