//! HTTP/1.1 from one client: hyper speaks it, [`forward`] answers it, and what is upgraded goes on in [`relay`] in a task of its own, which
//! is smaller than this one by hyper's buffers.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::{Future as _, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use http::{Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::body::ResponseBody;
use super::forward::{self, Failure};
use super::headers::{self, Peer, Refused};
use super::relay::{self, HalfClose, Side};
use super::session::{ClientIo, Phase, Session};
use super::upstream::{Idle, Upgraded};
use super::worker::SessionGuard;
use crate::metrics::{Close, Rejection};
use crate::pool::server::Lease;

/// One client connection that speaks HTTP.
pub(crate) struct Connection {
    pub(crate) session: Rc<Session>,
    pub(crate) idle: Rc<Idle>,
    peer: Peer,
    /// Set when a response has switched protocols.
    upgrade: RefCell<Option<(Upgraded, Lease)>>,
}

/// Serves one client until it or we have had enough.
pub(crate) async fn serve(
    guard: SessionGuard,
    idle: Rc<Idle>,
    stream: TcpStream,
    peer: SocketAddr,
) {
    let session = Rc::clone(guard.session());
    let connection = Rc::new(Connection {
        session: Rc::clone(&session),
        idle,
        peer: Peer::new(peer.ip()),
        upgrade: RefCell::new(None),
    });
    let io = TokioIo::new(ClientIo::new(stream, Rc::clone(&session)));
    let service = {
        let connection = Rc::clone(&connection);
        service_fn(move |request| answer(Rc::clone(&connection), request))
    };
    let mut http = session.listener.settings().http.serve_connection(io, service);
    let mut finishing = false;
    let ended = poll_fn(|cx| {
        if let Some(close) = session.poll_stop(cx) {
            return Poll::Ready(Err(close));
        }
        if session.is_finishing() && !finishing {
            finishing = true;
            Pin::new(&mut http).graceful_shutdown();
        }
        Pin::new(&mut http).poll(cx).map(Ok)
    })
    .await;
    let upgrade = connection.upgrade.borrow_mut().take();
    let close = match (ended, upgrade) {
        (Ok(Ok(())), Some((upgraded, lease))) => {
            let parts = http.into_parts();
            let stream = parts.io.into_inner().into_stream();
            let client = Side { stream, early: parts.read_buf };
            tokio::task::spawn_local(relay_upgraded(guard, client, upgraded, lease));
            return;
        }
        (Ok(Ok(())), None) => Close::Client,
        (Ok(Err(error)), _) => {
            if error.is_parse() {
                session.listener.metrics.reject(Rejection::BadRequest);
            }
            tracing::debug!(%peer, %error, "client connection ended");
            Close::Error
        }
        (Err(close), _) => {
            if close == Close::Timeout && session.phase() == Phase::Head {
                session.listener.metrics.reject(Rejection::HeaderTimeout);
            }
            close
        }
    };
    guard.end(close);
}

async fn relay_upgraded(guard: SessionGuard, client: Side, upgraded: Upgraded, lease: Lease) {
    // The connection's task tells as soon as the head of the response is read, which has happened.
    let Ok((stream, early)) = upgraded.await else { return guard.end(Close::Error) };
    let session = Rc::clone(guard.session());
    session.bind(lease.id());
    let close = relay::run(&session, client, Side { stream, early }, HalfClose::ServerEnds).await;
    drop(lease);
    guard.end(close);
}

impl Connection {
    /// Leaves what follows the response to the relay.
    pub(crate) fn upgrade_to(&self, upgraded: Upgraded, lease: Lease) {
        *self.upgrade.borrow_mut() = Some((upgraded, lease));
    }
}

async fn answer(
    connection: Rc<Connection>,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    let session = &connection.session;
    session.enter(Phase::Waiting);
    let settings = session.listener.settings();
    let (mut head, body) = request.into_parts();
    // hyper's own handle for upgrades, which we do by hand.
    head.extensions.clear();
    let prepared =
        headers::prepare_request(&mut head, &connection.peer, &settings.config.trusted_proxies);
    let response = match prepared {
        Ok(prepared) => forward::forward(&connection, &settings.pool, head, body, &prepared)
            .await
            .unwrap_or_else(failed),
        Err(refused) => refuse(session, refused),
    };
    let metrics = &session.listener.metrics;
    metrics.request(response.status());
    session.enter(match response.body() {
        ResponseBody::Streamed(_) => Phase::Body,
        ResponseBody::Text(_) => Phase::Idle,
    });
    Ok(response)
}

fn refuse(session: &Session, refused: Refused) -> Response<ResponseBody> {
    let (reason, status, text) = match refused {
        Refused::Malformed(text) => (Rejection::BadRequest, StatusCode::BAD_REQUEST, text),
        Refused::Method => {
            (Rejection::Method, StatusCode::METHOD_NOT_ALLOWED, "this method is not forwarded")
        }
    };
    session.listener.metrics.reject(reason);
    closing(plain(status, text))
}

/// What follows on this connection cannot be trusted to begin where we think.
fn closing(mut response: Response<ResponseBody>) -> Response<ResponseBody> {
    response.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("close"));
    response
}

fn failed(failure: Failure) -> Response<ResponseBody> {
    match failure {
        Failure::NoServer => plain(StatusCode::SERVICE_UNAVAILABLE, "no server is available\n"),
        Failure::Connect => plain(StatusCode::BAD_GATEWAY, "no server could be reached\n"),
        Failure::NoResponse => plain(StatusCode::BAD_GATEWAY, "the server gave no response\n"),
        Failure::Timeout => plain(StatusCode::GATEWAY_TIMEOUT, "the server took too long\n"),
        Failure::Client => plain(StatusCode::BAD_REQUEST, "the request ended early\n"),
        Failure::ClientTimeout => {
            closing(plain(StatusCode::REQUEST_TIMEOUT, "the request did not arrive in time\n"))
        }
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::text(text));
    *response.status_mut() = status;
    let value = header::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, value);
    response
}
