//! The store on a real disk: what comes back after a restart, a kill, damage, and a full disk.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::disallowed_methods, reason = "a deadline, and orders to a child process")]

mod damage;
mod full;
mod gone;
mod kill;
mod kit;
mod life;
