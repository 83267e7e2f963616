//! What is new about a decision, recorded once, and told to clients in the words of Redis Sentinel.

use tokio::time::Instant;

use super::controller::CAUSE;
use super::hooks::Tidings;
use super::{RedisController, SentinelEvent};
use crate::cluster::Address;
use crate::config::Moment;
use crate::judge::redis::{Lineage, Link, ServerView, Verdict};
use crate::plan::failover::Decision;
use crate::record::{Draft, Kind, Severity};

impl RedisController {
    pub(super) fn subject(&self) -> String {
        format!("redis/{}", self.config.name)
    }

    pub(super) fn draft(
        &self,
        kind: Kind,
        severity: Severity,
        message: impl Into<String>,
    ) -> Draft {
        Draft::new(kind, severity, self.subject(), message)
    }

    /// Records what is new about a decision.
    pub(super) fn note(&mut self, decision: &Decision, before: Option<&Lineage>) {
        if let (Some(before), Some(after)) = (before, self.planner.lineage())
            && before.replid != after.replid
            && after.replid2.as_ref() != Some(&before.replid)
        {
            // It was so quickly copied that nobody was seen with the former data.
            if self.verdict != Some(Verdict::EmptyRestart) {
                self.sentinels.add_empty_restart();
            }
            let message = "the primary's data begins anew, and no other server has the former data";
            let draft = self.draft(Kind::RedisVerdict, Severity::Critical, message);
            let text = format!("its history was {} up to offset {}", before.replid, before.offset);
            (self.sink)(draft.because(text).despite("a backup may have it"));
        }
        if let Some(verdict) = decision.verdict.filter(|verdict| self.verdict != Some(*verdict)) {
            let down = verdict.calls_for_failover();
            let severity = match verdict {
                _ if down => Severity::Critical,
                Verdict::PrimaryHealthy | Verdict::Unknown => Severity::Info,
                _ => Severity::Warning,
            };
            // At the start there is nothing to be told about a primary that is well.
            if self.verdict.is_some()
                || !matches!(verdict, Verdict::PrimaryHealthy | Verdict::Unknown)
            {
                let mut draft = self
                    .draft(Kind::RedisVerdict, severity, verdict.to_string())
                    .reasons(decision.reasons.iter().cloned())
                    .detail(serde_json::json!({
                        "verdict": verdict.name(),
                        "primary": self.planner.primary(),
                        "epoch": self.planner.epoch(),
                    }));
                if down {
                    draft = draft.opens(CAUSE);
                    self.is_incident_open = true;
                } else if verdict.serves() && std::mem::take(&mut self.is_incident_open) {
                    draft = draft.closes(CAUSE);
                }
                (self.sink)(draft);
            }
            if verdict == Verdict::EmptyRestart {
                self.sentinels.add_empty_restart();
            }
            if down && !self.verdict.is_some_and(Verdict::calls_for_failover) {
                self.tell_down(verdict);
            }
            self.tell_verdict(verdict);
            self.verdict = Some(verdict);
            let now = Instant::now().into_std();
            if verdict == Verdict::PrimaryHealthy {
                self.story.clear();
            } else {
                self.story.verdict(now, verdict.to_string());
            }
        }
        if decision.withheld != self.withheld {
            self.story.hold(Instant::now().into_std(), decision.withheld.as_ref());
            if let Some(why) = &decision.withheld {
                let draft =
                    self.draft(Kind::ActionWithheld, Severity::Warning, format!("withheld: {why}"));
                (self.sink)(draft.reasons(decision.reasons.iter().cloned()));
            }
            self.withheld.clone_from(&decision.withheld);
        }
    }

    fn tell_down(&mut self, verdict: Verdict) {
        let Some(primary) = self.planner.primary().cloned() else { return };
        let reason = verdict.to_string();
        let tidings = Tidings {
            what: "failover",
            epoch: self.planner.register().next_epoch(),
            from: &primary,
            to: None,
            reason: &reason,
            seconds: None,
            lost_bytes: None,
        };
        self.tell_hooks(Moment::Detect, &tidings);
    }

    /// Forgets what was recorded about the former primary: the next verdict is about another server.
    pub(super) fn forget_verdict(&mut self) {
        self.verdict = Some(Verdict::PrimaryHealthy);
        self.withheld = None;
    }

    fn tell_verdict(&self, verdict: Verdict) {
        let Some(primary) = self.planner.primary() else { return };
        let down = self.verdict.is_some_and(Verdict::calls_for_failover);
        if verdict.calls_for_failover() && !down {
            self.tell("+sdown", self.primary_words(primary));
            let (see_it, needed) = self.agreement.quorum();
            let words = self.primary_words(primary);
            self.tell("+odown", format!("{words} #quorum {see_it}/{needed}"));
        } else if down && verdict.serves() {
            self.tell("-odown", self.primary_words(primary));
            self.tell("-sdown", self.primary_words(primary));
        }
    }

    /// Says once when a replica goes or comes.
    pub(super) fn note_servers(&mut self, views: &[ServerView]) {
        let now = Instant::now().into_std();
        for view in views.iter().filter(|view| Some(&view.address) != self.planner.primary()) {
            if view.link == Link::Untried || (view.link == Link::Open && view.answered_at.is_none())
            {
                continue;
            }
            let up = view.is_reachable(now, self.config.hang_after);
            if self.up.insert(view.address.clone(), up).unwrap_or(true) == up {
                continue;
            }
            self.tell(if up { "-sdown" } else { "+sdown" }, self.replica_words(&view.address));
            let (severity, message) = if up {
                (Severity::Info, format!("{} answers again", view.address))
            } else {
                (Severity::Warning, format!("{} does not answer", view.address))
            };
            let draft = self.draft(Kind::RedisVerdict, severity, message);
            let fault = view.fault().unwrap_or_else(|| "its last probe is unanswered".to_owned());
            (self.sink)(if up { draft } else { draft.because(fault) });
        }
    }

    /// Tells clients that another server is the primary.
    pub(super) fn tell_switch(&self, from: &Address, to: &Address) {
        let name = &self.config.name;
        let (old, new) = (from.host(), to.host());
        self.tell("+switch-master", format!("{name} {old} {} {new} {}", from.port(), to.port()));
        for server in self.config.servers.iter().filter(|server| server.address != *to) {
            self.tell("+slave", self.replica_words(&server.address));
        }
    }

    /// Sends a message to subscribers of the Sentinel-compatible endpoint.
    pub(super) fn tell(&self, channel: &'static str, payload: String) {
        // Nobody may be listening.
        let _ = self.events.send(SentinelEvent { channel, payload });
    }

    pub(super) fn primary_words(&self, primary: &Address) -> String {
        format!("master {} {} {}", self.config.name, primary.host(), primary.port())
    }

    pub(super) fn replica_words(&self, replica: &Address) -> String {
        let (host, port) = (replica.host(), replica.port());
        let of = self.planner.primary().map_or_else(String::new, |primary| {
            format!(" @ {} {} {}", self.config.name, primary.host(), primary.port())
        });
        format!("slave {replica} {host} {port}{of}")
    }
}
