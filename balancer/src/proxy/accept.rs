//! New connections of a listening socket on which several workers wait.
//!
//! The kernel wakes all of them for each connection, and one gets it. An `accept` that finds nothing makes a socket and a file before it
//! looks and throws them away, which costs several times as much as asking first; so it is asked first, by those who come too late and by
//! whoever looks for one more.

use std::io;
use std::net::{SocketAddr, TcpListener};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;
use rustix::net::{SocketFlags, acceptfrom_with};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::TcpStream;

/// A listening socket as one worker has it.
#[derive(Debug)]
pub(super) struct Door(AsyncFd<TcpListener>);

impl Door {
    #[expect(
        deprecated,
        reason = "a socket of the standard library keeps its descriptor, so it is sound; what replaces it is unsafe"
    )]
    pub(super) fn new(socket: TcpListener) -> io::Result<Self> {
        AsyncFd::with_interest(socket, Interest::READABLE).map(Self)
    }

    /// The next connection, and whose it is.
    ///
    /// # Cancel safety
    /// No connection is lost.
    pub(super) async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        loop {
            let mut ready = self.0.readable().await?;
            if let Ok(accepted) = ready.try_io(|socket| try_accept(socket.get_ref())) {
                return accepted;
            }
        }
    }
}

fn try_accept(socket: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let at_once = Timespec::default();
    let mut asked = [PollFd::new(socket, PollFlags::IN)];
    if retry_on_intr(|| poll(&mut asked, Some(&at_once)))? == 0 {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (stream, peer) = retry_on_intr(|| acceptfrom_with(socket, flags))?;
    let peer = peer.ok_or(io::ErrorKind::InvalidData)?;
    Ok((TcpStream::from_std(stream.into())?, SocketAddr::try_from(peer)?))
}
