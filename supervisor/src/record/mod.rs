//! Journal of incidents and decisions: what was seen, what was done, what was held back, and why.

mod event;
mod incidents;
mod journal;
mod store;

pub use event::{Draft, Event, Incident, Kind, Reason, Severity};
pub use journal::{Filter, Journal, JournalError, LIMIT_MAX, Retention};

/// Where the parts of the supervisor hand in what happened.
pub type Sink = std::sync::Arc<dyn Fn(Draft) + Send + Sync>;
