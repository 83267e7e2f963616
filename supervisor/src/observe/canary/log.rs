//! What became of the canary's messages, pure: instants are arguments.
//!
//! A message is sent, then acknowledged or failed, and delivered to the canary's other connection. One that was acknowledged and not
//! delivered within a bound is looked for in the channel's history; only if it is not there either it is lost. Times are kept for
//! [`KEPT`] so that a drill can ask afterwards how long nothing was acknowledged.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// How long messages are remembered: longer than any drill.
const KEPT: Duration = Duration::from_mins(10);
/// Messages remembered at most, whatever the interval.
const MESSAGES_MAX: usize = 20_000;
/// Figures of the status page look back this far.
const RECENT: Duration = Duration::from_mins(1);

/// What became of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// No answer yet.
    Waiting,
    /// Acknowledged at this instant.
    Acked(Instant),
    /// Refused, or no answer in time. It may have been stored.
    Failed,
}

#[derive(Debug, Clone, Copy)]
struct Message {
    number: u64,
    sent: Instant,
    fate: Fate,
    delivered: Option<Instant>,
    /// Whether an acknowledged message without delivery was looked up, and not found.
    lost: Option<bool>,
}

/// The messages of the last [`KEPT`], oldest first.
#[derive(Debug, Default)]
pub(super) struct Log {
    messages: VecDeque<Message>,
    /// Failures in a row, newest messages last.
    pub(super) failures_in_a_row: u64,
    pub(super) sent: u64,
    pub(super) acked: u64,
    pub(super) lost: u64,
}

/// What the canary saw in a span of time.
#[derive(Debug, Clone, PartialEq)]
pub struct WindowReport {
    /// Messages sent in it.
    pub sent: u64,
    /// Of those: acknowledged.
    pub acked: u64,
    /// Of those: not acknowledged.
    pub failed: u64,
    /// Of those: acknowledged, but neither delivered nor in the history.
    pub lost: u64,
    /// Of those: acknowledged, not delivered, and not looked up yet.
    pub unsettled: u64,
    /// Longest time in it without an acknowledgement.
    pub longest_gap: Duration,
    /// From its beginning to the first acknowledgement of a message sent after it; `None` if there was none.
    pub first_ack_after: Option<Duration>,
}

/// Figures over the last minute.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Recent {
    pub(super) availability_ratio: Option<f64>,
    pub(super) ack_seconds: Option<f64>,
    pub(super) delivery_seconds: Option<f64>,
}

impl Log {
    /// A message was sent; returns its number.
    pub(super) fn send(&mut self, now: Instant) -> u64 {
        while self.messages.len() >= MESSAGES_MAX
            || self.messages.front().is_some_and(|m| now.duration_since(m.sent) > KEPT)
        {
            self.messages.pop_front();
        }
        let number = self.sent;
        self.sent += 1;
        let (fate, delivered, lost) = (Fate::Waiting, None, None);
        self.messages.push_back(Message { number, sent: now, fate, delivered, lost });
        number
    }

    /// Numbers grow by one, so a message's place follows from its number.
    fn get(&mut self, number: u64) -> Option<&mut Message> {
        let first = self.messages.front()?.number;
        let index = usize::try_from(number.checked_sub(first)?).ok()?;
        self.messages.get_mut(index)
    }

    /// The answer to a message came; returns how long it took.
    pub(super) fn acked(&mut self, number: u64, now: Instant) -> Option<Duration> {
        self.failures_in_a_row = 0;
        self.acked += 1;
        let message = self.get(number)?;
        message.fate = Fate::Acked(now);
        Some(now.duration_since(message.sent))
    }

    /// There will be no acknowledgement.
    pub(super) fn failed(&mut self, number: u64) {
        self.failures_in_a_row += 1;
        if let Some(message) = self.get(number) {
            message.fate = Fate::Failed;
        }
    }

    /// A message arrived; returns how long that took, the first time.
    pub(super) fn delivered(&mut self, number: u64, now: Instant) -> Option<Duration> {
        let message = self.get(number)?;
        if message.delivered.is_some() {
            return None;
        }
        message.delivered = Some(now);
        if message.lost.take() == Some(true) {
            self.lost -= 1;
        }
        let sent = self.get(number)?.sent;
        Some(now.duration_since(sent))
    }

    /// Numbers of messages that were acknowledged `patience` ago, were not delivered, and have not been looked up yet.
    pub(super) fn missing(&self, now: Instant, patience: Duration) -> Vec<u64> {
        let missing = self.messages.iter().filter(|message| match message.fate {
            Fate::Acked(at) => {
                message.delivered.is_none()
                    && message.lost.is_none()
                    && now.duration_since(at) >= patience
            }
            _ => false,
        });
        missing.map(|message| message.number).collect()
    }

    /// A missing message was looked up in the history.
    pub(super) fn looked_up(&mut self, number: u64, found: bool) {
        let Some(message) = self.get(number) else { return };
        if message.delivered.is_none() && message.lost.is_none() {
            message.lost = Some(!found);
            self.lost += u64::from(!found);
        }
    }

    /// Whether the newest answer was an acknowledgement; `None` before the first answer.
    pub(super) fn is_ok(&self) -> Option<bool> {
        let newest = self.messages.iter().rev().find(|message| message.fate != Fate::Waiting)?;
        Some(newest.fate != Fate::Failed)
    }

