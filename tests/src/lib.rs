//! Testkit of the end-to-end tests: real processes, waiting for conditions, HTTP.
//!
//! - [`process`]: programs that die with the test, even when it is killed.
//! - [`wait`]: conditions with a deadline that report the last state seen.
//! - [`cluster`]: a whole cluster by `holdfast up`, and the handles a test needs to look at it and to break it.
//! - [`clients`]: chat clients that send numbered messages and check what became of them.

pub mod clients;
pub mod cluster;
pub mod process;
pub mod wait;
