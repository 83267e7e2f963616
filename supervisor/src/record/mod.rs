//! Journal of incidents and decisions: what was seen, what was done, what was held back, and why.

mod event;
mod journal;

pub use event::{Draft, Event, Incident, Kind, Reason, Severity};
pub use journal::{Filter, Journal, JournalError, Retention};
