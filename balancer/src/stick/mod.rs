//! Which server a client has been to, remembered by something it brings along: its address, a cookie, a field, a parameter.
//!
//! A sticky cookie needs a client that keeps cookies. Chat SDKs and whatever speaks TCP keep none, but they have an address or a token. The
//! table is asked before a server is chosen and told once one has answered, and forgets what was not used for its time. What it names is a
//! wish: a server that may not be used is passed over, and the one that is chosen instead takes its place in the table.
//!
//! Several balancers can share a table (`shared`). What a client brings along is kept and told as a hash only.

pub(crate) mod shared;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::limits::table::{Entry, Table};
use crate::message::choice::Key;
use crate::metrics::StickMetrics;

/// News that wait to be told to others; what is beyond it is told when it is used again.
const UNTOLD_MAX: usize = 65_536;
/// How often figures are brought up to date.
const FIGURES_EVERY_MS: u64 = 1_000;
/// Stands for no server: what an operator had forgotten.
const NOWHERE: u64 = 0;

/// By what clients are brought back to their servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StickRules {
    /// What tells clients apart.
    pub key: StickKey,
    /// How long they are remembered after their last use of it.
    pub ttl: Duration,
    /// How many are remembered.
    pub entries_max: usize,
    /// Whether balancers with the same Redis share what they know.
    pub shared: bool,
}

/// What tells clients apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StickKey {
    /// Their address.
    Source,
    /// A part of a request; what has none is not brought back.
    Part(Key),
}

impl StickRules {
    /// By what a client is remembered; of the hashes of its address and of the part of its request.
    pub(crate) fn subject(&self, source: u64, part: Option<u64>) -> Option<u64> {
        match self.key {
            StickKey::Source => Some(source),
            StickKey::Part(_) => part,
        }
    }
}

/// Where a client has been.
#[derive(Debug, Default)]
struct Place {
    /// [`crate::pool::server::Server::key`].
    server: u64,
    /// When it is forgotten.
    until: u64,
    /// When others are told again that it is in use.
    tell_at: u64,
    /// Whether others are to be told.
    untold: bool,
}

impl Entry for Place {
    fn worth(&self, now: u64) -> Option<u64> {
        Some(self.until.saturating_sub(now))
    }
}

/// The table of one pool. Times are in milliseconds of its own clock.
#[derive(Debug)]
pub(crate) struct StickTable {
    rules: StickRules,
    places: Table<Place>,
    untold: Mutex<Vec<u64>>,
    made: Instant,
    figures_due: AtomicU64,
    metrics: StickMetrics,
}

impl StickTable {
    /// An empty one, made `now`.
    pub(crate) fn new(rules: StickRules, now: Instant, metrics: StickMetrics) -> Self {
        Self {
            places: Table::new(rules.entries_max),
            rules,
            untold: Mutex::default(),
            made: now,
            figures_due: AtomicU64::new(0),
            metrics,
        }
    }

    pub(crate) fn rules(&self) -> &StickRules {
        &self.rules
    }

