//! Redis that somebody else manages: real Redis Sentinels are followed, watched and asked, and nobody's roles are changed by us.

use std::time::Duration;

use holdfast_psync::{Address as RedisAddress, Connection, Credentials, Endpoint};
use holdfast_settings::Secret;
use holdfast_supervisor::act::redis::SentinelEvent;
use holdfast_supervisor::cluster::{Address, Manager};
use holdfast_supervisor::config;
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

use super::cluster::{Cluster, PATIENCE, Process, Server, free_port, servers, until};

const PASSWORD: &str = "sentinels-only";

/// A write that has no answer after this long waits for the end of a pause.
const PAUSED: Duration = Duration::from_secs(1);

/// One Redis Sentinel, which asks for a password.
struct Sentinel {
    port: u16,
    process: Process,
    /// Goes when the process has gone.
    _dir: TempDir,
}

impl Sentinel {
    fn start(primary: &Address, down_after: Duration) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (port, file) = (free_port(), dir.path().join("sentinel.conf"));
        let text = format!(
            "port {port}\nbind 127.0.0.1\ndir {dir}\nlogfile {dir}/log\n\
             requirepass {PASSWORD}\nsentinel sentinel-pass {PASSWORD}\n\
             sentinel monitor main {host} {primary_port} 2\n\
             sentinel down-after-milliseconds main {down}\nsentinel failover-timeout main 20000\n",
            dir = dir.path().display(),
            host = primary.host(),
            primary_port = primary.port(),
            down = down_after.as_millis(),
        );
        std::fs::write(&file, text).unwrap();
        let arguments = vec![file.display().to_string(), "--sentinel".to_owned()];
        Self { port, process: Process::start("redis-server", arguments), _dir: dir }
    }

    fn address(&self) -> Address {
        Address::new("127.0.0.1", self.port)
    }

    /// A command; `None` if it does not answer or refuses.
    async fn run(&self, words: &str) -> Option<()> {
        let words: Vec<&str> = words.split(' ').collect();
        let endpoint = Endpoint::new(RedisAddress::Tcp(self.address().to_string()));
        let password = PASSWORD.to_owned();
        let endpoint = endpoint.with_credentials(Some(Credentials { username: None, password }));
        Connection::open(&endpoint).await.ok()?.command(&words).await.ok().map(drop)
    }
}

