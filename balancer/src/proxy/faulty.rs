//! What injected faults ([`crate::faults`]) do to a request or connection on its way: before the server is asked, and on the connection to it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep, sleep_until};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::stream::Stream;
use crate::faults::{Effect, Fault};
use crate::pool::Pool;
use crate::pool::server::Server;

/// What hits one request or connection; nothing, nearly always.
#[derive(Default)]
pub(crate) struct Strike(Vec<Arc<Fault>>);

/// How it ends before a server was asked.
pub(crate) enum Struck {
    /// As if the server had answered so.
    Answered(StatusCode),
    /// As if nobody listened.
    Refused,
}

impl Strike {
    /// Draws what hits a request or connection to `server`.
    pub(crate) fn draw(pool: &Pool, server: &Server) -> Self {
        Self(pool.faults().strike(Instant::now().into_std(), server.name(), fastrand::f64))
    }

    /// Lets it wait, or ends it.
    pub(crate) async fn before(&self) -> Result<(), Struck> {
        for fault in &self.0 {
            if let Effect::Latency { delay, jitter } = fault.order.effect {
                let more = jitter.mul_f64(fastrand::f64());
                tokio::select! {
                    () = sleep(delay + more) => {}
                    () = fault.ended().cancelled() => {}
                }
            }
        }
        // The wait may have lasted longer than another fault.
        let in_force = self.0.iter().filter(|fault| !fault.ended().is_cancelled());
        for fault in in_force {
            match fault.order.effect {
                Effect::Error(status) => return Err(Struck::Answered(status)),
                Effect::Refuse => return Err(Struck::Refused),
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether the connection itself is hit, and so must not be one that others have used or will use.
    pub(crate) fn is_on_the_way(&self) -> bool {
        self.on_the_way().next().is_some()
    }

    /// The connection as the fault lets it be.
    pub(crate) fn wrap(&self, stream: Stream) -> Stream {
        self.on_the_way().fold(stream, |stream, (fault, effect)| {
            let ended = fault.ended().clone().cancelled_owned();
            Stream::Faulty(Box::new(Faulty {
                inner: stream,
                effect,
                ended: Box::pin(ended),
                over: false,
            }))
        })
    }

    fn on_the_way(&self) -> impl Iterator<Item = (&Arc<Fault>, Way)> {
        self.0.iter().filter_map(|fault| {
            let way = match fault.order.effect {
                Effect::Reset(after) => Way::Reset(Box::pin(sleep(after))),
                Effect::Bandwidth(rate) => {
                    let rate = rate.get() as f64;
                    Way::Bandwidth(Box::new([Pace::new(rate), Pace::new(rate)]))
                }
                Effect::Hang => Way::Hang,
                Effect::Latency { .. } | Effect::Error(_) | Effect::Refuse => return None,
            };
            Some((fault, way))
        })
    }
}

/// What happens on a connection.
#[derive(Debug)]
enum Way {
    Reset(Pin<Box<Sleep>>),
    /// From the server and to it.
    Bandwidth(Box<[Pace; 2]>),
    Hang,
}

/// A connection to a server that is hit by a fault, until that is over.
#[derive(Debug)]
pub(crate) struct Faulty {
    inner: Stream,
    effect: Way,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
    over: bool,
}

impl Faulty {
    /// The connection below.
    pub(crate) fn inner(&self) -> &Stream {
        &self.inner
    }

    /// How many bytes may pass now in a direction (0 from the server, 1 to it); all of them if the fault is over.
    fn poll_allowance(
        &mut self,
        cx: &mut Context<'_>,
        direction: usize,
    ) -> Poll<io::Result<usize>> {
        if !self.over {
            self.over = self.ended.as_mut().poll(cx).is_ready();
        }
        if self.over {
            return Poll::Ready(Ok(usize::MAX));
        }
        match &mut self.effect {
            Way::Hang => Poll::Pending,
            Way::Reset(timer) => {
                // The clock, not the timer alone: that may come a millisecond late, in which a whole answer fits.
                let due = timer.deadline() <= Instant::now() || timer.as_mut().poll(cx).is_ready();
                let broken = || io::Error::from(io::ErrorKind::ConnectionReset);
                Poll::Ready(if due { Err(broken()) } else { Ok(usize::MAX) })
            }
            Way::Bandwidth(paces) => paces[direction].poll_allowance(cx).map(Ok),
        }
    }

    fn note(&mut self, direction: usize, count: usize) {
        if let Way::Bandwidth(paces) = &mut self.effect {
            paces[direction].spend(count);
        }
    }
}

impl AsyncRead for Faulty {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let allowance = ready!(self.poll_allowance(cx, 0))?;
        let wanted = buffer.remaining().min(allowance);
        let mut part = ReadBuf::new(buffer.initialize_unfilled_to(wanted));
        ready!(Pin::new(&mut self.inner).poll_read(cx, &mut part))?;
        let count = part.filled().len();
        buffer.advance(count);
        self.note(0, count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Faulty {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let allowance = ready!(self.poll_allowance(cx, 1))?;
        let bytes = &bytes[..bytes.len().min(allowance)];
        let count = ready!(Pin::new(&mut self.inner).poll_write(cx, bytes))?;
        self.note(1, count);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// Bytes per second in one direction. What was not used is saved up for no longer than [`Pace::SAVED`], so that the rate is kept over any second.
#[derive(Debug)]
struct Pace {
    rate: f64,
    allowance: f64,
    at: Instant,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Pace {
    const SAVED: Duration = Duration::from_millis(100);

    fn new(rate: f64) -> Self {
        Self { rate, allowance: 0.0, at: Instant::now(), timer: None }
    }

    /// Ready when a byte may pass, with how many.
    fn poll_allowance(&mut self, cx: &mut Context<'_>) -> Poll<usize> {
        loop {
            if let Some(timer) = &mut self.timer {
                ready!(timer.as_mut().poll(cx));
                self.timer = None;
            }
            let now = Instant::now();
            let most = (self.rate * Self::SAVED.as_secs_f64()).max(1.0);
            let earned = (now - self.at).as_secs_f64() * self.rate;
            (self.allowance, self.at) = ((self.allowance + earned).min(most), now);
            if self.allowance >= 1.0 {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "at least 1, and saturates"
                )]
                return Poll::Ready(self.allowance as usize);
            }
            // A little more than one byte's worth, or a slow connection would wake for each byte.
            let wait = Duration::from_secs_f64((1.0 - self.allowance) / self.rate);
            self.timer = Some(Box::pin(sleep_until(now + wait.max(Duration::from_millis(5)))));
        }
    }

    fn spend(&mut self, count: usize) {
        self.allowance -= count as f64;
    }
}
