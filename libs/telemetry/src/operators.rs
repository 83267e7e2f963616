//! Serves the listener that operators, scrapers and other programs use: bounded in connections and in time.
//!
//! Whoever reaches such a port may open connections and say nothing, send a request letter by letter, or never read the answer.
//! `axum::serve` waits for ever for each of them, so some thousand would take every file descriptor of the process, and with them its own
//! connections to Redis and to servers: a port that only shows figures would decide whether a primary counts as dead. Here each thing
//! a client does has its time, and when the port is full the oldest connection without a request in progress makes room, so an
//! operator who comes last gets in. Rejected: turning newcomers away when it is full, which gives the port to whoever came first; a
//! limit per address, since behind a proxy all operators have the same one.
//!
//! A client that does not read is seen by the kernel alone: [`close_stalled`] has it end such connections.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::ConnectInfo;
use axum::http::{Request, Response};
use axum::serve::Listener;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use prometheus::{IntCounter, Registry};
use socket2::SockRef;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Sleep, sleep};
use tokio_util::sync::CancellationToken;

use crate::metrics::counter;

/// More than all scrapers, supervisors, command lines and browsers of an installation keep open, and few beside the 1,024 file
/// descriptors a process has at least.
const CONNECTIONS_MAX: usize = 256;
/// Longer than the minute between the scrapes of a slow scraper, which keeps its connection.
const IDLE_MAX: Duration = Duration::from_secs(75);
/// Bodies are small, but for remote write and imports, which come from near.
const BODY_MAX: Duration = Duration::from_secs(30);
/// A client that takes nothing in for this long is gone, or means harm.
const STALL_MAX: Duration = Duration::from_secs(30);

/// What clients of the listener may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at a time.
    pub connections_max: usize,
    /// From the beginning of a connection, or the end of a request, until the next request's head is there.
    pub idle_max: Duration,
    /// From the head of a request to the end of its body.
    pub body_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections_max: CONNECTIONS_MAX, idle_max: IDLE_MAX, body_max: BODY_MAX }
    }
}

/// Has the kernel end connections accepted from now on whose client takes nothing in for half a minute.
///
/// # Errors
/// The socket does not know the option: it is not TCP.
pub fn close_stalled(listener: &impl AsFd) -> io::Result<()> {
    close_stalled_after(listener, STALL_MAX)
}

/// [`close_stalled`] after another time.
///
/// # Errors
/// As there.
pub fn close_stalled_after(listener: &impl AsFd, time: Duration) -> io::Result<()> {
    SockRef::from(listener).set_tcp_user_timeout(Some(time))
}

/// The server of one listener.
#[derive(Debug)]
pub struct OperatorServer {
    limits: Limits,
    crowded_out: IntCounter,
}

impl OperatorServer {
    /// Counts under the prefix of `program`: `supervisor`, `balancer` or `chatnode`.
    ///
    /// # Panics
    /// There is one in this registry already.
    pub fn new(registry: &Registry, program: &str, limits: Limits) -> Self {
        let name = format!("{program}_operator_connections_crowded_out_total");
        let help = "Connections to the operators' listener closed for want of room";
        Self { limits, crowded_out: counter(registry, &name, help) }
    }

    /// Serves `router` until `shutdown`, then ends requests in progress. Handlers find the client's address as [`ConnectInfo`].
    pub async fn serve<L>(
        self,
        mut listener: L,
        router: Router,
        shutdown: impl Future<Output = ()> + Send,
    ) where
        L: Listener,
        L::Addr: Clone + Sync + 'static,
    {
        let (mut shutdown, stop) = (pin!(shutdown), CancellationToken::new());
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(self.limits.idle_max);
        let mut connections = JoinSet::new();
        let mut seats = VecDeque::new();
        loop {
            let (io, peer) = tokio::select! {
                () = &mut shutdown => break,
                Some(ended) = connections.join_next() => {
                    leave(&mut seats);
                    if let Err(error) = ended && error.is_panic() {
                        tracing::error!(%error, "a request to the operators' listener panicked");
                    }
                    continue;
                }
                accepted = listener.accept() => accepted,
            };
            if !self.has_room(&mut seats) {
                continue;
            }
            let occupancy = Arc::new(Occupancy::default());
            let connection = Connection {
                peer,
                router: TowerToHyperService::new(router.clone()),
                occupancy: Arc::clone(&occupancy),
                body_max: self.limits.body_max,
            };
            let task = connections.spawn(connection.serve(io, http.clone(), stop.clone()));
            seats.push_back(Seat { occupancy, task });
        }
        drop(listener);
        stop.cancel();
        while connections.join_next().await.is_some() {}
    }

