//! The operator API from its other side: what the command line, `holdfast up` and tests call.

use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use holdfast_settings::Secret;
use reqwest::{Method, Response, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::http::{causes, lines, readiness};
use crate::cluster::{Address, ServerState, ServerStatus, Status};
use crate::control::{BackupProgress, BackupReport, FailoverReport};
use crate::record::{Event, Incident};

/// Connecting to a supervisor takes milliseconds; a firewall that swallows packets must not hold an operator up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A failover or a server's drain is answered within the API's own limit of 60 s.
const CALL_TIMEOUT: Duration = Duration::from_secs(70);

/// Why a call did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answers there.
    #[error("cannot reach the supervisor at {base}: {cause}")]
    Unreachable {
        /// The address tried.
        base: String,
        /// Why, with its causes.
        cause: String,
    },
    /// It answered that it will not or cannot.
    #[error("{text}")]
    Refused {
        /// HTTP status.
        status: StatusCode,
        /// The supervisor's words.
        text: String,
    },
    /// What it answered makes no sense.
    #[error("the supervisor at {base} gave an answer that cannot be understood: {cause}")]
    Answer {
        /// The address.
        base: String,
        /// What is wrong with it.
        cause: String,
    },
    /// The call changes something, and there is no token.
    #[error(
        "this needs the operator token: give --token-file, HOLDFAST_TOKEN_FILE or a client.toml (see `holdfast --help`)"
    )]
    NoToken,
}

/// Which events to read; `None` and 0 mean "whatever".
#[derive(Debug, Clone, Default)]
pub struct EventQuery {
    /// Only later ones.
    pub since_id: Option<u64>,
    /// Only earlier ones.
    pub before_id: Option<u64>,
    /// Only of this kind.
    pub kind: Option<String>,
    /// Only about this subject.
    pub subject: Option<String>,
    /// Only of this incident.
    pub incident: Option<u64>,
    /// At most this many.
    pub limit: Option<usize>,
}

impl EventQuery {
    fn parameters(&self) -> Vec<(&'static str, String)> {
        let numbers = [
            ("since_id", self.since_id),
            ("before_id", self.before_id),
            ("incident", self.incident),
            ("limit", self.limit.map(|limit| limit as u64)),
        ];
        let texts = [("kind", &self.kind), ("subject", &self.subject)];
        let numbers =
            numbers.into_iter().filter_map(|(name, value)| Some((name, value?.to_string())));
        let texts = texts.into_iter().filter_map(|(name, value)| Some((name, value.clone()?)));
        numbers.chain(texts).collect()
    }
}

/// One line of a backup that is being taken.
#[derive(Debug, Clone)]
pub enum BackupStep {
    /// How far it is.
    Progress(BackupProgress),
    /// It is done.
    Result(BackupReport),
    /// It failed.
    Error(String),
}

/// A drill's run: its report once it is over.
#[derive(Debug, Clone)]
pub enum Run {
    /// Going on; a [`crate::cluster::DrillStatus`].
    Going(Value),
    /// Over; the report.
    Report(Value),
}

/// A supervisor, as seen by an operator.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    token: Option<Secret>,
}

impl Client {
    /// For the supervisor at `base` (`http://host:port`). Without a token only reading works.
    ///
    /// # Panics
    /// If no TLS provider is installed; `main` does that first.
    pub fn new(base: &str, token: Option<Secret>) -> Self {
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            // The supervisor is on this network; a proxy of the environment would only be in the way.
            .no_proxy()
            .build()
            .expect("a TLS provider is installed at the start of main");
        Self { http, base: base.trim_end_matches('/').to_owned(), token }
    }

