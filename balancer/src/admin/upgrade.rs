//! A new program in the place of this one.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ApiError;
use super::api::Route;
use super::operator::Operator;
use crate::control::Balancer;

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::post("/upgrade", "Have the program started anew take over; answers once it serves")
            .answers::<UpgradeView>(200)
            .to(upgrade),
    ]
}

/// Who has taken over.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct UpgradeView {
    /// Number of the process.
    pub(crate) process: u32,
}

/// `POST /upgrade`
async fn upgrade(
    State(balancer): State<Arc<Balancer>>,
    operator: Operator,
) -> Result<Json<UpgradeView>, ApiError> {
    let taken_over = balancer.upgrade(operator.who(), operator.conditions()).await?;
    Ok(Json(UpgradeView { process: taken_over? }))
}
