//! The circuits in the group's ledger: what the leader has drained or down-weighted, for all members to know.

use std::collections::HashMap;
use std::sync::Arc;

use crate::cluster::CircuitState;
use crate::config::Guards;
use crate::group::{CircuitRecord, Entry, Group};
use crate::judge::circuits::{Circuit, Demand};

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
