//! Two balancers behind keepalived, in network namespaces: `tests/scripts/keepalived-failover` says what happens.

use std::io::Write as _;
use std::process::Command;

/// How the script says that this machine does not permit namespaces.
const NOT_PERMITTED: i32 = 77;
/// Whoever wants to know how long it takes runs `make failover-balancer` on a machine that does nothing else.
const SECONDS: &str = "60";
/// It takes ten seconds where nothing else runs.
const TIME_MAX: &str = "5m";

#[test]
fn the_shared_address_moves_when_a_balancer_or_its_host_is_lost() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/scripts/keepalived-failover");
    let output = Command::new("setpriv")
        .args(["--pdeathsig", "TERM", "--", "timeout", "--kill-after=5", TIME_MAX, script])
        .args([env!("CARGO_BIN_EXE_holdfast-balancer"), SECONDS])
        .output()
        .unwrap();
    let (said, complained) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.code() == Some(NOT_PERMITTED) {
        writeln!(std::io::stderr(), "SKIPPED: {complained}").unwrap();
        return;
    }
    assert!(output.status.success(), "{said}\n{complained}");
    let last = said.lines().last().unwrap_or_default();
    assert!(last.starts_with("keepalived-failover killed_ms="), "{said}");
    assert!(last.ends_with("same_server=yes"), "{last}");
}
