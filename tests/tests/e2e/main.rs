//! End-to-end tests on real processes: whole clusters by `holdfast up`, broken on purpose.
//!
//! Each test starts a cluster of its own on free ports and leaves nothing behind, even when it is killed.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod backups;
mod drills;
mod lifecycle;
mod metrics_crash;
mod node_crash;
mod observability;
mod partition;
mod redis_crash;
mod slow_node;
mod soak;
mod wrong_input;
