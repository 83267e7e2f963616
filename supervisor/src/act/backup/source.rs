//! Which server to take the snapshot from.
//!
//! A replica that is in step with its primary, the one farthest on; the fork then costs no client anything. A primary only where no such
//! replica can be used, and the manifest says why.

use holdfast_psync::{Address, Connection, Endpoint};

use super::error::chain;
use super::manifest::Role;

/// What a server says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    /// It takes writes.
    Primary { replicas: u64, offset: u64 },
    /// It follows a primary, and whether it is in step with it.
    Replica { in_step: bool, offset: u64 },
    /// It does not answer, or not with what we asked for.
    Unusable(String),
}

/// A server to try, and why it is its turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) index: usize,
    pub(super) role: Role,
    pub(super) reason: String,
}

/// The servers to try in turn.
pub(super) fn order(servers: &[(Address, State)]) -> Vec<Choice> {
    let mut replicas = Vec::new();
    let mut primaries = Vec::new();
    let mut unusable = Vec::new();
    for (index, (address, state)) in servers.iter().enumerate() {
        match state {
            State::Replica { in_step: true, offset } => replicas.push((*offset, index)),
            State::Replica { in_step: false, .. } => {
                unusable.push(format!("{address} is not in step with its primary"));
            }
            State::Primary { replicas, offset } => primaries.push((*replicas, *offset, index)),
            State::Unusable(reason) => unusable.push(format!("{address}: {reason}")),
        }
    }
    let in_step = "replica in step with its primary";
    let alone = match (replicas.is_empty(), unusable.is_empty()) {
        (false, _) => "no replica could be used".to_owned(),
        (true, true) => "there is no replica".to_owned(),
        (true, false) => format!("no replica could be used: {}", unusable.join("; ")),
    };
    // The one farthest on first; of several primaries the one that replicas follow.
    replicas.sort_by_key(|replica| std::cmp::Reverse(*replica));
    primaries.sort_by_key(|primary| std::cmp::Reverse(*primary));
    let choose = |role, reason: &str| {
        let reason = reason.to_owned();
        move |index| Choice { index, role, reason: reason.clone() }
    };
    let replicas = replicas.into_iter().map(|(_, index)| index).map(choose(Role::Replica, in_step));
    let primaries =
        primaries.into_iter().map(|(_, _, index)| index).map(choose(Role::Primary, &alone));
    replicas.chain(primaries).collect()
}

/// Asks a server what it is.
pub(super) async fn ask(endpoint: &Endpoint) -> State {
    let answer = async { Connection::open(endpoint).await?.info("replication").await }.await;
    match answer {
        Ok(info) => state(&info),
        Err(error) => State::Unusable(chain(&error)),
    }
}

fn state(info: &[(String, String)]) -> State {
    let value = |name: &str| {
        let found = info.iter().find(|(found, _)| found == name);
        found.map(|(_, value)| value.as_str()).unwrap_or_default()
    };
    let number = |name: &str| value(name).parse().unwrap_or(0);
    match value("role") {
        "master" => State::Primary {
            replicas: number("connected_slaves"),
            offset: number("master_repl_offset"),
        },
        "slave" => {
            let in_step =
                value("master_link_status") == "up" && value("master_sync_in_progress") == "0";
            State::Replica { in_step, offset: number("slave_repl_offset") }
        }
        other => State::Unusable(format!("it says its role is {other:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(states: &[State]) -> Vec<(Address, State)> {
        let address = |index| Address::Tcp(format!("r{index}:1"));
        states.iter().enumerate().map(|(index, state)| (address(index), state.clone())).collect()
    }

    fn chosen(states: &[State]) -> Vec<usize> {
        order(&servers(states)).iter().map(|choice| choice.index).collect()
    }

    #[test]
    fn the_replica_farthest_on_comes_first_and_the_primary_last() {
        let states = [
            State::Primary { replicas: 2, offset: 100 },
            State::Replica { in_step: true, offset: 90 },
            State::Replica { in_step: true, offset: 95 },
            State::Replica { in_step: false, offset: 99 },
        ];
        assert_eq!(chosen(&states), [2, 1, 0]);
    }

    #[test]
    fn an_empty_primary_that_came_back_is_not_preferred() {
        let states = [
            State::Primary { replicas: 0, offset: 0 },
            State::Primary { replicas: 1, offset: 100 },
        ];
        assert_eq!(chosen(&states), [1, 0]);
    }

    #[test]
    fn using_the_primary_is_explained() {
        let states = [
            State::Primary { replicas: 0, offset: 1 },
            State::Replica { in_step: false, offset: 1 },
            State::Unusable("refused".to_owned()),
        ];
        let order = order(&servers(&states));
        assert_eq!(
            order[0].reason,
            "no replica could be used: r1:1 is not in step with its primary; r2:1: refused"
        );
        assert_eq!(order.len(), 1);
        assert_eq!(super::order(&servers(&states[..1]))[0].reason, "there is no replica");
        assert_eq!(super::order(&servers(&states[2..])), []);
    }
}
