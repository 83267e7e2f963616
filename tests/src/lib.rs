//! Testkit of the end-to-end tests: real processes, waiting for conditions, HTTP.
//!
//! - [`process`]: programs that die with the test, even when it is killed.
//! - [`wait`]: conditions with a deadline that report the last state seen.
//! - [`cluster`]: a whole cluster by `holdfast up`, and the handles a test needs to look at it and to break it.
//! - [`clients`]: chat clients that send numbered messages and check what became of them.
//! - [`ledger`]: what was lost, doubled or silently left out.
//! - [`soak`]: a cluster that is broken at random, round after round, while clients talk.
//! - [`metrics_soak`]: a supervisor that is killed while samples come in, and what it knows afterwards.
//! - [`single`]: one chat node on Redis, without the rest of a cluster.
//! - [`wire`]: a WebSocket client that does as little as possible, or what no proper client would do.
//! - [`usage`]: what a process uses.

pub mod clients;
pub mod cluster;
pub mod ledger;
pub mod metrics_soak;
pub mod process;
pub mod single;
pub mod soak;
pub mod usage;
pub mod wait;
pub mod wire;
