//! What a service manager wants to know and may give (systemd: `sd_notify(3)`, `sd_listen_fds(3)`).

use std::io;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use listenfd::ListenFd;
use rustix::time::{ClockId, clock_gettime};

/// Tells the service manager, if there is one: `READY=1`, `STOPPING=1` and the like, a line each.
pub(crate) fn notify(message: &str) {
    if let Err(error) = try_notify(message) {
        tracing::warn!(%error, message, "cannot tell the service manager");
    }
}

/// Tells it that what follows, up to `READY=1`, is a reload.
pub(crate) fn notify_reloading() {
    // By which it knows this message from one of an earlier reload.
    let now = clock_gettime(ClockId::Monotonic);
    let microseconds = now.tv_sec * 1_000_000 + now.tv_nsec / 1_000;
    notify(&format!("RELOADING=1\nMONOTONIC_USEC={microseconds}"));
}

fn try_notify(message: &str) -> io::Result<()> {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return Ok(()) };
    let address = match path.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(&path)?,
    };
    let socket = UnixDatagram::unbound()?;
    // A manager that takes nothing in is not worth waiting for.
    socket.set_nonblocking(true)?;
    socket.send_to_addr(message.as_bytes(), &address).map(drop)
}

/// The sockets it has bound for us, each with its `FileDescriptorName=`.
#[expect(clippy::disallowed_methods, reason = "the service manager speaks by the environment")]
pub(super) fn sockets() -> io::Result<Vec<(String, OwnedFd)>> {
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    let mut given = ListenFd::from_env();
    let mut sockets = Vec::with_capacity(given.len());
    for index in 0..given.len() {
        let name = names.next().unwrap_or_default().to_owned();
        if let Some(socket) = given.take_tcp_listener(index)? {
            sockets.push((name, socket.into()));
        }
    }
    Ok(sockets)
}
