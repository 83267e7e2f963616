//! One request to one server, or to the next one.
//!
//! A request goes on to another server where that cannot do harm: when no connection could be made nothing was sent, so any request may
//! go on; when the connection broke before a response, only a request that may be repeated (RFC 9110 9.2.2: idempotent) and has no body
//! that is already gone. A kept connection that turns out closed says nothing about the server: the same one is asked again, afresh.

use http::{Method, Request, Response, StatusCode, Version, request};
use hyper::body::{Body as _, Incoming};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use super::body::{RequestBody, ResponseBody};
use super::headers::{self, Prepared};
use super::http::Connection;
use super::upstream::{self, GiveBack, Sender, Upgraded};
use crate::config::PoolRules;
use crate::metrics::PoolError;
use crate::pool::balance;
use crate::pool::server::Lease;
use crate::pool::{Pool, Tried};

/// Why there is no response to pass on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// No server may take requests.
    NoServer,
    /// None of those tried could be connected to.
    Connect,
    /// The server closed without a response.
    NoResponse,
    /// The server took too long.
    Timeout,
    /// The client's own body broke.
    Client,
    /// The client stopped sending in the middle of its body.
    ClientTimeout,
}

/// A way to a server.
struct Way {
    sender: Sender,
    /// It has served a request before and may have been closed since.
    reused: bool,
    upgraded: Option<Upgraded>,
}

/// How one attempt ended.
enum Attempt {
    Response(Response<Incoming>, Sender, Option<Upgraded>),
    /// Nothing was sent; here is the request.
    NotSent(Request<RequestBody>, bool),
    Broken {
        reused: bool,
    },
    ClientBroken,
    ClientTimedOut,
    TimedOut,
}

/// The hash by which a client's server is chosen where its address decides.
pub(crate) fn source(client: IpAddr) -> u64 {
    match client {
        IpAddr::V4(address) => balance::hash(&address.octets()),
        IpAddr::V6(address) => balance::hash(&address.octets()),
    }
}

/// Connects to a server of the pool, to another one if that fails.
pub(crate) async fn connect(
    pool: &Arc<Pool>,
    rules: &PoolRules,
    source: u64,
    tried: &mut Tried,
) -> Result<(TcpStream, Lease), Failure> {
    loop {
        let lease = pick(pool, source, tried)?;
        match upstream::connect(&lease, rules.connect_timeout).await {
            Ok(stream) => return Ok((stream, lease)),
            Err(error) => fail(pool, &lease, tried, &error),
        }
    }
}

/// Passes a request on and returns the response, its body still on the way.
pub(crate) async fn forward(
    connection: &Connection,
    pool: &Arc<Pool>,
    head: request::Parts,
    body: Incoming,
    prepared: &Prepared,
) -> Result<Response<ResponseBody>, Failure> {
    let outcome = attempts(connection, pool, head, body, prepared).await;
    match outcome {
        Err(Failure::NoServer) => pool.metrics.error(PoolError::NoServer),
        Err(Failure::Connect) => pool.metrics.error(PoolError::Connect),
        Err(Failure::NoResponse) => pool.metrics.error(PoolError::NoResponse),
        Err(Failure::Timeout) => pool.metrics.error(PoolError::Timeout),
        Err(Failure::Client | Failure::ClientTimeout) | Ok(_) => {}
    }
    outcome
}

async fn attempts(
    connection: &Connection,
    pool: &Arc<Pool>,
    head: request::Parts,
    body: Incoming,
    prepared: &Prepared,
) -> Result<Response<ResponseBody>, Failure> {
    let rules = pool.rules();
    let source = source(prepared.client);
    let repeatable = body.is_end_stream() && is_idempotent(&head.method);
    let spare = repeatable.then(|| head.clone());
    let again = || spare.clone().map(|head| Request::from_parts(head, RequestBody::Empty));
    connection.session.await_client(false);
    let streamed = |body| RequestBody::Streamed(body, Rc::clone(&connection.session));
    let body = if repeatable { RequestBody::Empty } else { streamed(body) };
    let mut request = Request::from_parts(head, body);
    let mut tried = Tried::default();
    // Once a kept connection has failed us, the others of its age are not asked.
    let mut fresh = prepared.upgrade;
    let mut lease = pick(pool, source, &tried)?;
    loop {
        let way = match find_way(connection, &lease, &rules, prepared.upgrade, fresh).await {
            Ok(way) => way,
            Err(error) => {
                fail(pool, &lease, &mut tried, &error);
                lease = pick(pool, source, &tried)?;
                continue;
            }
        };
        match send(connection, &lease, way, request, &rules).await {
            Attempt::Response(response, sender, upgraded) => {
                pool.handle_success(&lease);
                lease.metrics.response(response.status());
                let way = (sender, upgraded);
                return finish(connection, lease, response, way, prepared.upgrade);
            }
            Attempt::NotSent(unsent, reused) => {
                request = unsent;
                fresh = true;
                if !reused {
                    fail(pool, &lease, &mut tried, &"closed at once");
                    lease = pick(pool, source, &tried)?;
                }
            }
            Attempt::Broken { reused } => {
                let repeated = again();
                if !reused {
                    fail(pool, &lease, &mut tried, &"closed without a response");
                }
                request = repeated.ok_or(Failure::NoResponse)?;
                fresh = true;
                if !reused {
                    lease = pick(pool, source, &tried).map_err(|_| Failure::NoResponse)?;
                }
            }
            Attempt::ClientBroken => return Err(Failure::Client),
            // The server waits as we do, so its silence says nothing about it.
            Attempt::ClientTimedOut => return Err(Failure::ClientTimeout),
            Attempt::TimedOut => {
                pool.handle_failure(&lease);
                return Err(Failure::Timeout);
            }
        }
    }
}

