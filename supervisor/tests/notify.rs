//! Alerts reach a real SMTP server and a real HTTP receiver.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use axum::{Json, Router};
use chrono::Utc;
use holdfast_settings::Secret;
use holdfast_supervisor::cluster::{Address, AlertState, AlertStatus};
use holdfast_supervisor::config::{Email, Notify, SmtpTls, Webhook};
use holdfast_supervisor::record::{Draft, Filter, Journal, Kind, Retention, Severity};
use holdfast_supervisor::tell::{AlertNotice, Notifier, Sender};
use holdfast_telemetry::{Registry, metrics};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(30);

fn alert(server: &str, state: AlertState) -> AlertNotice {
    let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    let labels = [("alertname", "NodeDown"), ("severity", "critical"), ("server", server)];
    let alert = AlertStatus {
        name: "NodeDown".to_owned(),
        state,
        labels: labels.map(owned).into(),
        annotations: BTreeMap::from([owned(("summary", &format!("{server} is down")))]),
        active_at: Utc::now(),
        fired_at: Some(Utc::now()),
        resolved_at: None,
        value: 0.0,
    };
    AlertNotice { alert }
}

/// Waits until `found` finds something.
async fn until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = found() {
            return value;
        }
        assert!(Instant::now() < deadline, "no {what} within {PATIENCE:?}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// A notifier at work, ended with the test.
struct Telling {
    notices: mpsc::Sender<AlertNotice>,
    journal: Arc<Journal>,
    registry: Registry,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<()>,
    _dir: tempfile::TempDir,
}

impl Telling {
    fn start(email: Option<Email>, webhooks: Vec<Webhook>) -> Self {
        // Another test of this process may have installed it already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = tempfile::tempdir().unwrap();
        let journal =
            Journal::open(&dir.path().join("journal.redb"), Retention::default()).unwrap();
        let journal = Arc::new(journal);
        let registry = Registry::new();
        let settings = Notify {
            // Longer than any test takes from one notice to the next.
            group_wait: Duration::from_secs(1),
            repeat_interval: Duration::from_hours(4),
            email,
            webhooks,
        };
        let sender = Sender {
            name: "supervisor-1".to_owned(),
            external_url: "http://holdfast.example".to_owned(),
        };
        let (notifier, notices) =
            Notifier::new(&settings, sender, Arc::clone(&journal), &registry).unwrap();
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(notifier.run(shutdown.clone()));
        Self { notices, journal, registry, shutdown, task, _dir: dir }
    }

    async fn tell(&self, server: &str, state: AlertState) {
        self.notices.send(alert(server, state)).await.unwrap();
    }

    fn count(&self, channel: &str, result: &str) -> u64 {
        let text = metrics::encode(&self.registry);
        let name =
            format!("supervisor_notifications_total{{channel=\"{channel}\",result=\"{result}\"}} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&name)).unwrap();
        line.parse().unwrap()
    }

    async fn until_counted(&self, channel: &str, result: &str, count: u64) {
        let what = format!("{count} times {channel} {result}");
        until(&what, || (self.count(channel, result) >= count).then_some(())).await;
    }

    fn failures(&self) -> Vec<String> {
        let filter = Filter { kind: Some(Kind::NotificationFailed), ..Filter::default() };
        self.journal.events(&filter).into_iter().map(|event| event.message).collect()
    }

    async fn end(self) {
        self.shutdown.cancel();
        tokio::time::timeout(PATIENCE, self.task).await.unwrap().unwrap();
    }
}

/// A mail server that prints what it gets. Started from the test's own thread, so that it dies with the test.
struct MailServer {
    process: Child,
    address: Address,
    printed: Arc<Mutex<String>>,
}

impl MailServer {
    async fn start() -> Self {
        let port = holdfast_ports::take().unwrap();
        let address = format!("127.0.0.1:{port}");
        let mut process = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "/usr/bin/python3", "-u", "-m", "aiosmtpd", "-n"])
            .args(["-l", &address, "-c", "aiosmtpd.handlers.Debugging", "stdout"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let printed = Arc::new(Mutex::new(String::new()));
        let sink = Arc::clone(&printed);
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let mut sink = sink.lock().unwrap();
                sink.push_str(&line);
                sink.push('\n');
            }
        });
        until("mail server", || TcpStream::connect(&address).ok()).await;
        Self { process, address: address.parse().unwrap(), printed }
    }

    /// The mails so far, their line wraps undone.
    fn mails(&self) -> Vec<String> {
        let printed = self.printed.lock().unwrap().replace("=\n", "");
        let mails = printed.split("---------- MESSAGE FOLLOWS ----------").skip(1);
        mails.filter(|mail| mail.contains("END MESSAGE")).map(str::to_owned).collect()
    }

    fn email(&self, tls: SmtpTls) -> Email {
        Email {
            smtp: self.address.clone(),
            tls,
            from: "Holdfast <holdfast@example.org>".to_owned(),
            to: vec!["ops@example.org".to_owned(), "Boss <boss@example.org>".to_owned()],
            login: None,
        }
    }
}

