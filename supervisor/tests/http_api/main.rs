//! The HTTP server as its users meet it: on a real socket, with hand-made parts behind it.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod kit;
mod operator;
mod pages;
mod prometheus;
mod rest;
mod streams;
mod write;
