//! HTTP, WebSocket and TCP load balancer made for long-lived connections.
//!
//! A client's connection is accepted, served and relayed by one worker thread (`proxy::worker`) on one core; a small runtime beside them
//! runs the operator API, the health checks and reloads. They share [pools](pool), whose decisions are pure and whose results the data
//! path reads from atomics.
//!
//! In the order data flows:
//! - [`config`]: the settings file as written → checked [`Config`].
//! - `proxy`: listeners, workers, requests on their way, relay.
//! - [`message`]: HTTP/1.1 heads and bodies as bytes (pure).
//! - [`proxy_protocol`], [`tls`]: what comes before the first byte of a message.
//! - [`limits`]: who may connect, how much a client may ask for, bans.
//! - [`pool`]: servers, their state, and the choice between them (pure in [`pool::state`] and [`pool::balance`]).
//! - [`stick`]: which server a client has been to, remembered; [`store`]: the Redis that several balancers share.
//! - `check`: active health checks.
//! - [`faults`]: faults made on purpose, for drills (pure).
//! - [`control`]: the balancer as a whole; reload.
//! - `admin`: operator API.
//! - [`health`]: whether a running balancer is ready.
//! - [`import`]: settings of nginx and `HAProxy` as ours.
//! - `sight`: access log and spans.
//! - `record`: what operators have changed.
//! - [`metrics`]: every figure.
//! - `published`: what every request looks at and hardly anything changes.
//! - `figures`: all of them at a glance; [`top`] shows them in a terminal.
//! - [`handover`]: another process takes over; the service manager. [`upgrade`] asks for it.
//! - [`run`]: the life of the process.

mod admin;
mod check;
mod client;
pub mod config;
pub mod control;
pub mod faults;
mod figures;
pub mod handover;
pub mod health;
pub mod import;
pub mod limits;
pub mod message;
pub mod metrics;
pub mod pool;
mod proxy;
pub mod proxy_protocol;
mod published;
mod record;
pub mod run;
mod sight;
pub mod stick;
pub mod store;
pub mod tls;
pub mod top;
pub mod upgrade;

pub use config::Config;
pub use run::{Bound, RunError, Started};