/// A kept connection, or a new one. An upgrade takes a new one for itself.
async fn find_way(
    connection: &Connection,
    lease: &Lease,
    rules: &PoolRules,
    upgrade: bool,
    fresh: bool,
) -> Result<Way, Box<dyn std::error::Error>> {
    if !fresh {
        while let Some(mut sender) = connection.idle.take(lease.id()) {
            // Its last response has just ended, or long ago; either way this takes no time.
            if sender.ready().await.is_ok() {
                return Ok(Way { sender, reused: true, upgraded: None });
            }
        }
    }
    let stream = upstream::connect(lease, rules.connect_timeout).await?;
    if upgrade {
        let (sender, upgraded) = upstream::speak_upgradable(stream).await?;
        return Ok(Way { sender, reused: false, upgraded: Some(upgraded) });
    }
    Ok(Way { sender: upstream::speak_http(stream).await?, reused: false, upgraded: None })
}

async fn send(
    connection: &Connection,
    lease: &Lease,
    way: Way,
    request: Request<RequestBody>,
    rules: &PoolRules,
) -> Attempt {
    let Way { mut sender, reused, upgraded } = way;
    let begun = Instant::now();
    let mut sending = std::pin::pin!(sender.try_send_request(request));
    let outcome = loop {
        let received = connection.session.received();
        match timeout(rules.response_timeout, &mut sending).await {
            Ok(outcome) => break outcome,
            // A long upload is no slow server.
            Err(_) if connection.session.received() != received => {}
            Err(_) if connection.session.awaits_client() => return Attempt::ClientTimedOut,
            Err(_) => return Attempt::TimedOut,
        }
    };
    match outcome {
        Ok(response) => {
            lease.metrics.first_byte.observe(begun.elapsed().as_secs_f64());
            Attempt::Response(response, sender, upgraded)
        }
        Err(mut failed) => match failed.take_message() {
            Some(request) => Attempt::NotSent(request, reused),
            // The only thing of ours hyper uses while it sends is the body, and that is the client's.
            None if failed.error().is_user() => Attempt::ClientBroken,
            None => Attempt::Broken { reused },
        },
    }
}

/// Makes the server's response ours.
fn finish(
    connection: &Connection,
    lease: Lease,
    response: Response<Incoming>,
    (sender, upgraded): (Sender, Option<Upgraded>),
    upgrade: bool,
) -> Result<Response<ResponseBody>, Failure> {
    let (mut head, body) = response.into_parts();
    let switching = head.status == StatusCode::SWITCHING_PROTOCOLS;
    headers::end_hop(&mut head.headers, switching);
    head.version = Version::HTTP_11;
    head.extensions.clear();
    if switching {
        // A server that switches unasked has lost count of what it was asked.
        let upgraded = upgraded.filter(|_| upgrade).ok_or(Failure::NoResponse)?;
        connection.upgrade_to(upgraded, lease);
        return Ok(Response::from_parts(head, ResponseBody::text("")));
    }
    let give_back = upgraded.is_none().then(|| GiveBack {
        idle: Rc::clone(&connection.idle),
        server: lease.id(),
        sender,
    });
    let session = Rc::clone(&connection.session);
    Ok(Response::from_parts(head, ResponseBody::streamed(body, give_back, session, lease)))
}

fn pick(pool: &Pool, source: u64, tried: &Tried) -> Result<Lease, Failure> {
    let failure = if tried.is_empty() { Failure::NoServer } else { Failure::Connect };
    if tried.is_full() {
        return Err(failure);
    }
    let lease = pool.pick(source, tried).ok_or(failure)?;
    if !tried.is_empty() {
        pool.metrics.retries.inc();
    }
    Ok(lease)
}

fn fail(pool: &Pool, lease: &Lease, tried: &mut Tried, error: &dyn std::fmt::Display) {
    tracing::debug!(pool = %pool.name(), server = %lease.name(), %error, "attempt failed");
    pool.handle_failure(lease);
    tried.add(lease);
}

fn is_idempotent(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE)
}
