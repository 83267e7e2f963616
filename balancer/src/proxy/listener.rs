//! A listening address: one bound socket, polled by every worker, and the settings that new requests find.
//!
//! The workers share one socket instead of binding one each with `SO_REUSEPORT`: the kernel drops the connections that wait in the queue
//! of a closed `SO_REUSEPORT` socket, so a reload would lose some, and it spreads by hash, so few long-lived connections would spread
//! unevenly. The price, a wake-up of idle workers per new connection, is small beside the connection itself.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio_util::sync::CancellationToken;

use crate::config::{ListenerConfig, TcpRules};
use crate::limits::{Limits, Protection};
use crate::message::choice::{Choice, Seen};
use crate::metrics::{ListenerMetrics, Metrics};
use crate::pool::{Pool, Pools};
use crate::published::{Local, Published};
use crate::sight::Sight;
use crate::stick::StickKey;
use crate::tls::{Certificate, ServerTls};

use super::upstream;

/// Connections that may wait to be accepted; a thousand clients of a dead node come back within a second.
const BACKLOG: i32 = 4_096;

/// One listener in force.
#[derive(Debug)]
pub(crate) struct Listener {
    /// `None` once it is closed.
    socket: Mutex<Option<TcpListener>>,
    address: SocketAddr,
    pub(crate) metrics: ListenerMetrics,
    /// Who wants to know of single requests, if anybody.
    pub(crate) sight: Option<Arc<Sight>>,
    /// Cancelled when nothing more is to be accepted.
    stopped: CancellationToken,
    settings: Published<Settings>,
}

/// What a listener does with a connection; replaced as a whole.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) config: ListenerConfig,
    pub(crate) pool: Arc<Pool>,
    /// Of the routes, in their order.
    routes: Box<[Arc<Pool>]>,
    pub(crate) protection: Arc<Protection>,
}

impl Settings {
    /// With the pools that `config` names, which are among `pools`.
    pub(crate) fn new(config: ListenerConfig, pools: &Pools, limits: &Limits) -> Self {
        let find = |name| Arc::clone(pools.get(name).expect("checked with the settings"));
        let routes = config.routes.iter().map(|route| find(&route.pool)).collect();
        let protection = limits.protection(&config);
        Self { pool: find(&config.pool), routes, protection, config }
    }

    /// Whether requests find the same as with `other`.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.config == other.config
            && Arc::ptr_eq(&self.pool, &other.pool)
            && self.routes.iter().zip(&other.routes).all(|(a, b)| Arc::ptr_eq(a, b))
    }

    /// The pool that serves a request.
    pub(crate) fn pool_of(&self, choice: &Choice) -> &Arc<Pool> {
        choice.route.map_or(&self.pool, |route| &self.routes[usize::from(route)])
    }

    /// Finds a request its pool, and what a server is chosen by there.
    pub(crate) fn choose(&self, seen: &Seen<'_>) -> Choice {
        let route = self.config.routes.iter().position(|route| route.matches(seen));
        let route = route.and_then(|route| u16::try_from(route).ok());
        let view = self.pool_of(&Choice { route, ..Choice::default() }).view();
        let rules = &view.rules;
        Choice {
            route,
            key: rules.key.as_ref().and_then(|key| seen.key(key)),
            sticky: rules.sticky_cookie.as_deref().and_then(|name| seen.sticky(name)),
            stick: match rules.stick.as_ref().map(|stick| &stick.key) {
                Some(StickKey::Part(key)) => seen.key(key),
                Some(StickKey::Source) | None => None,
            },
            token: self.protection.token_key().and_then(|key| seen.key(key)),
        }
    }

    fn certificates(&self) -> &[Certificate] {
        self.config.tls.as_ref().map_or(&[], ServerTls::certificates)
    }

    /// Shows when they expire, in the place of `before` others.
    pub(crate) fn show_certificates(&self, metrics: &Metrics, before: usize) {
        let expiry: Vec<_> = self.certificates().iter().map(Certificate::not_after).collect();
        metrics.listeners.certificates(&self.config.name, before, &expiry);
    }

    /// Shows them no more.
    pub(crate) fn forget_certificates(&self, metrics: &Metrics) {
        metrics.listeners.certificates(&self.config.name, self.certificates().len(), &[]);
    }

    /// Whether something is to be settled before the first message.
    pub(crate) fn has_preface(&self) -> bool {
        self.config.proxy_protocol || self.config.tls.is_some() || self.config.http2
    }
}

impl Listener {
    pub(crate) fn new(
        socket: TcpListener,
        settings: Settings,
        metrics: &Metrics,
        sight: Option<Arc<Sight>>,
    ) -> io::Result<Self> {
        // One that another process has bound may have been bound by other rules.
        if let Err(error) = upstream::tune(&SockRef::from(&socket), &settings.config.tcp) {
            tracing::warn!(%error, "cannot tune a listening socket");
        }
        settings.show_certificates(metrics, 0);
        Ok(Self {
            address: socket.local_addr()?,
            socket: Mutex::new(Some(socket)),
            metrics: metrics.listeners.handles(&settings.config.name),
            sight,
            stopped: CancellationToken::new(),
            settings: Published::new(settings),
        })
    }

    /// The address it is bound to.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The socket once more, for a worker or for the listener that follows.
    pub(crate) fn socket(&self) -> io::Result<TcpListener> {
        match &*self.socket.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(socket) => socket.try_clone(),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Accepts nothing more. The kernel refuses connections as soon as the workers have let go of the socket too.
    pub(crate) fn close(&self) {
        self.stopped.cancel();
        drop(self.socket.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Whether nothing more is to be accepted.
    pub(crate) fn is_closed(&self) -> bool {
        self.stopped.is_cancelled()
    }

    /// Returns once nothing more is to be accepted.
    pub(crate) async fn closed(&self) {
        self.stopped.cancelled().await;
    }

    /// What it does with a connection.
    pub(crate) fn settings(&self) -> Arc<Settings> {
        self.settings.get()
    }

    /// The same for a worker, at no cost for the others.
    pub(crate) fn local_settings(&self) -> Rc<Local<Settings>> {
        self.settings.local()
    }

    /// Whether this is its name.
    pub(crate) fn has_name(&self, name: &str) -> bool {
        *self.settings().config.name == *name
    }

    /// Puts other settings in force for what comes.
    pub(crate) fn set_settings(&self, settings: Settings, metrics: &Metrics) {
        if let Some(socket) = &*self.socket.lock().unwrap_or_else(PoisonError::into_inner)
            && let Err(error) = upstream::tune(&SockRef::from(socket), &settings.config.tcp)
        {
            tracing::warn!(%error, "cannot tune a listening socket");
        }
        settings.show_certificates(metrics, self.settings().certificates().len());
        self.settings.set(settings);
    }
}

/// Binds `address`.
pub(crate) fn bind(address: SocketAddr, rules: &TcpRules) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of the last run may still be in TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    // Accepted sockets inherit it.
    upstream::tune(&SockRef::from(&socket), rules)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
