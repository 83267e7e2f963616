//! A connection as the data path sees it: bytes, in the clear, in TLS, or a stream of HTTP/2 that reads like one.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

use super::faulty::Faulty;
use super::h2::Exchange;

/// A connection.
#[derive(Debug)]
pub(crate) enum Stream {
    Plain(TcpStream),
    /// Ten times the size of the other, hence apart.
    Tls(Box<TlsStream<TcpStream>>),
    /// Either, hit by an injected fault.
    Faulty(Box<Faulty>),
    /// One request of a client that speaks HTTP/2, and its response.
    Exchange(Box<Exchange>),
}

impl Stream {
    /// Whether an injected fault has hit it: then no other request is to use it.
    pub(crate) fn is_faulty(&self) -> bool {
        matches!(self, Self::Faulty(_))
    }

    /// The socket below, unless others share it.
    pub(crate) fn socket(&self) -> Option<&TcpStream> {
        match self {
            Self::Plain(stream) => Some(stream),
            Self::Tls(stream) => Some(stream.get_ref().0),
            Self::Faulty(stream) => stream.inner().socket(),
            Self::Exchange(_) => None,
        }
    }

    /// Our end of it.
    pub(crate) fn local_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Exchange(exchange) => exchange.local_addr(),
            _ => self.socket()?.local_addr().ok(),
        }
    }

    /// Whether nobody else can read what is said here.
    pub(crate) fn is_secure(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(_) => true,
            Self::Faulty(stream) => stream.inner().is_secure(),
            Self::Exchange(exchange) => exchange.is_secure(),
        }
    }

    /// Whether it is one of many on its connection.
    pub(crate) fn is_exchange(&self) -> bool {
        matches!(self, Self::Exchange(_))
    }

    /// Ready when the other side has given up, as far as that is told without reading.
    pub(crate) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Plain(_) | Self::Tls(_) | Self::Faulty(_) => Poll::Pending,
            Self::Exchange(exchange) => exchange.poll_gone(cx),
        }
    }
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Self {
        Self::Plain(stream)
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Faulty(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Exchange(exchange) => exchange.poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Faulty(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Exchange(exchange) => exchange.poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Faulty(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Exchange(exchange) => {
                let first = slices.iter().find(|slice| !slice.is_empty());
                exchange.poll_write(cx, first.map_or(&[], |slice| slice))
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            // A socket has nothing to flush, and a stream of HTTP/2 is flushed by its connection.
            Self::Plain(_) | Self::Exchange(_) => Poll::Ready(Ok(())),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Self::Faulty(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Faulty(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Exchange(exchange) => Poll::Ready(exchange.shutdown()),
        }
    }
}
