//! Drills: does the cluster really survive what it claims to survive, and within which bounds?
//!
//! A drill is an experiment with a hypothesis. The cluster is looked at first and left alone unless it is well; one fault is put in;
//! then it has to be well again by itself within a limit, and the canary's own record of the time in between gives recovery time
//! (RTO) and lost messages (RPO), to be held against the scenario's bounds. A report says what was expected, what was measured and
//! what the supervisor did meanwhile, with its reasons.
//!
//! - [`scenario`]: what is tried and what is expected, as data
//! - [`faults`]: putting faults into processes on this host, and taking them out again; `held`: a fault that is in, there or in the balancer
//! - [`run`]: the course of one drill, pure: time and observations are arguments
//! - [`runner`]: watches the cluster, owns the schedule and carries a run out
//! - [`report`]: what is kept of a run, for machines and for people
//!
//! Rejected: measuring recovery by the supervisor's own state machine. It would call a failover finished that no user can see.

mod active;
mod conditions;
pub mod faults;
mod held;
mod metrics;
pub mod report;
pub mod run;
pub mod runner;
pub mod scenario;
mod victim;

pub use runner::{DrillInputs, DrillRunner};
