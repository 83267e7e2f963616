//! How much the journal keeps, and which of its events are wanted.

use serde::Deserialize;

use super::event::{Event, Kind, Severity};

/// Rows returned when a filter does not say.
const LIMIT_DEFAULT: usize = 100;

/// Rows returned at most.
pub const LIMIT_MAX: usize = 1000;

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Older events are dropped.
    pub events_max: u64,
    /// Older incidents are dropped once they are closed.
    pub incidents_max: u64,
}

impl Default for Retention {
    /// 100,000 events and 10,000 incidents: a year of a troubled cluster in about 50 MB.
    fn default() -> Self {
        Self { events_max: 100_000, incidents_max: 10_000 }
    }
}

/// Which events to read. They come oldest first; without `since_id` the newest that match.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    /// Only later ones.
    pub since_id: Option<u64>,
    /// Only earlier ones.
    pub before_id: Option<u64>,
    /// Only of this kind.
    pub kind: Option<Kind>,
    /// Only about this subject.
    pub subject: Option<String>,
    /// Only of this incident.
    pub incident: Option<u64>,
    /// Only of at least this severity.
    pub severity_min: Option<Severity>,
    /// Only what this member did as the leader of a group.
    pub is_common: bool,
    /// At most this many, at most [`LIMIT_MAX`].
    pub limit: usize,
}

impl Default for Filter {
    fn default() -> Self {
        Self {
            since_id: None,
            before_id: None,
            kind: None,
            subject: None,
            incident: None,
            severity_min: None,
            is_common: false,
            limit: LIMIT_DEFAULT,
        }
    }
}

impl Filter {
    /// Whether an event passes; `limit` aside.
    pub fn matches(&self, event: &Event) -> bool {
        self.since_id.is_none_or(|id| event.id > id)
            && self.before_id.is_none_or(|id| event.id < id)
            && self.kind.is_none_or(|kind| event.kind == kind)
            && self.subject.as_ref().is_none_or(|subject| event.subject == *subject)
            && self.incident.is_none_or(|incident| event.incident == Some(incident))
            && (!self.is_common || event.is_common)
            && self.severity_min.is_none_or(|severity| event.severity >= severity)
    }

    /// The rows from the end this filter starts at.
    pub(super) fn ordered<'a, I>(&self, rows: I) -> Box<dyn Iterator<Item = I::Item> + 'a>
    where
        I: DoubleEndedIterator + 'a,
    {
        if self.since_id.is_some() { Box::new(rows) } else { Box::new(rows.rev()) }
    }
}
