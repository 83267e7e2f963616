//! A supervisor whose disk fills up: it goes on in memory, says so, and writes everything once there is room.

use std::fmt;
use std::sync::Arc;

use nix::sys::signal::Signal;

use super::daemon::Daemon;
use super::evidence::SERIES;
use super::feed::Feed;
use super::small_disk::SmallDisk;
use super::target::Target;
use super::{PATIENCE, missing};
use crate::wait;

/// The alert that a full disk raises.
const ALERT: &str = "MetricsStoreFailing";
/// Batches to be taken before the disk is full, and while it is.
const BATCHES: usize = 60;

/// What came of it.
#[derive(Debug)]
pub struct FullDisk {
    /// Whether it was a file system of its own, or the limit on files stood for it.
    pub mounted: bool,
    /// Samples confirmed while the disk was full.
    pub while_full: usize,
    /// Samples that were not there while the disk was full.
    pub missing_while_full: usize,
    /// Samples that were not there after the disk had room, a kill and a restart.
    pub missing_after: usize,
}

impl FullDisk {
    /// Samples that were not there when they should have been.
    pub fn lost(&self) -> usize {
        self.missing_while_full + self.missing_after
    }
}

impl fmt::Display for FullDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { mounted, while_full, missing_while_full, missing_after } = self;
        write!(
            f,
            "full disk ({}): while_full={while_full} missing_while_full={missing_while_full} missing_after={missing_after}",
            if *mounted { "a small tmpfs" } else { "the limit on the size of files" }
        )
    }
}

/// Fills the disk of a supervisor, waits for its alert, gives the room back, kills it once the log is complete, and looks what the next
/// one knows.
///
/// # Panics
/// If the supervisor ends by itself, stops to take samples, does not raise the alert, or does not recover.
pub async fn full_disk() -> FullDisk {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::create_dir(folder.path().join("state")).expect("the test's own folder");
    let disk =
        SmallDisk::mount(&folder.path().join("state"), &folder.path().join("disk.log")).await;
    let target = Target::start().await;
    target.set_round(1);
    let daemon = Daemon::new(folder.path(), &target.address().to_string(), Some(disk));
    let daemon = Arc::new(daemon);
    let mut process = daemon.start().await;
    let feed = Feed::start(&daemon, 1);
    more(&feed, BATCHES).await;

    let disk = daemon.disk().expect("it was given one");
    disk.fill(process.pid());
    figure(&daemon, "supervisor_store_log_complete", 0.0).await;
    let before = feed.evidence().batches().0.len();
    more(&feed, BATCHES).await;
    wait::until("the alert", PATIENCE, async || {
        let firing = daemon.firing().await;
        if firing.iter().any(|name| name == ALERT) { Ok(()) } else { Err(firing) }
    })
    .await;
    let batches = feed.evidence().batches().0;
    let while_full = (batches.len() - before) * SERIES;
    let missing_while_full = missing(&daemon, 1, &batches).await.len() * SERIES;

    disk.free(process.pid());
    figure(&daemon, "supervisor_store_log_complete", 1.0).await;
    more(&feed, BATCHES).await;
    let evidence = feed.stop().await;
    let written = daemon.figure("supervisor_store_flush_seconds_count").await;
    let written = written.expect("a supervisor that lives answers");
    wait::until("two flushes more", PATIENCE, async || {
        let now = daemon.figure("supervisor_store_flush_seconds_count").await;
        if now.is_some_and(|now| now >= written + 2.0) { Ok(()) } else { Err(now) }
    })
    .await;
    process.signal(Signal::SIGKILL);
    process.wait(PATIENCE).await;
    assert!(!process.output().contains("panicked"), "{}", process.output());
    let _next = daemon.start().await;
    let missing_after = missing(&daemon, 1, &evidence.batches().0).await.len() * SERIES;
    FullDisk { mounted: disk.is_mounted(), while_full, missing_while_full, missing_after }
}

/// Waits until so many batches more were confirmed.
async fn more(feed: &Feed, batches: usize) {
    let before = feed.evidence().batches().0.len();
    wait::until("samples to be taken", PATIENCE, async || {
        let now = feed.evidence().batches().0.len();
        if now >= before + batches { Ok(()) } else { Err(now - before) }
    })
    .await;
}

/// Waits until a figure has a value.
async fn figure(daemon: &Daemon, name: &str, value: f64) {
    wait::until(name, PATIENCE, async || {
        let now = daemon.figure(name).await;
        if now == Some(value) { Ok(()) } else { Err(now) }
    })
    .await;
}