/// Three Sentinels that know each other and the replicas, over three servers, and a supervisor that follows them.
async fn managed(down_after: Duration) -> (Cluster, Vec<Sentinel>) {
    let servers = servers().await;
    let primary = servers[0].as_ref().unwrap().address();
    let sentinels: Vec<_> = (0..3).map(|_| Sentinel::start(&primary, down_after)).collect();
    let cluster = Cluster::start(servers, |settings| {
        settings.manager = Manager::Sentinel;
        settings.sentinels = Some(config::Sentinels {
            addresses: sentinels.iter().map(Sentinel::address).collect(),
            username: None,
            password: Some(Secret::new(PASSWORD)),
            tls: None,
        });
    })
    .await;
    until("the Sentinels know each other", || async {
        let seen = cluster.status().managed.sentinels;
        seen.len() == 3 && seen.iter().all(|sentinel| sentinel.has_quorum == Some(true))
    })
    .await;
    // `CKQUORUM` is content with two of three, and a failover needs replicas that are known: they come with an INFO each 10 s at most.
    for sentinel in &sentinels {
        let endpoint = Endpoint::new(RedisAddress::Tcp(sentinel.address().to_string()));
        let password = PASSWORD.to_owned();
        let endpoint = endpoint.with_credentials(Some(Credentials { username: None, password }));
        let mut connection = Connection::open(&endpoint).await.unwrap();
        let deadline = Instant::now() + PATIENCE;
        for (question, count) in [("REPLICAS", 2), ("SENTINELS", 2)] {
            loop {
                let reply = connection.command(&["SENTINEL", question, "main"]).await.unwrap();
                if matches!(&reply, holdfast_psync::Reply::Array(Some(all)) if all.len() == count) {
                    break;
                }
                assert!(Instant::now() < deadline, "{question}: {reply:?}");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
    (cluster, sentinels)
}

fn has_risk(cluster: &Cluster, words: &str) -> bool {
    cluster.status().managed.risks.iter().any(|risk| risk.contains(words))
}

fn metric(cluster: &Cluster, line: &str) -> bool {
    holdfast_telemetry::metrics::encode(&cluster.registry).lines().any(|found| found == line)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_of_redis_sentinel_is_followed_and_not_made() {
    let (cluster, _sentinels) = managed(Duration::from_secs(1)).await;
    let mut events = cluster.handles.events.subscribe();
    let old = cluster.primary().address();
    cluster.primary().confirmed_write("key", "value").await;
    let epoch = cluster.status().epoch;
    cluster.primary().signal("KILL");
    let mut status = cluster.handles.status.clone();
    let new = status
        .wait_for(|status| status.primary.as_ref() != Some(&old))
        .await
        .unwrap()
        .primary
        .clone();
    let new = new.unwrap();
    cluster.until_healthy(epoch).await;
    assert_eq!(cluster.status().primary, Some(new.clone()));
    assert_eq!(cluster.primary().try_run("GET key").await.as_deref(), Some("value"));
    let switch = format!("main 127.0.0.1 {} 127.0.0.1 {}", old.port(), new.port());
    let is_switch =
        |event: &SentinelEvent| event.channel == "+switch-master" && event.payload == switch;
    let heard = async { while !is_switch(&events.recv().await.unwrap()) {} };
    assert!(timeout(PATIENCE, heard).await.is_ok(), "no +switch-master");
    cluster.until_recorded("Redis Sentinel names it").await;
    assert!(!cluster.recorded("FailoverStep"), "{:#?}", cluster.records());
    cluster
        .until_metric(r#"supervisor_redis_manager_info{manager="sentinel",redis="main"} 1"#)
        .await;
    // The former primary is dead: nobody wrote to it in vain.
    cluster.until_metric(r#"supervisor_redis_unsafe_switches_total{redis="main"} 0"#).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_weak_spots_of_redis_sentinel_are_shown_while_they_are_open() {
    let (cluster, sentinels) = managed(Duration::from_millis(500)).await;
    until("short down-after is seen", || async { has_risk(&cluster, "it fails over twice") }).await;
    until("missing persistence is seen", || async { has_risk(&cluster, "keeps nothing on disk") })
        .await;
    let open = r#"supervisor_redis_sentinel_risk{redis="main",risk="down_after_short"} 1"#;
    cluster.until_metric(open).await;
    for sentinel in &sentinels {
        sentinel.run("SENTINEL SET main down-after-milliseconds 60000").await.unwrap();
    }
    until("down-after is long enough", || async { !has_risk(&cluster, "it fails over twice") })
        .await;
    cluster.until_recorded("no longer so").await;
    assert!(cluster.primary().try_run("CONFIG SET appendonly yes").await.is_some());
    until("persistence is seen", || async { !has_risk(&cluster, "keeps nothing on disk") }).await;

    // The replica Sentinel prefers has lost its link, and its data are old.
    let stale = cluster.servers[1].as_ref().unwrap();
    stale.try_run("CONFIG SET replica-priority 10").await.unwrap();
    stale.try_run("CONFIG SET masterauth wrong").await.unwrap();
    stale.try_run("REPLICAOF 127.0.0.1 1").await.unwrap();
    cluster.primary().confirmed_write("key", "value").await;
    until("the stale choice is seen", || async {
        has_risk(&cluster, "would be promoted, and lacks")
    })
    .await;

    // One Sentinel is told of another primary; under the epoch in which all began that is as good as the truth.
    let other = cluster.servers[2].as_ref().unwrap().port;
    sentinels[2].run("SENTINEL REMOVE main").await.unwrap();
    sentinels[2].run(&format!("SENTINEL MONITOR main 127.0.0.1 {other} 2")).await.unwrap();
    sentinels[2].run("SENTINEL SET main down-after-milliseconds 60000").await.unwrap();
    until("the disagreement is seen", || async { has_risk(&cluster, "names 127.0.0.1") }).await;
    let named = cluster.status().primary;
    assert_eq!(named, Some(cluster.servers[0].as_ref().unwrap().address()), "no side is taken");

    for sentinel in &sentinels {
        sentinel.process.signal("KILL");
    }
    until("their absence is seen", || async {
        has_risk(&cluster, "none of 3 Sentinels can be asked")
    })
    .await;
    until("each is known to be gone", || async {
        cluster.status().managed.sentinels.iter().all(|sentinel| sentinel.error.is_some())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_asked_for_through_us_loses_no_acknowledged_write() {
    let (cluster, _sentinels) = managed(Duration::from_secs(5)).await;
    let old = cluster.servers[0].as_ref().unwrap();
    assert!(
        cluster.switch_over(Some(cluster.servers[1].as_ref().unwrap().address())).await.is_err()
    );
    let mut writer = old.open().await.unwrap();
    let writing = tokio::spawn(async move {
        let mut acknowledged = 0_u32;
        // Until the pause.
        loop {
            let key = format!("key:{acknowledged}");
            match timeout(PAUSED, writer.command(&["SET", &key, "1"])).await {
                Ok(Ok(_)) => acknowledged += 1,
                _ => return acknowledged,
            }
        }
    });
    until("writes are under way", || async {
        old.try_run("GET key:10").await.as_deref() == Some("1")
    })
    .await;
    let report = cluster.switch_over(None).await.unwrap();
    assert_eq!(report.from, Some(old.address()));
    assert_eq!(cluster.status().primary, Some(report.to.clone()));
    println!("asked through us, Redis Sentinel moved the primary in {:.2} s", report.seconds);
    let acknowledged = writing.await.unwrap();
    let new = cluster.primary();
    for number in [0, acknowledged / 2, acknowledged - 1] {
        let value = new.try_run(&format!("GET key:{number}")).await;
        assert_eq!(value.as_deref(), Some("1"), "write {number} of {acknowledged}");
    }
    // The former primary takes no writes while Sentinel still has it as a primary.
    assert_eq!(timeout(PAUSED, old.try_run("SET late 1")).await.ok().flatten(), None);
    cluster.until_recorded("Redis Sentinel moved the primary").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_lost_by_a_failover_asked_of_sentinel_directly_are_noticed() {
    let (cluster, sentinels) = managed(Duration::from_secs(5)).await;
    let old = cluster.servers[0].as_ref().unwrap();
    let address = old.address();
    sentinels[0].run("SENTINEL FAILOVER main").await.unwrap();
    let mut status = cluster.handles.status.clone();
    status.wait_for(|status| status.primary.as_ref() != Some(&address)).await.unwrap();
    // Sentinel demotes it some ten seconds later; until then it takes writes.
    until("the former primary acknowledges a write", || async {
        old.try_run("SET lost 1").await.as_deref() == Some("OK")
    })
    .await;
    until("the former primary is a replica", || async { old.info("role").await == "slave" }).await;
    cluster.until_recorded("went on as a primary after").await;
    cluster.until_metric(r#"supervisor_redis_unsafe_switches_total{redis="main"} 1"#).await;
    let kept = cluster.primary().try_run("EXISTS lost").await;
    assert_eq!(kept.as_deref(), Some("Integer(0)"));
    cluster.until_recorded("bytes of its history never reached").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_restart_under_redis_sentinel_is_noticed() {
    let (mut cluster, _sentinels) = managed(Duration::from_secs(30)).await;
    cluster.primary().confirmed_write("key", "value").await;
    let port = cluster.primary().port;
    drop(cluster.servers[0].take());
    cluster.servers[0] = Some(Server::start(port, &[]).await);
    until("it is noticed", || async {
        metric(&cluster, r#"supervisor_redis_empty_restarts_total{redis="main"} 1"#)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_manager_a_change_by_hand_is_noticed() {
    let cluster =
        Cluster::start(servers().await, |settings| settings.manager = Manager::None).await;
    let (old, epoch) = (cluster.primary().address(), cluster.status().epoch);
    let refused = cluster.switch_over(None).await.unwrap_err().to_string();
    assert!(refused.contains("`redis.manager` is \"none\""), "{refused}");
    let (new, other) = (cluster.servers[1].as_ref().unwrap(), cluster.servers[2].as_ref().unwrap());
    cluster.primary().signal("KILL");
    cluster.until_recorded("withheld: `redis.manager`").await;
    new.try_run("REPLICAOF NO ONE").await.unwrap();
    other.try_run(&format!("REPLICAOF 127.0.0.1 {}", new.port)).await.unwrap();
    cluster.until_healthy(epoch).await;
    assert_eq!(cluster.status().primary, Some(new.address()));
    assert_ne!(old, new.address());
    cluster.until_recorded("it has become the primary").await;
}
