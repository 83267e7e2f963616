//! Failover and restore as an ACL user with no more rights than the documentation asks for, in the clear and over TLS with certificates on
//! both sides.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

#[path = "support/certificates.rs"]
mod certificates;
#[path = "redis_failover/cluster.rs"]
#[expect(dead_code, reason = "shared with the tests of the failover itself")]
mod cluster;

use std::path::Path;

use certificates::{NEW_KEY, openssl};
use chrono::DateTime;
use cluster::{Cluster, Server, free_port, until};
use holdfast_psync::{Address, Credentials, Endpoint, Snapshot, SyncOptions};
use holdfast_supervisor::act::backup::{BackupOptions, BackupStore, take};
use holdfast_supervisor::act::redis::{Origin, SalvageStore, salvage};
use holdfast_supervisor::config::{self, Config};
use holdfast_supervisor::plan::failover::Fork;

/// The rights of `docs/redis-failover.md`.
const RIGHTS: &str = "~holdfast:* +ping +info +wait +set +multi +exec +replicaof +replconf +psync +client|setname +client|pause \
                      +client|unpause +client|kill +config|get +config|set +config|rewrite";

/// The rights of `docs/cli.md` for a restore.
const RESTORE_RIGHTS: &str = "+info +replicaof";

/// What a replica needs to follow.
const FOLLOWER_RIGHTS: &str = "+ping +replconf +psync";

#[test]
fn the_documentation_has_the_rights_that_are_tested() {
    let page = include_str!("../../docs/redis-failover.md");
    for rights in [RIGHTS, FOLLOWER_RIGHTS] {
        assert!(page.contains(rights), "the page has no {rights:?}");
    }
    assert!(include_str!("../../docs/cli.md").contains(RESTORE_RIGHTS));
}

/// The settings a supervisor would have for these servers.
fn settings(dir: &Path, ports: &[u16], tls: bool) -> config::Redis {
    std::fs::write(dir.join("token"), "t").unwrap();
    std::fs::write(dir.join("password"), "s3cret\n").unwrap();
    let servers: Vec<_> = ports.iter().map(|port| format!("\"127.0.0.1:{port}\"")).collect();
    let mut text = format!(
        "[supervisor]\nlisten = \"127.0.0.1:0\"\ntoken_file = \"token\"\nstate_dir = \"state\"\n\
         [redis]\nservers = [{}]\nusername = \"holdfast\"\npassword_file = \"password\"\n",
        servers.join(", ")
    );
    if tls {
        text += "[redis.tls]\nca_file = \"ca.pem\"\ncertificate_file = \"client.pem\"\nkey_file = \"client.key\"\n";
    }
    let file = dir.join("holdfast.toml");
    std::fs::write(&file, text).unwrap();
    Config::read(&file).unwrap_or_else(|faults| panic!("{faults}")).redis.remove(0)
}

/// One primary and two replicas that know three users: an administrator, the supervisor's and the replicas'.
async fn servers(settings: &config::Redis, more: &[String]) -> Vec<Option<Server>> {
    let mut servers = Vec::new();
    let first = settings.servers[0].address.port().to_string();
    for (index, server) in settings.servers.iter().enumerate() {
        let port = server.address.port();
        let users = format!(
            "--user default off --user admin on >admin ~* &* +@all --user holdfast on >s3cret {RIGHTS} \
             --user restore on >s3cret {RESTORE_RIGHTS} --user follower on >follower {FOLLOWER_RIGHTS} --masteruser follower --masterauth follower"
        );
        let mut options: Vec<String> = users.split_whitespace().map(str::to_owned).collect();
        options.extend(more.iter().map(|option| option.replace("PORT", &port.to_string())));
        if index > 0 {
            options.extend(["--replicaof", "127.0.0.1", &first].map(str::to_owned));
        }
        let mut endpoint = Endpoint::new(Address::Tcp(server.address.to_string()));
        endpoint.tls.clone_from(&settings.tls);
        let admin = Credentials { username: Some("admin".into()), password: "admin".into() };
        let endpoint = endpoint.with_credentials(Some(admin));
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let server = Server::reached_by(endpoint, port, &options).await;
        if index > 0 {
            until("a replica is linked", || async {
                server.info("master_link_status").await == "up"
            })
            .await;
        }
        servers.push(Some(server));
    }
    servers
}

