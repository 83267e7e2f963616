//! A TCP connection: a server is found as for a request, then bytes go both ways, half-closes included.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use super::forward::{self, Failure};
use super::relay::{self, HalfClose};
use super::session::Phase;
use super::stream::Stream;
use super::worker::SessionGuard;
use crate::metrics::{Close, PoolError};
use crate::pool::{Ask, Tried};

/// Serves one client until both sides have ended.
pub(crate) async fn serve(guard: SessionGuard, stream: Stream, peer: SocketAddr) {
    let session = Rc::clone(guard.session());
    session.enter(Phase::Connecting);
    let pool = Arc::clone(&session.listener.settings().pool);
    let rules = pool.rules();
    let source = forward::source(peer.ip().to_canonical());
    let ends = forward::ends(&rules, peer, &stream);
    let ask = Ask { source, ..Ask::default() };
    let connected = forward::connect(&pool, &rules, ends, &ask, &mut Tried::default()).await;
    let (server, lease) = match connected {
        Ok(connected) => connected,
        Err(failure) => {
            pool.metrics.error(match failure {
                Failure::NoServer => PoolError::NoServer,
                Failure::QueueFull => PoolError::QueueFull,
                Failure::QueueTimeout => PoolError::QueueTimeout,
                _ => PoolError::Connect,
            });
            return guard.end(Close::Error);
        }
    };
    session.bind(lease.id());
    let close = relay::run(&session, stream.into(), server.into(), HalfClose::Kept).await;
    drop(lease);
    guard.end(close);
}
