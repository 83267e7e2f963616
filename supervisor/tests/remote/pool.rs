//! A balancer's pool as its operator API shows it: three servers, which do as they are told.

use std::sync::{Arc, Mutex};

use axum::extract::Path;
use axum::routing::{get, patch};
use axum::{Json, Router};
use serde_json::{Value, json};

/// The pool; ends with the test's runtime.
pub(crate) struct Pool {
    pub(crate) address: String,
    servers: Arc<Mutex<Vec<Value>>>,
}

impl Pool {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = |name: &str| {
            json!({
                "name": name, "address": "127.0.0.1:1", "state": "ready", "weight": 100,
                "health": "up", "usable": true, "active_connections": 0,
                "configured_weight": 100, "reason": null,
            })
        };
        let names = ["chatnode-1", "chatnode-2", "chatnode-3"];
        let servers: Arc<Mutex<Vec<Value>>> = Arc::new(Mutex::new(names.map(server).to_vec()));
        let (listed, changed) = (Arc::clone(&servers), Arc::clone(&servers));
        let list = async move || Json(json!({ "servers": *listed.lock().unwrap() }));
        let change = async move |Path(name): Path<String>, Json(order): Json<Value>| {
            let mut servers = changed.lock().unwrap();
            let server = servers.iter_mut().find(|server| server["name"] == name).unwrap();
            for key in ["state", "weight", "reason"] {
                server[key] = order[key].clone();
            }
            Json(server.clone())
        };
        let app = Router::new()
            .route("/api/v1/pools/chat", get(list))
            .route("/api/v1/pools/chat/servers/{name}", patch(change));
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { address, servers }
    }

    /// The administrative state of the first server.
    pub(crate) fn state(&self) -> String {
        self.servers.lock().unwrap()[0]["state"].as_str().unwrap().to_owned()
    }
}
