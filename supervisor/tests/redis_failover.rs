//! Failover on real servers: crash, hang, empty restart, lost replica, planned switchover.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

#[path = "redis_failover/cluster.rs"]
mod cluster;
#[path = "redis_failover/managers.rs"]
mod managers;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cluster::{Cluster, Server, servers, until};
use holdfast_supervisor::cluster::{Address, Appointment, Pause, RedisRole, RedisState};
use holdfast_supervisor::control::RedisCommand;
use holdfast_supervisor::judge::redis::Lineage;
use holdfast_supervisor::plan::failover::{Fork, RedisEntry};
use tokio::time::{Instant, sleep};

/// Where a server stands in the list.
fn position(cluster: &Cluster, address: &Address) -> usize {
    let is_it = |server: &Option<Server>| server.as_ref().is_some_and(|s| s.address() == *address);
    cluster.servers.iter().position(is_it).unwrap()
}

/// All servers but `primary` follow it.
async fn until_all_follow(cluster: &Cluster, primary: &Address) {
    for server in cluster.servers.iter().flatten().filter(|server| server.address() != *primary) {
        until("a server follows the new primary", || async {
            server.info("master_port").await == primary.port().to_string()
                && server.info("master_link_status").await == "up"
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_primary_is_replaced_at_once_and_comes_back_as_a_replica() {
    let mut cluster = Cluster::start(servers().await, |_| {}).await;
    let old = cluster.primary().address();
    cluster.primary().confirmed_write("key", "value").await;
    let (epoch, started) = (cluster.status().epoch, Instant::now());
    cluster.primary().signal("KILL");
    let mut status = cluster.handles.status.clone();
    status.wait_for(|status| status.primary.as_ref() != Some(&old)).await.unwrap();
    let switched = started.elapsed();
    cluster.until_healthy(epoch).await;
    let new = cluster.primary().address();
    println!(
        "kill -9 to another primary published: {:.1} ms, to verified: {:.1} ms",
        switched.as_secs_f64() * 1e3,
        started.elapsed().as_secs_f64() * 1e3
    );
    for record in cluster.records().iter().filter(|record| record.contains("FailoverStep")) {
        println!(
            "  {}",
            record.split("message: ").nth(1).unwrap().split(", reasons").next().unwrap()
        );
    }
    assert_eq!(cluster.primary().try_run("GET key").await.as_deref(), Some("value"));
    assert_eq!(cluster.status().epoch, epoch + 1);
    cluster.until_recorded("FailoverDone").await;
    cluster.until_recorded("refuses connections: nobody listens there").await;

    // It comes back empty and as a primary, on the same port.
    let index = position(&cluster, &old);
    drop(cluster.servers[index].take());
    let back = Server::start(old.port(), &[]).await;
    cluster.servers[index] = Some(back);
    until_all_follow(&cluster, &new).await;
    let back = cluster.servers[index].as_ref().unwrap();
    until("it has copied the data", || async {
        back.try_run("GET key").await.as_deref() == Some("value")
    })
    .await;
    assert_eq!(cluster.status().primary, Some(new));
    assert_eq!(cluster.status().epoch, epoch + 1);
    until("the status shows two replicas", || async {
        let is_linked = |s: &&_| -> bool {
            let s: &holdfast_supervisor::cluster::RedisServerStatus = s;
            s.role == Some(RedisRole::Replica) && s.link_up == Some(true)
        };
        cluster.status().servers.iter().filter(is_linked).count() == 2
    })
    .await;
    let line = r#"supervisor_redis_failovers_total{redis="main",result="succeeded"} 1"#;
    cluster.until_metric(line).await;
}

/// A hung primary is replaced after `hang_after`; when it runs again, the first thing it does is to become a replica.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hung_primary_is_fenced_before_it_wakes() {
    let cluster = Cluster::start(servers().await, |settings| {
        settings.hang_after = Duration::from_millis(400);
        settings.probe_timeout = Duration::from_millis(300);
    })
    .await;
    let old = cluster.primary().address();
    let hung = &cluster.servers[position(&cluster, &old)].as_ref().unwrap();
    let mut writer = hung.open().await.unwrap();
    cluster.primary().confirmed_write("before", "1").await;
    let epoch = cluster.status().epoch;
    let started = Instant::now();
    hung.signal("STOP");
    let mut status = cluster.handles.status.clone();
    status.wait_for(|status| status.primary.as_ref() != Some(&old)).await.unwrap();
    println!(
        "SIGSTOP to another primary published: {:.0} ms",
        started.elapsed().as_secs_f64() * 1e3
    );
    cluster.until_healthy(epoch).await;
    let new = cluster.primary().address();
    cluster.until_recorded("the primary hangs").await;

    // A client wrote into the stopped server: its write must not be acknowledged as if nothing had happened.
    let late = tokio::spawn(async move { writer.command(&["SET", "late", "1"]).await });
    sleep(Duration::from_millis(50)).await;
    hung.signal("CONT");
    until_all_follow(&cluster, &new).await;
    assert_eq!(hung.info("role").await, "slave");
    let acknowledged = late.await.unwrap().is_ok();
    assert!(!acknowledged || cluster.primary().try_run("GET late").await.as_deref() == Some("1"));
    cluster.until_recorded("ran the fence").await;
    assert_eq!(cluster.status().epoch, epoch + 1, "{:#?}", cluster.records());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_shorter_than_the_limit_is_no_hang() {
    let cluster = Cluster::start(servers().await, |_| {}).await;
    let primary = cluster.primary();
    primary.signal("STOP");
    until("the pause is noticed", || async { cluster.status().state != RedisState::Healthy }).await;
    primary.signal("CONT");
    cluster.until_healthy(0).await;
    assert_eq!(cluster.status().epoch, 1);
    assert!(!cluster.recorded("FailoverStep"), "{:#?}", cluster.records());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_replica_is_told_and_nothing_is_failed_over() {
    let mut cluster = Cluster::start(servers().await, |_| {}).await;
    let primary = cluster.primary().address();
    let index = (position(&cluster, &primary) + 1) % 3;
    let port = cluster.servers[index].as_ref().unwrap().port;
    drop(cluster.servers[index].take());
    cluster.until_recorded(&format!("127.0.0.1:{port} does not answer")).await;
    assert_eq!(cluster.status().primary, Some(primary.clone()));
    assert_eq!(cluster.status().epoch, 1);
    let own = ["--replicaof", "127.0.0.1", &primary.port().to_string()];
    cluster.servers[index] = Some(Server::start(port, &own).await);
    cluster.until_recorded(&format!("127.0.0.1:{port} answers again")).await;
    cluster.until_healthy(0).await;
    assert!(!cluster.recorded("FailoverStep"), "{:#?}", cluster.records());
}

/// Killed and at once started again without its data: its replicas must not copy the nothing it has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_comes_back_empty_at_once_costs_no_data() {
    let mut cluster = Cluster::start(servers().await, |_| {}).await;
    let old = cluster.primary().address();
    let index = position(&cluster, &old);
    cluster.primary().confirmed_write("key", "value").await;
    drop(cluster.servers[index].take());
    cluster.servers[index] = Some(Server::start(old.port(), &[]).await);
    cluster.until_healthy(1).await;
    let new = cluster.primary().address();
    assert_ne!(new, old);
    until_all_follow(&cluster, &new).await;
    for server in cluster.servers.iter().flatten() {
        until("every server has the data", || async {
            server.try_run("GET key").await.as_deref() == Some("value")
        })
        .await;
    }
}

/// Three writers; every acknowledged write is on the new primary.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planned_switchover_loses_nothing() {
    let cluster = Arc::new(Cluster::start(servers().await, |_| {}).await);
    let old = cluster.primary().address();
    until("a candidate is known", || async { cluster.status().candidate.is_some() }).await;
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..3)
        .map(|writer| {
            let (cluster, stop) = (Arc::clone(&cluster), Arc::clone(&stop));
            tokio::spawn(async move { write(&cluster, writer, &stop).await })
        })
        .collect();
    sleep(Duration::from_millis(200)).await;
    let report = cluster.switch_over(None).await.unwrap();
    println!("switchover: {:.1} ms to the first write", report.seconds * 1e3);
    sleep(Duration::from_millis(200)).await;
    stop.store(true, Ordering::Relaxed);
    assert_eq!((report.from.as_ref(), report.lost_bytes), (Some(&old), Some(0)));
    let mut connection = cluster.primary().open().await.unwrap();
    let mut acknowledged = 0;
    for writer in writers {
        for key in writer.await.unwrap() {
            acknowledged += 1;
            let found = connection.command(&["EXISTS", &key]).await.unwrap();
            assert_eq!(found.integer(), Some(1), "{key} was acknowledged and is lost");
        }
    }
    println!("{acknowledged} acknowledged writes, none lost");
    assert!(acknowledged > 100);
    let new = cluster.primary().address();
    until_all_follow(&cluster, &new).await;

    // Back to where it was, by name; and what cannot be done is refused with a reason.
    cluster.until_healthy(0).await;
    until("it can go back", || async { cluster.status().candidate.is_some() }).await;
    assert_eq!(cluster.switch_over(Some(old.clone())).await.unwrap().to, old);
    let again = cluster.switch_over(Some(old.clone())).await.unwrap_err();
    assert!(again.to_string().contains("is the primary already"), "{again}");
    let unknown = cluster.switch_over(Some("127.0.0.1:1".parse().unwrap())).await.unwrap_err();
    assert!(unknown.to_string().contains("no server 127.0.0.1:1"), "{unknown}");
}

/// Writes until told to stop, always to the primary clients are told, and returns what was acknowledged.
async fn write(cluster: &Cluster, writer: usize, stop: &AtomicBool) -> Vec<String> {
    let mut acknowledged = Vec::new();
    let mut connection = None;
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let key = format!("w{writer}:{number}");
        if connection.is_none() {
            connection = cluster.primary().open().await;
        }
        let Some(open) = connection.as_mut() else { continue };
        match open.command(&["SET", &key, "1"]).await {
            Ok(_) => acknowledged.push(key),
            Err(_) => connection = None,
        }
    }
    acknowledged
}

/// The supervisor stops, the primary dies meanwhile, the supervisor comes back: it knows whom to replace.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_death_while_we_were_away_is_found_from_the_saved_state() {
    let cluster = Cluster::start(servers().await, |_| {}).await;
    let old = cluster.primary().address();
    cluster.primary().confirmed_write("key", "value").await;
    let index = position(&cluster, &old);
    let cluster = cluster.restart(|servers| drop(servers[index].take())).await;
    cluster.until_healthy(1).await;
    assert_ne!(cluster.status().primary, Some(old));
    assert_eq!(cluster.primary().try_run("GET key").await.as_deref(), Some("value"));
}

