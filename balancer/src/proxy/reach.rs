//! Reaching a server of a pool: choosing one, a connection to it, and the next one if that fails.
//!
//! A server that fails is not asked again for the same request, and the pool is told. Asking another is a retry, for which the pool has a
//! budget ([`crate::pool::retry`]). Where the settings want it, a connection that takes long is hedged: another server is asked as well, and
//! whichever answers first is used. That costs a connection now and then and saves the wait for a lost SYN or a host that is gone.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::faulty::{Strike, Struck};
use super::forward::Failure;
use super::session::{Phase, Session};
use super::stream::Stream;
use super::upstream::{self, Idle};
use crate::config::PoolRules;
use crate::metrics::Hedge;
use crate::pool::retry::Permit;
use crate::pool::server::Lease;
use crate::pool::{Ask, Pool, Tried};
use crate::proxy_protocol::Ends;

/// A connection to a server.
pub(crate) struct Way {
    pub(crate) stream: Stream,
    pub(crate) lease: Lease,
    /// Whether it has served another request before; if it breaks, that says nothing about the server.
    pub(crate) reused: bool,
    /// Time to connect.
    pub(crate) took: Duration,
}

/// The search for a server that takes one request or connection.
pub(crate) struct Search<'a> {
    pool: &'a Arc<Pool>,
    rules: &'a PoolRules,
    ask: Ask,
    ends: Option<Ends>,
    tried: Tried,
    /// Held while another server than the first is asked.
    retry: Option<Permit>,
}

impl<'a> Search<'a> {
    /// A search in `pool` on behalf of a client between `ends`.
    pub(crate) fn new(
        pool: &'a Arc<Pool>,
        rules: &'a PoolRules,
        ask: Ask,
        ends: Option<Ends>,
    ) -> Self {
        Self { pool, rules, ask, ends, tried: Tried::default(), retry: None }
    }

    /// A way to the server of `lease`, or to one chosen by the pool; to the next one if that fails. A kept connection out of `idle` will
    /// do if there is one.
    pub(crate) async fn reach(
        &mut self,
        session: &Session,
        idle: Option<&Idle>,
        lease: Option<Lease>,
    ) -> Result<Way, Failure> {
        session.enter(Phase::Connecting);
        let mut lease = match lease {
            Some(lease) => lease,
            None => self.pick().await?,
        };
        // A server that was told of one client is not shown another on the same connection.
        let idle = idle.filter(|_| self.rules.send_proxy.is_none());
        loop {
            let strike = if self.pool.faults().is_any() {
                match self.suffer(&lease).await {
                    Ok(strike) => strike,
                    Err(Struck::Answered(status)) => return Err(Failure::Injected(status)),
                    Err(Struck::Refused) => {
                        self.fail(&lease, &"refused by an injected fault");
                        lease = self.pick().await?;
                        continue;
                    }
                }
            } else {
                Strike::default()
            };
            let idle = idle.filter(|_| !strike.is_on_the_way());
            if let Some(stream) = idle.and_then(|idle| idle.take(lease.id())) {
                return Ok(Way { stream, lease, reused: true, took: Duration::ZERO });
            }
            let begun = Instant::now();
            match self.connect(&mut lease).await {
                Ok(stream) => {
                    let took = begun.elapsed();
                    let stream = strike.wrap(stream);
                    return Ok(Way { stream, lease, reused: false, took });
                }
                Err(error) => {
                    self.fail(&lease, &error);
                    lease = self.pick().await?;
                }
            }
        }
    }

    /// Lets injected faults have their effect before the server of `lease` is asked.
    async fn suffer(&self, lease: &Lease) -> Result<Strike, Struck> {
        let begun = Instant::now();
        let strike = Strike::draw(self.pool, lease);
        // Apart: it is nearly never needed.
        let outcome = Box::pin(strike.before()).await;
        if let Err(Struck::Answered(status)) = outcome {
            lease.metrics.response(status);
            self.pool.handle_response(lease, status, begun.elapsed());
        }
        outcome.map(|()| strike)
    }

    /// Servers asked, the last one included.
    pub(crate) fn asked(&self) -> usize {
        self.tried.count() + 1
    }

