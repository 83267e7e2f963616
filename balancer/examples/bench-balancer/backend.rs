//! The servers behind the proxies: as little work as possible, for HTTP, WebSocket and bulk data.

use std::error::Error;
use std::io;
use std::net::{SocketAddr, TcpListener};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// What every answer carries.
pub(crate) const BODY: &[u8; 512] = &[b'x'; 512];
const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nCache-Control: no-store\r\nContent-Length: 512\r\n\r\n";
const SWITCHED: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
/// Written at a time by the server of bulk data.
const BLOCK: usize = 256 * 1024;

/// Where the servers are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Backends {
    pub(crate) http: SocketAddr,
    pub(crate) bulk: SocketAddr,
}

/// Starts both on a thread of their own.
pub(crate) fn start() -> Result<Backends, Box<dyn Error>> {
    let bind = || {
        let socket = TcpListener::bind("127.0.0.1:0")?;
        socket.set_nonblocking(true)?;
        Ok::<_, io::Error>((socket.local_addr()?, socket))
    };
    let ((http, http_socket), (bulk, bulk_socket)) = (bind()?, bind()?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::spawn(move || {
        runtime.block_on(async {
            let serve_http = accept(http_socket, answer);
            let serve_bulk = accept(bulk_socket, pour);
            tokio::join!(serve_http, serve_bulk)
        })
    });
    Ok(Backends { http, bulk })
}

async fn accept<F>(socket: TcpListener, serve: impl Fn(TcpStream) -> F) -> io::Result<()>
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    let socket = tokio::net::TcpListener::from_std(socket)?;
    loop {
        let (stream, _) = socket.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(serve(stream));
    }
}

/// Answers requests, and echoes once one asks for an upgrade.
async fn answer(mut stream: TcpStream) -> io::Result<()> {
    let answer = [HEAD.as_bytes(), BODY].concat();
    let mut buffer = Vec::with_capacity(2_048);
    loop {
        let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") else {
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
            continue;
        };
        let upgrade = buffer[..end].windows(9).any(|w| w.eq_ignore_ascii_case(b"websocket"));
        buffer.drain(..end + 4);
        if upgrade {
            stream.write_all(SWITCHED).await?;
            return echo(stream).await;
        }
        stream.write_all(&answer).await?;
    }
}

async fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; 1_024];
    loop {
        match stream.read(&mut buffer).await? {
            0 => return Ok(()),
            count => stream.write_all(&buffer[..count]).await?,
        }
    }
}

/// Sends until nobody wants more.
async fn pour(mut stream: TcpStream) -> io::Result<()> {
    let block = vec![b'y'; BLOCK];
    loop {
        stream.write_all(&block).await?;
    }
}