/// A primary that was cut off wrote on alone. When it comes back, what only it has is in a file that `redis-cli --pipe` replays, and then it
/// is a replica.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_cut_off_primary_wrote_is_saved_before_it_is_made_a_replica() {
    const WRITES: usize = 2000;
    let servers = servers().await;
    let [old, new, _] = [0, 1, 2].map(|at| servers[at].as_ref().unwrap());
    old.confirmed_write("common", "1").await;
    let (replid, offset) = (new.info("master_replid").await, new.info("master_repl_offset").await);
    for replica in &servers[1..] {
        let replica = replica.as_ref().unwrap();
        replica.try_run("REPLICAOF NO ONE").await.unwrap();
    }
    let mut writer = old.open().await.unwrap();
    for number in 0..WRITES {
        let (key, value) = (format!("only:{number}"), format!("value {number}"));
        writer.command(&["SET", key.as_str(), value.as_str()]).await.unwrap();
    }
    let lineage = |replid: String, replid2: Option<String>| Lineage {
        run_id: None,
        replid,
        replid2,
        forked_at: None,
        offset: offset.parse().unwrap(),
    };
    let (from, to) = (old.address(), new.address());
    let at = chrono::DateTime::UNIX_EPOCH;
    let before = lineage(replid.clone(), None);
    let after = lineage(new.info("master_replid").await, Some(replid.clone()));
    let fork = Fork { replid: replid.clone(), offset: offset.parse().unwrap() };
    let entries = vec![
        RedisEntry::Adopt { primary: from.clone(), lineage: Some(before) },
        RedisEntry::Begin { epoch: 2, from, to: to.clone(), is_planned: false },
        RedisEntry::Done { epoch: 2, to, lineage: after, fork: Some(fork), at },
    ];
    let cluster = Cluster::with_agreed(servers, entries, |_| {}).await;
    let primary = cluster.primary();
    until_all_follow(&cluster, &primary.address()).await;
    cluster.until_recorded("can be replayed").await;
    assert_eq!(primary.try_run("EXISTS only:0").await.as_deref(), Some("Integer(0)"));

    let files: Vec<_> = std::fs::read_dir(cluster.state_dir.path().join("salvage"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "resp"))
        .collect();
    let [file] = &files[..] else { panic!("one file, not {files:?}") };
    let replayed = std::process::Command::new("redis-cli")
        .args(["-p", &primary.address().port().to_string(), "--pipe"])
        .stdin(std::fs::File::open(file).unwrap())
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&replayed.stdout).contains("errors: 0"), "{replayed:?}");
    for number in [0, WRITES / 2, WRITES - 1] {
        let value = primary.try_run(&format!("GET only:{number}")).await;
        assert_eq!(value, Some(format!("value {number}")));
    }
}

