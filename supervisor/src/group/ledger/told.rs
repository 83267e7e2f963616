//! Which alerts do people know to fire?
//!
//! Noted once a message with them was delivered, so that whoever leads next tells what nobody was told yet, does not tell twice what
//! somebody was, and says that an alert is over only to those who knew of it. A leader that dies between delivering and noting tells
//! once more than needed, which is better than once too little.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// Alerts kept; more than anybody reads. The ledger is copied at every change.
const TOLD_MAX: usize = 500;
/// Longest key of an alert, bytes; one with longer labels is not noted, and told again by the next leader.
const KEY_BYTES_MAX: usize = 4_000;

/// An alert people were told of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Told {
    /// All its labels, `alertname` included.
    pub labels: BTreeMap<String, String>,
    /// When it began to be true.
    pub since: DateTime<Utc>,
    /// When they were told last.
    pub at: DateTime<Utc>,
}

/// All of them, by key.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ToldAlerts(BTreeMap<String, Told>);

impl ToldAlerts {
    /// By what an alert is known here.
    pub fn key(labels: &BTreeMap<String, String>) -> String {
        labels.iter().map(|(name, value)| format!("{name}={value:?}")).collect::<Vec<_>>().join(",")
    }

    /// What is known of an alert with these labels.
    pub fn of(&self, labels: &BTreeMap<String, String>) -> Option<&Told> {
        self.0.get(&Self::key(labels))
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &Told)> {
        self.0.iter()
    }

    /// People were told that `firing` fire, and that what has the keys `over` is over.
    pub(crate) fn note(&mut self, firing: Vec<Told>, over: &[String]) {
        for key in over {
            self.0.remove(key);
        }
        for told in firing {
            let key = Self::key(&told.labels);
            let has_room = self.0.len() < TOLD_MAX || self.0.contains_key(&key);
            if has_room && key.len() <= KEY_BYTES_MAX {
                self.0.insert(key, told);
            }
        }
    }
}
