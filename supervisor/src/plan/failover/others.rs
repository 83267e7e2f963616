//! Redis that somebody else manages: what is left to them, and how we notice what they did.

use std::time::Instant;

use super::{Action, Choice, Decision, Event, Planner};
use crate::cluster::{Address, Manager, RedisRole};
use crate::judge::redis::{Judgement, ServerView};

impl Planner {
    /// The primary is gone, and it is not for us to replace it.
    ///
    /// Redis Sentinel tells whom it promoted, and the controller follows it. Nobody tells with `manager = "none"`: there the one server
    /// that carries the primary's work on is taken for the new primary.
    pub(super) fn left_to_others(
        &self,
        now: Instant,
        views: &[ServerView],
        judgement: Judgement,
        candidate: Option<Choice>,
    ) -> Decision {
        let Judgement { verdict, reasons } = judgement;
        let is_sentinels = self.settings.manager == Manager::Sentinel;
        let heir = if is_sentinels { None } else { self.heir(now, views) };
        let why = self.forbidden().unwrap_or_default();
        let (event, summary) = match (&heir, is_sentinels) {
            (Some(heir), _) => (Event::Doubted, format!("{verdict}; {heir} has taken its place")),
            (None, true) => (Event::Doubted, format!("{verdict}; Redis Sentinel is to replace it")),
            (None, false) => (Event::Withheld, format!("{verdict}, but {why}")),
        };
        let withheld = (event == Event::Withheld).then_some(why);
        let action = match heir {
            Some(primary) => Action::Adopt { primary, why: "it has become the primary".to_owned() },
            None => Action::Nothing,
        };
        Decision {
            event,
            verdict: Some(verdict),
            own: None,
            summary: Some(summary),
            reasons,
            action,
            withheld,
            candidate,
        }
    }

    /// The one other server that says it is a primary and either has replicas or continues the history we know.
    pub fn heir(&self, now: Instant, views: &[ServerView]) -> Option<Address> {
        let lineage = self.lineage.as_ref();
        let continues = |replid2: Option<&String>| {
            lineage.is_some_and(|lineage| replid2 == Some(&lineage.replid))
        };
        let mut heirs =
            views.iter().filter(|view| Some(&view.address) != self.register.primary.as_ref());
        let mut heirs = heirs.by_ref().filter(|view| {
            view.present(now, self.settings.probe_timeout).is_some_and(|sample| {
                sample.role == RedisRole::Primary
                    && !sample.loading
                    && (sample.replicas > 0 || continues(sample.replid2.as_ref()))
            })
        });
        let heir = heirs.next()?;
        heirs.next().is_none().then(|| heir.address.clone())
    }
}
