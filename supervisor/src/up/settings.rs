//! The settings of a local cluster: what the user may choose, and the files made of it for each program.

use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use super::folder::Run;
use super::{NodePlan, Options, Plan, RedisPlan, UpError};
use crate::cli::print::append;

/// A laptop runs this many; more are a mistake.
const NODES_MAX: usize = 20;
const REPLICAS_MAX: usize = 8;

/// Wait before a program that ended is started again. A service manager would be quicker; four seconds let one see the alerts that a
/// crash sets off.
const RESTART_AFTER: Duration = Duration::from_secs(4);

/// What the user may choose; also the settings file of `holdfast up --config`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Wanted {
    pub(super) nodes: usize,
    pub(super) replicas: usize,
    #[serde(with = "holdfast_settings::duration")]
    pub(super) restart_after: Duration,
    pub(super) ports: Ports,
}

impl Default for Wanted {
    fn default() -> Self {
        Self { nodes: 3, replicas: 2, restart_after: RESTART_AFTER, ports: Ports::default() }
    }
}

/// The documented ports. Those of nodes and Redis servers are the first of consecutive ones.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Ports {
    pub(super) chat: u16,
    pub(super) balancer_admin: u16,
    pub(super) supervisor: u16,
    pub(super) sentinel: u16,
    pub(super) node_client: u16,
    pub(super) node_admin: u16,
    pub(super) redis: u16,
    pub(super) mail: u16,
    pub(super) webhook: u16,
}

impl Default for Ports {
    fn default() -> Self {
        Self {
            chat: 8000,
            balancer_admin: 9801,
            supervisor: 9700,
            sentinel: 26379,
            node_client: 8101,
            node_admin: 9811,
            // Not 6379, where a Redis of the distribution may run already.
            redis: 6381,
            mail: 2525,
            webhook: 9999,
        }
    }
}

impl Wanted {
    /// The settings file, if any, with the options on top.
    pub(super) fn from(options: &Options) -> Result<Self, UpError> {
        let mut wanted = match &options.config {
            Some(path) => holdfast_settings::read::<Self>(path)?.0,
            None => Self::default(),
        };
        wanted.nodes = options.nodes.unwrap_or(wanted.nodes);
        wanted.replicas = options.replicas.unwrap_or(wanted.replicas);
        if !(1..=NODES_MAX).contains(&wanted.nodes) {
            return Err(UpError::Usage(format!(
                "nodes: expected 1 to {NODES_MAX}, found {}",
                wanted.nodes
            )));
        }
        if wanted.replicas > REPLICAS_MAX {
            let text = format!("replicas: expected 0 to {REPLICAS_MAX}, found {}", wanted.replicas);
            return Err(UpError::Usage(text));
        }
        Ok(wanted)
    }
}

/// A path as a TOML string.
fn quoted(path: &Path) -> String {
    toml::Value::String(path.to_string_lossy().into_owned()).to_string()
}

/// A Redis server. It knows nothing of the supervisor, which finds and changes its role.
pub(super) fn redis(plan: &Plan, redis: &RedisPlan, run: &Run) -> String {
    let (primary, port) = (plan.redis[0].address, redis.address.port());
    // redis.conf strings take the escapes of C, which cover those Rust writes for paths.
    let folder = format!("{:?}", run.path(&redis.name).to_string_lossy());
    let follow = if redis.name == plan.redis[0].name {
        String::new()
    } else {
        format!("replicaof {} {}\n", primary.ip(), primary.port())
    };
    format!(
        "bind 127.0.0.1\nport {port}\ndir {folder}\ndaemonize no\nappendonly yes\nsave \"\"\n\
         repl-diskless-sync yes\nrepl-diskless-sync-delay 0\nshutdown-timeout 0\n{follow}"
    )
}

/// A chat node.
pub(super) fn chatnode(plan: &Plan, node: &NodePlan, run: &Run) -> String {
    let NodePlan { name, client, admin } = node;
    format!(
        r#"[node]
name = "{name}"
listen = "{client}"
admin_listen = "{admin}"
admin_token_file = {token}

[log]
format = "text"

[tokens]
hmac_secret_file = {secret}

# Accounts, contacts, groups and messages for the demo chat page.
[accounts]
builtin = true

[redis]
sentinels = ["{sentinel}"]
primary_name = "main"
# A message counts as sent when a replica has it too, if there is one.
confirm_replicas = {confirm}

[drain]
period = "1s"

[channels]
presence = true
join_leave = true
history_size = 20000
history_ttl = "1h"
force_positioning = true
force_recovery = true
allow_subscribe_for_client = true
allow_publish_for_client = true
allow_presence_for_client = true
allow_history_for_client = true

[[namespace]]
name = "canary"
history_size = 1000
history_ttl = "10m"
force_positioning = true
force_recovery = true
allow_subscribe_for_client = true
allow_publish_for_client = true
allow_history_for_client = true
"#,
        token = quoted(&run.secret("chatnode.token")),
        secret = quoted(&run.secret("chat.secret")),
        sentinel = plan.sentinel,
        confirm = plan.redis.len().saturating_sub(1).min(1),
    )
}

