//! Hooks as real processes around a real failover.

use std::path::Path;
use std::time::Duration;

use holdfast_supervisor::config::{Hook, Moment, OnTimeout};

use crate::cluster::{Cluster, servers, until};

/// A shell script as a hook; `$1` is the folder of the test.
fn hook(on: Moment, folder: &Path, script: &str, timeout: Duration) -> Hook {
    let folder = folder.display().to_string();
    let command = ["/bin/sh", "-c", script, "hook", folder.as_str()].map(str::to_owned).to_vec();
    Hook { on, command, timeout, on_timeout: OnTimeout::Go }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hooks_are_told_and_asked_and_one_that_hangs_is_not_in_the_way() {
    const LONG: Duration = Duration::from_secs(30);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let note = "echo \"$HOLDFAST_REDIS_HOOK $HOLDFAST_REDIS_NAME $HOLDFAST_REDIS_CHANGE \
                $HOLDFAST_REDIS_EPOCH $HOLDFAST_REDIS_FROM $HOLDFAST_REDIS_TO\" >> $1/told";
    let hooks = vec![
        // With a child, and longer than the whole failover may take.
        hook(Moment::Detect, path, "sleep 600 & sleep 600", Duration::from_secs(2)),
        hook(Moment::Detect, path, note, LONG),
        hook(Moment::BeforeFence, path, "test ! -e $1/veto || { echo not now; exit 7; }", LONG),
        hook(Moment::AfterPromote, path, note, LONG),
        hook(Moment::Done, path, note, LONG),
        hook(Moment::Failed, path, note, LONG),
    ];
    std::fs::write(path.join("veto"), "").unwrap();
    let cluster = Cluster::start(servers().await, |settings| settings.hooks = hooks).await;
    let (old, epoch) = (cluster.primary().address(), cluster.status().epoch);
    cluster.primary().signal("KILL");
    cluster.until_recorded("the hook /bin/sh exited with 7: not now").await;
    assert_eq!((cluster.status().primary.as_ref(), cluster.status().epoch), (Some(&old), epoch));
    std::fs::remove_file(path.join("veto")).unwrap();
    cluster.until_healthy(epoch).await;
    let new = cluster.primary().address();
    let told = || std::fs::read_to_string(path.join("told")).unwrap_or_default();
    // Attempts that were vetoed have used up epochs.
    let (from, first, last) = (old.to_string(), epoch + 1, cluster.status().epoch);
    for line in [
        format!("detect main failover {first} {from} "),
        format!("after_promote main failover {last} {from} {new}"),
        format!("done main failover {last} {from} {new}"),
    ] {
        until("the hook has run", || async { told().lines().any(|told| told == line) }).await;
    }
    assert!(!told().contains("failed"), "{}", told());
    cluster.until_recorded("(detect) did not end in time and was killed").await;
    for (on, result) in
        [("detect", "timed_out"), ("done", "succeeded"), ("before_fence", "succeeded")]
    {
        let line = format!(
            "supervisor_redis_hook_runs_total{{on=\"{on}\",redis=\"main\",result=\"{result}\"}} 1"
        );
        cluster.until_metric(&line).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switchover_is_vetoed_before_any_write_is_paused() {
    let folder = tempfile::tempdir().unwrap();
    let veto = hook(Moment::BeforeFence, folder.path(), "sleep 600", Duration::from_millis(300));
    let veto = Hook { on_timeout: OnTimeout::Stop, ..veto };
    let cluster = Cluster::start(servers().await, |settings| settings.hooks = vec![veto]).await;
    until("a candidate is known", || async { cluster.status().candidate.is_some() }).await;
    let old = cluster.status().primary;
    let refused = cluster.switch_over(None).await.unwrap_err();
    assert!(refused.to_string().contains("did not end in time"), "{refused}");
    assert_eq!(cluster.status().primary, old);
    assert_eq!(cluster.primary().try_run("SET key 1").await.as_deref(), Some("OK"));
}
