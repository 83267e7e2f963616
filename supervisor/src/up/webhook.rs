//! The webhook receiver of a local cluster: keeps what it gets as JSON lines and shows it.

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::show;

/// Largest body taken.
const BODY_BYTES_MAX: usize = 1024 * 1024;

/// Calls kept in one run; later ones are answered and shown, and no longer written down.
const CALLS_MAX: usize = 10_000;

struct Receiver {
    log: PathBuf,
    kept: AtomicUsize,
    news: mpsc::Sender<String>,
}

/// Receives `POST /hook` on `listener`, without end; each body becomes one line of `log`.
pub(super) async fn receive(listener: TcpListener, log: PathBuf, news: mpsc::Sender<String>) {
    let receiver = Arc::new(Receiver { log, kept: AtomicUsize::new(0), news: news.clone() });
    let router = Router::new()
        .route("/hook", post(take))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(receiver);
    if let Err(error) = axum::serve(listener, router).await {
        show::say(&news, format!("the webhook receiver ended: {error}"));
    }
}

async fn take(State(receiver): State<Arc<Receiver>>, Json(body): Json<Value>) -> StatusCode {
    let status = body.get("status").and_then(Value::as_str).unwrap_or("a call");
    let alerts = body.get("alerts").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let names = alerts.iter().filter_map(|alert| alert.get("labels")?.get("alertname")?.as_str());
    let names = names.collect::<Vec<_>>().join(", ");
    show::say(&receiver.news, format!("webhook  {status} {names}"));
    if receiver.kept.fetch_add(1, Ordering::Relaxed) < CALLS_MAX {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&receiver.log);
        let written = file.and_then(|mut file| file.write_all(format!("{body}\n").as_bytes()));
        if written.is_err() {
            return StatusCode::INSUFFICIENT_STORAGE;
        }
    }
    StatusCode::NO_CONTENT
}
