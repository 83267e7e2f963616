//! The clients: closed loops, fixed rates, WebSockets, bulk. Every answer is checked.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep_until};
use tokio_rustls::TlsConnector;

use super::backend::BODY;
use super::tls::NAME;

/// What a browser sends to an API.
const REQUEST: &[u8] = b"GET /api/v1/rooms/42/messages?before=1718000000&limit=50 HTTP/1.1\r\n\
    Host: chat.example.com\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n\
    Accept: application/json\r\n\
    Accept-Language: en-US,en;q=0.5\r\n\
    Accept-Encoding: gzip, deflate, br\r\n\
    Cookie: session=3f2b8c1d9e7a4f60b5c2d8e1f3a7b9c4\r\n\r\n";
const UPGRADE: &[u8] = b"GET /connection/websocket HTTP/1.1\r\n\
    Host: chat.example.com\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n\
    Origin: https://chat.example.com\r\n\
    Connection: Upgrade\r\n\
    Upgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
/// A short chat message in one masked frame.
const MESSAGE_BYTES: usize = 128;
/// Connections opened at a time.
const OPENED_TOGETHER: usize = 32;
/// Read at a time from a stream of bulk data.
const BLOCK: usize = 256 * 1_024;
const MIB: u64 = 1_048_576;

/// What was done.
#[derive(Debug, Default)]
pub(crate) struct Done {
    pub(crate) operations: u64,
    pub(crate) errors: u64,
    latencies: Vec<Duration>,
}

impl Done {
    /// The 99th percentile of a paced measurement, counted from when an operation was due.
    pub(crate) fn p99_ms(&self) -> Option<f64> {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        sorted.get(sorted.len() * 99 / 100).map(|latency| latency.as_secs_f64() * 1e3)
    }
}

/// What the connections of one measurement share.
#[derive(Debug)]
struct Loop {
    done: RefCell<Done>,
    end: Instant,
    begun: Instant,
    rate: Option<u64>,
    due: Cell<u64>,
}

impl Loop {
    fn new(lasting: Duration, rate: Option<u64>) -> Rc<Self> {
        let begun = Instant::now();
        let (done, due) = (RefCell::default(), Cell::new(0));
        Rc::new(Self { done, end: begun + lasting, begun, rate, due })
    }

    /// When the next operation is due; `None` at the end. Whoever is free takes it, so a slow answer makes no other late.
    async fn next(&self) -> Option<Instant> {
        let at = match self.rate {
            None => Instant::now(),
            Some(rate) => {
                let number = self.due.replace(self.due.get() + 1);
                let at = self.begun + Duration::from_secs_f64(number as f64 / rate as f64);
                if at < self.end {
                    sleep_until(at).await;
                }
                at
            }
        };
        (at < self.end).then_some(at)
    }

    fn note(&self, due: Instant, outcome: &io::Result<()>) {
        let mut done = self.done.borrow_mut();
        match outcome {
            Ok(()) => done.operations += 1,
            Err(_) => done.errors += 1,
        }
        if self.rate.is_some() {
            done.latencies.push(due.elapsed());
        }
    }
}

/// Runs `clients` of these and adds up what they did.
async fn crowd<F: Future<Output = ()> + 'static>(
    shared: Rc<Loop>,
    clients: impl Iterator<Item = F>,
) -> Done {
    let set = LocalSet::new();
    for client in clients {
        set.spawn_local(client);
    }
    set.await;
    shared.done.take()
}

/// Requests on kept connections.
pub(crate) async fn http(
    address: SocketAddr,
    clients: usize,
    lasting: Duration,
    rate: Option<u64>,
) -> Done {
    let shared = Loop::new(lasting, rate);
    let client = |shared: Rc<Loop>| async move {
        let mut kept: Option<(TcpStream, Vec<u8>)> = None;
        while let Some(due) = shared.next().await {
            let outcome = async {
                if kept.is_none() {
                    kept = Some((connect(address).await?, Vec::with_capacity(2_048)));
                }
                let (stream, buffer) = kept.as_mut().ok_or(io::ErrorKind::NotConnected)?;
                exchange(stream, buffer).await
            }
            .await;
            shared.note(due, &outcome);
            if outcome.is_err() {
                kept = None;
            }
        }
    };
    crowd(Rc::clone(&shared), (0..clients).map(|_| client(Rc::clone(&shared)))).await
}

/// A connection for each request.
pub(crate) async fn new_connections(
    address: SocketAddr,
    clients: usize,
    lasting: Duration,
) -> Done {
    let shared = Loop::new(lasting, None);
    let client = |shared: Rc<Loop>| async move {
        let mut buffer = Vec::with_capacity(2_048);
        while let Some(due) = shared.next().await {
            let outcome = async {
                let mut stream = connect(address).await?;
                exchange(&mut stream, &mut buffer).await?;
                reset(stream)
            };
            shared.note(due, &outcome.await);
        }
    };
    crowd(Rc::clone(&shared), (0..clients).map(|_| client(Rc::clone(&shared)))).await
}

/// A connection with a full handshake for each request.
pub(crate) async fn tls_handshakes(
    address: SocketAddr,
    clients: usize,
    lasting: Duration,
    tls: TlsConnector,
) -> Done {
    let shared = Loop::new(lasting, None);
    let client = |shared: Rc<Loop>, tls: TlsConnector| async move {
        let mut buffer = Vec::with_capacity(2_048);
        while let Some(due) = shared.next().await {
            let outcome = async {
                let mut stream = tls.connect(name(), connect(address).await?).await?;
                exchange(&mut stream, &mut buffer).await?;
                reset(stream.into_inner().0)
            };
            shared.note(due, &outcome.await);
        }
    };
    let clients = (0..clients).map(|_| client(Rc::clone(&shared), tls.clone()));
    crowd(Rc::clone(&shared), clients).await
}

