//! What became of the messages of a demonstration.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::load::CLIENTS;

/// A message of the load.
pub(super) struct Sent {
    pub(super) client: usize,
    pub(super) number: u64,
    pub(super) at: Instant,
    pub(super) acknowledged: Option<Instant>,
}

/// How often each message occurs somewhere, by sender and number.
pub(super) type Counts = HashMap<(usize, u64), u32>;

/// What became of the messages.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Outcome {
    sent: usize,
    acknowledged: usize,
    /// Acknowledged, and not in the history.
    lost: usize,
    /// More than once in the history.
    doubled: usize,
    /// Not acknowledged, and in the history all the same: the sender cannot know, and that is no fault.
    stored_unacknowledged: usize,
    /// Over all readers: in the history, and not received.
    pub(super) undelivered: usize,
    /// Over all readers: received more than once.
    pub(super) delivered_twice: usize,
    /// From the kill to the first acknowledgement of a message sent after it.
    first: Option<Duration>,
    /// The same, for the client that had to wait longest; `None` if one never got any.
    slowest: Option<Duration>,
}

impl Outcome {
    pub(super) fn judge(sent: &[Sent], stored: &Counts, killed: Instant) -> Self {
        let count = |sent: &Sent| stored.get(&(sent.client, sent.number)).copied().unwrap_or(0);
        let acknowledged = || sent.iter().filter(|sent| sent.acknowledged.is_some());
        let first_of = |client: usize| {
            let after = sent.iter().filter(|sent| sent.client == client && sent.at > killed);
            after.filter_map(|sent| Some(sent.acknowledged? - killed)).min()
        };
        let firsts: Vec<Option<Duration>> = (0..CLIENTS).map(first_of).collect();
        Self {
            sent: sent.len(),
            acknowledged: acknowledged().count(),
            lost: acknowledged().filter(|sent| count(sent) == 0).count(),
            doubled: stored.values().filter(|count| **count > 1).count(),
            stored_unacknowledged: sent
                .iter()
                .filter(|sent| sent.acknowledged.is_none() && count(sent) > 0)
                .count(),
            undelivered: 0,
            delivered_twice: 0,
            first: firsts.iter().flatten().min().copied(),
            slowest: firsts
                .into_iter()
                .collect::<Option<Vec<_>>>()
                .and_then(|f| f.into_iter().max()),
        }
    }

    /// What is wrong with it, most important first.
    pub(super) fn fault(&self) -> Option<String> {
        let faults = [
            (self.lost, "acknowledged messages are lost"),
            (self.doubled, "messages are in the history more than once"),
            (self.undelivered, "messages were not delivered to a reader"),
            (self.delivered_twice, "messages were delivered twice to a reader"),
        ];
        let found = faults.iter().find(|(count, _)| *count > 0);
        match found {
            Some((count, what)) => Some(format!("{count} {what}")),
            None if self.slowest.is_none() => {
                Some("after the kill a client never got an acknowledgement again".to_owned())
            }
            None => None,
        }
    }

    pub(super) fn json(&self) -> Value {
        let seconds = |time: Option<Duration>| time.map(|time| time.as_secs_f64());
        json!({
            "sent": self.sent,
            "acknowledged": self.acknowledged,
            "lost": self.lost,
            "doubled": self.doubled,
            "stored_unacknowledged": self.stored_unacknowledged,
            "undelivered": self.undelivered,
            "delivered_twice": self.delivered_twice,
            "first_acknowledged_seconds": seconds(self.first),
            "slowest_client_seconds": seconds(self.slowest),
            "passed": self.fault().is_none(),
        })
    }

    pub(super) fn lines(&self, victim: &str, whole: bool) -> Vec<String> {
        let time = |time: Option<Duration>| {
            time.map_or_else(
                || "never".to_owned(),
                |time| format!("{:.0} ms", time.as_secs_f64() * 1e3),
            )
        };
        let mut lines = vec![
            String::new(),
            format!("RESULT  kill -9 of {victim}"),
            format!("  next acknowledged message after     {}", time(self.first)),
            format!("  … for the client that waited most   {}", time(self.slowest)),
            format!("  messages sent                       {}", self.sent),
            format!("  acknowledged                        {}", self.acknowledged),
            format!("  acknowledged and lost               {}", self.lost),
            format!("  stored more than once               {}", self.doubled),
            format!("  stored though not acknowledged      {}", self.stored_unacknowledged),
            format!("  not delivered to some reader        {}", self.undelivered),
            format!("  delivered twice to some reader      {}", self.delivered_twice),
            format!("  cluster whole again                 {}", if whole { "yes" } else { "no" }),
        ];
        lines.push(match self.fault() {
            None if whole => "  PASSED".to_owned(),
            fault => format!(
                "  FAILED: {}",
                fault.unwrap_or_else(|| "the cluster is not whole".to_owned())
            ),
        });
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[tokio::test]
    async fn the_outcome_counts_what_matters() {
        let killed = Instant::now() + ms(1000);
        let message = |client, number, at: i64, acknowledged: Option<u64>| Sent {
            client,
            number,
            at: if at < 0 { killed - ms(100) } else { killed + ms(at.unsigned_abs()) },
            acknowledged: acknowledged.map(|after| killed + ms(after)),
        };
        let mut sent = vec![
            message(0, 1, -1, Some(1)),
            message(0, 2, -1, None),
            message(0, 3, 10, None),
            message(0, 4, 20, Some(700)),
            message(1, 1, 20, Some(900)),
        ];
        sent.extend((2..CLIENTS).map(|client| message(client, 1, 10, Some(800))));
        let mut stored: Counts = sent.iter().map(|sent| ((sent.client, sent.number), 1)).collect();
        stored.remove(&(0, 3));
        let outcome = Outcome::judge(&sent, &stored, killed);
        assert_eq!((outcome.first, outcome.slowest), (Some(ms(700)), Some(ms(900))));
        assert_eq!((outcome.lost, outcome.doubled, outcome.stored_unacknowledged), (0, 0, 1));
        assert_eq!(outcome.fault(), None);

        stored.remove(&(0, 4));
        stored.insert((1, 1), 2);
        let outcome = Outcome::judge(&sent, &stored, killed);
        assert_eq!((outcome.lost, outcome.doubled), (1, 1));
        assert_eq!(outcome.fault().unwrap(), "1 acknowledged messages are lost");
    }

    #[tokio::test]
    async fn a_client_that_never_comes_back_is_a_fault() {
        let killed = Instant::now();
        let sent: Vec<Sent> = (1..CLIENTS)
            .map(|client| Sent {
                client,
                number: 1,
                at: killed + ms(1),
                acknowledged: Some(killed + ms(5)),
            })
            .collect();
        let stored = sent.iter().map(|sent| ((sent.client, sent.number), 1)).collect();
        let outcome = Outcome::judge(&sent, &stored, killed);
        assert_eq!((outcome.first, outcome.slowest), (Some(ms(5)), None));
        assert!(outcome.fault().unwrap().contains("never got"));
    }
}