    /// The address.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Everything at a glance.
    ///
    /// # Errors
    /// See [`ClientError`], here and below.
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.get("status", &[]).await
    }

    /// Events, oldest first.
    pub async fn events(&self, query: &EventQuery) -> Result<Vec<Event>, ClientError> {
        let answer: Value = self.get("events", &query.parameters()).await?;
        self.list(answer, "events")
    }

    /// One event.
    pub async fn event(&self, id: u64) -> Result<Event, ClientError> {
        self.get(&format!("events/{id}"), &[]).await
    }

    /// Events as they happen; with `since_id` also those since then. Ends when the supervisor does.
    pub async fn follow(
        &self,
        query: &EventQuery,
    ) -> Result<impl Stream<Item = Result<Event, ClientError>> + use<>, ClientError> {
        let request = self.http.get(self.url("events/stream")).query(&query.parameters());
        let response = self.accept(request.send().await).await?;
        let this = self.clone();
        Ok(lines(response).filter_map(move |line| {
            let event = match line {
                Ok(line) => line.strip_prefix("data:").map(|data| this.parse(data.trim_start())),
                Err(cause) => Some(Err(this.unreachable(cause))),
            };
            std::future::ready(event)
        }))
    }

    /// Incidents, newest first.
    pub async fn incidents(&self, open_only: bool) -> Result<Vec<Incident>, ClientError> {
        let open = open_only.then(|| ("open", "true".to_owned()));
        let answer: Value = self.get("incidents", open.as_slice()).await?;
        self.list(answer, "incidents")
    }

    /// An incident and its events.
    pub async fn incident(&self, id: u64) -> Result<Value, ClientError> {
        self.get(&format!("incidents/{id}"), &[]).await
    }

    /// Changes a server of the pool.
    pub async fn set_server(
        &self,
        name: &str,
        state: Option<ServerState>,
        weight: Option<u16>,
        force: bool,
    ) -> Result<ServerStatus, ClientError> {
        let mut body = json!({});
        if let Some(state) = state {
            body["state"] = json!(state);
        }
        if let Some(weight) = weight {
            body["weight"] = json!(weight);
        }
        if force {
            body["force"] = json!(true);
        }
        self.change(&format!("servers/{name}"), &body).await
    }

    /// A planned switchover, or a failover if the primary is down.
    pub async fn failover(
        &self,
        name: Option<&str>,
        target: Option<&Address>,
    ) -> Result<FailoverReport, ClientError> {
        let body = target.map_or_else(|| json!({}), |target| json!({ "target": target }));
        self.change(&redis_path("failover", name), &body).await
    }

    /// Another order about the Redis called `name` (the only one without a name): `what` is the path after `redis/`.
    pub async fn redis(
        &self,
        what: &str,
        name: Option<&str>,
        body: &Value,
    ) -> Result<Value, ClientError> {
        self.change(&redis_path(what, name), body).await
    }

    /// The stored backups, newest first, as the supervisor lists them.
    pub async fn backups(&self) -> Result<Vec<Value>, ClientError> {
        let answer: Value = self.get("backups", &[]).await?;
        self.list(answer, "backups")
    }

    /// Takes a backup; yields its progress and, last, its result.
    pub async fn backup(
        &self,
    ) -> Result<impl Stream<Item = Result<BackupStep, ClientError>> + use<>, ClientError> {
        let response = self.send(Method::POST, "backups", Some(&json!({})), None).await?;
        let this = self.clone();
        Ok(lines(response)
            .map(move |line| this.backup_step(&line.map_err(|c| this.unreachable(c))?)))
    }

    fn backup_step(&self, line: &str) -> Result<BackupStep, ClientError> {
        let mut step: Value = self.parse(line)?;
        let mut take = |name: &str| step.get_mut(name).map(Value::take);
        if let Some(progress) = take("progress") {
            return self.convert(progress).map(BackupStep::Progress);
        }
        if let Some(report) = take("result") {
            return self.convert(report).map(BackupStep::Result);
        }
        let error = take("error").and_then(|error| error.as_str().map(str::to_owned));
        let error =
            error.ok_or_else(|| self.misunderstood("a line without progress, result or error"))?;
        Ok(BackupStep::Error(error))
    }

    /// Starts a drill; its run's identifier.
    pub async fn start_drill(&self, scenario: &str) -> Result<String, ClientError> {
        let answer: Value = self.change(&format!("drills/{scenario}"), &json!({})).await?;
        let run = answer.get("run").and_then(Value::as_str).map(str::to_owned);
        run.ok_or_else(|| self.misunderstood("a started drill without the run's identifier"))
    }

    /// Stops the drill that is going on.
    pub async fn abort_drill(&self) -> Result<(), ClientError> {
        self.change::<Value>("drills/abort", &json!({})).await.map(drop)
    }

    /// How far a run is, or its report.
    pub async fn drill_run(&self, run: &str) -> Result<Run, ClientError> {
        let answer: Value = self.get(&format!("drills/runs/{run}"), &[]).await?;
        // A report says what was expected; a status does not.
        Ok(if answer.get("expectations").is_some() {
            Run::Report(answer)
        } else {
            Run::Going(answer)
        })
    }

    /// Reads the settings' rule files again; what changed.
    pub async fn reload(&self) -> Result<Vec<String>, ClientError> {
        let url = format!("{}/-/reload", self.base);
        let response =
            self.request(self.http.post(url), Some(&json!({})), Some(CALL_TIMEOUT)).await?;
        let answer: Value = self.body(response).await?;
        self.list(answer, "changed")
    }

    /// Whether it answers and is ready; the text says what it waits for.
    pub async fn ready(&self) -> Result<(), String> {
        let url = format!("{}/health/ready", self.base);
        readiness(&self.http, &url).await
    }

    /// What is at `path` of the operator API.
    pub async fn read<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.get(path, &[]).await
    }

    /// Has the supervisor do what `path` of the operator API stands for, within `limit`.
    pub async fn order<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &Value,
        limit: Duration,
    ) -> Result<T, ClientError> {
        let response = self.send(Method::POST, path, Some(body), Some(limit)).await?;
        self.body(response).await
    }

    /// What the Prometheus API answers under `data`.
    ///
    /// # Errors
    /// If the supervisor cannot be reached or refuses.
    pub async fn prometheus(
        &self,
        path: &str,
        query: &[(&'static str, String)],
    ) -> Result<Value, ClientError> {
        let url = format!("{}/api/v1/{path}", self.base);
        let request = self.http.get(url).query(query).timeout(CALL_TIMEOUT);
        let response = self.accept(request.send().await).await?;
        let mut answer: Value = self.body(response).await?;
        Ok(answer["data"].take())
    }

    async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&'static str, String)],
    ) -> Result<T, ClientError> {
        let request = self.http.get(self.url(path)).query(query).timeout(CALL_TIMEOUT);
        let response = self.accept(request.send().await).await?;
        self.body(response).await
    }

    async fn change<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &Value,
    ) -> Result<T, ClientError> {
        let response = self.send(Method::POST, path, Some(body), Some(CALL_TIMEOUT)).await?;
        self.body(response).await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        timeout: Option<Duration>,
    ) -> Result<Response, ClientError> {
        self.request(self.http.request(method, self.url(path)), body, timeout).await
    }

    async fn request(
        &self,
        mut request: reqwest::RequestBuilder,
        body: Option<&Value>,
        timeout: Option<Duration>,
    ) -> Result<Response, ClientError> {
        let token = self.token.as_ref().ok_or(ClientError::NoToken)?;
        request = request.bearer_auth(token.expose());
        if let Some(body) = body {
            request = request.json(body);
        }
        if let Some(timeout) = timeout {
            request = request.timeout(timeout);
        }
        self.accept(request.send().await).await
    }

    fn url(&self, path: &str) -> String {
        format!("{}/operator/v1/{path}", self.base)
    }

    async fn accept(&self, sent: reqwest::Result<Response>) -> Result<Response, ClientError> {
        let response = sent.map_err(|error| self.unreachable(causes(&error)))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = response.text().await.unwrap_or_default();
        let error = serde_json::from_str::<Value>(&body).ok();
        let said = error.as_ref().and_then(|error| error.get("error")?.as_str());
        let text = said.map_or_else(|| format!("{} answered {status}", self.base), str::to_owned);
        Err(ClientError::Refused { status, text })
    }

    async fn body<T: DeserializeOwned>(&self, response: Response) -> Result<T, ClientError> {
        let text = response.text().await.map_err(|error| self.unreachable(causes(&error)))?;
        self.parse(&text)
    }

    fn parse<T: DeserializeOwned>(&self, text: &str) -> Result<T, ClientError> {
        serde_json::from_str(text).map_err(|error| self.misunderstood(&error.to_string()))
    }

    fn convert<T: DeserializeOwned>(&self, value: Value) -> Result<T, ClientError> {
        serde_json::from_value(value).map_err(|error| self.misunderstood(&error.to_string()))
    }

    /// A list, bare or under `name`.
    fn list<T: DeserializeOwned>(
        &self,
        mut answer: Value,
        name: &str,
    ) -> Result<Vec<T>, ClientError> {
        let list = if answer.is_array() { answer } else { answer[name].take() };
        self.convert(list)
    }

    fn unreachable(&self, cause: String) -> ClientError {
        ClientError::Unreachable { base: self.base.clone(), cause }
    }

    fn misunderstood(&self, cause: &str) -> ClientError {
        ClientError::Answer { base: self.base.clone(), cause: cause.to_owned() }
    }
}