impl Drop for MailServer {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is gone.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test]
async fn alerts_arrive_by_mail_together_and_their_end_too() {
    let server = MailServer::start().await;
    let telling = Telling::start(Some(server.email(SmtpTls::None)), Vec::new());
    let draft = |kind, text: &str| Draft::new(kind, Severity::Warning, "chatnode-1", text);
    telling
        .journal
        .append(draft(Kind::AlertFiring, "NodeDown fires").opens("NodeDown"), Utc::now());
    let action = draft(Kind::ActionTaken, "Took chatnode-1 out of the pool");
    telling.journal.append(action.because("it refuses connections"), Utc::now());

    telling.tell("chatnode-1", AlertState::Firing).await;
    telling.tell("chatnode-2", AlertState::Firing).await;
    let mails = until("mail", || Some(server.mails()).filter(|mails| !mails.is_empty())).await;
    assert_eq!(mails.len(), 1, "{mails:#?}");
    for text in [
        "Subject: [FIRING:2] NodeDown (chatnode-1, chatnode-2)",
        "ops@example.org",
        "boss@example.org",
        "multipart/alternative",
        "text/plain",
        "text/html",
        "chatnode-2 is down",
        "Took chatnode-1 out of the pool",
        "because it refuses connections",
        "http://holdfast.example/incidents/1",
    ] {
        assert!(mails[0].contains(text), "{text} in {}", mails[0]);
    }

    telling.tell("chatnode-1", AlertState::Resolved).await;
    telling.tell("chatnode-2", AlertState::Resolved).await;
    let mails = until("second mail", || Some(server.mails()).filter(|mails| mails.len() > 1)).await;
    assert!(
        mails[1].contains("Subject: [RESOLVED] NodeDown (chatnode-1, chatnode-2)"),
        "{}",
        mails[1]
    );
    telling.until_counted("email", "sent", 2).await;
    assert_eq!(telling.failures(), Vec::<String>::new());
    telling.end().await;
}

#[tokio::test]
async fn a_mail_is_never_sent_in_the_clear_when_tls_is_asked_for() {
    let server = MailServer::start().await;
    let telling = Telling::start(Some(server.email(SmtpTls::Starttls)), Vec::new());
    telling.tell("chatnode-1", AlertState::Firing).await;
    telling.until_counted("email", "failed", 1).await;
    assert!(server.mails().is_empty());
    let failures =
        until("failure", || Some(telling.failures()).filter(|list| !list.is_empty())).await;
    assert!(
        failures[0].starts_with("Not told by email: NodeDown (firing): send mail through"),
        "{failures:?}"
    );
    assert_eq!(telling.journal.incidents(true, 10)[0].subject, "notify/email");
    telling.end().await;
}

/// The authorization header and the body.
type Got = (Option<String>, Value);

/// What a receiver got and how it answers.
#[derive(Clone)]
struct Receiver {
    /// Answers to come; then 200.
    answers: Arc<Mutex<Vec<StatusCode>>>,
    got: Arc<Mutex<Vec<Got>>>,
}