/// Switchover, salvage, snapshot, failover.
async fn everything(cluster: &mut Cluster, settings: &config::Redis, dir: &Path) {
    let first = cluster.status().primary.unwrap();
    until("a candidate is known", || async { cluster.status().candidate.is_some() }).await;
    let report = cluster.switch_over(None).await.unwrap();
    assert_eq!(report.from.as_ref(), Some(&first));
    cluster.until_healthy(report.epoch - 1).await;

    let primary = cluster.primary();
    let number = async |field: &str| primary.info(field).await.parse::<u64>().unwrap();
    let fork = Fork {
        replid: primary.info("master_replid").await,
        offset: number("master_repl_offset").await,
    };
    primary.confirmed_write("only:here", "1").await;
    let end = number("master_repl_offset").await;
    let endpoint = settings.endpoint(&primary.address());
    let store = SalvageStore::new(dir.join("salvage"));
    let origin = Origin { redis: "main".to_owned(), epoch: 1, server: primary.address() };
    let saved = salvage(&endpoint, &fork, end, &store, origin).await.unwrap();
    assert_eq!(saved.commands, 1);
    let mut snapshot = Snapshot::start(&endpoint, &SyncOptions::default()).await.unwrap();
    let mut bytes = Vec::new();
    while let Some(chunk) = snapshot.next_chunk().await.unwrap() {
        bytes.extend_from_slice(&chunk);
    }
    assert!(bytes.starts_with(b"REDIS"));

    let old = primary.address();
    let epoch = cluster.status().epoch;
    primary.signal("KILL");
    until("another primary", || async {
        cluster.status().primary.is_some_and(|primary| primary != old)
    })
    .await;
    cluster.until_healthy(epoch).await;
    let survivor = cluster.primary();
    assert_eq!(survivor.try_run("GET only:here").await.as_deref(), Some("1"));
    assert_ne!(survivor.address(), old);

    let is_alive = |server: &&Server| server.address() != old;
    for server in cluster.servers.iter().flatten().filter(is_alive) {
        let refused = server.try_run("ACL LOG").await.unwrap();
        assert!(!refused.contains("holdfast"), "{}: {refused}", server.address());
        until("every server follows", || async {
            server.address() == survivor.address()
                || server.info("master_link_status").await == "up"
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documented_rights_are_enough() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path(), &[free_port(), free_port(), free_port()], false);
    let servers = servers(&settings, &[]).await;
    let mut cluster = Cluster::with_settings(servers, settings.clone()).await;
    everything(&mut cluster, &settings, dir.path()).await;
}

/// An authority, and certificates it signed for the servers and for the supervisor.
fn make_certificates(dir: &Path) {
    openssl(
        dir,
        &format!("req -x509 {NEW_KEY} -keyout ca.key -out ca.pem -days 2 -subj /CN=authority"),
    );
    for (name, extension) in [
        ("server", "subjectAltName=IP:127.0.0.1"),
        ("client", "extendedKeyUsage=clientAuth"),
        ("operator", "extendedKeyUsage=clientAuth,serverAuth"),
    ] {
        std::fs::write(dir.join(format!("{name}.ext")), extension).unwrap();
        openssl(dir, &format!("req {NEW_KEY} -keyout {name}.key -out {name}.csr -subj /CN={name}"));
        openssl(
            dir,
            &format!(
                "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile {name}.ext -out {name}.pem"
            ),
        );
    }
}

/// Options of a server that takes nothing in the clear and wants certificates.
fn tls_only(dir: &Path) -> Vec<String> {
    let path = dir.display();
    let tls = format!(
        "--port 0 --tls-port PORT --tls-replication yes --tls-auth-clients yes --tls-cert-file {path}/server.pem \
         --tls-key-file {path}/server.key --tls-ca-cert-file {path}/ca.pem"
    );
    tls.split_whitespace().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_speak_tls_only_are_failed_over_alike() {
    let dir = tempfile::tempdir().unwrap();
    make_certificates(dir.path());
    let settings = settings(dir.path(), &[free_port(), free_port(), free_port()], true);
    let servers = servers(&settings, &tls_only(dir.path())).await;
    let mut cluster = Cluster::with_settings(servers, settings.clone()).await;
    everything(&mut cluster, &settings, dir.path()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_is_restored_into_a_server_that_speaks_tls_only() {
    let dir = tempfile::tempdir().unwrap();
    make_certificates(dir.path());
    let source = Server::start(free_port(), &[]).await;
    source.try_run("SET key value").await.unwrap();
    let store = BackupStore::new(dir.path().join("backups"), "main");
    let from = Endpoint::new(Address::Tcp(source.address().to_string()));
    let quick = BackupOptions { verify: false, ..BackupOptions::default() };
    let backup = take(&store, &[from], &quick, DateTime::UNIX_EPOCH, |_| {}).await.unwrap();

    let settings = settings(dir.path(), &[free_port()], true);
    let target = servers(&settings, &tls_only(dir.path())).await.remove(0).unwrap();
    let restore = async |certificate: &str| {
        let file = |name: String| dir.path().join(name);
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_holdfast"));
        command.args(["restore", "--backup", &backup.id, "--to", &target.address().to_string()]);
        command.args(["--username", "restore", "--dir"]).arg(file("backups".to_owned()));
        command.arg("--password-file").arg(file("password".to_owned()));
        command.arg("--tls-ca-file").arg(file("ca.pem".to_owned()));
        command.arg("--tls-certificate-file").arg(file(format!("{certificate}.pem")));
        command.arg("--tls-key-file").arg(file(format!("{certificate}.key")));
        let output = command.kill_on_drop(true).output().await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() { Ok(()) } else { Err(said) }
    };
    // This one is no server's, so the target does not take the data from whoever shows it, and stays what it was.
    let refused = restore("client").await.unwrap_err();
    assert!(refused.contains("no TLS with the replica"), "{refused}");
    until("it is a primary again", || async { target.info("role").await == "master" }).await;
    assert_eq!(target.try_run("DBSIZE").await.unwrap(), "Integer(0)");
    restore("operator").await.unwrap();
    assert_eq!(target.try_run("GET key").await.as_deref(), Some("value"));
    assert_eq!(target.info("role").await, "master");
}
