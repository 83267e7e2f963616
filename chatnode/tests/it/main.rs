//! The chat node against real Redis servers, through real `WebSocket`s.

#![expect(clippy::unwrap_used, reason = "a test stops at what it does not expect")]

mod access;
mod accounts;
mod api;
mod broker;
mod chat;
mod client;
mod cluster;
mod failover;
mod faults;
mod fork;
mod kit;
mod program;
mod protocol;
mod proxy;
