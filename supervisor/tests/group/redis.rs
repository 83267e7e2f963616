//! Three supervisors, each beside one of three Redis servers: whoever leads and whoever dies, clients are told one primary, and it has
//! every write that a replica had confirmed.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use holdfast_psync::{Address, Connection, Endpoint, Reply};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::kit::{Group, Signal, name, until};

/// Long enough that no server counts as hung only because the machine is busy.
const REDIS: &str = "probe_interval = \"100ms\"\nprobe_timeout = \"1s\"\nhang_after = \"3s\"\nfailover_cooldown = \"1s\"";

/// A server that does not answer within this time is asked again.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// Pause between two writes of the client.
const WRITE_EVERY: Duration = Duration::from_millis(5);

/// A replica has this long to confirm a write; one that is not confirmed may be lost.
const CONFIRM_MILLISECONDS: &str = "500";

async fn open(port: u16) -> Option<Connection> {
    let mut endpoint = Endpoint::new(Address::Tcp(format!("127.0.0.1:{port}")));
    (endpoint.connect_timeout, endpoint.command_timeout) = (ANSWER_LIMIT, ANSWER_LIMIT);
    Connection::open(&endpoint).await.ok()
}

/// One command's reply; an error as its text, `None` if nothing answers.
async fn ask(port: u16, words: &[&str]) -> Option<Reply> {
    match open(port).await?.command(words).await {
        Ok(reply) => Some(reply),
        Err(holdfast_psync::Error::Refused { reply, .. }) => Some(Reply::Simple(reply)),
        Err(_) => None,
    }
}

/// Where a supervisor's endpoint says the primary is.
async fn told_at(endpoint: u16) -> Option<u16> {
    let words = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main"];
    let Reply::Array(Some(address)) = ask(endpoint, &words).await? else { return None };
    address.get(1)?.text()?.parse().ok()
}

/// A `redis-server` that ends with the test, even when that is killed.
struct Server {
    port: u16,
    folder: tempfile::TempDir,
    child: Child,
}

impl Server {
    fn start(follows: Option<u16>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = holdfast_ports::take().unwrap();
        let child = spawn(port, &folder, follows);
        let server = Self { port, folder, child };
        server.note_pid();
        server
    }

    fn pid_file(&self) -> PathBuf {
        self.folder.path().join("pid")
    }

    fn note_pid(&self) {
        std::fs::write(self.pid_file(), self.child.id().to_string()).unwrap();
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).unwrap();
        nix::sys::signal::kill(Pid::from_raw(pid), signal).unwrap();
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Again, without its data and its role.
    fn restart(&mut self) {
        self.child = spawn(self.port, &self.folder, None);
        self.note_pid();
    }

    async fn replication(&self) -> String {
        let info = ask(self.port, &["INFO", "replication"]).await;
        info.and_then(|info| info.text()).unwrap_or_default()
    }

    async fn follows(&self, port: u16) -> bool {
        let info = self.replication().await;
        info.contains(&format!("master_port:{port}\r"))
            && info.contains("master_link_status:up")
            && !info.contains("master_sync_in_progress:1")
    }

    /// What it says to a write.
    async fn set(&self) -> String {
        let reply = ask(self.port, &["SET", "key", "value"]).await;
        reply.and_then(|reply| reply.text()).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself, then there is nothing to kill.
        let _ended = self.child.kill();
        self.child.wait().unwrap();
    }
}

fn spawn(port: u16, folder: &tempfile::TempDir, follows: Option<u16>) -> Child {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "redis-server", "--bind", "127.0.0.1", "--save", ""]);
    command.args(["--repl-diskless-sync-delay", "0", "--logfile", "log"]);
    command.args(["--port", &port.to_string()]).arg("--dir").arg(folder.path());
    if let Some(primary) = follows {
        command.args(["--replicaof", "127.0.0.1", &primary.to_string()]);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap()
}