/// A large process frees its memory before its sockets are closed; its kernel tells at once that it is ending.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_primary_that_is_killed_is_known_to_be_dead_before_its_sockets_close() {
    let servers = servers().await;
    let pid_files: Vec<_> = servers.iter().flatten().map(Server::pid_file).collect();
    let cluster = Cluster::start(servers, |settings| {
        // Filling it takes longer on a busy machine; only its end is the matter here.
        settings.hang_after = Duration::from_secs(20);
        for (server, pid_file) in settings.servers.iter_mut().zip(pid_files) {
            server.pid_file = Some(pid_file);
        }
    })
    .await;
    // Not replicated, so that it is large alone: about 600 MB.
    cluster.primary().try_run("DEBUG POPULATE 600000 big 1000").await;
    until("the primary is large and answers", || async {
        let memory = cluster.primary().try_run("MEMORY STATS").await.unwrap_or_default();
        memory.contains("600000") && cluster.status().state == RedisState::Healthy
    })
    .await;
    cluster.primary().confirmed_write("before", "1").await;
    let (old, epoch) = (cluster.primary().address(), cluster.status().epoch);
    let mut status = cluster.handles.status.clone();
    let started = Instant::now();
    cluster.primary().signal("KILL");
    status.wait_for(|status| status.primary.as_ref() != Some(&old)).await.unwrap();
    let published = started.elapsed();
    println!(
        "kill -9 at 600 MB to another primary published: {:.0} ms",
        published.as_secs_f64() * 1e3
    );
    cluster.until_healthy(epoch).await;
    cluster.until_recorded("is ending or gone").await;
    assert_eq!(cluster.primary().try_run("GET before").await.as_deref(), Some("1"));
}

