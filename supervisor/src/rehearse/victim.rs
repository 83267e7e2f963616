//! Who is struck, and whose incidents show that something else is wrong at the same time?

use std::path::PathBuf;

use super::faults::Fault;
use super::scenario::Role;
use crate::cluster::{RedisStatus, ServersStatus};
use crate::config::Config;

/// A process to strike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Victim {
    /// What people call it: the node's name, or the Redis server's address.
    pub(super) name: String,
    pub(super) program: &'static str,
    /// Where its number is, if the settings say so, and by which key they do.
    pid_file: Option<PathBuf>,
    key: &'static str,
}

impl Victim {
    /// The process that plays `role` now.
    ///
    /// # Errors
    /// Why there is none, as a sentence.
    pub(super) fn choose(
        role: Role,
        config: &Config,
        servers: &ServersStatus,
        redis: &[RedisStatus],
    ) -> Result<Self, String> {
        let (name, pid_file, key) = match role {
            Role::BusiestNode => {
                let name = busiest(servers).ok_or("no chat node is known yet")?;
                let node = config.nodes.iter().find(|node| node.name == name);
                (name, node.and_then(|node| node.pid_file.clone()), "pid_file")
            }
            Role::RedisPrimary => {
                let primary = redis.first().and_then(|redis| redis.primary.clone());
                let primary = primary.ok_or("no Redis primary is known")?;
                let mut servers = config.redis.iter().flat_map(|redis| &redis.servers);
                let server = servers.find(|server| server.address == primary);
                let pid_file = server.and_then(|server| server.pid_file.clone());
                (primary.to_string(), pid_file, "redis.pid_files")
            }
        };
        Ok(Self { name, program: role.program(), pid_file, key })
    }

    /// Its sudden death.
    ///
    /// # Errors
    /// It is out of this supervisor's reach, as a sentence.
    pub(super) fn crash(&self) -> Result<Fault, String> {
        let Self { name, program, pid_file, key } = self;
        let pid_file = pid_file.clone().ok_or_else(|| {
            format!(
                "the settings name no pid file for {name} ({key}), so this supervisor cannot crash it"
            )
        })?;
        Ok(Fault::Kill { pid_file, program: (*program).to_owned() })
    }
}

/// The node with the most connections; the first of equals.
fn busiest(servers: &ServersStatus) -> Option<String> {
    let connections = |index: usize| servers.nodes[index].connections.unwrap_or(0.0);
    let nodes = 0..servers.nodes.len();
    let busiest = nodes.rev().max_by(|a, b| connections(*a).total_cmp(&connections(*b)))?;
    Some(servers.nodes[busiest].name.clone())
}

/// Whether an incident about `subject` cannot come from striking `victim`. Redis is below the chat nodes and a chat node is below nobody,
/// so what goes wrong elsewhere at the same time is either real or a blast that reaches too far.
pub(super) fn is_unrelated(role: Role, victim: &str, config: &Config, subject: &str) -> bool {
    let is_balancer =
        config.balancer.as_ref().is_some_and(|balancer| balancer.admin.to_string() == subject);
    let elsewhere = is_balancer || subject == "backup";
    match role {
        Role::RedisPrimary => elsewhere,
        Role::BusiestNode => {
            let is_other_node =
                config.nodes.iter().any(|node| node.name == subject && node.name != victim);
            let is_redis =
                config.redis.iter().any(|redis| subject == format!("redis/{}", redis.name));
            elsewhere || is_other_node || is_redis
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
