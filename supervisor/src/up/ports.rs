//! Which ports the local cluster gets.
//!
//! Free ports come from `holdfast-ports`: nobody else gets them while this process lives. The documented ones are held together while the
//! plan is made, so that all faults are told at once, and let go just before the programs start.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use super::settings::{Ports, Wanted};
use super::{NodePlan, Plan, RedisPlan, UpError};

/// Which ports to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum PortChoice {
    /// The documented ones, or those of the settings file.
    Default,
    /// Any that are free.
    Free,
}

/// Picks the addresses.
pub(super) fn plan(wanted: &Wanted, choice: PortChoice) -> Result<Plan, UpError> {
    let mut held = Held::default();
    let fixed = choice == PortChoice::Default;
    let Ports {
        chat,
        balancer_admin,
        supervisor,
        sentinel,
        node_client,
        node_admin,
        redis,
        mail,
        webhook,
    } = wanted.ports;
    let mut take = |purpose: String, port: u32| {
        if fixed { held.fixed(&purpose, port) } else { held.free() }
    };
    let count = |index: usize| u32::try_from(index).expect("their number is checked");
    let plan = Plan {
        nodes: (0..wanted.nodes)
            .map(|index| {
                let name = format!("chatnode-{}", index + 1);
                NodePlan {
                    client: take(format!("{name}, clients"), u32::from(node_client) + count(index)),
                    admin: take(format!("{name}, admin"), u32::from(node_admin) + count(index)),
                    name,
                }
            })
            .collect(),
        redis: (0..=wanted.replicas)
            .map(|index| {
                let name = format!("redis-{}", index + 1);
                RedisPlan { address: take(name.clone(), u32::from(redis) + count(index)), name }
            })
            .collect(),
        chat: take("balancer, chat".to_owned(), chat.into()),
        balancer_admin: take("balancer, admin".to_owned(), balancer_admin.into()),
        supervisor: take("supervisor".to_owned(), supervisor.into()),
        sentinel: take("supervisor, sentinel".to_owned(), sentinel.into()),
        mail: take("mail".to_owned(), mail.into()),
        webhook: take("webhook".to_owned(), webhook.into()),
    };
    held.finish(plan)
}

/// Ports taken so far, with the sockets that hold them.
#[derive(Default)]
struct Held {
    sockets: BTreeMap<u16, TcpListener>,
    faults: Vec<String>,
}

impl Held {
    fn fixed(&mut self, purpose: &str, port: u32) -> SocketAddr {
        let unusable = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let Some(port) = u16::try_from(port).ok().filter(|port| *port > 0) else {
            self.faults.push(format!("{port} ({purpose}) is no port"));
            return unusable;
        };
        if self.sockets.contains_key(&port) {
            self.faults.push(format!("{port} ({purpose}) is used twice"));
            return unusable;
        }
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        match TcpListener::bind(address) {
            Ok(socket) => drop(self.sockets.insert(port, socket)),
            Err(error) => self.faults.push(format!("{port} ({purpose}): {error}")),
        }
        address
    }

    fn free(&mut self) -> SocketAddr {
        let port = holdfast_ports::take().unwrap_or_else(|error| {
            self.faults.push(error.to_string());
            0
        });
        SocketAddr::from((Ipv4Addr::LOCALHOST, port))
    }

    fn finish(self, plan: Plan) -> Result<Plan, UpError> {
        if self.faults.is_empty() {
            return Ok(plan);
        }
        let list = self.faults.join("\n  ");
        Err(UpError::Ports(format!(
            "these ports cannot be used:\n  {list}\ntake free ones with `--ports free`, or set others in a file for `--config`"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_ports_are_all_different() {
        let plan = plan(&Wanted::default(), PortChoice::Free).unwrap();
        let mut ports: Vec<u16> =
            plan.nodes.iter().flat_map(|n| [n.client.port(), n.admin.port()]).collect();
        ports.extend(plan.redis.iter().map(|redis| redis.address.port()));
        ports.extend(
            [plan.chat, plan.balancer_admin, plan.supervisor].map(|address| address.port()),
        );
        let count = ports.len();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!((ports.len(), count), (12, 12));
    }

    #[test]
    fn occupied_ports_are_all_named_with_their_purpose() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let ports = Ports { supervisor: port, chat: port, ..Ports::default() };
        let wanted = Wanted { ports, ..Wanted::default() };
        let text = plan(&wanted, PortChoice::Default).unwrap_err().to_string();
        assert!(text.contains(&format!("{port} (supervisor): ")), "{text}");
        assert!(text.contains(&format!("{port} (balancer, chat): ")), "{text}");
        assert!(text.contains("--ports free"), "{text}");
    }
}