/// The path of an order about the Redis called `name`.
fn redis_path(what: &str, name: Option<&str>) -> String {
    let name =
        name.map(|name| form_urlencoded::byte_serialize(name.as_bytes()).collect::<String>());
    let query = name.map(|name| format!("?name={name}")).unwrap_or_default();
    format!("redis/{what}{query}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::Router;
    use axum::routing::{get, post};

    async fn serve(router: Router) -> Client {
        // Another test may have installed it already.
        let _installed = rustls::crypto::ring::default_provider().install_default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}/", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Client::new(&base, Some(Secret::new("token")))
    }

    #[tokio::test]
    async fn a_backup_yields_its_lines_and_an_error_its_text() {
        let progress = r#"{"progress":{"phase":"snapshot","done_bytes":5,"total_bytes":null}}"#;
        let body = format!("{progress}\n{{\"error\":\"no server could be backed up\"}}\n");
        let client = serve(Router::new().route("/operator/v1/backups", post(async || body))).await;
        let steps: Vec<_> = client.backup().await.unwrap().collect().await;
        assert!(matches!(&steps[0], Ok(BackupStep::Progress(p)) if p.done_bytes == 5), "{steps:?}");
        assert!(matches!(&steps[1], Ok(BackupStep::Error(text)) if text.starts_with("no server")));
        assert_eq!(steps.len(), 2);
    }

    #[tokio::test]
    async fn events_come_from_the_stream_whatever_its_comments() {
        let event = r#"{"id":7,"at":"2026-01-01T00:00:00Z","kind":"canary","severity":"info","subject":"canary","incident":null,"message":"found"}"#;
        let body = format!(": hello\n\nid: 7\ndata: {event}\n\n");
        let client =
            serve(Router::new().route("/operator/v1/events/stream", get(async || body))).await;
        let events: Vec<_> = client.follow(&EventQuery::default()).await.unwrap().collect().await;
        assert_eq!(events.len(), 1);
        assert_eq!(events[0].as_ref().unwrap().id, 7);
    }

    #[tokio::test]
    async fn refusals_carry_the_supervisors_words() {
        let refuse = async || (StatusCode::CONFLICT, r#"{"error":"the guard forbids it"}"#);
        let client = serve(Router::new().route("/operator/v1/servers/a", post(refuse))).await;
        let error = client.set_server("a", None, Some(5), false).await.unwrap_err();
        assert_eq!(error.to_string(), "the guard forbids it");
        let without = Client { token: None, ..client };
        let error = without.abort_drill().await.unwrap_err();
        assert!(matches!(error, ClientError::NoToken));
    }

    #[tokio::test]
    async fn an_unreachable_supervisor_is_named_with_the_cause() {
        let client = serve(Router::new()).await;
        let gone = Client { base: "http://127.0.0.1:1".to_owned(), ..client };
        let error = gone.status().await.unwrap_err().to_string();
        assert!(
            error.starts_with("cannot reach the supervisor at http://127.0.0.1:1: "),
            "{error}"
        );
        assert!(error.contains("refused"), "{error}");
    }
}
