//! A TCP connection: a server is found as for a request, then bytes go both ways, half-closes included.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use tokio::net::TcpStream;

use super::forward::{self, Failure};
use super::relay::{self, HalfClose};
use super::session::Phase;
use super::worker::SessionGuard;
use crate::metrics::{Close, PoolError};
use crate::pool::Tried;

/// Serves one client until both sides have ended.
pub(crate) async fn serve(guard: SessionGuard, stream: TcpStream, peer: SocketAddr) {
    let session = Rc::clone(guard.session());
    session.enter(Phase::Connecting);
    let pool = Arc::clone(&session.listener.settings().pool);
    let source = forward::source(peer.ip().to_canonical());
    let connected = forward::connect(&pool, &pool.rules(), source, &mut Tried::default()).await;
    let (server, lease) = match connected {
        Ok(connected) => connected,
        Err(failure) => {
            let no_server = failure == Failure::NoServer;
            pool.metrics.error(if no_server { PoolError::NoServer } else { PoolError::Connect });
            return guard.end(Close::Error);
        }
    };
    pool.handle_success(&lease);
    session.bind(lease.id());
    let close = relay::run(&session, stream.into(), server.into(), HalfClose::Kept).await;
    drop(lease);
    guard.end(close);
}
