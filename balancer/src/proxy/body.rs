//! Bodies on their way through: streamed, never collected.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::session::{Phase, Session};
use super::upstream::GiveBack;
use crate::pool::server::Lease;

/// A request's body towards a server.
#[derive(Debug)]
pub(crate) enum RequestBody {
    /// As the client sends it; the session hears whether the client is waited for.
    Streamed(Incoming, Rc<Session>),
    /// None; such a request can be repeated.
    Empty,
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Streamed(body, session) => {
                let polled = Pin::new(body).poll_frame(cx);
                session.await_client(polled.is_pending());
                polled
            }
            Self::Empty => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Streamed(body, _) => body.is_end_stream(),
            Self::Empty => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Streamed(body, _) => body.size_hint(),
            Self::Empty => SizeHint::with_exact(0),
        }
    }
}

/// A response's body towards the client.
#[derive(Debug)]
pub(crate) enum ResponseBody {
    /// As the server sends it.
    Streamed(Streamed),
    /// Our own words.
    Text(Full<Bytes>),
}

/// A server's body with what it holds: a place at the server, and the connection it comes on.
#[derive(Debug)]
pub(crate) struct Streamed {
    body: Incoming,
    give_back: Option<GiveBack>,
    session: Rc<Session>,
    _lease: Lease,
}

impl ResponseBody {
    pub(crate) fn text(text: &'static str) -> Self {
        Self::Text(Full::new(Bytes::from_static(text.as_bytes())))
    }

    pub(crate) fn streamed(
        body: Incoming,
        give_back: Option<GiveBack>,
        session: Rc<Session>,
        lease: Lease,
    ) -> Self {
        let mut streamed = Streamed { body, give_back, session, _lease: lease };
        streamed.settle();
        Self::Streamed(streamed)
    }
}

impl Streamed {
    /// Gives the connection back once nothing more comes on it.
    fn settle(&mut self) {
        if self.body.is_end_stream()
            && let Some(give_back) = self.give_back.take()
        {
            give_back.now();
        }
    }
}

impl Drop for Streamed {
    fn drop(&mut self) {
        if self.session.phase() == Phase::Body {
            self.session.enter(Phase::Idle);
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let streamed = match self.get_mut() {
            Self::Text(text) => {
                return Pin::new(text)
                    .poll_frame(cx)
                    .map(|frame| frame.map(|frame| frame.map_err(|never| match never {})));
            }
            Self::Streamed(streamed) => streamed,
        };
        let frame = ready!(Pin::new(&mut streamed.body).poll_frame(cx));
        match frame {
            None => {
                if let Some(give_back) = streamed.give_back.take() {
                    give_back.now();
                }
            }
            Some(Ok(_)) => streamed.settle(),
            // A broken connection is not kept.
            Some(Err(_)) => drop(streamed.give_back.take()),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Streamed(streamed) => streamed.body.is_end_stream(),
            Self::Text(text) => text.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Streamed(streamed) => streamed.body.size_hint(),
            Self::Text(text) => text.size_hint(),
        }
    }
}
