//! A failover as it is told afterwards: what was seen, what was held back, how long each step took, what was lost.
//!
//! One [`Account`] goes with the event that ends a failover or switchover, as its detail. The command line, the incident's page and the
//! trace sent to OpenTelemetry are made from it and from nothing else, so that they cannot differ. All times count from the decision, in
//! seconds, so that no clock but the deciding one is needed to read them.
//!
//! What exactly was lost is known only when the former primary comes back, perhaps hours later. That is an event of its own; its detail
//! is a [`Homecoming`], and [`losses`] puts the two together.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{Event, Kind};
use crate::cluster::Address;

/// One failover or switchover.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Account {
    /// `failover` or `switchover`.
    pub what: String,
    /// The former primary.
    pub from: Address,
    /// The server that took its place; `None` if it did not come to that.
    pub to: Option<Address>,
    /// The epoch it was done under.
    pub epoch: u64,
    /// When it was decided.
    pub decided: DateTime<Utc>,
    /// From the decision to the first write the new primary took, seconds; `None` if there was none.
    pub seconds: Option<f64>,
    /// What led to the decision, in the order of time.
    #[serde(default)]
    pub seen: Vec<Sighting>,
    /// What kept it from happening earlier.
    #[serde(default)]
    pub held: Vec<Hold>,
    /// The finished steps, in their order.
    #[serde(default)]
    pub steps: Vec<Step>,
    /// Bytes the former primary had when last seen and the new one lacks; `None` if that is not known.
    pub lost_bytes: Option<u64>,
    /// The trace that has a span for each step, if traces are exported.
    pub trace: Option<String>,
}

/// Something that was seen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sighting {
    /// When, in seconds from the decision: negative before it.
    pub at_seconds: f64,
    /// Who saw it, or who said it.
    pub by: String,
    /// What.
    pub text: String,
}

/// A time in which a failover was called for and did not happen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hold {
    /// When it began, in seconds from the decision.
    pub at_seconds: f64,
    /// How long it lasted.
    pub seconds: f64,
    /// Why.
    pub why: String,
}

/// A finished step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Which: `detected`, `drained`, `elected`, `committed`, `detached`, `fenced`, `promoted`, `told`, `repointed`, `verified`, `confirmed`.
    pub step: String,
    /// When it began, in seconds from the decision.
    pub at_seconds: f64,
    /// How long it took.
    pub seconds: f64,
    /// What came of it.
    pub outcome: String,
}

/// A former primary that became a replica: what it had that nobody else has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Homecoming {
    /// Which server.
    pub server: Address,
    /// The epoch of the change that made it a former primary.
    pub epoch: u64,
    /// Bytes it had written that never reached the present primary; `None` if that cannot be told.
    pub diverged_bytes: Option<u64>,
    /// What was saved of them.
    pub salvage: Option<Salvage>,
    /// Why nothing was saved, if something should have been.
    pub salvage_error: Option<String>,
}

/// Commands of a former primary that were saved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Salvage {
    /// Under which they are listed, shown and replayed.
    pub id: String,
    /// How many.
    pub commands: u64,
    /// Bytes of the stream they cover.
    pub bytes: u64,
}

impl Account {
    /// The account that goes with an event, if it ends a failover.
    pub fn of(event: &Event) -> Option<Self> {
        let ends =
            matches!(event.kind, Kind::FailoverDone | Kind::FailoverFailed | Kind::ActionWithheld);
        ends.then(|| serde_json::from_value(event.detail.clone()).ok()).flatten()
    }

    /// From the first sign to the end of the last step: seconds from the decision, the first at most 0.
    pub fn span(&self) -> (f64, f64) {
        let begin = self.steps.iter().map(|step| step.at_seconds).fold(0.0, f64::min);
        let end = self.steps.iter().map(|step| step.at_seconds + step.seconds);
        (begin, end.fold(0.0, f64::max))
    }
}

impl Homecoming {
    /// What an event tells about a former primary's return.
    pub fn of(event: &Event) -> Option<Self> {
        let is_taken = event.kind == Kind::ActionTaken;
        is_taken.then(|| serde_json::from_value(event.detail.clone()).ok()).flatten()
    }
}

