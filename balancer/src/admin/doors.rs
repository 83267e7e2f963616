//! The ways into the operator API: an address, in clear text or TLS, and a socket in the file system.
//!
//! Handshakes are made beside each other, each within a time, so that a client that says nothing keeps nobody else out. When another process
//! takes over, the sockets are let go of before anybody hears of it, and whoever was let in by then is still answered here.

use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener as StdUnixListener;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::access::Via;
use crate::config::admin::UnixSocket;
use crate::control::Balancer;
use crate::tls::names_of;

/// More than any number of operators, scrapers and supervisors makes at a time.
const HANDSHAKES_MAX: usize = 64;
/// Operators are near.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections that wait for the server; it takes them at once.
const READY_MAX: usize = 16;
/// Accepting fails for want of file descriptors; some become free when connections end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Binds the socket, in the place of one that a former run has left.
pub(crate) fn bind_unix(socket: &UnixSocket) -> io::Result<StdUnixListener> {
    match std::fs::symlink_metadata(&socket.path) {
        Ok(found) if found.file_type().is_socket() => std::fs::remove_file(&socket.path)?,
        // Whatever else stands there is not ours to remove; binding says so.
        _ => {}
    }
    let listener = StdUnixListener::bind(&socket.path)?;
    std::fs::set_permissions(&socket.path, std::fs::Permissions::from_mode(socket.mode))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Every way in, as one.
pub(crate) struct Doors {
    address: std::net::SocketAddr,
    ready: mpsc::Receiver<(Box<dyn Socket>, Via)>,
    empty: CancellationToken,
}

/// Closes the doors.
#[derive(Debug, Clone)]
pub(crate) struct Keeper {
    closed: CancellationToken,
    accepting: TaskTracker,
    empty: CancellationToken,
    released: CancellationToken,
}

impl Keeper {
    /// Lets nobody in any more. Returns once the sockets are let go of.
    pub(crate) async fn close(&self) {
        self.closed.cancel();
        self.accepting.close();
        self.accepting.wait().await;
    }

    /// Lets the server end, once it has answered everybody who was let in.
    pub(crate) fn release(&self) {
        self.released.cancel();
    }

    /// Returns when the server may end.
    pub(crate) fn last_answer(&self) -> impl Future<Output = ()> + Send + 'static {
        let (released, empty) = (self.released.clone(), self.empty.clone());
        async move {
            released.cancelled().await;
            empty.cancelled().await;
        }
    }
}

impl Doors {
    /// Opens them, for as long as the result lives or until they are closed.
    pub(crate) fn open(
        balancer: &Arc<Balancer>,
        tcp: TcpListener,
        unix: Option<StdUnixListener>,
    ) -> io::Result<(Self, Keeper)> {
        let address = tcp.local_addr()?;
        let (enter, ready) = mpsc::channel(READY_MAX);
        let (closed, accepting) = (CancellationToken::new(), TaskTracker::new());
        if let Some(unix) = unix {
            let unix = UnixListener::from_std(unix)?;
            accepting.spawn(accept_unix(unix, enter.clone(), closed.clone()));
        }
        accepting.spawn(accept_tcp(Arc::clone(balancer), tcp, enter, closed.clone()));
        let empty = CancellationToken::new();
        let released = CancellationToken::new();
        let keeper = Keeper { closed, accepting, empty: empty.clone(), released };
        Ok((Self { address, ready, empty }, keeper))
    }
}

impl axum::serve::Listener for Doors {
    type Io = Box<dyn Socket>;
    type Addr = Via;

    async fn accept(&mut self) -> (Self::Io, Via) {
        if let Some(entered) = self.ready.recv().await {
            return entered;
        }
        self.empty.cancel();
        std::future::pending().await
    }

    fn local_addr(&self) -> io::Result<Via> {
        Ok(Via::Tcp { peer: self.address, names: Arc::default() })
    }
}

type Enter = mpsc::Sender<(Box<dyn Socket>, Via)>;

async fn accept_unix(listener: UnixListener, enter: Enter, closed: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = closed.cancelled() => return,
            () = enter.closed() => return,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept at the unix socket");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        match stream.peer_cred() {
            Ok(user) => {
                let via = Via::Unix { user: user.uid() };
                if enter.send((Box::new(stream), via)).await.is_err() {
                    return;
                }
            }
            Err(error) => tracing::warn!(%error, "cannot tell who is at the unix socket"),
        }
    }
}

async fn accept_tcp(
    balancer: Arc<Balancer>,
    listener: TcpListener,
    enter: Enter,
    closed: CancellationToken,
) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    loop {
        let accepted = tokio::select! {
            biased;
            () = closed.cancelled() => return,
            () = enter.closed() => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept at the operator API");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(tls) = balancer.admin_config().tls.as_ref().map(|tls| tls.server.acceptor())
        else {
            let via = Via::Tcp { peer, names: Arc::default() };
            if enter.send((Box::new(stream), via)).await.is_err() {
                return;
            }
            continue;
        };
        let Ok(place) = Arc::clone(&handshakes).try_acquire_owned() else {
            tracing::warn!(%peer, "too many handshakes at the operator API");
            continue;
        };
        let enter = enter.clone();
        tokio::spawn(async move {
            let _place = place;
            match timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await {
                Ok(Ok(stream)) => {
                    let shown = stream.get_ref().1.peer_certificates();
                    let names = shown.and_then(|chain| chain.first()).map(names_of);
                    let via = Via::Tcp { peer, names: names.unwrap_or_default().into() };
                    // The program is ending if nobody takes it.
                    let _ = enter.send((Box::new(stream), via)).await;
                }
                Ok(Err(error)) => tracing::debug!(%peer, %error, "TLS handshake failed"),
                Err(_) => tracing::debug!(%peer, "TLS handshake took too long"),
            }
        });
    }
}

/// A connection of any kind.
pub(crate) trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}
