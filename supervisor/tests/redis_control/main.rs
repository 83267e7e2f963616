//! What operators have around a failover, on real servers: an explanation of it, hooks, what was saved of the former primary, restarts of
//! all servers, the managed synchronous mode.
#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

#[path = "../redis_failover/cluster.rs"]
#[expect(dead_code, reason = "shared with the tests of the failover itself")]
mod cluster;
#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "shared with other tests")]
mod support;

mod explained;
mod hooks;
mod rolling;
mod salvage;
mod synchronous;
