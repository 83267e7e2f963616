//! Tokens that are taken back before they expire.
//!
//! One by its id, or all of a user's that were issued before a moment. A token check must not need Redis (a reconnect storm would need
//! it most), so every node keeps the whole list in memory; it is one record in Redis, looked at every few seconds, and whoever changes it
//! tells the other nodes at once. An entry is dropped when the tokens it is about have expired anyway.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::Who;
use crate::broker::{Broker, BrokerError, Change, Condition, Key, Window, Write};

/// The record that holds all of them.
const RECORD: Key<'static> = Key { collection: "revocations", id: "all" };

/// Field that grows with every change, so that a look costs one field while nothing changes.
const VERSION: &str = "version";

/// Most entries. At 100 bytes each this is 10 MB on every node; an operator who needs more changes the key instead.
const ENTRIES_MAX: u32 = 100_000;

/// How often the record is looked at. Nodes also tell each other, so this only bounds how long a lost message counts.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// How long a revocation holds unless the caller says otherwise: tokens should not live longer than this.
pub const REVOKED_FOR: Duration = Duration::from_hours(24);

/// What is taken back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Revocation {
    /// The token with this id (`jti`).
    Token(String),
    /// All tokens of `user` issued before `before` (seconds since 1970), and those that do not say when they were.
    User {
        /// User id.
        user: String,
        /// Issued before.
        before: u64,
    },
}

impl Revocation {
    /// As a member of the record.
    fn member(&self) -> String {
        match self {
            Self::Token(id) => format!("token {id}"),
            Self::User { user, before } => format!("user {before} {user}"),
        }
    }

    fn parse(member: &str) -> Option<Self> {
        match member.split_once(' ')? {
            ("token", id) => Some(Self::Token(id.to_owned())),
            ("user", rest) => {
                let (before, user) = rest.split_once(' ')?;
                Some(Self::User { user: user.to_owned(), before: before.parse().ok()? })
            }
            _ => None,
        }
    }
}

#[derive(Default)]
struct Table {
    version: Bytes,
    /// Token id → until when it matters.
    tokens: HashMap<String, u64>,
    /// User → issued before, until when it matters.
    users: HashMap<String, (u64, u64)>,
}

impl Table {
    fn add(&mut self, revocation: Revocation, until: u64) {
        match revocation {
            Revocation::Token(id) => {
                self.tokens.insert(id, until);
            }
            Revocation::User { user, before } => {
                let entry = self.users.entry(user).or_insert((before, until));
                *entry = (entry.0.max(before), entry.1.max(until));
            }
        }
    }
}

/// The list as this node knows it; clones share it.
#[derive(Clone)]
pub struct Revocations {
    broker: Arc<dyn Broker>,
    table: Arc<RwLock<Table>>,
}

impl Revocations {
    /// Empty until it is first looked at.
    pub fn new(broker: Arc<dyn Broker>) -> Self {
        Self { broker, table: Arc::default() }
    }

    /// Whether a token is on the list at `now` (seconds since 1970).
    pub fn covers(&self, user: &str, id: Option<&str>, issued_at: Option<u64>, now: u64) -> bool {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let by_id = id.and_then(|id| table.tokens.get(id)).is_some_and(|until| *until > now);
        let by_user = table.users.get(user).is_some_and(|(before, until)| {
            *until > now && issued_at.is_none_or(|issued_at| issued_at < *before)
        });
        by_id || by_user
    }

    /// Whether the token a connection was made with is on the list.
    pub fn cover(&self, who: &Who, now: u64) -> bool {
        // Who came without a token has nothing to be taken back.
        let has_token = who.token_id.is_some() || who.issued_at.is_some();
        has_token && self.covers(&who.user, who.token_id.as_deref(), who.issued_at, now)
    }

    /// Adds to the list until `until` (seconds since 1970). The caller tells the other nodes to look.
    ///
    /// # Errors
    /// Redis did not confirm it, or the list is full.
    pub async fn add(
        &self,
        revocation: Revocation,
        now: u64,
        until: u64,
    ) -> Result<(), BrokerError> {
        let member = revocation.member();
        self.table.write().unwrap_or_else(PoisonError::into_inner).add(revocation, until);
        let score = i64::try_from(until).unwrap_or(i64::MAX);
        let mut changes = self.expired(now).await?;
        changes.push(Change::Rank(member, score));
        changes.push(Change::Add(VERSION.to_owned(), 1));
        let write =
            Write { conditions: vec![Condition::MembersBelow(ENTRIES_MAX)], changes, ttl: None };
        let done = self.broker.write(RECORD, write).await?;
        if done { Ok(()) } else { Err(BrokerError::Overloaded) }
    }

    /// Takes some of the entries off that matter no more, so that the record does not grow.
    async fn expired(&self, now: u64) -> Result<Vec<Change>, BrokerError> {
        const TOGETHER: u32 = 16;
        let window = Window { offset: 0, limit: TOGETHER, highest_first: false };
        let oldest = self.broker.ranked(RECORD, window).await?;
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        let expired = oldest.into_iter().filter(|(_, until)| *until <= now);
        Ok(expired.map(|(member, _)| Change::Unrank(member)).collect())
    }

    /// Reads the record if it has changed. True if it had.
    ///
    /// # Errors
    /// Redis did not answer; the list stays as it was.
    pub async fn look(&self) -> Result<bool, BrokerError> {
        let version = self.broker.fields(RECORD, &[VERSION]).await?.pop().flatten();
        let version = version.unwrap_or_default();
        if self.table.read().unwrap_or_else(PoisonError::into_inner).version == version {
            return Ok(false);
        }
        let window = Window { offset: 0, limit: ENTRIES_MAX, highest_first: true };
        let mut table = Table { version, ..Table::default() };
        for (member, until) in self.broker.ranked(RECORD, window).await? {
            if let Some(revocation) = Revocation::parse(&member) {
                table.add(revocation, u64::try_from(until).unwrap_or(0));
            }
        }
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = table;
        Ok(true)
    }

    /// Looks until `shutdown`; calls `changed` after each change.
    pub async fn run(self, shutdown: CancellationToken, changed: impl Fn()) {
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = ticks.tick() => {}
            }
            match self.look().await {
                Ok(true) => changed(),
                Ok(false) => {}
                // Counted where the connection to Redis is kept; the list of before holds.
                Err(error) => debug!(%error, "revocations cannot be read"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read_back_as_written() {
        for revocation in [
            Revocation::Token("a b".to_owned()),
            Revocation::User { user: "u 1".to_owned(), before: 5 },
        ] {
            assert_eq!(Revocation::parse(&revocation.member()), Some(revocation));
        }
        for bad in ["", "token", "user x y", "user 5", "other 1"] {
            assert_eq!(Revocation::parse(bad), None, "{bad}");
        }
    }
}
