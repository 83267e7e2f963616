//! Servers other than the primary that are not what they should be.

use std::time::Instant;

use super::{Diverged, Planner, REPAIR_EVERY, Repair};
use crate::cluster::{Address, RedisRole};
use crate::judge::redis::ServerView;

impl Planner {
    /// What a server at `offset` of the history `replid` has that the present primary never had; `None` if that cannot be told.
    pub fn diverged(&self, replid: &str, offset: u64) -> Option<Diverged> {
        let fork = self.register.fork.clone().filter(|fork| fork.replid == replid)?;
        let bytes = offset.saturating_sub(fork.offset);
        Some(Diverged { fork, bytes })
    }

    pub(super) fn repairs(
        &mut self,
        now: Instant,
        primary: &Address,
        views: &[ServerView],
    ) -> Vec<Repair> {
        let patience = self.settings.probe_timeout;
        let replid = self.lineage.as_ref().map(|lineage| lineage.replid.clone());
        let mut repairs = Vec::new();
        for view in views.iter().filter(|view| view.address != *primary) {
            let Some(sample) = view.present(now, patience).filter(|sample| !sample.loading) else {
                continue;
            };
            let server = &view.address;
            let recent = self.repaired.get(server).is_some_and(|at| now < *at + REPAIR_EVERY);
            // A replica that is fed by a server we do not know follows the primary under another name. A chain among our own is
            // straightened: it stems from a change that somebody could not be told of.
            let is_chained =
                views.iter().any(|other| Some(&other.address) == sample.follows.as_ref());
            let is_fed = sample.link_up == Some(true)
                && Some(&sample.replid) == replid.as_ref()
                && !is_chained;
            let (demote, reason) = match sample.role {
                RedisRole::Primary => {
                    (true, format!("{server} says it is a primary, {primary} is"))
                }
                RedisRole::Replica if sample.follows.as_ref() != Some(primary) && !is_fed => {
                    (false, format!("{server} follows another server than {primary}"))
                }
                RedisRole::Replica => continue,
            };
            if !recent {
                let diverged =
                    if demote { self.diverged(&sample.replid, sample.offset) } else { None };
                repairs.push(Repair { server: server.clone(), demote, diverged, reason });
            }
        }
        for repair in &repairs {
            self.repaired.insert(repair.server.clone(), now);
        }
        repairs
    }
}
