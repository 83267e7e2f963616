//! One chat node on a Redis primary and a replica, without the rest of a cluster: for measuring and for abusing it.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use holdfast_settings::Secret;
use holdfast_supervisor::observe::chat_client::mint;
use tempfile::TempDir;

use crate::process::{Process, binary, free_address, http_client, run};
use crate::wait;

/// From start to ready; machines compile beside it.
const READY_WITHIN: Duration = Duration::from_mins(1);

/// Tokens live longer than any test.
const TOKEN_LIFETIME: Duration = Duration::from_hours(1);

const SECRET: &str = "the secret of a node that lives for a test";

/// The processes; they end when this is dropped.
#[derive(Debug)]
pub struct SingleNode {
    /// Where clients connect.
    pub clients: SocketAddr,
    /// `/metrics` and the rest for operators.
    pub admin: SocketAddr,
    node: Process,
    _redis: Vec<Process>,
    _dir: TempDir,
}

impl SingleNode {
    /// Starts Redis and the node. `client` is the body of its section `[client]`, `more` further sections.
    ///
    /// # Panics
    /// If they are not ready in time.
    pub async fn start(client: &str, more: &str) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let [primary, replica] = [free_address(), free_address()];
        let redis = vec![
            redis(dir.path(), primary, None).await,
            redis(dir.path(), replica, Some(primary)).await,
        ];
        in_step(primary, replica).await;

        let (clients, admin) = (free_address(), free_address());
        std::fs::write(dir.path().join("secret"), SECRET).expect("our own folder is writable");
        let secret = dir.path().join("secret");
        let secret = secret.display();
        let settings = format!(
            "[node]\nname = \"node\"\nlisten = \"{clients}\"\nadmin_listen = \"{admin}\"\n[log]\nlevel = \"warn\"\n\
             [tokens]\nhmac_secret_file = \"{secret}\"\n[redis]\naddress = \"{primary}\"\nconfirm_replicas = 1\n\
             [client]\n{client}\n{more}\n"
        );
        let file = dir.path().join("chatnode.toml");
        std::fs::write(&file, settings).expect("our own folder is writable");
        let file = file.to_str().expect("temporary folders have plain names");
        let log = dir.path().join("chatnode.log");
        let mut node = Process::start(&binary("holdfast-chatnode"), &["--config", file], &log);
        let http = http_client();
        let url = format!("http://{admin}/health/ready");
        wait::until("the node to be ready", READY_WITHIN, async || {
            assert!(node.ended().is_none(), "the node ended: {}", node.output());
            match http.get(&url).send().await {
                Ok(answer) if answer.status().is_success() => Ok(()),
                Ok(answer) => Err(answer.text().await.unwrap_or_default()),
                Err(error) => Err(error.to_string()),
            }
        })
        .await;
        Self { clients, admin, node, _redis: redis, _dir: dir }
    }

    /// The node's process id.
    pub fn pid(&self) -> u32 {
        self.node.pid()
    }

    /// What the node has logged.
    pub fn output(&self) -> String {
        self.node.output()
    }

    /// A connection token.
    pub fn token(&self, user: &str) -> String {
        mint(&Secret::new(SECRET), user, TOKEN_LIFETIME)
    }

    /// The sum of a metric over all its label sets; 0 if it is not exported.
    ///
    /// # Panics
    /// If the node does not answer.
    pub async fn metric(&self, name: &str) -> f64 {
        let answer = http_client().get(format!("http://{}/metrics", self.admin)).send().await;
        let text = answer.expect("the node answers").text().await.expect("a text");
        let values = text.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            let value = rest.rsplit_once(' ').map(|(labels, value)| (labels, value.parse::<f64>()));
            value.filter(|(labels, _)| labels.is_empty() || labels.starts_with('{'))?.1.ok()
        });
        values.sum()
    }
}

async fn redis(dir: &Path, address: SocketAddr, primary: Option<SocketAddr>) -> Process {
    let port = address.port().to_string();
    let folder = dir.to_str().expect("temporary folders have plain names");
    let mut arguments = vec!["--port", &port, "--bind", "127.0.0.1", "--save", "", "--dir", folder];
    arguments.extend(["--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"]);
    let followed = primary.map(|primary| format!("{} {}", primary.ip(), primary.port()));
    if let Some(followed) = &followed {
        arguments.extend(["--replicaof", followed]);
    }
    let log = dir.join(format!("redis-{port}.log"));
    let server = Process::start(Path::new("redis-server"), &arguments, &log);
    wait::until("Redis to answer", READY_WITHIN, async || {
        let answer = redis_cli(address, &["PING"]).await;
        if answer.contains("PONG") { Ok(()) } else { Err(answer) }
    })
    .await;
    server
}

/// Waits until the replica has acknowledged something: before that the primary confirms nothing.
async fn in_step(primary: SocketAddr, replica: SocketAddr) {
    wait::until("the replica to be in step", READY_WITHIN, async || {
        let info = redis_cli(primary, &["INFO", "replication"]).await;
        let wanted = format!("port={},state=online", replica.port());
        let line = info.lines().find(|line| line.contains(&wanted));
        match line {
            Some(line) if !line.contains(",offset=0,") => Ok(()),
            _ => Err(info),
        }
    })
    .await;
}

async fn redis_cli(address: SocketAddr, command: &[&str]) -> String {
    let port = address.port().to_string();
    let mut arguments = vec!["-p", &port];
    arguments.extend(command);
    run(Path::new("redis-cli"), &arguments).await.1
}
