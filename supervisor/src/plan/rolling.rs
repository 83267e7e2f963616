//! Restarting all servers of a Redis one after the other, without its clients missing it.
//!
//! Replicas first, those least wanted as a primary before the others; each must be back, linked and as far as the primary was before the
//! next one goes. Then the primary hands over, and is restarted as the replica it is by then. Before each step all other servers must be
//! well, and enough replicas must stay for what writes demand. The first thing that is not as it should be stops the whole: what is left
//! is told, and can be taken up again.
//!
//! A primary may die while others are restarted. If the supervisors replaced it themselves, what is left is put in order again and the
//! restart goes on, so often and no more; a primary that somebody else has moved is a sign that two are at work on these servers.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::cluster::{Address, RestartStatus};
use crate::judge::redis::ServerView;

use super::failover::healthy_replicas;

/// How long the others may take to be well before the next step: reconnections after the last one.
const SETTLE: Duration = Duration::from_secs(30);

/// Changes of the primary that one order outlives. One is an accident; with more the servers probably do not bear the restart.
const CHANGES_MAX: u32 = 3;

/// What to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Nothing; something is under way, or all is over.
    Wait,
    /// Restart this server.
    Restart(Address),
    /// Have another server be the primary.
    SwitchOver,
    /// Nothing yet; the primary was replaced, and what is left is in another order.
    GoesOn,
    /// It is done.
    Finished,
    /// It has stopped, for this reason.
    Stopped(String),
}

/// The world as a rolling restart sees it.
#[derive(Debug, Clone, Copy)]
pub struct World<'a> {
    /// The present.
    pub now: Instant,
    /// All servers.
    pub views: &'a [ServerView],
    /// The primary.
    pub primary: &'a Address,
    /// The epoch it is told under.
    pub epoch: u64,
    /// The last epoch whose primary was found, not made by us.
    pub found: u64,
    /// A server that is silent for longer is not there.
    pub patience: Duration,
}

/// A rolling restart as the group keeps it: whoever leads next goes on from here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RollingPlan {
    /// How far it is.
    pub status: RestartStatus,
    /// Replicas that must stay well.
    pub needed: u32,
    /// The epoch the primary is told under.
    pub epoch: u64,
    /// Changes of the primary it has met.
    #[serde(default)]
    pub changes: u32,
    /// The process that is to end.
    pub run_id: Option<String>,
}

/// A rolling restart.
#[derive(Debug, Clone)]
pub struct Rolling {
    /// For people.
    pub status: RestartStatus,
    /// Replicas that must stay well.
    needed: u32,
    /// A server must be back after this long.
    timeout: Duration,
    /// Another one means that something else happened.
    epoch: u64,
    /// How often it did.
    changes: u32,
    current: Option<Current>,
    /// The next step has not been possible since then.
    unsettled_since: Option<Instant>,
}

#[derive(Debug, Clone)]
struct Current {
    since: Instant,
    /// The process that is to end.
    run_id: Option<String>,
    /// What restarts it has done its part.
    is_restarted: bool,
    /// Another supervisor was to restart it, and did or did not.
    is_inherited: bool,
    /// The offset it must reach.
    goal: Option<u64>,
}

impl Rolling {
    /// Restarts `servers` in this order, the primary last.
    pub fn new(
        by: String,
        servers: Vec<Address>,
        needed: u32,
        timeout: Duration,
        epoch: u64,
    ) -> Self {
        let status =
            RestartStatus { by, done: Vec::new(), current: None, left: servers, problem: None };
        Self { status, needed, timeout, epoch, changes: 0, current: None, unsettled_since: None }
    }

    /// One that another supervisor began, taken over at `now`.
    pub fn taken_over(plan: RollingPlan, timeout: Duration, now: Instant) -> Self {
        let RollingPlan { status, needed, epoch, changes, run_id } = plan;
        let current = status.current.is_some().then_some(Current {
            since: now,
            run_id,
            is_restarted: false,
            is_inherited: true,
            goal: None,
        });
        Self { status, needed, timeout, epoch, changes, current, unsettled_since: None }
    }

    /// What whoever leads next needs to go on.
    pub fn plan(&self) -> RollingPlan {
        RollingPlan {
            status: self.status.clone(),
            needed: self.needed,
            epoch: self.epoch,
            changes: self.changes,
            run_id: self.current.as_ref().and_then(|current| current.run_id.clone()),
        }
    }

    /// Whether it goes on.
    pub fn is_going(&self) -> bool {
        self.status.problem.is_none() && (self.current.is_some() || !self.status.left.is_empty())
    }

    /// Takes up what was left by one that has stopped.
    pub fn resume(&mut self, by: String, epoch: u64) {
        self.status.by = by;
        self.status.problem = None;
        (self.epoch, self.changes) = (epoch, 0);
        self.unsettled_since = None;
    }

    /// Stops it. The server that is being restarted counts as left.
    pub fn stop(&mut self, why: String) {
        self.current = None;
        if let Some(server) = self.status.current.take() {
            self.status.left.insert(0, server);
        }
        self.status.problem = Some(why);
    }

    /// What restarts the present server has done its part, or could not.
    pub fn restarted(&mut self, server: &Address, result: Result<(), String>) {
        if self.status.current.as_ref() != Some(server) {
            return;
        }
        match (result, &mut self.current) {
            (Ok(()), Some(current)) => {
                (current.is_restarted, current.is_inherited) = (true, false);
            }
            (Ok(()), None) => {}
            (Err(why), _) => self.stop(format!("{server} could not be restarted: {why}")),
        }
    }