    /// Tells the pool that a server has failed; it is not asked again.
    pub(crate) fn fail(&mut self, server: &Lease, error: &dyn std::fmt::Display) {
        let pool = self.pool;
        tracing::debug!(pool = %pool.name(), server = %server.name(), %error, "attempt failed");
        pool.handle_failure(server);
        self.tried.add(server);
    }

    /// Chooses a server that was not tried yet; waits for one if those that would do have no room.
    async fn pick(&mut self) -> Result<Lease, Failure> {
        let Self { pool, rules, ask, tried, .. } = self;
        let first = tried.is_empty();
        let failure = if first { Failure::NoServer } else { Failure::Connect };
        if tried.count() >= rules.retries.servers_max {
            return Err(failure);
        }
        if !first && self.retry.is_none() {
            self.retry = Some(pool.permit_retry(rules).ok_or(failure)?);
        }
        let lease = match pool.pick(ask, tried) {
            Some(lease) => lease,
            None if pool.lacks_room(tried) => {
                let free = pool.room.wait(rules.queue_max, || pool.pick(ask, tried));
                let begun = Instant::now();
                let waited = timeout(rules.queue_timeout, Box::pin(free)).await;
                pool.metrics.queue_wait.observe(begun.elapsed().as_secs_f64());
                waited.map_err(|_| Failure::QueueTimeout)?.ok_or(Failure::QueueFull)?
            }
            None => return Err(failure),
        };
        if !first {
            pool.metrics.retries.inc();
        }
        Ok(lease)
    }

    /// Connects to the server of `lease`, or to another one that is quicker and takes its place there.
    async fn connect(&mut self, lease: &mut Lease) -> io::Result<Stream> {
        match self.rules.retries.hedge_after {
            None => upstream::connect(lease, self.rules, self.ends).await,
            // Apart: two connections in the making are large, and most pools want one.
            Some(after) => Box::pin(self.hedge(lease, after)).await,
        }
    }

    async fn hedge(&mut self, lease: &mut Lease, after: Duration) -> io::Result<Stream> {
        let (pool, rules, ends) = (self.pool, self.rules, self.ends);
        let (other, race) = {
            let mut first = pin!(upstream::connect(lease, rules, ends));
            tokio::select! {
                biased;
                made = &mut first => return made,
                () = sleep(after) => {}
            }
            let mut tried = self.tried;
            tried.add(lease);
            // Held until one of them has won.
            let permit = pool.permit_retry(rules);
            let other = permit.as_ref().and_then(|_| pool.pick(&self.ask, &tried));
            let Some(other) = other else { return first.await };
            let race = {
                let mut second = pin!(upstream::connect(&other, rules, ends));
                tokio::select! {
                    biased;
                    made = &mut first => match made {
                        Ok(stream) => Race::First(stream, None),
                        Err(error) => match second.await {
                            Ok(stream) => Race::Second(stream, Some(error)),
                            Err(other) => Race::Neither(error, other),
                        },
                    },
                    made = &mut second => match made {
                        Ok(stream) => Race::Second(stream, None),
                        Err(other) => match first.await {
                            Ok(stream) => Race::First(stream, Some(other)),
                            Err(error) => Race::Neither(error, other),
                        },
                    },
                }
            };
            (other, race)
        };
        // The slower one's connection is closed by now. Slow once is no failure; what failed is marked.
        match race {
            Race::First(stream, failed) => {
                pool.metrics.hedge(Hedge::First);
                if let Some(error) = failed {
                    self.fail(&other, &error);
                }
                Ok(stream)
            }
            Race::Second(stream, failed) => {
                pool.metrics.hedge(Hedge::Second);
                let slower = std::mem::replace(lease, other);
                if let Some(error) = failed {
                    self.fail(&slower, &error);
                }
                Ok(stream)
            }
            Race::Neither(error, others) => {
                pool.metrics.hedge(Hedge::Neither);
                self.fail(&other, &others);
                Err(error)
            }
        }
    }
}

/// How two connections came out of which one was needed; with the error of one that failed meanwhile.
enum Race {
    First(Stream, Option<io::Error>),
    Second(Stream, Option<io::Error>),
    Neither(io::Error, io::Error),
}