/// The balancer.
pub(super) fn balancer(plan: &Plan, run: &Run) -> String {
    let mut text = format!(
        r#"[admin]
listen = "{admin}"
token_file = {token}

[log]
format = "text"

# For the drill slow-upstream.
[faults]
enabled = true

[[listener]]
name = "chat"
listen = "{chat}"
mode = "http"
pool = "chat"

[[pool]]
name = "chat"
algorithm = "least_connections"
connect_timeout = "1s"
max_fails = 1
fail_timeout = "2s"
slow_start = "10s"
panic_threshold = 0.34

[pool.health_check]
type = "http"
path = "/health/ready"
interval = "500ms"
timeout = "400ms"
rise = 2
fall = 2
"#,
        admin = plan.balancer_admin,
        token = quoted(&run.secret("balancer.token")),
        chat = plan.chat,
    );
    for NodePlan { name, client, .. } in &plan.nodes {
        append!(
            text,
            "\n[[pool.server]]\nname = \"{name}\"\naddress = \"{client}\"\nweight = 100\n"
        );
    }
    text
}

/// The supervisor.
pub(super) fn supervisor(plan: &Plan, run: &Run) -> String {
    let mut text = format!(
        r#"[supervisor]
name = "supervisor-1"
listen = "{listen}"
token_file = {token}
state_dir = {state}

[log]
format = "text"

[rules]
files = [{rules}]

[balancer]
admin = "{balancer}"
token_file = {balancer_token}
pool = "chat"

[sentinel]
listen = "{sentinel}"

[canary]
url = "ws://{chat}/connection/websocket"
hmac_secret_file = {secret}

[backup]
dir = {backups}
schedule = "*/10 * * * *"

[notify.email]
smtp = "{mail}"
from = "Holdfast <holdfast@example.org>"
to = ["ops@example.org"]

[[notify.webhook]]
url = "http://{webhook}/hook"

[drills]
report_dir = {drills}
"#,
        listen = plan.supervisor,
        token = quoted(&run.secret("supervisor.token")),
        state = quoted(&run.path("state")),
        rules = quoted(&run.settings("alerts/*.yml")),
        balancer = plan.balancer_admin,
        balancer_token = quoted(&run.secret("balancer.token")),
        sentinel = plan.sentinel,
        chat = plan.chat,
        secret = quoted(&run.secret("chat.secret")),
        backups = quoted(&run.path("backups")),
        mail = plan.mail,
        webhook = plan.webhook,
        drills = quoted(&run.path("drills")),
    );
    let list = |items: Vec<String>| items.join(", ");
    let servers = plan.redis.iter().map(|redis| format!("\"{}\"", redis.address)).collect();
    let pids = plan.redis.iter().map(|redis| quoted(&run.pid_file(&redis.name))).collect();
    append!(
        text,
        "\n[redis]\nname = \"main\"\nservers = [{}]\npid_files = [{}]\n",
        list(servers),
        list(pids)
    );
    for NodePlan { name, admin, .. } in &plan.nodes {
        let pid_file = quoted(&run.pid_file(name));
        append!(
            text,
            "\n[[node]]\nname = \"{name}\"\nmetrics = \"{admin}\"\npid_file = {pid_file}\n"
        );
    }
    text
}

/// What the other commands read to find this cluster.
pub(super) fn client(plan: &Plan, run: &Run) -> String {
    let token = quoted(&run.secret("supervisor.token"));
    format!("server = \"http://{}\"\ntoken_file = {token}\n", plan.supervisor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::up::ports::{self, PortChoice};

    #[test]
    fn the_supervisors_settings_are_good() {
        let dir = tempfile::tempdir().unwrap();
        let plan = ports::plan(&Wanted::default(), PortChoice::Free).unwrap();
        let run = Run::create(dir.path()).unwrap();
        run.write(&plan).unwrap();
        let config = Config::read(&run.settings("holdfast.toml")).unwrap();
        assert_eq!((config.nodes.len(), config.redis[0].servers.len()), (3, 3));
        assert!(
            config.canary.is_some() && config.backup.is_some() && config.notify.email.is_some()
        );
    }

    #[test]
    fn a_settings_file_may_say_little_and_must_not_say_nonsense() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("up.toml");
        let options = |text: &str| {
            std::fs::write(&file, text).unwrap();
            Options {
                state_dir: dir.path().to_owned(),
                config: Some(file.clone()),
                nodes: None,
                replicas: Some(1),
                ports: PortChoice::Default,
                exit_after: None,
                scenario: None,
            }
        };
        let wanted = Wanted::from(&options("nodes = 2\n[ports]\nchat = 1234\n")).unwrap();
        assert_eq!((wanted.nodes, wanted.replicas, wanted.ports.chat), (2, 1, 1234));
        let error = Wanted::from(&options("[ports]\nchta = 1234\n")).unwrap_err();
        assert!(error.to_string().contains("up.toml:2: ports.chta: unknown field"), "{error}");
        let error = Wanted::from(&options("nodes = 0\n")).unwrap_err();
        assert_eq!(error.to_string(), "nodes: expected 1 to 20, found 0");
    }
}
