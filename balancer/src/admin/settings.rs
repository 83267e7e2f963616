//! The settings: read again, shown, tried.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use holdfast_settings::redact;
use schemars::JsonSchema;
use serde::Serialize;

use super::ApiError;
use super::api::Route;
use super::operator::Operator;
use crate::config;
use crate::control::{Balancer, ReloadError};

/// As large as a settings file may be.
const BODY_BYTES_MAX: usize = 1_024 * 1_024;

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::post("/reload", "Read the settings file again and put it in force")
            .answers::<ReloadView>(200)
            .to(reload),
        Route::get("/config", "The settings in force, secrets redacted")
            .answers::<ConfigView>(200)
            .to(show),
        Route::post("/config/validate", "Whether these settings could be put in force here")
            .reads()
            .takes_text("application/toml")
            .body_bytes_max(BODY_BYTES_MAX)
            .answers::<ValidView>(200)
            .to(validate),
    ]
}

#[derive(Debug, Serialize, JsonSchema)]
struct ReloadView {
    /// What is different now, in words.
    changed: Vec<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct ConfigView {
    /// Where they were read.
    file: String,
    /// The file as it was when it was put in force, without passwords in URLs.
    settings: String,
    /// Whether the file on the disk says something else by now.
    file_differs: bool,
}

#[derive(Debug, Serialize, JsonSchema)]
struct ValidView {
    valid: bool,
}

/// `POST /reload`
async fn reload(
    State(balancer): State<Arc<Balancer>>,
    operator: Operator,
) -> Result<Json<ReloadView>, ApiError> {
    drop(operator.enter(&balancer)?);
    let changed = balancer.reload(operator.who()).await?;
    Ok(Json(ReloadView { changed }))
}

/// `GET /config`
async fn show(State(balancer): State<Arc<Balancer>>) -> Json<ConfigView> {
    let (file, settings) = balancer.settings().await;
    // A file that cannot be read differs.
    let on_disk = tokio::fs::read_to_string(&file).await.ok();
    let file_differs = on_disk.as_deref() != Some(&*settings);
    Json(ConfigView {
        file: file.display().to_string(),
        settings: redact(&settings).into_owned(),
        file_differs,
    })
}

/// `POST /config/validate`
async fn validate(
    State(balancer): State<Arc<Balancer>>,
    body: String,
) -> Result<Json<ValidView>, ApiError> {
    let (file, _) = balancer.settings().await;
    // Files that the settings name are read, so not on this thread.
    let tried = tokio::task::spawn_blocking(move || config::parse(&file, body)).await;
    match tried {
        Ok(Ok(_)) => Ok(Json(ValidView { valid: true })),
        Ok(Err(faults)) => Err(ReloadError::from(faults).into()),
        Err(error) => Err(ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
    }
}