    /// Whether one more may come; somebody may have to go for it.
    fn has_room(&self, seats: &mut VecDeque<Seat>) -> bool {
        if seats.len() < self.limits.connections_max {
            return true;
        }
        leave(seats);
        if seats.len() < self.limits.connections_max {
            return true;
        }
        self.crowded_out.inc();
        let Some(idle) = seats.iter().position(|seat| seat.occupancy.vacate()) else {
            return false;
        };
        if let Some(seat) = seats.remove(idle) {
            seat.task.abort();
        }
        true
    }
}

/// A connection as the accept loop knows it.
struct Seat {
    occupancy: Arc<Occupancy>,
    task: AbortHandle,
}

/// Forgets the connections that have ended, and lets go of their memory.
fn leave(seats: &mut VecDeque<Seat>) {
    seats.retain(|seat| !seat.task.is_finished());
}

/// How many requests of a connection are in progress, their answers' bodies included; [`VACATED`] when it is to end.
#[derive(Default)]
struct Occupancy(AtomicUsize);

const VACATED: usize = usize::MAX;

impl Occupancy {
    /// Gives the place up, if nothing is in progress.
    fn vacate(&self) -> bool {
        self.0.compare_exchange(0, VACATED, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Begins a request; `None` if it comes too late.
    fn enter(self: &Arc<Self>) -> Option<InProgress> {
        let entered = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, |requests| {
            (requests != VACATED).then_some(requests + 1)
        });
        entered.ok().map(|_| InProgress(Arc::clone(self)))
    }
}

/// A request in progress, until it is dropped.
struct InProgress(Arc<Occupancy>);

impl Drop for InProgress {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::AcqRel);
    }
}

struct Connection<A> {
    peer: A,
    router: TowerToHyperService<Router>,
    occupancy: Arc<Occupancy>,
    body_max: Duration,
}

impl<A: Clone + Send + Sync + 'static> Connection<A> {
    async fn serve<I>(self, io: I, http: http1::Builder, shutdown: CancellationToken)
    where
        I: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let service = service_fn(|request| self.answer(request));
        let mut serving = pin!(http.serve_connection(TokioIo::new(io), service));
        let ended = tokio::select! {
            ended = serving.as_mut() => ended,
            () = shutdown.cancelled() => {
                serving.as_mut().graceful_shutdown();
                serving.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection to the operators' listener ended");
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> io::Result<Response<Body>> {
        let in_progress = self.occupancy.enter().ok_or(io::ErrorKind::ConnectionAborted)?;
        let mut request = request.map(|body| {
            if body.is_end_stream() {
                return Body::empty();
            }
            Body::new(Timely { body, end: Box::pin(sleep(self.body_max)) })
        });
        request.extensions_mut().insert(ConnectInfo(self.peer.clone()));
        let Ok(response) = self.router.call(request).await;
        Ok(response.map(|body| Body::new(Answer { body, _in_progress: in_progress })))
    }
}

/// The body of a request, which has to be there in time.
struct Timely {
    body: Incoming,
    end: Pin<Box<Sleep>>,
}

impl HttpBody for Timely {
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.end.as_mut().poll(context).is_ready() {
            return Poll::Ready(Some(Err(io::Error::from(io::ErrorKind::TimedOut).into())));
        }
        let frame = Pin::new(&mut self.body).poll_frame(context);
        frame.map(|frame| frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of an answer; the request is in progress until it has been sent.
struct Answer {
    body: Body,
    _in_progress: InProgress,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
