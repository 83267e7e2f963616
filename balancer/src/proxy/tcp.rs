//! A TCP connection: a server is found as for a request, then bytes go both ways, half-closes included, in a task of their own.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use super::forward::{self, Failure};
use super::reach::{Search, Way};
use super::relay::Relay;
use super::session::Kind;
use super::stream::Stream;
use super::worker::SessionGuard;
use crate::metrics::{Close, PoolError};
use crate::pool::Ask;
use crate::sight::Draft;
use crate::stick::Stick;

/// Serves one client until both sides have ended.
pub(crate) async fn serve(guard: SessionGuard, stream: Stream, peer: SocketAddr) {
    let session = Rc::clone(guard.session());
    let pool = Arc::clone(&session.listener.local_settings().pool);
    let view = pool.view();
    let rules = &view.rules;
    session.begin_draft(|_| {
        let mut draft = Draft::connection(&session, "tcp");
        draft.asks(&pool);
        draft
    });
    let source = forward::source(peer.ip().to_canonical());
    let ends = forward::ends(rules, peer, &stream);
    let stick = pool.stick(rules, source, None);
    let sticky = stick.as_ref().and_then(Stick::server);
    let ask = Ask { source, sticky, opens: true, ..Ask::default() };
    let mut search = Search::new(&pool, rules, ask, ends);
    let reached = search.reach(&session, None, None).await;
    let (server, lease) = match reached {
        Ok(Way { stream, lease, took, .. }) => {
            pool.handle_connected(&lease, took);
            if let Some(stick) = &stick {
                stick.note(lease.key());
            }
            session.note(|draft| draft.reached(&lease, search.asked()));
            (stream, lease)
        }
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
    let relay = Relay::new(guard, lease, Kind::Tcp, stream.into(), server.into());
    tokio::task::spawn_local(relay);
}
