//! SIGTERM ends the wait and not the process.
//!
//! A test binary of its own: the signal goes to the whole process.

use std::future::{Future as _, poll_fn};
use std::process::Command;
use std::task::Poll;
use std::time::Duration;

use holdfast_telemetry::shutdown;

const DEADLINE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn sigterm_ends_the_wait() {
    let mut signal = Box::pin(shutdown::signal());
    // The first poll installs the handlers; before it the signal would end this process.
    let pending = poll_fn(|context| Poll::Ready(signal.as_mut().poll(context).is_pending())).await;
    assert!(pending);

    let pid = std::process::id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    tokio::time::timeout(DEADLINE, signal).await.unwrap();
}
