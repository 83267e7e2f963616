//! A failover explained: the event, the command line, the incident's page and the trace say the same.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::routing::post;
use holdfast_supervisor::record::{Account, Event};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;

use crate::cluster::{Server, servers};
use crate::support::supervisor::Supervisor;
use crate::support::until;

type Spans = Arc<Mutex<Vec<Span>>>;

/// An OpenTelemetry collector that keeps what it gets; ends with the test's runtime.
async fn collector() -> (String, Spans) {
    async fn take(State(spans): State<Spans>, body: Bytes) {
        let request = ExportTraceServiceRequest::decode(body).unwrap();
        let scopes = request.resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
        spans.lock().unwrap().extend(scopes.flat_map(|scope| scope.spans));
    }
    let spans = Spans::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().route("/v1/traces", post(take)).with_state(Arc::clone(&spans));
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    (endpoint, spans)
}

async fn events(supervisor: &Supervisor, kind: &str) -> Vec<Event> {
    let text = supervisor.get(&format!("/operator/v1/events?kind={kind}")).await;
    let mut answer: serde_json::Value = serde_json::from_str(&text).unwrap();
    serde_json::from_value(answer["events"].take()).unwrap()
}

fn number(span: &Span, key: &str) -> Option<f64> {
    let attribute = span.attributes.iter().find(|attribute| attribute.key == key)?;
    match attribute.value.as_ref()?.value.as_ref()? {
        Value::DoubleValue(number) => Some(*number),
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        Value::IntValue(number) => Some(*number as f64),
        _ => None,
    }
}

/// Nanoseconds are what spans are told in.
fn same(span: &Span, seconds: f64) -> bool {
    let took = span.end_time_unix_nano - span.start_time_unix_nano;
    took.abs_diff(std::time::Duration::from_secs_f64(seconds).as_nanos().try_into().unwrap()) <= 1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn event_command_line_page_and_trace_tell_the_same() {
    let servers = servers().await;
    let (endpoint, spans) = collector().await;
    let folder = tempfile::tempdir().unwrap();
    let addresses: Vec<_> =
        servers.iter().flatten().map(|server| format!("\"{}\"", server.address())).collect();
    let settings = format!(
        "[traces]\notlp_endpoint = \"{endpoint}\"\n[redis]\nservers = [{}]\n",
        addresses.join(", ")
    );
    let supervisor = Supervisor::start(folder.path(), &settings).await;
    until("a candidate is known", async || {
        supervisor.metric("supervisor_redis_has_candidate").await == Some(1.0)
    })
    .await;
    let old: &Server = servers[0].as_ref().unwrap();
    old.signal("KILL");
    until("the failover is recorded", async || {
        !events(&supervisor, "failover_done").await.is_empty()
    })
    .await;
    let event = events(&supervisor, "failover_done").await.remove(0);
    let account = Account::of(&event).unwrap();
    assert_eq!(account.from, old.address());
    let names: Vec<_> = account.steps.iter().map(|step| step.step.as_str()).collect();
    let order = [
        "detected",
        "drained",
        "elected",
        "detached",
        "fenced",
        "promoted",
        "told",
        "repointed",
        "verified",
        "confirmed",
    ];
    assert_eq!(names.into_iter().filter(|name| *name != "committed").collect::<Vec<_>>(), order);
    for pair in account.steps.windows(2) {
        let end = pair[0].at_seconds + pair[0].seconds;
        assert!((end - pair[1].at_seconds).abs() < 1e-6, "steps follow each other: {pair:?}");
    }
    assert!(account.seen.iter().any(|seen| seen.text.contains("refuse")), "{account:#?}");
    assert!(account.seen.iter().any(|seen| seen.by.starts_with("replica ")), "{account:#?}");

    // One trace: a span for the whole and one for each step, with the same figures.
    let trace = account.trace.clone().unwrap();
    let of_trace = || -> Vec<Span> {
        let trace = u128::from_str_radix(&trace, 16).unwrap().to_be_bytes();
        let spans = spans.lock().unwrap();
        spans.iter().filter(|span| span.trace_id == trace).cloned().collect()
    };
    until("the trace is exported", async || of_trace().len() == account.steps.len() + 1).await;
    let spans = of_trace();
    let root = spans.iter().find(|span| span.parent_span_id.is_empty()).unwrap();
    assert_eq!(root.name, "redis failover");
    assert_eq!(number(root, "seconds"), account.seconds);
    let (begin, end) = account.span();
    assert!(same(root, end - begin), "{root:?}");
    for step in &account.steps {
        let span = spans.iter().find(|span| span.name == step.step).unwrap();
        assert_eq!(span.parent_span_id, root.span_id, "{span:?}");
        assert_eq!(number(span, "seconds"), Some(step.seconds), "{span:?}");
        assert!(same(span, step.seconds), "{span:?} {step:?}");
    }

    // The same on the command line, from any event of it, and on the page.
    let step = events(&supervisor, "failover_step").await.remove(0);
    for id in [event.id, step.id] {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_holdfast"))
            .args(["events", "show", &id.to_string(), "--server", &supervisor.base])
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        for part in
            ["What was seen", "What was held back", "What was lost", "has not come back", &trace]
        {
            assert!(text.contains(part), "no {part:?} in {text}");
        }
        let line = text.lines().find(|line| line.contains(" promoted ")).unwrap();
        assert!(line.contains('█') && line.contains(" ms"), "{line}");
    }
    for path in [format!("/incidents/{}", event.incident.unwrap()), format!("/events/{}", event.id)]
    {
        let page = supervisor.get(&path).await;
        for part in ["What was held back", "<rect x=", "has not come back", &trace] {
            assert!(page.contains(part), "no {part:?} at {path}: {page}");
        }
    }
    let status = supervisor.get("/").await;
    assert!(status.contains(&format!("href=\"/events/{}\"", event.id)), "{status}");
    for step in &account.steps {
        let line = format!(
            "supervisor_redis_failover_step_seconds_count{{redis=\"main\",step=\"{}\"}} 1",
            step.step
        );
        until(&line, async || supervisor.get("/metrics").await.contains(&line)).await;
    }
}
