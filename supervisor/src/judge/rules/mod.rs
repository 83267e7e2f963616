//! Which alerts are pending, firing or resolved? Prometheus rule files, evaluated here.
//!
//! - [`RuleSet`]: what the files say, checked; every fault with its file, line and key.
//! - [`template`]: the part of Go's templates that annotations use.
//! - [`Engine`]: the rules and the state of their alerts, one evaluation after the other. It knows no clock and does no IO: the time and
//!   the source of series are arguments, transitions and samples to record come back as data. Only [`load`] reads files.
//!
//! Alert rules with an `action` label drive circuits ([`Action`]); what becomes of that is not decided here.

mod alert;
mod check;
mod engine;
mod file;
mod humanize;
mod overlay;
mod rule;
pub mod template;
#[cfg(test)]
mod tests;

pub use alert::{Alert, AlertTransition};
pub use check::{RuleFaults, load};
pub use engine::{Engine, Evaluation, RuleFailure};
pub use rule::{Action, AlertRule, Group, RecordRule, Rule, RuleSet};