    /// Figures over the last minute.
    pub(super) fn recent(&self, now: Instant) -> Recent {
        let recent =
            self.messages.iter().filter(|message| now.duration_since(message.sent) <= RECENT);
        let (mut answered, mut acks, mut deliveries) = (0_u64, Vec::new(), Vec::new());
        for message in recent {
            answered += u64::from(message.fate != Fate::Waiting);
            if let Fate::Acked(at) = message.fate {
                acks.push(at.duration_since(message.sent));
            }
            deliveries.extend(message.delivered.map(|at| at.duration_since(message.sent)));
        }
        Recent {
            availability_ratio: (answered > 0).then(|| acks.len() as f64 / answered as f64),
            ack_seconds: median(acks),
            delivery_seconds: median(deliveries),
        }
    }

    /// What happened between `from` and `to`.
    pub(super) fn window(&self, from: Instant, to: Instant) -> WindowReport {
        let mut report = WindowReport {
            sent: 0,
            acked: 0,
            failed: 0,
            lost: 0,
            unsettled: 0,
            longest_gap: Duration::ZERO,
            first_ack_after: None,
        };
        let mut acks = vec![from, to];
        for message in &self.messages {
            if let Fate::Acked(at) = message.fate
                && (from..=to).contains(&at)
            {
                acks.push(at);
            }
            if !(from..=to).contains(&message.sent) {
                continue;
            }
            report.sent += 1;
            match message.fate {
                Fate::Waiting => {}
                Fate::Failed => report.failed += 1,
                Fate::Acked(at) => {
                    report.acked += 1;
                    report.lost += u64::from(message.lost == Some(true));
                    let open = message.delivered.is_none() && message.lost.is_none();
                    report.unsettled += u64::from(open);
                    let took = at.duration_since(from);
                    let first = report.first_ack_after.map_or(took, |first| first.min(took));
                    report.first_ack_after = Some(first);
                }
            }
        }
        acks.sort_unstable();
        let gaps = acks.windows(2).map(|pair| pair[1].duration_since(pair[0]));
        report.longest_gap = gaps.max().unwrap_or_default();
        report
    }
}

fn median(mut durations: Vec<Duration>) -> Option<f64> {
    durations.sort_unstable();
    durations.get(durations.len() / 2).map(Duration::as_secs_f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    /// Ten messages, 100 ms apart, answered after 5 ms and delivered after 8 ms, except for `failed`.
    fn log(start: Instant, failed: std::ops::Range<u64>) -> Log {
        let mut log = Log::default();
        for n in 0..10 {
            let number = log.send(at(start, n * 100));
            if failed.contains(&n) {
                log.failed(number);
            } else {
                log.acked(number, at(start, n * 100 + 5));
                log.delivered(number, at(start, n * 100 + 8));
            }
        }
        log
    }

    #[tokio::test]
    async fn a_window_tells_gap_and_recovery() {
        let start = Instant::now();
        let log = log(start, 3..7);
        let report = log.window(at(start, 250), at(start, 1_000));
        assert_eq!((report.sent, report.acked, report.failed, report.lost), (7, 3, 4, 0));
        assert_eq!(report.longest_gap, Duration::from_millis(455), "from the fault to message 7");
        assert_eq!(report.first_ack_after, Some(Duration::from_millis(455)));
    }

    #[tokio::test]
    async fn without_any_acknowledgement_the_gap_is_the_window() {
        let start = Instant::now();
        let report = log(start, 0..10).window(start, at(start, 1_000));
        assert_eq!(report.longest_gap, Duration::from_secs(1));
        assert_eq!(report.first_ack_after, None);
    }

    #[tokio::test]
    async fn only_what_is_nowhere_is_lost() {
        let start = Instant::now();
        let mut log = Log::default();
        for n in 0..3 {
            let number = log.send(at(start, n));
            log.acked(number, at(start, n));
        }
        log.delivered(0, at(start, 10));
        assert_eq!(log.missing(at(start, 500), Duration::from_secs(1)), Vec::<u64>::new());
        assert_eq!(log.window(start, at(start, 500)).unsettled, 2);
        assert_eq!(log.missing(at(start, 2_000), Duration::from_secs(1)), [1, 2]);
        log.looked_up(1, true);
        log.looked_up(2, false);
        assert_eq!((log.lost, log.missing(at(start, 3_000), Duration::from_secs(1)).len()), (1, 0));
        log.delivered(2, at(start, 4_000));
        assert_eq!(log.lost, 0, "late is not lost");
    }

    #[tokio::test]
    async fn figures_look_back_a_minute_and_memory_is_bounded() {
        let start = Instant::now();
        let mut log = log(start, 0..5);
        let recent = log.recent(at(start, 1_000));
        assert_eq!(recent.availability_ratio, Some(0.5));
        assert_eq!((recent.ack_seconds, recent.delivery_seconds), (Some(0.005), Some(0.008)));
        assert_eq!(log.recent(at(start, 120_000)).availability_ratio, None);
        for n in 0..MESSAGES_MAX as u64 + 50 {
            log.send(at(start, 1_000 + n));
        }
        assert_eq!(log.messages.len(), MESSAGES_MAX);
        assert_eq!(log.acked(0, at(start, 99_000)), None, "forgotten");
    }
}
