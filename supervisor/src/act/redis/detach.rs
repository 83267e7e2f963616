//! Before the promotion every replica leaves the old primary, and only then are offsets compared for the last time.
//!
//! A primary that hangs, is cut off or was restarted can come back between the comparison and the promotion, sooner than a fence reaches
//! it. A replica that follows it still would confirm what it takes then (`WAIT`), and the promoted server would not have it. Once no
//! replica follows it, nothing more can be confirmed that the comparison does not know of. A hook may also have taken its time since
//! offsets were compared first.
//!
//! They are pointed at an address where nobody listens: their data and their place in the history stay, so that the new primary continues
//! them with a partial copy. Rejected: pointing them at the candidate, because one that has more than it would throw that away for a whole
//! copy; waiting until the old primary is known to be fenced, because nobody may be able to reach it; sending them back when the run is
//! called off, because by then the old primary may have been restarted without its data, and they would copy that. They are brought in
//! line like any straggler once a primary serves.

use futures_util::future::join_all;
use tokio::time::Instant;

use super::RedisController;
use super::commands::{Drained, ORDER_LIMIT};
use super::run::{Attempt, Stop, with_samples};
use crate::cluster::{Address, RedisRole};
use crate::judge::redis::Sample;
use crate::observe::redis::{Watch, command};
use crate::plan::failover::Choice;

/// Where nobody listens: the port of a service that no host offers any more.
const NOWHERE: (&str, &str) = ("127.0.0.1", "1");

impl RedisController {
    /// Has all replicas leave the old primary and chooses again among them; `first` was chosen before.
    pub(super) async fn detach(
        &mut self,
        attempt: &mut Attempt,
        first: Choice,
        asked: bool,
        wanted: Option<&Address>,
    ) -> Result<Choice, Stop> {
        let from = attempt.run.from.clone();
        let replicas = self.watches.iter().filter(|watch| *watch.address() != from);
        let looks = join_all(replicas.map(leave)).await;
        let samples: Vec<_> = looks.into_iter().flatten().collect();
        let offsets: Vec<_> = samples
            .iter()
            .map(|(address, sample)| format!("{address} at {}", sample.offset))
            .collect();
        let views = with_samples(self.views(), &Drained { samples, link_lost: true });
        let now = Instant::now().into_std();
        let choice = self.planner.candidate(now, &views, Some(&from), wanted);
        let choice = choice.map_err(|reasons| {
            let texts: Vec<_> = reasons.into_iter().map(|reason| reason.text).collect();
            Stop::Withheld(format!("no server can take its place any more: {}", texts.join("; ")))
        })?;
        if !asked && let Some(why) = self.planner.too_much_lost(&choice) {
            return Err(Stop::Withheld(why));
        }
        let mut outcome = format!("no replica follows {from} any more: {}", offsets.join(", "));
        if choice.address != first.address {
            outcome = format!("{outcome}; {} has more than {}", choice.address, first.address);
            self.agree_on_target(attempt, &choice.address).await?;
        }
        self.mark(attempt, "detached", Instant::now(), outcome);
        Ok(choice)
    }
}

/// Has one server leave whom it follows and looks at it after that; `None` if it cannot be talked to, or is no replica.
async fn leave(watch: &Watch) -> Option<(Address, Sample)> {
    let is_replica = watch.view().sample.is_some_and(|sample| sample.role == RedisRole::Replica);
    if is_replica {
        let (host, port) = NOWHERE;
        // Its answer comes before that of the look behind it, which is what tells.
        watch.send(vec![command(["REPLICAOF", host, port])]).ok()?;
    }
    let sample = watch.sample(ORDER_LIMIT).await.ok()?;
    Some((watch.address().clone(), sample))
}