/// A client that asks the supervisors where the primary is, writes there, and has a replica confirm each write.
struct Writer {
    confirmed: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Writer {
    fn start(endpoints: Vec<u16>) -> Self {
        let confirmed = Arc::new(Mutex::new(Vec::new()));
        let task = tokio::spawn(write(endpoints, Arc::clone(&confirmed)));
        Self { confirmed, task }
    }

    /// Waits until something more is confirmed.
    async fn goes_on(&self) {
        let before = self.confirmed.lock().unwrap().len();
        until("the client's writes are confirmed", async || {
            self.confirmed.lock().unwrap().len() > before
        })
        .await;
    }

    /// What was confirmed until now.
    fn end(self) -> Vec<String> {
        self.task.abort();
        self.confirmed.lock().unwrap().clone()
    }
}

async fn write(endpoints: Vec<u16>, confirmed: Arc<Mutex<Vec<String>>>) {
    let mut connection: Option<Connection> = None;
    for (number, endpoint) in (0_u64..).zip(endpoints.iter().cycle()) {
        tokio::time::sleep(WRITE_EVERY).await;
        if connection.is_none()
            && let Some(port) = told_at(*endpoint).await
        {
            connection = open(port).await;
        }
        let Some(primary) = connection.as_mut() else { continue };
        let member = number.to_string();
        let written = primary.command(&["SADD", "confirmed", &member]).await;
        let replicas = match written {
            Ok(_) => primary.command(&["WAIT", "1", CONFIRM_MILLISECONDS]).await,
            Err(error) => Err(error),
        };
        match replicas.map(|reply| reply.integer()) {
            Ok(Some(1..)) => confirmed.lock().unwrap().push(member),
            Ok(_) => {}
            // As a client of Sentinel does: ask again.
            Err(_) => connection = None,
        }
    }
}

/// Three servers, and a group of three supervisors, each beside one of them.
struct World {
    servers: Vec<Server>,
    group: Group,
    endpoints: Vec<u16>,
    /// Every epoch a supervisor has told, and the port of its primary.
    epochs: BTreeMap<u64, u16>,
}

impl World {
    async fn start(what: &'static str) -> Self {
        let mut servers = vec![Server::start(None)];
        let primary = servers[0].port;
        until("the primary answers", async || servers[0].set().await == "OK").await;
        for _ in 0..2 {
            servers.push(Server::start(Some(primary)));
        }
        for replica in &servers[1..] {
            until("a replica is linked", async || replica.follows(primary).await).await;
        }
        let addresses: Vec<_> =
            servers.iter().map(|server| format!("127.0.0.1:{}", server.port)).collect();
        let endpoints: Vec<_> = (0..3).map(|_| holdfast_ports::take().unwrap()).collect();
        let settings = (0..3).map(|at| {
            let mut pid_files = vec![String::new(); 3];
            pid_files[at] = servers[at].pid_file().display().to_string();
            format!(
                "[sentinel]\nlisten = \"127.0.0.1:{}\"\n\
                 [redis]\nname = \"main\"\nservers = {addresses:?}\npid_files = {pid_files:?}\n{REDIS}\n",
                endpoints[at]
            )
        });
        let group = Group::of_three_with(what, crate::CALM, settings.collect()).await;
        let mut world = Self { servers, group, endpoints, epochs: BTreeMap::new() };
        world.agreed(&[0, 1, 2], None).await;
        world
    }

    /// A member's view of the primary; `None` while it is not well.
    async fn view(&mut self, at: usize) -> Option<(usize, u64)> {
        let page = self.group.try_page(at, "/operator/v1/status").await?;
        let status: Value = serde_json::from_str(&page).ok()?;
        let redis = &status["redis"][0];
        let (primary, epoch) = (redis["primary"].as_str()?, redis["epoch"].as_u64()?);
        let server = self.servers.iter().position(|it| primary.ends_with(&format!(":{}", it.port)));
        let (server, state) = (server?, redis["state"].as_str()?.to_owned());
        let port = self.servers[server].port;
        let known = *self.epochs.entry(epoch).or_insert(port);
        assert_eq!(known, port, "two servers are the primary of epoch {epoch}");
        (state == "healthy").then_some((server, epoch))
    }

    /// Waits until these members find Redis well, under the same primary and epoch, and say so to clients; it is not `former`.
    async fn agreed(&mut self, members: &[usize], former: Option<usize>) -> usize {
        let mut found = None;
        until(&format!("{members:?} name one primary besides {former:?}"), async || {
            let mut views = Vec::new();
            for at in members {
                views.push(self.view(*at).await);
            }
            found = views[0].map(|(server, _)| server).filter(|server| Some(*server) != former);
            let Some(server) = found.filter(|_| views.iter().all(|view| *view == views[0])) else {
                return false;
            };
            for at in members {
                if told_at(self.endpoints[*at]).await != Some(self.servers[server].port) {
                    return false;
                }
            }
            true
        })
        .await;
        found.unwrap()
    }

