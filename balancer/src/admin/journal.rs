//! The journal of changes.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::api::Route;
use super::{ApiError, read_query};
use crate::control::Balancer;
use crate::record::Entry;

/// Entries shown if no number is given.
const LIMIT: usize = 100;

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/journal", "Changes made at run time, the last one first")
            .query::<Selection>()
            .answers::<JournalView>(200)
            .to(show),
    ]
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Selection {
    /// At most this many.
    limit: Option<usize>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct JournalView {
    entries: Vec<Arc<Entry>>,
}

/// `GET /journal`
async fn show(
    State(balancer): State<Arc<Balancer>>,
    query: Result<Query<Selection>, QueryRejection>,
) -> Result<Json<JournalView>, ApiError> {
    let limit = read_query(query)?.limit.unwrap_or(LIMIT);
    Ok(Json(JournalView { entries: balancer.recorder().recent(limit) }))
}
