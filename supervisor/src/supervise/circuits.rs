//! The circuits in the group's ledger: what the leader has drained or down-weighted, for all members to know.

use std::collections::HashMap;
use std::sync::Arc;

use crate::cluster::CircuitState;
use crate::config::Guards;
use crate::group::{CircuitRecord, Entry, Group, Ledger, Seat};
use crate::judge::circuits::{Action, Circuit, Demand, Percent};

/// Has the group know the circuits that are not closed, if this member leads. What does not get through is tried again with the next look.
pub(super) async fn keep(group: &Group, circuits: &HashMap<String, Circuit>, guards: &Guards) {
    if group.leading().is_none() {
        return;
    }
    let ledger = Arc::clone(&group.ledger().borrow());
    let gone = ledger.circuits.keys().filter(|server| !circuits.contains_key(*server));
    let gone = gone.map(|server| (server.clone(), None));
    let present =
        circuits.iter().map(|(server, circuit)| (server.clone(), record(circuit, guards)));
    for (server, circuit) in present.chain(gone) {
        if is_same(ledger.circuits.get(&server), circuit.as_ref()) {
            continue;
        }
        if let Err(error) = group.propose(Entry::Circuit { server, circuit }).await {
            tracing::debug!(%error, "the circuits are not in the group's ledger yet");
            return;
        }
    }
}

/// Goes on with the circuits of whoever led before, where we have seen no reason for one ourselves: each is open as it was, and closes
/// step by step once it has been calm.
pub(super) fn inherit(
    group: &Group,
    circuits: &mut HashMap<String, Circuit>,
) -> Vec<(String, CircuitRecord)> {
    let ledger = Arc::clone(&group.ledger().borrow());
    let mut inherited = Vec::new();
    for (server, record) in &ledger.circuits {
        let Some(circuit) = circuits.get_mut(server) else { continue };
        if circuit.state() == CircuitState::Closed {
            let action =
                record.percent.map_or(Action::Drain, |percent| Action::Weight(Percent(percent)));
            *circuit = Circuit::resumed(action, record.reason.as_str());
            inherited.push((server.clone(), record.clone()));
        }
    }
    inherited
}

/// The leader's circuits, if another member leads: every member shows the same.
pub(super) fn of_leader(group: &Group) -> Option<Arc<Ledger>> {
    let follows = matches!(&*group.seat().borrow(), Seat::Following { leader: Some(_) });
    follows.then(|| Arc::clone(&group.ledger().borrow()))
}

/// A circuit as the ledger has it; `None` if it is closed.
fn record(circuit: &Circuit, guards: &Guards) -> Option<CircuitRecord> {
    let state = circuit.state();
    let percent = match circuit.demand(guards) {
        Demand::Full => Some(100),
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share is above 0 and at most 1"
        )]
        Demand::Share(share) => Some((share * 100.0).round() as u8),
        Demand::Drain => None,
    };
    (state != CircuitState::Closed).then(|| CircuitRecord {
        state,
        percent,
        reason: circuit.reason().unwrap_or_default().to_owned(),
        since: chrono::Utc::now(),
    })
}

/// Whether two say the same, whenever they began.
fn is_same(kept: Option<&CircuitRecord>, now: Option<&CircuitRecord>) -> bool {
    let content = |record: &CircuitRecord| (record.state, record.percent, record.reason.clone());
    kept.map(content) == now.map(content)
}
