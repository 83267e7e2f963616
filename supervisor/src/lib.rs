//! The Holdfast supervisor: observe → judge → plan → act → record → tell.
//!
//! Data goes one way. [`observe`] turns the world into samples and topology, [`judge`] turns those into verdicts, [`plan`] turns verdicts
//! into decisions with their reasons, [`act`] carries decisions out, [`record`] keeps what was seen and done, and [`tell`] says it to
//! people. `judge` and `plan` are pure: time, randomness and inputs are arguments.
//!
//! - [`config`]: the file as written → checked `Config`
//! - [`cluster`]: the model every part shares (plain data)
//! - [`control`]: commands operators give to the running parts
//! - [`group`]: the supervisors as one group: leader, shared ledger, shared observations
//! - [`serve`]: status page, operator API, Prometheus query API, Sentinel-compatible endpoint
//! - [`rehearse`] runs drills: disasters on purpose, measured and undone
//! - [`supervise`]: wires the parts into the daemon
//! - [`up`]: a whole cluster on this machine
//! - [`cli`]: the command line

pub mod act;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod control;
pub mod group;
pub mod judge;
pub mod observe;
pub mod plan;
pub mod record;
pub mod rehearse;
pub mod remote;
pub mod serve;
pub mod supervise;
pub mod tell;
pub mod up;
