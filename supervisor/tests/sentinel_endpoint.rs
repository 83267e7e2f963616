//! The Sentinel-compatible endpoint as `redis-cli` and a subscriber see it, through a real failover.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

#[path = "support/certificates.rs"]
mod certificates;
#[path = "redis_failover/cluster.rs"]
#[expect(dead_code, reason = "shared with the tests of the failover itself")]
mod cluster;

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use certificates::{NEW_KEY, openssl};
use cluster::{Cluster, servers, until};
use holdfast_settings::Secret;
use holdfast_supervisor::config;
use holdfast_supervisor::observe::redis::Login;
use holdfast_supervisor::serve::sentinel::{Endpoint, Primary, Sentinels, run};
use holdfast_supervisor::serve::tls::{Renewal, ServerFiles};
use holdfast_telemetry::Registry;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Serves the cluster's primary; ends with the test's runtime.
async fn serve(cluster: &Cluster) -> SocketAddr {
    serve_with(&[cluster], |_| {}).await
}

/// Serves several, with a change to how.
async fn serve_with(clusters: &[&Cluster], change: impl FnOnce(&mut Endpoint)) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let primary = |cluster: &&Cluster| Primary {
        topology: cluster.handles.topology.clone(),
        samples: cluster.handles.samples.clone(),
        events: cluster.handles.events.clone(),
        orders: cluster.commands.clone(),
        login: None,
    };
    let mut endpoint = Endpoint {
        primaries: clusters.iter().map(primary).collect(),
        name: "supervisor-1".to_owned(),
        login: None,
        tls: None,
        peer_tls: None,
        sentinels: Arc::new(Sentinels::default),
        sink: Arc::new(|_| {}),
    };
    change(&mut endpoint);
    let shutdown = clusters[0].shutdown.clone();
    tokio::spawn(async move { run(listener, endpoint, &Registry::new(), shutdown).await });
    address
}

