//! Answers that go on: the event stream (server-sent events) and a backup with its progress (one JSON object per line).
//!
//! A listener of events that lags reads what it missed from the journal, so it gets every event exactly once and in order, however slow
//! it is. Nothing is buffered for it beyond one page of the journal.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body as HttpBody;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::sse::{Event as SseEvent, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, broadcast, mpsc};

use super::operator::NoBody;
use super::reply::{Body, Failure, Operator, Params};
use super::{Handle, STREAMS_MAX};
use crate::control::{BackupProgress, BackupReport, ControlError, TakeBackup, ask};
use crate::record::{Event, Filter, LIMIT_MAX};

/// A comment is sent this often when nothing happens, so that proxies keep the connection.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Steps of progress that may wait for a slow reader.
const PROGRESS_MAX: usize = 16;

struct Listener {
    shared: Handle,
    filter: Filter,
    /// Everything up to here was sent or is not wanted.
    last: u64,
    live: broadcast::Receiver<Arc<Event>>,
    ready: VecDeque<Event>,
    /// The journal may have events after `last` that `live` will not bring.
    behind: bool,
    _permit: OwnedSemaphorePermit,
}

/// Events since `since_id` (or the `Last-Event-ID` header), then as they happen; without either only the latter.
pub(super) async fn events(
    State(shared): State<Handle>,
    headers: HeaderMap,
    Params(mut filter): Params<Filter>,
) -> Result<Response, Failure> {
    let permit = Arc::clone(&shared.streams).try_acquire_owned().map_err(|_| {
        let text = format!("{STREAMS_MAX} event streams are open already");
        Failure::new(StatusCode::SERVICE_UNAVAILABLE, text)
    })?;
    let resumed = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok());
    let since = resumed.or(filter.since_id);
    // Subscribed before the journal is read: an event in between comes twice, and the second time its id is not new.
    let live = shared.api.journal.subscribe();
    filter.limit = LIMIT_MAX;
    let listener = Listener {
        filter,
        last: since.unwrap_or_else(|| shared.api.journal.last_id()),
        live,
        ready: VecDeque::new(),
        behind: since.is_some(),
        _permit: permit,
        shared,
    };
    let events = stream::unfold(listener, |mut listener| async {
        let event = listener.next().await?;
        let data = serde_json::to_string(&event).expect("an event has string keys");
        let message = SseEvent::default().id(event.id.to_string()).data(data);
        Some((Ok::<_, Infallible>(message), listener))
    });
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
    Ok(Sse::new(events).keep_alive(keep_alive).into_response())
}

impl Listener {
    /// The next event; `None` once the supervisor is ending.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                self.last = event.id;
                return Some(event);
            }
            if self.behind {
                self.catch_up().await;
                continue;
            }
            let shutdown = self.shared.api.shutdown.clone();
            let received = tokio::select! {
                () = shutdown.cancelled() => return None,
                received = self.live.recv() => received,
            };
            match received {
                Ok(event) if event.id <= self.last => {}
                Ok(event) if self.filter.matches(&event) => {
                    self.ready.push_back(Event::clone(&event));
                }
                Ok(event) => self.last = event.id,
                Err(broadcast::error::RecvError::Lagged(_)) => self.behind = true,
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }

    async fn catch_up(&mut self) {
        let filter = Filter { since_id: Some(self.last), ..self.filter.clone() };
        let page = self.shared.journal(move |journal| journal.events(&filter)).await;
        self.behind = page.len() == LIMIT_MAX;
        self.ready.extend(page);
    }
}

type Answer = Pin<Box<dyn Future<Output = Result<BackupReport, ControlError>> + Send>>;

struct Running {
    progress: mpsc::Receiver<BackupProgress>,
    answer: Answer,
    is_over: bool,
}

/// Takes a backup: lines of `{"progress":…}`, at the end one of `{"result":…}` or `{"error":…}`.
pub(super) async fn backup(
    State(shared): State<Handle>,
    operator: Operator,
    Body(NoBody {}): Body<NoBody>,
) -> Result<Response, Failure> {
    let (sender, progress) = mpsc::channel(PROGRESS_MAX);
    let answer: Answer = Box::pin(async move {
        let command = |reply| TakeBackup { by: operator.by, progress: Some(sender), reply };
        ask("backup", shared.api.control.backup.as_ref(), command).await
    });
    let mut running = Running { progress, answer, is_over: false };
    // A backup that does not even begin is answered with a status of its own.
    let first = match running.next().await {
        Step::Over(Err(error)) => return Err(error.into()),
        step => step.line(),
    };
    let lines = stream::unfold((Some(first), running), |(first, mut running)| async {
        let line = match first {
            Some(line) => line,
            None if running.is_over => return None,
            None => running.next().await.line(),
        };
        Some((Ok::<_, Infallible>(line), (None, running)))
    });
    let content_type = [(header::CONTENT_TYPE, "application/x-ndjson")];
    Ok((content_type, HttpBody::from_stream(lines)).into_response())
}

enum Step {
    Progress(BackupProgress),
    Over(Result<BackupReport, ControlError>),
}

impl Running {
    async fn next(&mut self) -> Step {
        tokio::select! {
            biased;
            Some(progress) = self.progress.recv() => Step::Progress(progress),
            result = &mut self.answer => {
                self.is_over = true;
                Step::Over(result)
            }
        }
    }
}

impl Step {
    fn line(self) -> Bytes {
        let value: Value = match self {
            Self::Progress(progress) => json!({ "progress": progress }),
            Self::Over(Ok(report)) => json!({ "result": report }),
            Self::Over(Err(error)) => json!({ "error": error.to_string() }),
        };
        format!("{value}\n").into()
    }
}
