//! The supervisors' group as the Sentinel-compatible endpoint shows it.

use std::sync::Arc;
use std::time::Duration;

use crate::group::{Group, Seat};
use crate::serve::sentinel::{Sentinel, Sentinels};

/// A member that was not heard for this long is shown as down, as Sentinel would after its shortest useful time.
const DOWN_AFTER: Duration = Duration::from_secs(1);

/// Looks at the group whenever it is asked.
pub(super) fn of(group: &Group) -> Arc<dyn Fn() -> Sentinels + Send + Sync> {
    let (members, reports, seat) = (group.members(), group.reports(), group.seat());
    Arc::new(move || {
        let (members, reports) = (Arc::clone(&members.borrow()), Arc::clone(&reports.borrow()));
        let seat = seat.borrow().clone();
        let heard = |id| reports.get(&id).map(|heard| heard.at);
        let is_heard = |id| heard(id).is_some_and(|at| at.elapsed() < DOWN_AFTER);
        let voters = members.all.keys().filter(|id| members.is_voter(**id)).count();
        let others = members.others().filter_map(|(id, member)| {
            Some(Sentinel {
                name: member.name.clone(),
                address: member.sentinel.clone()?,
                heard: heard(id),
                is_down: !is_heard(id),
            })
        });
        let leader = match &seat {
            Seat::Following { leader: Some(leader) } => members.all.get(leader),
            _ => None,
        };
        Sentinels {
            others: others.collect(),
            heard: members
                .others()
                .filter(|(id, _)| members.is_voter(*id) && is_heard(*id))
                .count(),
            voters: voters.max(1),
            has_majority: matches!(
                seat,
                Seat::Leading { .. } | Seat::Following { leader: Some(_) }
            ),
            leader: leader.and_then(|member| member.sentinel.clone()),
        }
    })
}
