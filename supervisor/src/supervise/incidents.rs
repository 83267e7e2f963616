//! The journal of a member of a group: kept in step with what the group has agreed on, and with what the other members did.
//!
//! Level-triggered: each look compares the journal with the ledger and makes the difference, so that it does not matter what was missed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::CONFIRM_WITHIN;
use crate::group::{Entry, Group, MemberId, Seat};
use crate::record::{Journal, Part, Standing};

/// Time between two looks. Incidents are not agreed on at once: in the first moments of a failover the group's log is needed for it.
const TICK: Duration = Duration::from_millis(250);
/// Time between two questions to each other member for what it did.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// Incidents that are agreed on in one look; what is left waits for the next.
const AGREE_MAX: usize = 20;

/// Keeps incidents common to the group until `stop`.
pub(super) async fn keep(group: Group, journal: Arc<Journal>, stop: CancellationToken) {
    let (mut seat, mut ledger) = (group.seat(), group.ledger());
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let is_tick = tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => true,
            Ok(()) = seat.changed() => false,
            Ok(()) = ledger.changed() => false,
        };
        let agreed = Arc::clone(&ledger.borrow_and_update());
        let now = Utc::now();
        journal.reconcile(part(&group), &agreed.incidents, now);
        journal.close_unconfirmed(now - CONFIRM_WITHIN, now);
        if !is_tick || group.leading().is_none() {
            continue;
        }
        for incident in journal.unshared(&agreed.incidents).into_iter().take(AGREE_MAX) {
            if let Err(error) = group.propose(Entry::Incident(incident.clone())).await {
                tracing::debug!(%error, "an incident is not agreed on yet");
                break;
            }
            journal.shared(&incident);
        }
    }
}

fn part(group: &Group) -> Part {
    let members = Arc::clone(&group.members().borrow());
    let has_others = members.others().next().is_some();
    let standing = match &*group.seat().borrow() {
        _ if group.leading().is_some() => Standing::Leads,
        // It has led until a moment ago, or will in a moment.
        Seat::Leading { .. } | Seat::Following { .. } if has_others => Standing::Follows,
        _ => Standing::Alone,
    };
    Part { standing, member: members.own.filter(|_| has_others) }
}

/// Fetches what the other members did as leaders until `stop`.
pub(super) async fn fetch(group: Group, journal: Arc<Journal>, stop: CancellationToken) {
    let mut tick = interval(ASK_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Looked through up to there: without, what is no deed would be looked at every time.
    let mut upto: HashMap<MemberId, u64> = HashMap::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        let members = Arc::clone(&group.members().borrow());
        upto.retain(|id, _| members.all.contains_key(id));
        for (id, member) in members.others() {
            let after = upto.get(&id).copied().unwrap_or_else(|| journal.copied(&member.name));
            let asked = tokio::select! {
                () = stop.cancelled() => return,
                asked = group.deeds_of(id, after) => asked,
            };
            match asked {
                Ok(Some(deeds)) => {
                    journal.copy(&member.name, deeds.events);
                    upto.insert(id, deeds.upto);
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(member = member.name, %error, "not asked for its deeds");
                }
            }
        }
    }
}