    /// Waits until every server but this one follows it: there is one primary.
    async fn is_alone(&self, primary: usize) {
        let port = self.servers[primary].port;
        for (at, server) in self.servers.iter().enumerate().filter(|(at, _)| *at != primary) {
            let what = format!("server {at} follows server {primary}");
            until(&what, async || server.follows(port).await).await;
        }
        until("the primary is one", async || {
            self.servers[primary].replication().await.contains("role:master")
        })
        .await;
    }

    /// Accounts of failovers a member can show, by who recorded them.
    async fn accounts(&self, at: usize) -> Vec<String> {
        let query = "/operator/v1/events?kind=failover_done&limit=1000";
        let page = self.group.try_page(at, query).await.unwrap_or_default();
        let answer: Value = serde_json::from_str(&page).unwrap_or_default();
        let by = |event: &Value| {
            event["origin"]["member"].as_str().map_or_else(|| name(at), str::to_owned)
        };
        let mut accounts: Vec<_> =
            answer["events"].as_array().into_iter().flatten().map(by).collect();
        accounts.sort_unstable();
        accounts
    }

    /// Waits until these members can explain the same failovers, so many or more.
    async fn explain(&self, members: &[usize], count: usize) {
        until(&format!("members {members:?} explain {count} failovers"), async || {
            let first = self.accounts(members[0]).await;
            let mut is_same = first.len() >= count;
            for at in &members[1..] {
                is_same = is_same && self.accounts(*at).await == first;
            }
            is_same
        })
        .await;
    }
}

#[tokio::test]
async fn a_group_fails_over_whoever_dies_and_loses_nothing_that_was_confirmed() {
    let mut world = World::start("failovers").await;
    let all = [0, 1, 2];
    let writer = Writer::start(world.endpoints.clone());
    writer.goes_on().await;

    // The primary is killed, and comes back empty.
    let first = world.agreed(&all, None).await;
    world.servers[first].kill();
    let second = world.agreed(&all, Some(first)).await;
    writer.goes_on().await;
    world.servers[first].restart();
    world.is_alone(second).await;

    // The primary hangs, and goes on when another one has taken its place.
    world.servers[second].signal(Signal::SIGSTOP);
    let third = world.agreed(&all, Some(second)).await;
    writer.goes_on().await;
    world.servers[second].signal(Signal::SIGCONT);
    world.is_alone(third).await;
    world.explain(&all, 2).await;

    // The leader is killed together with the primary.
    let third = world.agreed(&all, None).await;
    let leader = world.group.leader().await;
    world.group.kill(leader);
    world.servers[third].kill();
    let rest: Vec<_> = all.into_iter().filter(|at| *at != leader).collect();
    let fourth = world.agreed(&rest, Some(third)).await;
    writer.goes_on().await;
    world.servers[third].restart();
    world.is_alone(fourth).await;
    // The former leader learns what was done without it.
    world.group.start(leader).await;
    let present = world.agreed(&all, None).await;
    world.explain(&all, 3).await;
    assert!(world.epochs.len() >= 4, "{:?}", world.epochs);

    let confirmed = writer.end();
    let kept = ask(world.servers[present].port, &["SMEMBERS", "confirmed"]).await;
    let Some(Reply::Array(Some(kept))) = kept else { panic!("the primary says {kept:?}") };
    let kept: std::collections::HashSet<_> = kept.iter().filter_map(Reply::text).collect();
    let lost: Vec<_> = confirmed.iter().filter(|number| !kept.contains(*number)).collect();
    assert!(lost.is_empty(), "{} of {} confirmed writes: {lost:?}", lost.len(), confirmed.len());

    // A supervisor that hears no majority keeps the primary beside it from taking writes.
    let others: Vec<_> = all.into_iter().filter(|at| *at != present).collect();
    for at in &others {
        world.group.kill(*at);
    }
    let server = &world.servers[present];
    until("an isolated primary takes no writes", async || {
        server.set().await.starts_with("NOREPLICAS")
    })
    .await;
    // Whoever connects anew may find another process, which knows of no fence.
    let forgets = ["CONFIG", "SET", "min-replicas-to-write", "0"];
    assert!(ask(server.port, &forgets).await.is_some());
    assert!(ask(server.port, &["CLIENT", "KILL", "TYPE", "normal"]).await.is_some());
    until("nor does it after that", async || server.set().await.starts_with("NOREPLICAS")).await;
    // Two hear each other.
    world.group.start(others[0]).await;
    let server = &world.servers[present];
    until("it takes writes again", async || server.set().await == "OK").await;
}
