//! Every figure at a glance, for programs as JSON and for people as a page.
//!
//! The page shows what `/metrics` shows and as openly, without a script: it must be readable from a phone at night and by a text browser.
//! The content security policy allows our own style sheet and nothing else.

use std::sync::{Arc, LazyLock};

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use chrono::Utc;
use holdfast_telemetry::errors::Chain;
use minijinja::value::Serde;
use minijinja::{Environment, Value, context};

use super::api::Route;
use crate::control::Balancer;
use crate::figures::Figures;

/// Seconds between two loads of the page.
const REFRESH_SECONDS: u32 = 2;
const POLICY: &str = "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'";
const STYLE: &str = include_str!("stats/style.css");

static TEMPLATES: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut environment = Environment::new();
    let source = include_str!("stats/page.html");
    environment.add_template("page.html", source).expect("the tests load it");
    environment.add_filter("size", size);
    environment
});

pub(super) fn routes() -> Vec<Route> {
    vec![Route::get("/stats", "Every figure at a glance").answers::<Figures>(200).to(show)]
}

/// The page.
pub(super) fn page_router(balancer: Arc<Balancer>) -> Router {
    Router::new().route("/", get(page)).route("/style.css", get(style)).with_state(balancer)
}

/// `GET /stats`
async fn show(State(balancer): State<Arc<Balancer>>) -> Json<Figures> {
    Json(Figures::take(&balancer, Utc::now()))
}

async fn page(State(balancer): State<Arc<Balancer>>) -> Response {
    let figures = Figures::take(&balancer, Utc::now());
    let values = context! { figures => Value::from(Serde(&figures)), refresh => REFRESH_SECONDS };
    match TEMPLATES.get_template("page.html").and_then(|template| template.render(values)) {
        Ok(html) => {
            let headers = [
                (header::CONTENT_TYPE, "text/html; charset=utf-8"),
                (header::CONTENT_SECURITY_POLICY, POLICY),
                (header::CACHE_CONTROL, "no-store"),
                (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            ];
            (headers, html).into_response()
        }
        Err(error) => {
            tracing::error!(error = %Chain(&error), "cannot render the page");
            let text = "this page cannot be rendered; see the log";
            (StatusCode::INTERNAL_SERVER_ERROR, text).into_response()
        }
    }
}

async fn style() -> Response {
    let headers = [(header::CONTENT_TYPE, "text/css"), (header::CACHE_CONTROL, "max-age=3600")];
    (headers, STYLE).into_response()
}

/// Bytes in the unit people would say.
pub(crate) fn size(bytes: f64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut left = bytes;
    let mut unit = 0;
    while left >= 1_024.0 && unit + 1 < units.len() {
        left /= 1_024.0;
        unit += 1;
    }
    let digits = usize::from(unit > 0 && left < 100.0);
    format!("{left:.digits$} {}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_said_as_people_would() {
        for (bytes, text) in [
            (0.0, "0 B"),
            (1_023.0, "1023 B"),
            (1_536.0, "1.5 KiB"),
            (104_857_600.0, "100 MiB"),
            (2e18, "1776 PiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }
}
