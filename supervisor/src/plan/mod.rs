//! Plan: what to do about verdicts, with every reason for acting and for holding back. Pure: time and inputs are arguments.

pub mod failover;
pub mod rolling;
pub mod servers;
pub mod synchronous;
