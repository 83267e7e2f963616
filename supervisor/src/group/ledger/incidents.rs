//! Which incidents do the members have in common?
//!
//! The leader's list: all that are open, and the newest that are over, for members that were away for a moment. The whole history is in
//! each member's journal.

use super::Applied;
use crate::record::{Agreed, Incident};

/// Open incidents; there is one per subject, and subjects are nodes, Redis primaries and the like.
const OPEN_MAX: usize = 500;
/// Incidents that are over and kept here. The ledger is copied at every change, so not more than a bad hour has.
const CLOSED_KEPT: usize = 50;

/// Takes in an incident as it now stands.
pub(super) fn take_in(incidents: &mut Agreed, incident: Incident) -> Applied {
    let is_new = !incidents.contains_key(&incident.id);
    let open = incidents.values().filter(|incident| incident.closed.is_none()).count();
    if is_new && incident.closed.is_none() && open >= OPEN_MAX {
        return Applied::Refused(format!("{OPEN_MAX} incidents are open already"));
    }
    incidents.insert(incident.id, incident);
    let over = incidents.values().filter(|incident| incident.closed.is_some());
    let mut over: Vec<_> = over.map(|incident| (incident.closed, incident.id)).collect();
    over.sort_unstable();
    let excess = over.len().saturating_sub(CLOSED_KEPT);
    for (_, id) in over.into_iter().take(excess) {
        incidents.remove(&id);
    }
    Applied::Done
}
