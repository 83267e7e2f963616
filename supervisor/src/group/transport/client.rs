//! Connections to the other members, dialled when needed and kept for the next request.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::tls::{Credentials, End};
use super::wire::{
    FRAME_BYTES_MAX, HELLO_BYTES_MAX, Hello, Reply, Request, VERSION, Welcome, receive, send,
};
use super::{HANDSHAKE_TIMEOUT, TransportError};
use crate::cluster::Address;
use crate::group::ledger::MemberId;
use crate::group::store::Identity;

/// Connections kept to one member: log, votes and reports go at the same time.
const IDLE_MAX: usize = 4;
/// Requests to one member that have no answer yet; a member that is stopped must not cost more.
const UNDER_WAY_MAX: usize = 8;
/// An answer is waited for this long, however impatient the asker is.
const REPLY_TIMEOUT: Duration = Duration::from_secs(5);

type Stream = TlsStream<TcpStream>;

/// All members we talk to.
pub(in crate::group) struct Peers {
    credentials: Option<Credentials>,
    lines: Mutex<HashMap<Target, Lines>>,
}

/// Where a member is, and which must be there.
pub(in crate::group) type Target = (Address, Option<MemberId>);

/// What there is to one member.
struct Lines {
    idle: Vec<Stream>,
    places: Arc<Semaphore>,
}

impl Default for Lines {
    fn default() -> Self {
        Self { idle: Vec::new(), places: Arc::new(Semaphore::new(UNDER_WAY_MAX)) }
    }
}

impl Peers {
    /// With what we show them; without, nobody can be reached.
    pub(in crate::group) fn new(credentials: Option<Credentials>) -> Arc<Self> {
        Arc::new(Self { credentials, lines: Mutex::default() })
    }

    /// Asks the member `to` at `address` (`None`: whoever is there) and waits for `limit`. An answer that comes later, within
    /// [`REPLY_TIMEOUT`], is still `noted`, and its connection kept. A connection that was kept may have died meanwhile; the request is
    /// then sent once more over a new one, so it must do no harm if it arrives twice.
    ///
    /// # Errors
    /// See [`TransportError`].
    pub(in crate::group) async fn ask(
        self: &Arc<Self>,
        from: Option<Identity>,
        to: &Target,
        request: Request,
        limit: Duration,
        note: impl FnOnce(&Reply) + Send + 'static,
    ) -> Result<Reply, TransportError> {
        let late = |limit| TransportError::Late { address: to.0.clone(), limit };
        let Ok(place) = self.places(to).try_acquire_owned() else { return Err(late(limit)) };
        let (peers, target) = (Arc::clone(self), to.clone());
        let asked = tokio::spawn(async move {
            let asked = timeout(REPLY_TIMEOUT, peers.exchange(from, &target, &request)).await;
            drop(place);
            let Ok(result) = asked else {
                return Err(TransportError::Late { address: target.0, limit: REPLY_TIMEOUT });
            };
            if let Ok(reply) = &result {
                note(reply);
            }
            result
        });
        match timeout(limit, asked).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) | Err(_) => Err(late(limit)),
        }
    }

    async fn exchange(
        &self,
        from: Option<Identity>,
        to: &Target,
        request: &Request,
    ) -> Result<Reply, TransportError> {
        if let Some(mut stream) = self.take(to)
            && let Ok(reply) = exchange(&mut stream, request).await
        {
            self.put(to, stream);
            return Ok(reply);
        }
        let mut stream = self.dial(from, &to.0, to.1).await?;
        let talked = exchange(&mut stream, request).await;
        let reply =
            talked.map_err(|source| TransportError::Talk { address: to.0.clone(), source })?;
        self.put(to, stream);
        Ok(reply)
    }

    /// Forgets connections, so that the next request shows who we are now.
    pub(in crate::group) fn forget(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Target, Lines>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn places(&self, to: &Target) -> Arc<Semaphore> {
        Arc::clone(&self.lock().entry(to.clone()).or_default().places)
    }

    fn take(&self, to: &Target) -> Option<Stream> {
        self.lock().get_mut(to)?.idle.pop()
    }

    fn put(&self, to: &Target, stream: Stream) {
        let mut lines = self.lock();
        let idle = &mut lines.entry(to.clone()).or_default().idle;
        if idle.len() < IDLE_MAX {
            idle.push(stream);
        }
    }

    async fn dial(
        &self,
        from: Option<Identity>,
        address: &Address,
        to: Option<MemberId>,
    ) -> Result<Stream, TransportError> {
        let connect =
            |source: io::Error| TransportError::Connect { address: address.clone(), source };
        let refused =
            |why: &str| TransportError::Refused { address: address.clone(), why: why.to_owned() };
        let Some(credentials) = &self.credentials else {
            return Err(refused("this supervisor has no [group] section"));
        };
        let dialled = async {
            let stream = TcpStream::connect((address.host(), address.port())).await?;
            stream.set_nodelay(true)?;
            let name = ServerName::try_from(address.host().to_owned()).map_err(io::Error::other)?;
            let connector = TlsConnector::from(Arc::clone(&credentials.client));
            let mut stream = connector.connect(name, stream).await?;
            let proof = credentials.proof(End::Client, stream.get_ref().1);
            let proof = hex(&proof.map_err(io::Error::other)?);
            send(&mut stream, &Hello { version: VERSION, from, to, proof }).await?;
            let welcome = receive::<Welcome>(&mut stream, HELLO_BYTES_MAX).await?;
            Ok::<_, io::Error>((stream, welcome))
        };
        let dialled = timeout(HANDSHAKE_TIMEOUT, dialled).await;
        let (stream, welcome) = dialled
            .map_err(|_| TransportError::Late {
                address: address.clone(),
                limit: HANDSHAKE_TIMEOUT,
            })?
            .map_err(connect)?;
        match welcome {
            Some(Welcome::Proven { proof }) => {
                let session = stream.get_ref().1;
                let is_proven = credentials.is_proven(End::Server, session, &unhex(&proof));
                if is_proven.map_err(|error| connect(io::Error::other(error)))? {
                    Ok(stream)
                } else {
                    Err(refused("it does not know the group's secret"))
                }
            }
            Some(Welcome::Refused(why)) => Err(refused(&why)),
            None => Err(refused("it closed the connection; is the group's secret the same there?")),
        }
    }
}

async fn exchange(stream: &mut Stream, request: &Request) -> io::Result<Reply> {
    send(stream, request).await?;
    let reply = receive(stream, FRAME_BYTES_MAX).await?;
    reply.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string cannot fail");
        text
    })
}

/// The bytes of hexadecimal digits; empty if that is not what it is, which proves nothing.
pub(super) fn unhex(text: &str) -> Vec<u8> {
    let digits: Option<Vec<_>> = text.chars().map(|digit| digit.to_digit(16)).collect();
    let digits = digits.unwrap_or_default();
    digits
        .chunks_exact(2)
        .map(|pair| u8::try_from(pair[0] * 16 + pair[1]).unwrap_or_default())
        .collect()
}
