//! A scrape target that says what the test tells it to.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::http::{HeaderMap, header};
use axum::routing::get;

/// A target; ends with the test's runtime, or when it is told to.
pub(crate) struct Target {
    pub(crate) address: String,
    /// Who has asked, by user agent.
    pub(crate) visitors: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Target {
    /// Serves `body` at `/metrics`.
    pub(crate) async fn start(kind: &'static str, body: Vec<u8>) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let visitors: Arc<Mutex<Vec<String>>> = Arc::default();
        let seen = Arc::clone(&visitors);
        let answer = async move |headers: HeaderMap| {
            let agent = headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok());
            seen.lock().unwrap().push(agent.unwrap_or_default().to_owned());
            ([(header::CONTENT_TYPE, kind)], body.clone())
        };
        let app = Router::new().route("/metrics", get(answer));
        let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { address, visitors, task }
    }

    /// Closes it; connections that are open stay open.
    pub(crate) fn stop(&self) {
        self.task.abort();
    }
}