impl Receiver {
    /// Starts it; answers in this order.
    async fn start(answers: &[StatusCode]) -> (Self, String) {
        let mut answers = answers.to_vec();
        answers.reverse();
        let receiver =
            Self { answers: Arc::new(Mutex::new(answers)), got: Arc::new(Mutex::new(Vec::new())) };
        let app = Router::new().route("/hook", post(receive)).with_state(receiver.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook?secret=s3cret", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        (receiver, url)
    }

    fn count(&self) -> usize {
        self.got.lock().unwrap().len()
    }
}

async fn receive(
    State(receiver): State<Receiver>,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> StatusCode {
    let token = headers.get("authorization").map(|value| value.to_str().unwrap().to_owned());
    receiver.got.lock().unwrap().push((token, body));
    receiver.answers.lock().unwrap().pop().unwrap_or(StatusCode::OK)
}

fn webhook(url: &str, retries_max: u32) -> Webhook {
    Webhook {
        url: url.to_owned(),
        bearer_token: Some(Secret::new("t0ken")),
        timeout: PATIENCE,
        retries_max,
    }
}

#[tokio::test]
async fn a_webhook_that_fails_twice_gets_the_alert_the_third_time() {
    let busy = StatusCode::SERVICE_UNAVAILABLE;
    let (receiver, url) = Receiver::start(&[busy, busy]).await;
    let telling = Telling::start(None, vec![webhook(&url, 5)]);
    telling.tell("chatnode-1", AlertState::Firing).await;
    telling.until_counted("webhook", "sent", 1).await;
    let got = receiver.got.lock().unwrap().clone();
    assert_eq!(got.len(), 3);
    let (token, body) = &got[2];
    assert_eq!(token.as_deref(), Some("Bearer t0ken"));
    assert_eq!((&body["version"], &body["status"]), (&"4".into(), &"firing".into()));
    assert_eq!(body["alerts"][0]["labels"]["server"], "chatnode-1");
    assert_eq!(telling.count("webhook", "failed"), 0);
    telling.end().await;
}

#[tokio::test]
async fn a_dead_receiver_delays_nobody_else_and_is_recorded_without_its_secrets() {
    let (_, refusing_url) = Receiver::start(&[StatusCode::UNAUTHORIZED; 9]).await;
    let (receiver, url) = Receiver::start(&[]).await;
    // Accepts connections and never answers.
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent_url = format!("http://{}/hook?secret=s3cret", mute.local_addr().unwrap());
    // Given up often enough to be seen not to be in the way, and not so often that it is told as a failure too.
    let silent = Webhook { timeout: Duration::from_secs(5), ..webhook(&silent_url, 5) };
    let hooks = [silent, webhook(&refusing_url, 5), webhook(&url, 5)];
    let telling = Telling::start(None, hooks.into());
    telling.tell("chatnode-1", AlertState::Firing).await;
    until("delivery", || (receiver.count() == 1).then_some(())).await;
    telling.until_counted("webhook", "failed", 1).await;
    let failures =
        until("failure", || Some(telling.failures()).filter(|list| !list.is_empty())).await;
    assert_eq!(failures.len(), 1, "{failures:?}");
    assert!(failures[0].contains("401") && !failures[0].contains("s3cret"), "{failures:?}");
    telling.shutdown.cancel();
    telling.end().await;
}

#[tokio::test]
async fn what_waits_for_its_group_is_told_before_the_end() {
    let (receiver, url) = Receiver::start(&[]).await;
    let telling = Telling::start(None, vec![webhook(&url, 0)]);
    telling.tell("chatnode-1", AlertState::Firing).await;
    telling.end().await;
    assert_eq!(receiver.count(), 1);
}

#[tokio::test]
async fn a_channel_that_delivers_again_closes_its_incident() {
    let (_receiver, url) = Receiver::start(&[StatusCode::BAD_REQUEST]).await;
    let telling = Telling::start(None, vec![webhook(&url, 5)]);
    telling.tell("chatnode-1", AlertState::Firing).await;
    telling.until_counted("webhook", "failed", 1).await;
    until("incident", || telling.journal.incidents(true, 10).into_iter().next()).await;
    telling.tell("chatnode-1", AlertState::Resolved).await;
    telling.until_counted("webhook", "sent", 1).await;
    until("end of the incident", || telling.journal.incidents(true, 10).is_empty().then_some(()))
        .await;
    telling.end().await;
}
