//! All servers restarted one by one, while something keeps them running, as a service manager would.

use std::time::Duration;

use holdfast_supervisor::config::{Restart, RestartBy};
use holdfast_supervisor::control::{RedisCommand, RestartOrder};
use holdfast_supervisor::plan::failover::Promotion;
use tokio::task::JoinHandle;

use crate::cluster::{Cluster, Server, servers, until};

/// Whether a process is there. One that has ended is until its parent has looked.
fn is_running(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z"))
}

/// Starts a server again that has ended, without its data and its role, until dropped.
struct Keeper(Vec<JoinHandle<()>>);

impl Keeper {
    fn of(servers: Vec<Option<Server>>) -> Self {
        let keep = async |mut server: Server| {
            loop {
                tokio::time::sleep(Duration::from_millis(50)).await;
                if server.try_run("PING").await.is_none() && !is_running(server.process.pid) {
                    let port = server.port;
                    drop(server);
                    server = Server::start(port, &[]).await;
                }
            }
        };
        Self(servers.into_iter().flatten().map(|server| tokio::spawn(keep(server))).collect())
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

async fn order(cluster: &Cluster, order: RestartOrder) -> Result<(), String> {
    let by = "test".to_owned();
    let answer = cluster.order(|reply| RedisCommand::Restart { order, by, reply }).await;
    answer.map(drop).map_err(|error| error.to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_server_is_restarted_and_the_data_stay() {
    let by = RestartBy::Shutdown;
    let mut cluster = Cluster::start(servers().await, |settings| {
        settings.restart = Some(Restart { by, timeout: Duration::from_mins(1) });
    })
    .await;
    let (old, epoch) = (cluster.primary().address(), cluster.status().epoch);
    cluster.primary().confirmed_write("key", "value").await;
    let mut before = Vec::new();
    for server in cluster.servers.iter().flatten() {
        before.push((server.address(), server.info("run_id").await));
    }
    let keeper = Keeper::of(std::mem::take(&mut cluster.servers));
    order(&cluster, RestartOrder::Begin { force: false }).await.unwrap();
    let busy = order(&cluster, RestartOrder::Begin { force: false }).await.unwrap_err();
    assert!(busy.contains("is going on"), "{busy}");
    until("all were restarted", || async {
        let restart = cluster.status().restart.unwrap();
        assert_eq!(restart.problem, None, "{:#?}", cluster.records());
        restart.done.len() == 3
    })
    .await;
    assert_eq!(cluster.status().restart.unwrap().done.last(), Some(&old));
    assert_eq!(cluster.status().epoch, epoch + 1);
    for (address, run_id) in before {
        let find = |text: &str, field: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(field));
            line.unwrap_or_default().trim_end().to_owned()
        };
        let ask = async |words: &[&str]| {
            let at = holdfast_psync::Address::Tcp(address.to_string());
            let mut connection =
                holdfast_psync::Connection::open(&holdfast_psync::Endpoint::new(at)).await.unwrap();
            connection.command(words).await.unwrap().text().unwrap_or_default()
        };
        assert_ne!(find(&ask(&["INFO"]).await, "run_id:"), run_id);
        assert_eq!(ask(&["GET", "key"]).await, "value");
    }
    drop(keeper);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_problem_stops_it_and_the_rest_can_be_taken_up() {
    let command = ["/bin/sh", "-c", "echo no such unit; exit 5"].map(str::to_owned).to_vec();
    let by = RestartBy::Command(command);
    let cluster = Cluster::start(servers().await, |settings| {
        settings.restart = Some(Restart { by, timeout: Duration::from_mins(1) });
    })
    .await;
    let refused = order(&cluster, RestartOrder::Resume).await.unwrap_err();
    assert!(refused.contains("no rolling restart has stopped"), "{refused}");
    for way in [RestartOrder::Begin { force: false }, RestartOrder::Resume] {
        order(&cluster, way).await.unwrap();
        until("it has stopped", || async {
            cluster.status().restart.is_some_and(|restart| restart.problem.is_some())
        })
        .await;
        let restart = cluster.status().restart.unwrap();
        let problem = restart.problem.unwrap();
        assert!(problem.contains("exited with 5 no such unit"), "{problem}");
        assert_eq!((restart.left.len(), restart.done.len()), (3, 0));
    }
    assert_eq!(cluster.status().epoch, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_goes_on_when_the_primary_dies_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    let hold = folder.path().join("hold");
    std::fs::write(&hold, "").unwrap();
    // The first restart waits; whoever is restarted then ends, and is started again by the keeper.
    let script = format!(
        "while [ -e {} ]; do sleep 0.05; done; redis-cli -p {{port}} shutdown nosave; true",
        hold.display()
    );
    let by = RestartBy::Command(["/bin/sh", "-c", &script].map(str::to_owned).to_vec());
    let mut cluster = Cluster::start(servers().await, |settings| {
        settings.restart = Some(Restart { by, timeout: Duration::from_mins(1) });
        // It goes first, and another one takes the primary's place.
        settings.servers[2].standing.promotion = Promotion::Never;
    })
    .await;
    let epoch = cluster.status().epoch;
    let first = cluster.servers[2].as_ref().unwrap().address();
    cluster.primary().confirmed_write("key", "value").await;
    // Not only on the one that is never to be promoted: a replica that was just loaded gets what follows up to a second later.
    for server in cluster.servers.iter().flatten() {
        until("every server has it", || async {
            server.try_run("GET key").await.as_deref() == Some("value")
        })
        .await;
    }
    let pid = cluster.primary().process.pid.to_string();
    let keeper = Keeper::of(std::mem::take(&mut cluster.servers));
    order(&cluster, RestartOrder::Begin { force: false }).await.unwrap();
    let restart = || cluster.status().restart.unwrap();
    until("the first one is to end", || async { restart().current.as_ref() == Some(&first) }).await;
    let killed = std::process::Command::new("kill").args(["-s", "KILL", &pid]).status().unwrap();
    assert!(killed.success());
    cluster.until_recorded("has become the primary meanwhile").await;
    assert!(cluster.status().epoch > epoch);
    std::fs::remove_file(&hold).unwrap();
    until("all were restarted", || async {
        let restart = restart();
        assert_eq!(restart.problem, None, "{:#?}", cluster.records());
        restart.done.len() == 3
    })
    .await;
    let primary = cluster.status().primary.unwrap();
    let at = holdfast_psync::Address::Tcp(primary.to_string());
    let mut connection =
        holdfast_psync::Connection::open(&holdfast_psync::Endpoint::new(at)).await.unwrap();
    let kept = connection.command(&["GET", "key"]).await.unwrap().text();
    assert_eq!(kept.as_deref(), Some("value"), "{:#?}", cluster.records());
    drop(keeper);
}
