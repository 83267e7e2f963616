//! Pages about the metrics: what is scraped and how it is doing, and what takes the room.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use chrono::Utc;
use minijinja::value::Serde;
use minijinja::{Value, context};

use super::view::{cardinality, targets};
use super::{Frame, Handle, render};

/// Seconds between two loads of the page of targets.
const REFRESH_SECONDS: u32 = 5;
/// Entries of each list of the cardinality report.
const LARGEST: usize = 20;

pub(super) async fn all_targets(State(shared): State<Handle>) -> Response {
    let known = &shared.api.sources.targets;
    let page = targets::view(&known.active(), &known.dropped(), Utc::now());
    let frame = Frame {
        title: &page.headline,
        supervisor: &shared.api.name,
        mark: page.mark,
        refresh: Some(REFRESH_SECONDS),
    };
    render(StatusCode::OK, &frame, "targets.html", context! { page => Value::from(Serde(&page)) })
}

pub(super) async fn largest(State(shared): State<Handle>) -> Response {
    let store = Arc::clone(&shared.api.store);
    let counted =
        tokio::task::spawn_blocking(move || (store.cardinality(LARGEST), store.stats())).await;
    let (counted, stats) = counted.expect("counting series does not panic");
    let page = cardinality::view(&counted, &stats);
    let frame =
        Frame { title: "Cardinality", supervisor: &shared.api.name, mark: "none", refresh: None };
    let values = context! { page => Value::from(Serde(&page)) };
    render(StatusCode::OK, &frame, "cardinality.html", values)
}
