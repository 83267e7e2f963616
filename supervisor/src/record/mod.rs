//! Journal of incidents and decisions: what was seen, what was done, what was held back, and why.

mod account;
mod event;
mod filter;
mod incidents;
mod journal;
mod store;

pub use account::{Account, Hold, Homecoming, Salvage, Sighting, Step, losses};
pub use event::{Draft, Event, Incident, Kind, Origin, Reason, Severity};
pub use filter::{Filter, LIMIT_MAX, Retention};
pub use incidents::{Agreed, Part, Standing};
pub use journal::{Deeds, Journal, JournalError};

#[cfg(test)]
pub(crate) use account::tests as account_tests;

/// Where the parts of the supervisor hand in what happened.
pub type Sink = std::sync::Arc<dyn Fn(Draft) + Send + Sync>;