async fn redis_cli(at: SocketAddr, words: &[&str]) -> String {
    let port = at.port().to_string();
    let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    let output = tokio::task::spawn_blocking(move || {
        let mut command = Command::new("timeout");
        command.args(["60", "redis-cli", "--no-auth-warning", "-p", &port]).args(words);
        command.output().unwrap()
    });
    let output = output.await.unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    String::from_utf8(output.stdout).unwrap() + &errors
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_find_the_primary_and_are_told_of_the_next() {
    let cluster = Cluster::start(servers().await, |_| {}).await;
    let at = serve(&cluster).await;
    let old = cluster.status().primary.unwrap();

    let found = redis_cli(at, &["sentinel", "get-master-addr-by-name", "main"]).await;
    assert_eq!(found, format!("127.0.0.1\n{}\n", old.port()));
    let masters = redis_cli(at, &["-3", "sentinel", "masters"]).await;
    assert!(masters.contains("main") && masters.contains("num-slaves"), "{masters}");
    until("both replicas are told", || async {
        let replicas = redis_cli(at, &["sentinel", "replicas", "main"]).await;
        replicas.matches("master-link-status").count() == 2
    })
    .await;
    let line = format!("master0:name=main,status=ok,address={old},slaves=2,sentinels=1");
    until(&line, || async { redis_cli(at, &["info", "sentinel"]).await.contains(&line) }).await;

    let mut subscriber = TcpStream::connect(at).await.unwrap();
    subscriber
        .write_all(b"SUBSCRIBE +switch-master\r\nPSUBSCRIBE [-+]sdown +slave\r\n")
        .await
        .unwrap();
    let mut seen = String::new();
    read_until(&mut subscriber, &mut seen, "+slave\r\n:3\r\n").await;
    cluster.primary().signal("KILL");
    read_until(&mut subscriber, &mut seen, "+switch-master\r\n$").await;
    // The status may come a moment later than the event.
    until("another primary is in the status", || async {
        cluster.status().primary.is_some_and(|primary| primary != old)
    })
    .await;
    let new = cluster.status().primary.unwrap();
    let message = format!("main 127.0.0.1 {} 127.0.0.1 {}\r\n", old.port(), new.port());
    read_until(&mut subscriber, &mut seen, &message).await;
    let replica =
        format!("slave {old} 127.0.0.1 {} @ main 127.0.0.1 {}\r\n", old.port(), new.port());
    read_until(&mut subscriber, &mut seen, &replica).await;
    let order: Vec<_> = ["master main", "+switch-master\r\n$", &replica]
        .map(|text| seen.find(text).unwrap())
        .into();
    assert!(order.is_sorted(), "{seen}");
    let found = redis_cli(at, &["sentinel", "get-master-addr-by-name", "main"]).await;
    assert_eq!(found, format!("127.0.0.1\n{}\n", new.port()));
}

async fn read_until(stream: &mut TcpStream, seen: &mut String, text: &str) {
    let mut buffer = vec![0; 4096];
    while !seen.contains(text) {
        let read = tokio::time::timeout(Duration::from_secs(30), stream.read(&mut buffer)).await;
        let length = read.unwrap_or_else(|_| panic!("no {text:?} in {seen:?}")).unwrap();
        assert!(length > 0, "closed before {text:?}: {seen:?}");
        seen.push_str(std::str::from_utf8(&buffer[..length]).unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinel_failover_is_a_switchover() {
    let cluster = Cluster::start(servers().await, |_| {}).await;
    let at = serve(&cluster).await;
    let old = cluster.status().primary.unwrap();
    until("a candidate is known", || async { cluster.status().candidate.is_some() }).await;
    assert_eq!(redis_cli(at, &["sentinel", "failover", "main"]).await, "OK\n");
    cluster.until_healthy(cluster.status().epoch.max(1) - 1).await;
    until("another primary is told", || async { cluster.status().primary != Some(old.clone()) })
        .await;
    cluster.until_healthy(1).await;
    cluster.until_recorded("switchover from").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_long_and_malformed_commands_end_the_connection_with_a_reason() {
    let cluster = Cluster::start(servers().await, |_| {}).await;
    let at = serve(&cluster).await;
    for bytes in [b"*1\r\n$99999999\r\n".to_vec(), b"*1\r\n:1\r\n".to_vec(), vec![b'x'; 70_000]] {
        let mut stream = TcpStream::connect(at).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        let mut text = String::new();
        let read = tokio::time::timeout(Duration::from_secs(30), stream.read_to_string(&mut text));
        // A reset after the reply is an end too.
        read.await.unwrap().ok();
        assert!(text.starts_with("-ERR Protocol error") || text.is_empty(), "{text}");
    }
    assert_eq!(redis_cli(at, &["ping"]).await, "PONG\n");
}

/// What charts and operators send.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_is_taken_off_monitoring_and_back_and_its_limit_is_changed() {
    let cluster = Cluster::start(servers().await, |_| {}).await;
    let at = serve(&cluster).await;
    let port = cluster.status().primary.unwrap().port().to_string();
    let find = ["sentinel", "get-master-addr-by-name", "main"];
    let monitor = ["sentinel", "monitor", "main", "127.0.0.1", &port, "2"];
    let found = format!("127.0.0.1\n{port}\n");

    assert_eq!(redis_cli(at, &["sentinel", "remove", "main"]).await, "OK\n");
    assert_eq!(redis_cli(at, &find).await, "\n");
    until("the pause is in the status", || async {
        let pause = cluster.status().pause;
        pause.is_some_and(|pause| pause.by.starts_with("SENTINEL REMOVE from 127.0.0.1"))
    })
    .await;
    assert_eq!(redis_cli(at, &monitor).await, "OK\n");
    assert_eq!(redis_cli(at, &find).await, found);
    until("the pause is over", || async { cluster.status().pause.is_none() }).await;
    assert!(redis_cli(at, &monitor).await.starts_with("ERR Duplicate master name."));

    let set = ["sentinel", "set", "main", "down-after-milliseconds", "2500", "quorum", "2"];
    assert_eq!(redis_cli(at, &set).await, "OK\n");
    let master = redis_cli(at, &["sentinel", "master", "main"]).await;
    assert!(master.contains("down-after-milliseconds\n2500\n"), "{master}");
    cluster.until_recorded("silence counts after 2500 ms").await;
    let short = ["sentinel", "set", "main", "down-after-milliseconds", "1"];
    let refused = redis_cli(at, &short).await;
    assert!(refused.starts_with("ERR expected at least probe_timeout"), "{refused}");
    until("the servers' INFO is kept", || async {
        redis_cli(at, &["sentinel", "info-cache", "main"]).await.matches("redis_version").count()
            == 3
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_primaries_are_told_by_name() {
    let named =
        |name: &'static str| move |settings: &mut config::Redis| settings.name = name.into();
    let alone = async || vec![Some(cluster::Server::start(cluster::free_port(), &[]).await)];
    let chat = Cluster::start(alone().await, named("chat")).await;
    let cache = Cluster::start(alone().await, named("cache")).await;
    let at = serve_with(&[&chat, &cache], |_| {}).await;
    for (name, cluster) in [("chat", &chat), ("cache", &cache)] {
        let port = cluster.status().primary.unwrap().port();
        let found = redis_cli(at, &["sentinel", "get-master-addr-by-name", name]).await;
        assert_eq!(found, format!("127.0.0.1\n{port}\n"));
    }
    assert_eq!(redis_cli(at, &["role"]).await, "sentinel\nchat\ncache\n");
    let info = redis_cli(at, &["info", "sentinel"]).await;
    assert!(info.contains("sentinel_masters:2") && info.contains("master1:name=cache"), "{info}");
}

/// A certificate that is its own authority, as `certificate.pem` and `key.pem`, with a copy of the first.
fn certificate(dir: &Path, copy: &str) {
    openssl(
        dir,
        &format!(
            "req -x509 {NEW_KEY} -keyout key.new -out certificate.new -days 2 -subj /CN={copy} \
             -addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE"
        ),
    );
    std::fs::copy(dir.join("certificate.new"), dir.join(copy)).unwrap();
    for name in ["key", "certificate"] {
        let [from, to] = ["new", "pem"].map(|end| dir.join(format!("{name}.{end}")));
        std::fs::rename(from, to).unwrap();
    }
}

/// A password before anything else, TLS, and a renewed certificate without a restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_and_a_password_are_asked_for_and_a_certificate_is_renewed() {
    let dir = tempfile::tempdir().unwrap();
    certificate(dir.path(), "first.pem");
    let cluster = Cluster::start(servers().await, |_| {}).await;
    let files = ServerFiles {
        certificate: dir.path().join("certificate.pem"),
        key: dir.path().join("key.pem"),
        client_authorities: None,
    };
    let registry = Registry::new();
    let (renewal, acceptor) = Renewal::new(files, &registry).unwrap();
    let renewal = renewal.every(Duration::from_millis(50)).run(cluster.shutdown.clone());
    tokio::spawn(renewal);
    let password = Secret::new("s3cret");
    let at = serve_with(&[&cluster], |endpoint| {
        endpoint.tls = Some(acceptor);
        endpoint.login = Some(Login { username: Some("chat".to_owned()), password });
    })
    .await;
    let port = cluster.status().primary.unwrap().port();
    let found = format!("127.0.0.1\n{port}\n");
    let ask = async |authority: &str, login: &[&str]| {
        let authority = dir.path().join(authority).display().to_string();
        let find = ["sentinel", "get-master-addr-by-name", "main"];
        redis_cli(at, &[&["--tls", "--cacert", &authority], login, &find].concat()).await
    };
    let login = ["--user", "chat", "--pass", "s3cret"];
    assert_eq!(ask("first.pem", &login).await, found);
    let nobody = ask("first.pem", &[]).await;
    assert!(nobody.starts_with("NOAUTH Authentication required."), "{nobody}");
    let wrong = ask("first.pem", &["--user", "chat", "--pass", "wrong"]).await;
    assert!(wrong.contains("WRONGPASS"), "{wrong}");

    certificate(dir.path(), "second.pem");
    until("the new certificate is shown", || async { ask("second.pem", &login).await == found })
        .await;
    assert_ne!(ask("first.pem", &login).await, found);
    let failures = || {
        let name = "supervisor_sentinel_certificate_reloads_total{result=\"failed\"} ";
        let text = holdfast_telemetry::metrics::encode(&registry);
        let count = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        count.parse::<u64>().unwrap()
    };
    // Between the two files of a renewal it may have looked once in vain.
    let before = failures();
    std::fs::write(dir.path().join("certificate.pem"), "broken").unwrap();
    until("the broken one is refused, again and again", || async { failures() > before + 1 }).await;
    assert_eq!(ask("second.pem", &login).await, found);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_hands_orders_on_to_the_one_that_leads() {
    let cluster = Cluster::start(servers().await, |_| {}).await;
    let leads = serve(&cluster).await;
    let leader = Some(leads.to_string().parse().unwrap());
    let follows = serve_with(&[&cluster], |endpoint| {
        // Nobody takes orders here.
        endpoint.primaries[0].orders = tokio::sync::mpsc::channel(1).0;
        endpoint.sentinels =
            Arc::new(move || Sentinels { leader: leader.clone(), ..Sentinels::default() });
    })
    .await;
    let set = ["sentinel", "set", "main", "down-after-milliseconds", "2500"];
    assert_eq!(redis_cli(follows, &set).await, "OK\n");
    cluster.until_recorded("silence counts after 2500 ms").await;
    let find = ["sentinel", "get-master-addr-by-name", "main"];
    assert_eq!(redis_cli(follows, &["sentinel", "remove", "main"]).await, "OK\n");
    for at in [leads, follows] {
        assert_eq!(redis_cli(at, &find).await, "\n");
    }
    let old = cluster.status().primary.unwrap();
    let port = old.port().to_string();
    let monitor = ["sentinel", "monitor", "main", "127.0.0.1", &port, "1"];
    assert_eq!(redis_cli(follows, &monitor).await, "OK\n");
    until("a candidate is known", || async { cluster.status().candidate.is_some() }).await;
    assert_eq!(redis_cli(follows, &["sentinel", "failover", "main"]).await, "OK\n");
    until("another primary is told", || async { cluster.status().primary != Some(old.clone()) })
        .await;
}
