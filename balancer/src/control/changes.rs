//! One change at a time, each with a version, and only by those who know what they change.
//!
//! Whatever operators can change has one version, which every change raises. It is part of a tag that no other run of the program
//! gives, so that nobody changes after a restart what they saw before. Rejected: a version per server, because a decision about one
//! server rests on what the others are.

use std::sync::MutexGuard;

use serde_json::Value;

use super::{Balancer, lock};

/// Why a change is not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The one who asks has been replaced.
    #[error("stale epoch {given}, {highest} was seen")]
    StaleEpoch {
        /// Epoch of the change.
        given: u64,
        /// The highest seen.
        highest: u64,
    },
    /// Another process is taking over.
    #[error("another process is taking over, ask it in a moment")]
    TakenOver,
    /// Somebody else has changed something since.
    #[error("the version is {current} now")]
    OtherVersion {
        /// The tag of the version there is.
        current: String,
    },
}

/// What has to hold for a change to be made.
#[derive(Debug, Clone, Default)]
pub struct Conditions {
    /// No higher epoch was seen.
    pub epoch: Option<u64>,
    /// The version is one of these tags; any if `None`.
    pub versions: Option<Vec<String>>,
}

/// Who makes a change, for the journal.
#[derive(Debug, Clone)]
pub struct Who {
    /// Name of the token, the certificate or the user.
    pub name: String,
    /// Where they are: an address, or the unix socket.
    pub from: String,
    /// The epoch they act under.
    pub epoch: Option<u64>,
}

impl Who {
    /// The balancer itself, or a signal to it.
    pub fn ourselves(name: &str) -> Self {
        Self { name: name.to_owned(), from: "process".to_owned(), epoch: None }
    }
}

/// What all changes share.
#[derive(Debug)]
pub(super) struct Ledger {
    epoch: u64,
    version: u64,
    /// Differs between runs of the program.
    run: u64,
    /// Whether another process is taking over, which would not hear of a change.
    closed: bool,
}

impl Ledger {
    pub(super) fn new() -> Self {
        Self { epoch: 0, version: 1, run: fastrand::u64(..), closed: false }
    }

    /// The highest epoch seen.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether no change is made any more.
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Sets whether no change is to be made any more.
    pub(super) fn close(&mut self, closed: bool) {
        self.closed = closed;
    }

    /// An epoch was seen.
    pub(super) fn heed(&mut self, epoch: u64) {
        self.epoch = self.epoch.max(epoch);
    }

    fn tag(&self) -> String {
        format!("\"{:016x}-{}\"", self.run, self.version)
    }
}

/// A change that is being made; dropped without [`Self::done`], nothing was.
#[derive(Debug)]
#[must_use = "a change that is not done is not known"]
pub struct Change<'b> {
    balancer: &'b Balancer,
    ledger: MutexGuard<'b, Ledger>,
    who: Who,
}

impl Change<'_> {
    /// The change is made: counts it and writes it down. `action` is a constant phrase, `target` a path below the API.
    pub fn done(mut self, action: &'static str, target: &str, old: &Value, new: &Value) {
        self.ledger.version += 1;
        let Who { name, from, .. } = &self.who;
        tracing::info!(version = self.ledger.version, who = name, from, target, %old, %new, "{action}");
        self.balancer.record(self.ledger.version, &self.who, action, target, old, new);
    }
}

impl Balancer {
    /// Begins a change. No other is made while the result lives.
    ///
    /// # Errors
    /// The conditions do not hold.
    pub fn enter(&self, who: &Who, conditions: &Conditions) -> Result<Change<'_>, Refused> {
        let mut ledger = lock(&self.ledger);
        if ledger.closed {
            return Err(Refused::TakenOver);
        }
        if let Some(given) = conditions.epoch
            && given < ledger.epoch
        {
            return Err(Refused::StaleEpoch { given, highest: ledger.epoch });
        }
        let current = ledger.tag();
        if conditions.versions.as_ref().is_some_and(|tags| !tags.contains(&current)) {
            return Err(Refused::OtherVersion { current });
        }
        ledger.epoch = ledger.epoch.max(conditions.epoch.unwrap_or(0));
        Ok(Change { balancer: self, ledger, who: who.clone() })
    }

    /// The tag of the version there is.
    pub fn version(&self) -> String {
        lock(&self.ledger).tag()
    }
}