/// WebSockets opened, one message each, and closed.
pub(crate) async fn handshakes(address: SocketAddr, clients: usize, lasting: Duration) -> Done {
    let shared = Loop::new(lasting, None);
    let client = |shared: Rc<Loop>| async move {
        while let Some(due) = shared.next().await {
            let outcome = async {
                let stream = open_websocket(address).await?;
                reset(stream)
            };
            shared.note(due, &outcome.await);
        }
    };
    crowd(Rc::clone(&shared), (0..clients).map(|_| client(Rc::clone(&shared)))).await
}

/// Opens `count` WebSockets that say nothing.
pub(crate) async fn open_websockets(
    address: SocketAddr,
    count: usize,
) -> io::Result<Vec<TcpStream>> {
    let opened = Rc::new(RefCell::new(Vec::with_capacity(count)));
    let set = LocalSet::new();
    let tasks: Vec<_> = (0..OPENED_TOGETHER)
        .map(|n| {
            let opened = Rc::clone(&opened);
            set.spawn_local(async move {
                for _ in (n..count).step_by(OPENED_TOGETHER) {
                    let stream = open_websocket(address).await?;
                    opened.borrow_mut().push(stream);
                }
                Ok::<_, io::Error>(())
            })
        })
        .collect();
    set.await;
    for task in tasks {
        task.await.map_err(io::Error::other)??;
    }
    Ok(opened.take())
}

/// Messages there and back on open WebSockets.
pub(crate) async fn round_trips(
    sockets: Vec<TcpStream>,
    lasting: Duration,
    rate: Option<u64>,
) -> Done {
    let shared = Loop::new(lasting, rate);
    let client = |mut stream: TcpStream, shared: Rc<Loop>| async move {
        // FIN + text, masked with zeros, 16-bit length.
        let mut frame = vec![0x81, 0xfe, 0, 128, 0, 0, 0, 0];
        frame.resize(frame.len() + MESSAGE_BYTES, b'm');
        let mut back = vec![0; frame.len()];
        while let Some(due) = shared.next().await {
            let outcome = async {
                stream.write_all(&frame).await?;
                stream.read_exact(&mut back).await?;
                if back == frame { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
            }
            .await;
            shared.note(due, &outcome);
            if outcome.is_err() {
                return;
            }
        }
    };
    let clients = sockets.into_iter().map(|stream| client(stream, Rc::clone(&shared)));
    crowd(Rc::clone(&shared), clients).await
}

/// Reads bulk data; an operation is a MiB.
pub(crate) async fn bulk(
    address: SocketAddr,
    streams: usize,
    lasting: Duration,
    tls: Option<TlsConnector>,
) -> Done {
    let shared = Loop::new(lasting, None);
    let bytes = Rc::new(Cell::new(0));
    let client = |shared: Rc<Loop>, bytes: Rc<Cell<u64>>, tls: Option<TlsConnector>| async move {
        let outcome = async {
            let stream = connect(address).await?;
            match tls {
                None => drain(stream, &shared, &bytes).await,
                Some(tls) => drain(tls.connect(name(), stream).await?, &shared, &bytes).await,
            }
        };
        let outcome: io::Result<()> = outcome.await;
        shared.done.borrow_mut().errors += u64::from(outcome.is_err());
    };
    let clients = (0..streams).map(|_| client(Rc::clone(&shared), Rc::clone(&bytes), tls.clone()));
    let mut done = crowd(Rc::clone(&shared), clients).await;
    done.operations = bytes.get() / MIB;
    done
}

async fn drain<S: AsyncRead + Unpin>(
    mut stream: S,
    shared: &Loop,
    bytes: &Cell<u64>,
) -> io::Result<()> {
    let mut block = vec![0; BLOCK];
    while Instant::now() < shared.end {
        let count = stream.read(&mut block).await?;
        if count == 0 || block[..count].iter().any(|byte| *byte != b'y') {
            return Err(io::ErrorKind::InvalidData.into());
        }
        bytes.set(bytes.get() + count as u64);
    }
    Ok(())
}

/// Whom every proxy has a certificate for.
fn name() -> ServerName<'static> {
    ServerName::try_from(NAME).expect("a constant that is a name")
}

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Closes without `TIME_WAIT`, which would use up the ports of one address within a minute.
fn reset(stream: TcpStream) -> io::Result<()> {
    stream.set_zero_linger()?;
    drop(stream);
    Ok(())
}

async fn open_websocket(address: SocketAddr) -> io::Result<TcpStream> {
    let mut stream = connect(address).await?;
    stream.write_all(UPGRADE).await?;
    let mut head = Vec::with_capacity(512);
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut head).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    if head.starts_with(b"HTTP/1.1 101 ") {
        Ok(stream)
    } else {
        Err(io::ErrorKind::InvalidData.into())
    }
}

/// One request and its answer.
async fn exchange<S>(stream: &mut S, buffer: &mut Vec<u8>) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    stream.write_all(REQUEST).await?;
    buffer.clear();
    loop {
        if stream.read_buf(buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") else {
            continue;
        };
        let body = &buffer[end + 4..];
        if body.len() >= BODY.len() {
            let right = buffer.starts_with(b"HTTP/1.1 200 ") && body == BODY;
            return if right { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) };
        }
    }
}
