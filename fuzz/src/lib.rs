//! Fuzz targets: each takes any bytes and must not panic, hang or use memory without bound.
//!
//! To add one: a module here with `pub fn run(input: &[u8])`, its line in [`TARGETS`], three lines in `fuzz_targets/`, a `[[bin]]` in
//! `Cargo.toml`, and at least one seed in `seeds/<name>/`: a file with an input of the kind that is expected. What is found goes into the
//! seeds once it is repaired. A target may assert more than survival: what is decoded must encode to the same again, for example.

pub mod chat_json;
pub mod chat_protobuf;
pub mod chat_token;
pub mod exposition;
pub mod exposition_protobuf;
pub mod http_chunked;
pub mod http_request;
pub mod http_response;
pub mod import_haproxy;
pub mod import_nginx;
pub mod networks;
pub mod promql;
pub mod proxy_protocol;
pub mod series_block;
pub mod series_log;
pub mod websocket_frames;

/// A target: its name, which is also that of its folder of seeds, and what to run.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: &[Target] = &[
    ("chat_json", chat_json::run),
    ("chat_protobuf", chat_protobuf::run),
    ("chat_token", chat_token::run),
    ("exposition", exposition::run),
    ("exposition_protobuf", exposition_protobuf::run),
    ("http_chunked", http_chunked::run),
    ("http_request", http_request::run),
    ("http_response", http_response::run),
    ("import_haproxy", import_haproxy::run),
    ("import_nginx", import_nginx::run),
    ("networks", networks::run),
    ("promql", promql::run),
    ("proxy_protocol", proxy_protocol::run),
    ("series_block", series_block::run),
    ("series_log", series_log::run),
    ("websocket_frames", websocket_frames::run),
];
