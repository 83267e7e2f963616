//! Another process takes over, and nobody notices.
//!
//! On SIGUSR2, or when an operator asks for it, the program starts itself anew, from the file it was started from, which may be a newer version by now, and hands it what it
//! needs over a pair of connected sockets that is the new one's standard input: first a manifest, then the listening sockets one by one
//! (`SCM_RIGHTS`). They are the same sockets, not others on the same address, so a connection that waits to be accepted waits on, for
//! whichever process accepts it: none is lost. Both accept for a moment. Once the new process has said that it serves, the old one accepts
//! nothing more, and ends when its last connection has, or after `[drain] upgrade_period`. A new process that does not get so far (its
//! settings are at fault, it is no program at all, it takes too long) says why if it can and is ended, and the old one serves on as if
//! nothing had been.
//!
//! Until the old process has ended, each tells the other what it knows (`link`).
//!
//! What is known is handed over in JSON, in which a later version may add what an earlier one does not look at, and leave out what an
//! earlier one has said: fields have defaults, and unknown ones are passed over.
//!
//! Rejected: `SO_REUSEPORT`, because the kernel resets what waits in the queue of a socket that is closed; a socket in the file system,
//! which needs a place, rights and a protocol to find out who is there; sockets by number through `exec`, which only unsafe code can adopt.

pub(crate) mod link;
pub(crate) mod service;
mod upgrade;
mod wire;

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};

use serde::{Deserialize, Serialize};

use crate::limits::bans::Ban;
use crate::pool::state::{EjectionLeft, Health};
use crate::record::Kept;

use link::{DrainWish, Left};
pub use upgrade::Program;
pub(crate) use upgrade::{TakenOver, UpgradeError, upgrade};
pub use wire::HandoverError;

/// Purpose of the operator API's address; names of listeners have no colon.
pub(crate) const ADMIN: &str = "admin:tcp";
/// Purpose of the operator API's socket in the file system.
pub(crate) const ADMIN_UNIX: &str = "admin:unix";
/// Raised when a field changes its meaning, never for one that is added: another process could make no sense of what it is given then.
const FORMAT: u32 = 1;

/// What the old process tells the new one.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Manifest {
    format: u32,
    /// What the sockets that follow are for, in their order: a listener's name, or the operator API.
    sockets: Vec<String>,
    pub(crate) state: State,
}

/// Something of each server, by the names of its pool and its own.
pub(crate) type ByServer<T> = BTreeMap<String, BTreeMap<String, T>>;

/// What was known and set at run time.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct State {
    /// The highest epoch seen.
    pub(crate) epoch: u64,
    /// What operators have set.
    pub(crate) kept: Kept,
    /// What checks have found: the new process need not wait for its own.
    pub(crate) health: ByServer<Health>,
    /// Servers that the traffic has taken out.
    pub(crate) ejections: ByServer<EjectionLeft>,
    /// Drains at a pace or with a deadline.
    pub(crate) drains: ByServer<DrainWish>,
    /// Clients that are banned.
    pub(crate) bans: Vec<Ban>,
    /// What the old process has left at each server, until it says more.
    pub(crate) left: ByServer<Left>,
}

/// Tells the process before us why we cannot take over. Without one it changes nothing.
pub fn refuse(reasons: &str) {
    let told = wire::standard_input().map(|stream| wire::say_refused(&stream, reasons));
    if let Ok(Err(error)) = told {
        // Logs may not be set up, and whoever started us reads the reasons there as well.
        tracing::warn!(%error, "the process before us does not listen any more");
    }
}

/// Sockets that others have bound for us: a process before us, or the service manager.
#[derive(Debug, Default)]
pub struct Inherited {
    /// By purpose, or by whatever name the service manager gives.
    sockets: Vec<(String, OwnedFd)>,
    state: Option<State>,
    /// Where the process before us waits for our word.
    before: Option<UnixStream>,
}

impl Inherited {
    /// From the process before us, at our standard input.
    ///
    /// # Errors
    /// There is none, or it is of a version that we do not understand.
    pub fn from_process() -> Result<Self, HandoverError> {
        let stream = wire::standard_input()?;
        let (manifest, sockets) = wire::receive(&stream)?;
        let sockets = manifest.sockets.into_iter().zip(sockets).collect();
        Ok(Self { sockets, state: Some(manifest.state), before: Some(stream) })
    }

    /// From the service manager, if it has any for us.
    ///
    /// # Errors
    /// What it gives is no listening socket.
    pub fn from_service_manager() -> Result<Self, HandoverError> {
        let sockets = service::sockets().map_err(HandoverError::Activation)?;
        Ok(Self { sockets, ..Self::default() })
    }

    /// The socket of a listener: by its name, or by the address it is bound to.
    pub(crate) fn take_listener(
        &mut self,
        name: &str,
        address: std::net::SocketAddr,
    ) -> Option<TcpListener> {
        let bound = |socket: &OwnedFd| {
            let socket = socket2::SockRef::from(socket).local_addr().ok()?;
            socket.as_socket()
        };
        // A name without its address is of settings that have changed since; port 0 is at home everywhere.
        let fits = |(purpose, socket): &(String, OwnedFd)| {
            let at = bound(socket);
            (purpose == name && address.port() == 0 && at.is_some()) || at == Some(address)
        };
        let index = self.sockets.iter().position(fits)?;
        let socket = TcpListener::from(self.sockets.swap_remove(index).1);
        socket.set_nonblocking(true).ok()?;
        Some(socket)
    }

    /// The socket of the operator API.
    pub(crate) fn take_admin(&mut self, address: std::net::SocketAddr) -> Option<TcpListener> {
        self.take_listener(ADMIN, address)
    }

    /// The operator API's socket in the file system.
    pub(crate) fn take_admin_unix(&mut self) -> Option<UnixListener> {
        let index = self.sockets.iter().position(|(purpose, _)| purpose == ADMIN_UNIX)?;
        Some(UnixListener::from(self.sockets.swap_remove(index).1))
    }

    /// What was known and set.
    pub(crate) fn take_state(&mut self) -> Option<State> {
        self.state.take()
    }

    /// Tells the process before us that we serve; sockets that nobody wanted are closed. Returns the line to it, if it listens.
    pub(crate) fn say_ready(self) -> Option<UnixStream> {
        for (purpose, _) in &self.sockets {
            tracing::info!(purpose, "a socket that was handed over is not wanted any more");
        }
        let stream = self.before?;
        match wire::say_ready(&stream) {
            Ok(()) => Some(stream),
            Err(error) => {
                tracing::warn!(%error, "the process before us does not listen any more");
                None
            }
        }
    }
}