/// Silent for more than the limit, but its processor time goes on: a long command is no hang.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_at_work_on_a_long_script_is_not_replaced() {
    let servers = servers().await;
    let pid_files: Vec<_> = servers.iter().flatten().map(Server::pid_file).collect();
    let cluster = Cluster::start(servers, |settings| {
        settings.hang_after = Duration::from_millis(500);
        settings.probe_timeout = Duration::from_millis(200);
        for (server, pid_file) in settings.servers.iter_mut().zip(pid_files) {
            server.pid_file = Some(pid_file);
        }
    })
    .await;
    let (primary, epoch) = (cluster.primary().address(), cluster.status().epoch);
    let mut writer = cluster.primary().open().await.unwrap();
    let script = "local x = 0 for i = 1, 200000000 do x = x + i end return x";
    // Our own time-out may be shorter than the script, and does not matter.
    writer.command(&["EVAL", script, "0"]).await.ok();
    cluster.until_recorded("at work on something long").await;
    cluster.until_healthy(0).await;
    assert_eq!(cluster.status().primary, Some(primary));
    assert_eq!(cluster.status().epoch, epoch, "{:#?}", cluster.records());
}

/// A pause holds a failover back over a restart of ours, and the end of the pause lets it happen; approval does the same for one plan.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pause_and_approval_hold_a_failover_back_until_an_operator_agrees() {
    let cluster = Cluster::start(servers().await, |settings| {
        settings.approval = Some(Duration::from_mins(5));
    })
    .await;
    cluster.primary().confirmed_write("before", "1").await;
    let (epoch, old) = (cluster.status().epoch, cluster.primary().address());
    let at = position(&cluster, &old);
    let pause = Pause { reason: "network work".to_owned(), by: "test".to_owned(), until: None };
    cluster.order(|reply| RedisCommand::Pause { pause, reply }).await.unwrap();
    let cluster = cluster.restart(|servers| servers[at] = None).await;
    until("the pause is given as the reason", || async {
        cluster.status().reason.is_some_and(|reason| reason.contains("paused (network work"))
    })
    .await;
    let by = || "test".to_owned();
    let early = cluster.order(|reply| RedisCommand::Approve { by: by(), reply }).await;
    assert!(early.unwrap_err().to_string().contains("no failover waits"));
    cluster.order(|reply| RedisCommand::Resume { by: by(), reply }).await.unwrap();
    until("it waits for approval", || async { cluster.status().awaits_approval }).await;
    assert_eq!(cluster.status().primary, Some(old));
    cluster.order(|reply| RedisCommand::Approve { by: by(), reply }).await.unwrap();
    cluster.until_healthy(epoch).await;
    assert_eq!(cluster.primary().try_run("GET before").await.as_deref(), Some("1"));
    assert!(!cluster.status().awaits_approval);
    let end = cluster.order(|reply| RedisCommand::Acknowledge { by: by(), reply }).await;
    assert_eq!(end, Ok(()));
}

