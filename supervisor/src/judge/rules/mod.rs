//! Which alerts are pending, firing or resolved? Prometheus rule files, evaluated here.
//!
//! - [`RuleSet`]: what the files say, checked; every fault with its file, line and key.
//! - [`template`]: Go's templates, as labels and annotations use them.
//! - [`Engine`]: the rules and the state of their alerts, one evaluation after the other. It knows no clock and does no IO: the time and
//!   the [`Source`] of series are arguments, transitions come back as data. Only [`load`] reads files.
//!
//! Alert rules with an `action` label drive circuits ([`Action`]); what becomes of that is not decided here.

mod alert;
mod check;
mod engine;
mod file;
mod rule;
mod source;
mod state;
pub mod template;
#[cfg(test)]
mod tests;

pub use alert::{Alert, AlertTransition};
pub use check::{RuleFaults, load};
pub use engine::{Engine, Evaluation, GroupRun, GroupState, Identity, LastRun, RuleFailure};
pub use rule::{Action, AlertRule, Group, RecordRule, Rule, RuleSet};
pub use source::{At, Source};
pub use state::Health;
