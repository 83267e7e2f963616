//! The store on a real disk: what comes back after a restart, a kill, damage, and a full disk.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod damage;
mod full;
mod kill;
mod kit;
mod life;