    /// The switchover was done, under this epoch, or was not possible.
    pub fn switched(&mut self, result: Result<u64, String>) {
        match result {
            Ok(epoch) => self.epoch = epoch,
            Err(why) => self.stop(format!("the primary could not be moved: {why}")),
        }
    }

    /// Looks at everything and says what to do.
    pub fn next(&mut self, world: &World<'_>) -> Next {
        if !self.is_going() {
            return Next::Wait;
        }
        if world.epoch != self.epoch {
            return self.changed(world);
        }
        if let Some(server) = self.inherited(world) {
            return Next::Restart(server);
        }
        if self.current.is_some() && !self.is_back(world) {
            let since = self.current.as_ref().map_or(world.now, |current| current.since);
            if world.now.saturating_duration_since(since) < self.timeout {
                return Next::Wait;
            }
            let server = self.status.current.as_ref().map(ToString::to_string).unwrap_or_default();
            let seconds = self.timeout.as_secs();
            return self.give_up(format!("{server} was not back within {seconds} s"));
        }
        if self.current.take().is_some() {
            self.status.done.extend(self.status.current.take());
        }
        let Some(server) = self.status.left.first().cloned() else { return Next::Finished };
        if let Some(why) = self.unsettled(world, &server) {
            let since = *self.unsettled_since.get_or_insert(world.now);
            if world.now.saturating_duration_since(since) < SETTLE {
                return Next::Wait;
            }
            return self.give_up(why);
        }
        self.unsettled_since = None;
        if server == *world.primary {
            return Next::SwitchOver;
        }
        self.status.left.remove(0);
        self.status.current = Some(server.clone());
        let view = world.views.iter().find(|view| view.address == server);
        self.current = Some(Current {
            since: world.now,
            run_id: view.and_then(|view| view.sample.as_ref()).map(|sample| sample.run_id.clone()),
            is_restarted: false,
            is_inherited: false,
            goal: None,
        });
        Next::Restart(server)
    }

    /// The primary is another one than before.
    fn changed(&mut self, world: &World<'_>) -> Next {
        if world.found > self.epoch {
            return self.give_up("somebody else has moved the primary meanwhile".to_owned());
        }
        if self.changes >= CHANGES_MAX {
            let changes = self.changes + 1;
            return self.give_up(format!("the primary was replaced {changes} times meanwhile"));
        }
        self.changes += 1;
        self.epoch = world.epoch;
        self.unsettled_since = None;
        // It goes last, after another one has taken its place.
        self.status.left.sort_by_key(|server| server == world.primary);
        if let Some(current) = &mut self.current {
            current.goal = None;
        }
        Next::GoesOn
    }

    fn give_up(&mut self, why: String) -> Next {
        self.stop(why.clone());
        Next::Stopped(why)
    }

    /// A server that another supervisor was to restart and did not: still the same process, long after it must have been told to end.
    fn inherited(&mut self, world: &World<'_>) -> Option<Address> {
        let current = self.current.as_mut().filter(|current| current.is_inherited)?;
        let server = self.status.current.as_ref()?;
        let view = world.views.iter().find(|view| view.address == *server)?;
        let sample = view.present(world.now, world.patience)?;
        if Some(&sample.run_id) != current.run_id.as_ref() {
            (current.is_restarted, current.is_inherited) = (true, false);
            return None;
        }
        if world.now.saturating_duration_since(current.since) < SETTLE {
            return None;
        }
        (current.since, current.is_inherited) = (world.now, false);
        Some(server.clone())
    }

    /// Whether the present server is a new process that follows the primary and has caught up with it, or has become the primary.
    fn is_back(&mut self, world: &World<'_>) -> bool {
        let sample_of = |address: &Address| {
            let view = world.views.iter().find(|view| view.address == *address)?;
            view.present(world.now, world.patience)
        };
        let Some(server) = self.status.current.as_ref() else { return true };
        let (Some(current), Some(sample)) = (&mut self.current, sample_of(server)) else {
            return false;
        };
        let is_new = Some(&sample.run_id) != current.run_id.as_ref();
        let is_linked = sample.link_up == Some(true) && !sample.syncing && !sample.loading;
        if !current.is_restarted || !is_new {
            return false;
        }
        if server == world.primary {
            return true;
        }
        if !is_linked {
            return false;
        }
        let Some(primary) = sample_of(world.primary) else { return false };
        sample.offset >= *current.goal.get_or_insert(primary.offset)
    }

    /// Why `server` cannot be taken away now.
    fn unsettled(&self, world: &World<'_>, server: &Address) -> Option<String> {
        let away = world.views.iter().find(|view| !view.is_reachable(world.now, world.patience));
        if let Some(view) = away {
            return Some(format!("{} does not answer", view.address));
        }
        let others: Vec<_> =
            world.views.iter().filter(|view| view.address != *server).cloned().collect();
        let mut stay = healthy_replicas(&others, Some(world.primary), world.patience, world.now);
        if server == world.primary {
            // One of them becomes the primary.
            stay = stay.saturating_sub(1);
        }
        (stay < self.needed).then(|| {
            format!(
                "without {server} only {stay} replicas are well, and {} are needed",
                self.needed
            )
        })
    }
}

#[cfg(test)]
mod tests;