/// A switchover that was set for later happens then; one that is cancelled does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_appointed_switchover_is_kept() {
    let cluster = Cluster::start(servers().await, |_| {}).await;
    let epoch = cluster.status().epoch;
    let target = cluster.status().candidate.unwrap();
    let in_seconds = |seconds| Appointment {
        at: chrono::Utc::now() + chrono::TimeDelta::milliseconds(seconds),
        target: Some(target.clone()),
        by: "test".to_owned(),
    };
    let past = in_seconds(-1000);
    let refused = cluster.order(|reply| RedisCommand::Appoint { appointment: past, reply }).await;
    assert!(refused.unwrap_err().to_string().contains("past"));
    let later = in_seconds(3_600_000);
    cluster.order(|reply| RedisCommand::Appoint { appointment: later, reply }).await.unwrap();
    assert!(cluster.status().switchover.is_some());
    let by = "test".to_owned();
    cluster.order(|reply| RedisCommand::Cancel { by, reply }).await.unwrap();
    let soon = in_seconds(300);
    cluster.order(|reply| RedisCommand::Appoint { appointment: soon, reply }).await.unwrap();
    cluster.until_healthy(epoch).await;
    assert_eq!(cluster.status().primary, Some(target));
    assert_eq!(cluster.status().switchover, None);
}
