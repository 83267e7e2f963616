//! The cut that matters most: the primary's host is parted from everybody, and a client beside it goes on writing.
//!
//! Three Redis hosts and one of clients, each a network namespace, with a supervisor on each Redis host: one row of the table that
//! `make partitions` prints (docs/partitions.md), held until another server is the primary.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use holdfast_tests::process::{self, Process};

/// The run has deadlines of its own, which say what was waited for; this is longer than all of them together.
const DEADLINE: Duration = Duration::from_mins(5);

/// Gives a program networks of its own, without asking for more rights than a user has.
const NAMESPACES: [&str; 4] = ["--user", "--map-root-user", "--net", "--mount"];

/// Named namespaces are kept where only root can write, so that place is replaced as well.
const PREPARE: &str = "mount -t tmpfs tmpfs /run && mkdir /run/netns";

#[tokio::test]
async fn a_cut_off_primary_is_replaced_and_no_confirmed_write_is_lost() {
    let probe = format!("{PREPARE} && ip netns add probe && ip link add probe0 type bridge");
    let allowed = Command::new("unshare").args(NAMESPACES).args(["sh", "-c", &probe]).output();
    if !allowed.is_ok_and(|output| output.status.success()) {
        // A container may refuse them; everything else about a cut-off primary is tested without.
        println!("this machine refuses network namespaces");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("bench/partitions");
    let run = format!(
        "{PREPARE} && exec python3 {} --cut primary --seconds 1 --patience 90 --check --holdfast {} --keep {}",
        script.display(),
        process::binary("holdfast").display(),
        folder.path().join("run").display(),
    );
    let mut arguments = NAMESPACES.to_vec();
    arguments.extend(["sh", "-c", &run]);
    let mut table = Process::start(Path::new("unshare"), &arguments, &folder.path().join("output"));
    let status = table.wait(DEADLINE).await;
    assert!(status.success(), "{status}\n{}", table.output());
}
