//! One clock for all connections: wakes each when it asked to be.
//!
//! Connections wait for seconds and do not mind a few hundredths, so one coarse wheel replaces a timer in every connection, which
//! would cost each of them memory and, whenever it has something to do, a lock.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::mailbox::Mailbox;

/// How late a connection may be woken.
const TICK: Duration = Duration::from_millis(50);

/// The clock.
pub struct Wheel {
    started: Instant,
    slots: Mutex<BTreeMap<u64, Vec<Weak<Mailbox>>>>,
}

impl Default for Wheel {
    fn default() -> Self {
        Self { started: Instant::now(), slots: Mutex::default() }
    }
}

impl Wheel {
    /// Rings `mailbox` at `at` or soon after.
    pub(super) fn schedule(&self, at: std::time::Instant, mailbox: &Arc<Mailbox>) {
        let slot = self.slot(Instant::from_std(at)) + 1;
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.entry(slot).or_default().push(Arc::downgrade(mailbox));
    }

    fn slot(&self, at: Instant) -> u64 {
        let passed = at.saturating_duration_since(self.started).as_millis() / TICK.as_millis();
        u64::try_from(passed).unwrap_or(u64::MAX - 1)
    }

    /// Rings everybody whose time has come.
    fn turn(&self, now: Instant) {
        let next = self.slot(now) + 1;
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let later = slots.split_off(&next);
        let due = std::mem::replace(&mut *slots, later);
        drop(slots);
        for mailbox in due.into_values().flatten().filter_map(|mailbox| mailbox.upgrade()) {
            mailbox.ring();
        }
    }

    /// Turns until `shutdown`.
    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = ticks.tick() => self.turn(Instant::now()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;
    use holdfast_telemetry::Registry;

    #[test]
    fn mailboxes_ring_when_their_time_has_come_and_not_before() {
        let wheel = Wheel::default();
        let mailbox = Arc::new(Mailbox::new("c", 100, &Metrics::register(&Registry::new())));
        let at = wheel.started + Duration::from_secs(25);
        wheel.schedule(at.into_std(), &mailbox);
        wheel.turn(at - Duration::from_millis(1));
        assert!(!mailbox.take(true).due);
        wheel.turn(at + TICK);
        assert!(mailbox.take(true).due);
        wheel.turn(at + TICK * 2);
        assert!(!mailbox.take(true).due);
    }
}
