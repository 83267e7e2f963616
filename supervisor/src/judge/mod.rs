//! Judge: verdicts from samples and topology. Pure: time and inputs are arguments.

pub mod circuits;
pub mod redis;
pub mod rules;
pub mod sentinel;