/// What was lost and what was saved, as sentences. `later`: events about the same Redis since then.
pub fn losses(account: &Account, later: &[Event]) -> Vec<String> {
    let Account { from, to, .. } = account;
    let Some(to) = to.as_ref().filter(|_| account.seconds.is_some()) else {
        return vec![format!("Nothing by this: {from} was not replaced.")];
    };
    if account.what == "switchover" {
        return vec![format!("Nothing: writes were paused and {to} had every byte of {from}.")];
    }
    let mut lines = vec![match account.lost_bytes {
        None | Some(0) => format!("{to} had everything that {from} was ever seen to have."),
        Some(bytes) => format!(
            "{from} was {bytes} bytes further than {to} when last seen. Writes among them that no replica had confirmed (WAIT) are not on \
             {to}."
        ),
    }];
    let homecoming = later.iter().filter_map(Homecoming::of);
    let mut homecoming =
        homecoming.filter(|back| back.epoch == account.epoch && back.server == *from);
    let Some(back) = homecoming.next_back() else {
        lines.push(format!(
            "{from} has not come back yet; if it does with its data, what only it has is counted, saved and told here."
        ));
        return lines;
    };
    lines.push(match back.diverged_bytes {
        Some(0) => format!("{from} came back and had nothing that {to} lacks: nothing is lost."),
        Some(bytes) => format!("{from} came back with {bytes} bytes that never reached {to}."),
        None => format!("{from} came back without its former data, so what only it had is gone."),
    });
    if let Some(Salvage { id, commands, bytes }) = &back.salvage {
        lines.push(format!(
            "Saved of them: {commands} commands ({bytes} bytes). `holdfast redis salvage show {id}` shows them, `holdfast redis salvage \
             replay {id}` what a replay would do."
        ));
    }
    if let Some(error) = &back.salvage_error {
        lines.push(format!("They could not be saved: {error}."));
    }
    lines
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::record::Severity;

    /// A failover of 12 ms, 3 ms after its first sign.
    pub(crate) fn account() -> Account {
        let step = |step: &str, at_ms: f64, ms: f64| Step {
            step: step.to_owned(),
            at_seconds: at_ms / 1e3,
            seconds: ms / 1e3,
            outcome: format!("{step} well"),
        };
        Account {
            what: "failover".to_owned(),
            from: "127.0.0.1:1".parse().unwrap(),
            to: Some("127.0.0.1:2".parse().unwrap()),
            epoch: 3,
            decided: DateTime::from_timestamp(1_800_000_000, 0).unwrap(),
            seconds: Some(0.012),
            seen: vec![Sighting {
                at_seconds: -0.003,
                by: "this supervisor".to_owned(),
                text: "127.0.0.1:1 closed the connection".to_owned(),
            }],
            held: vec![Hold { at_seconds: -0.002, seconds: 0.001, why: "approval".to_owned() }],
            steps: vec![
                step("detected", -3.0, 3.0),
                step("drained", 0.0, 10.0),
                step("told", 10.0, 2.0),
            ],
            lost_bytes: Some(40),
            trace: Some("0af7651916cd43dd8448eb211c80319c".to_owned()),
        }
    }

    pub(crate) fn event(kind: Kind, detail: serde_json::Value) -> Event {
        Event {
            id: 9,
            at: DateTime::from_timestamp(1_800_000_000, 0).unwrap(),
            kind,
            severity: Severity::Warning,
            subject: "redis/main".to_owned(),
            incident: Some(1),
            message: "failover".to_owned(),
            reasons: Vec::new(),
            detail,
            is_common: false,
            origin: None,
        }
    }

    fn homecoming(diverged: Option<u64>, salvage: Option<Salvage>) -> Event {
        let detail = Homecoming {
            server: "127.0.0.1:1".parse().unwrap(),
            epoch: 3,
            diverged_bytes: diverged,
            salvage,
            salvage_error: None,
        };
        event(Kind::ActionTaken, serde_json::to_value(detail).unwrap())
    }

    #[test]
    fn an_account_is_read_back_from_its_event_only() {
        let account = account();
        let detail = serde_json::to_value(&account).unwrap();
        assert_eq!(Account::of(&event(Kind::FailoverDone, detail.clone())), Some(account.clone()));
        assert_eq!(Account::of(&event(Kind::Started, detail)), None);
        assert_eq!(Account::of(&event(Kind::FailoverDone, serde_json::json!({"epoch": 1}))), None);
        assert_eq!(account.span(), (-0.003, 0.012));
    }

    #[test]
    fn losses_are_told_as_far_as_they_are_known() {
        let account = account();
        let text = losses(&account, &[]).join("\n");
        assert!(text.contains("40 bytes further") && text.contains("not come back yet"), "{text}");
        let salvage = Salvage { id: "main-3-x".to_owned(), commands: 7, bytes: 60 };
        let text = losses(&account, &[homecoming(Some(60), Some(salvage))]).join("\n");
        assert!(text.contains("60 bytes that never reached 127.0.0.1:2"), "{text}");
        assert!(text.contains("7 commands") && text.contains("salvage show main-3-x"), "{text}");
        let text = losses(&account, &[homecoming(Some(0), None)]).join("\n");
        assert!(text.contains("nothing is lost"), "{text}");

        let planned = Account { what: "switchover".to_owned(), ..account.clone() };
        assert!(losses(&planned, &[])[0].starts_with("Nothing: writes were paused"));
        let failed = Account { seconds: None, ..account };
        assert!(losses(&failed, &[])[0].contains("was not replaced"));
    }
}