    /// Time at `now`, as the functions below want it.
    pub(crate) fn time(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.made).as_millis()).unwrap_or(u64::MAX)
    }

    /// The server of a client that is about to get one, counted.
    pub(crate) fn find(&self, subject: u64, now: u64) -> Option<u64> {
        let found = self.look_up(subject, now).map(|(server, _)| server);
        self.metrics.count(found.is_some());
        found
    }

    /// The server of a client, and for how long it is remembered.
    pub(crate) fn look_up(&self, subject: u64, now: u64) -> Option<(u64, Duration)> {
        let place = self.places.with_known(subject.into(), |place| (place.server, place.until));
        let (server, until) = place.filter(|(server, until)| *server != NOWHERE && *until > now)?;
        Some((server, Duration::from_millis(until - now)))
    }

    /// A client was served by `server`.
    pub(crate) fn note(&self, subject: u64, server: u64, now: u64) {
        let ttl = self.ttl();
        let news = self.places.with(subject.into(), now, |place| {
            let known = place.server == server && place.until > now;
            place.server = server;
            place.until = now + ttl;
            if known && now < place.tell_at {
                return false;
            }
            place.tell_at = now + ttl / 2;
            !std::mem::replace(&mut place.untold, self.rules.shared)
        });
        if news == Some(true) {
            self.tell(subject);
        }
    }

    /// Forgets a client, here and elsewhere; whether it was known.
    pub(crate) fn forget(&self, subject: u64, now: u64) -> bool {
        let known = self.places.with_known(subject.into(), |place| {
            let known = place.server != NOWHERE && place.until > now;
            (place.server, place.until) = (NOWHERE, now);
            known.then(|| !std::mem::replace(&mut place.untold, self.rules.shared))
        });
        if known == Some(Some(true)) {
            self.tell(subject);
        }
        known.flatten().is_some()
    }

    fn tell(&self, subject: u64) {
        if !self.rules.shared {
            return;
        }
        let mut untold = self.untold.lock().unwrap_or_else(PoisonError::into_inner);
        if untold.len() < UNTOLD_MAX {
            return untold.push(subject);
        }
        drop(untold);
        self.tell_later([subject]);
    }

    /// News to tell others, at most so many: clients and their servers.
    fn take_untold(&self, max: usize) -> Vec<(u64, u64)> {
        let subjects: Vec<u64> = {
            let mut untold = self.untold.lock().unwrap_or_else(PoisonError::into_inner);
            let count = untold.len().min(max);
            untold.drain(..count).collect()
        };
        let take = |subject: u64| {
            let server = self.places.with_known(subject.into(), |place| {
                place.untold = false;
                place.server
            });
            Some((subject, server?))
        };
        subjects.into_iter().filter_map(take).collect()
    }

    /// These were not told: they are when they are used again.
    fn tell_later(&self, subjects: impl IntoIterator<Item = u64>) {
        for subject in subjects {
            self.places.with_known(subject.into(), |place| {
                (place.untold, place.tell_at) = (false, 0);
            });
        }
    }

    /// Another balancer, or this one a moment ago, has said where a client was; `left` is how long that is to be remembered.
    fn learn(&self, subject: u64, server: u64, left: Duration, now: u64) {
        let until = now.saturating_add(u64::try_from(left.as_millis()).unwrap_or(u64::MAX));
        let learn = |place: &mut Place| {
            // What is to be told from here is newer.
            if place.untold {
                return;
            }
            place.until = if place.server == server { place.until.max(until) } else { until };
            place.server = server;
            place.tell_at = until.saturating_sub(self.ttl() / 2);
        };
        if server == NOWHERE {
            self.places.with_known(subject.into(), learn);
        } else {
            self.places.with(subject.into(), now, learn);
        }
    }

    /// Brings the figures up to date, when that is due.
    pub(crate) fn show(&self, now: u64) {
        if now >= self.figures_due.load(Ordering::Relaxed) {
            self.figures_due.store(now + FIGURES_EVERY_MS, Ordering::Relaxed);
            let (evicted, _) = self.places.take_losses();
            self.metrics.show(self.len(), evicted);
        }
    }

    /// Clients remembered, those included whose time is over and whose place nobody has needed yet.
    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    fn ttl(&self) -> u64 {
        u64::try_from(self.rules.ttl.as_millis()).unwrap_or(u64::MAX)
    }
}

/// One client's place in the table of its pool.
#[derive(Debug)]
pub(crate) struct Stick {
    table: Arc<StickTable>,
    subject: u64,
}

impl Stick {
    pub(crate) fn new(table: Arc<StickTable>, subject: u64) -> Self {
        Self { table, subject }
    }

    /// The server it has been to.
    pub(crate) fn server(&self) -> Option<u64> {
        self.table.find(self.subject, self.table.time(crate::pool::now()))
    }

    /// It was served by `server`.
    pub(crate) fn note(&self, server: u64) {
        self.table.note(self.subject, server, self.table.time(crate::pool::now()));
    }
}

#[cfg(test)]
mod tests;
