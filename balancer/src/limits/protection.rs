//! The limits of one listener, as the data path asks them.
//!
//! Where a listener has no limits and nobody is banned, an answer costs a branch and a load. Otherwise each question is one look into a
//! table under a short lock; nothing ever waits for anybody outside.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ipnet::IpNet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::bans::Enforced;
use super::rate::Rate;
use super::shared::Reachable;
use super::table::{Entry, Table, subject};
use super::{Bans, LimitRules, Offence};
use crate::config::{Config, ListenerConfig};
use crate::metrics::{LimitMetrics, Metrics, Rejection};

/// How often figures are brought up to date.
const TICK: Duration = Duration::from_secs(1);
/// Clients whose consumption waits to be shared; what is beyond them holds locally only.
const UNSHARED_MAX: usize = 65_536;

/// What all listeners share: the bans, and what is remembered across reloads.
#[derive(Debug)]
pub(crate) struct Limits {
    pub(crate) clock: Clock,
    pub(crate) bans: Arc<Bans>,
    tables: Mutex<HashMap<Arc<str>, Limited>>,
    pub(crate) reachable: Arc<Reachable>,
    metrics: Arc<Metrics>,
}

/// The limits of a listener, and what is remembered of its clients.
type Limited = (Arc<LimitRules>, Arc<Tables>);

/// Nanoseconds since the process began.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn now(self) -> u64 {
        u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

impl Limits {
    pub(crate) fn new(config: &Config, metrics: &Arc<Metrics>) -> Self {
        Self {
            clock: Clock(Instant::now()),
            bans: Arc::new(Bans::new(config.bans.clone(), metrics.limits.bans())),
            tables: Mutex::default(),
            reachable: Arc::default(),
            metrics: Arc::clone(metrics),
        }
    }

    /// What protects the listener of these settings. What is remembered of its clients stays, unless other numbers of them are wanted.
    pub(crate) fn protection(&self, config: &ListenerConfig) -> Arc<Protection> {
        let rules = config.limits.clone();
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        let known = tables.get(&config.name).map(|(_, tables)| Arc::clone(tables));
        let limits = rules.map(|rules| {
            let known = known.filter(|known| known.clients_max == rules.clients_max);
            let of_clients = known.unwrap_or_else(|| Arc::new(Tables::new(rules.clients_max)));
            let limits = (rules, of_clients);
            tables.insert(Arc::clone(&config.name), limits.clone());
            limits
        });
        let shared = limits.as_ref().is_some_and(|(rules, _)| rules.shared);
        Arc::new(Protection {
            limits,
            needed: shared.then(|| Arc::clone(&self.reachable)),
            trusted: config.trusted_proxies.clone(),
            behind_header: config.proxy_protocol,
            bans: Arc::clone(&self.bans),
            metrics: self.metrics.limits.handles(&config.name),
            clock: self.clock,
        })
    }

    /// Puts other settings in force for all listeners; those that are gone are forgotten.
    pub(crate) fn set(&self, config: &Config) {
        self.bans.set_rules(config.bans.clone());
        let stays = |name: &Arc<str>| {
            config.listeners.iter().any(|it| it.name == *name && it.limits.is_some())
        };
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        tables.retain(|name, _| stays(name));
    }

    /// Keeps the figures up to date.
    pub(crate) async fn keep_figures(self: Arc<Self>) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.bans.tick(self.clock.now());
            for (listener, _, tables) in self.all() {
                let metrics = self.metrics.limits.handles(&listener);
                metrics.remembered(tables.clients.len() + tables.tokens.len());
                let (clients, tokens) = (tables.clients.take_losses(), tables.tokens.take_losses());
                metrics.lost(clients.0 + tokens.0, clients.1 + tokens.1);
            }
        }
    }

    /// Listeners whose limits are shared.
    pub(crate) fn shared(&self) -> Vec<(Arc<str>, Arc<LimitRules>, Arc<Tables>)> {
        let mut all = self.all();
        all.retain(|(_, rules, _)| rules.shared);
        all
    }

    fn all(&self) -> Vec<(Arc<str>, Arc<LimitRules>, Arc<Tables>)> {
        let tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        let clone = |(name, (rules, tables)): (&Arc<str>, &(Arc<_>, Arc<_>))| {
            (Arc::clone(name), Arc::clone(rules), Arc::clone(tables))
        };
        tables.iter().map(clone).collect()
    }
}

/// What is remembered of a listener's clients.
#[derive(Debug)]
pub(crate) struct Tables {
    clients_max: usize,
    pub(crate) clients: Table<Client>,
    pub(crate) tokens: Table<Bucket>,
    /// Those who have consumed something that was not shared yet.
    unshared: Mutex<Vec<Subject>>,
}

/// Whose consumption it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Subject {
    Client(u128),
    Token(u128),
}

impl Tables {
    fn new(clients_max: usize) -> Self {
        Self {
            clients_max,
            clients: Table::new(clients_max),
            tokens: Table::new(clients_max),
            unshared: Mutex::default(),
        }
    }

    /// Notes that `subject` has begun to consume.
    fn note(&self, subject: Subject) {
        let mut unshared = self.unshared.lock().unwrap_or_else(PoisonError::into_inner);
        if unshared.len() < UNSHARED_MAX {
            unshared.push(subject);
        }
    }

    /// Who has consumed since this was last asked.
    pub(crate) fn take_unshared(&self) -> Vec<Subject> {
        std::mem::take(&mut *self.unshared.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Does something with the requests of `subject`, if it is still remembered.
    pub(crate) fn requests_of<T>(
        &self,
        subject: Subject,
        act: impl FnOnce(&mut Bucket) -> T,
    ) -> Option<T> {
        match subject {
            Subject::Client(client) => {
                self.clients.with_known(client, |client| act(&mut client.requests))
            }
            Subject::Token(token) => self.tokens.with_known(token, act),
        }
    }
}

/// How much somebody has asked for.
#[derive(Debug, Default)]
pub(crate) struct Bucket {
    /// When it is full again.
    pub(crate) full: u64,
    /// Taken out of it and not shared yet.
    pub(crate) unshared: u32,
}

impl Bucket {
    /// Takes one; whether it is the first to be shared.
    fn take(&mut self, rate: Rate, now: u64) -> Result<bool, Duration> {
        self.full = rate.take(self.full, now)?;
        self.unshared = self.unshared.saturating_add(1);
        Ok(self.unshared == 1)
    }
}

impl Entry for Bucket {
    fn worth(&self, now: u64) -> Option<u64> {
        Some(self.full.saturating_sub(now))
    }
}

/// What is remembered of a client.
#[derive(Debug, Default)]
pub(crate) struct Client {
    connections: u32,
    /// When its bucket of new connections is full again.
    connects: u64,
    pub(crate) requests: Bucket,
}

impl Entry for Client {
    fn worth(&self, now: u64) -> Option<u64> {
        let full = self.connects.max(self.requests.full);
        (self.connections == 0).then(|| full.saturating_sub(now))
    }
}

/// A client's connection as it is counted, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    tables: Arc<Tables>,
    client: u128,
}

impl Drop for Place {
    fn drop(&mut self) {
        // An entry that counts a connection is never lost.
        self.tables.clients.with_known(self.client, |client| client.connections -= 1);
    }
}

/// Why something is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) reason: Rejection,
    /// When it would pass.
    pub(crate) retry: Option<Duration>,
}

impl From<Rejection> for Refusal {
    fn from(reason: Rejection) -> Self {
        Self { reason, retry: None }
    }
}

/// What protects one listener.
#[derive(Debug)]
pub(crate) struct Protection {
    limits: Option<Limited>,
    /// What its limits are shared through, if they are.
    needed: Option<Arc<Reachable>>,
    /// Peers that speak for others.
    trusted: Vec<IpNet>,
    /// Whether what is asked about is the client a proxy has named, and not a peer.
    behind_header: bool,
    bans: Arc<Bans>,
    metrics: LimitMetrics,
    clock: Clock,
}

impl Protection {
    /// Whether `client` may connect; the place it takes then, where places are counted.
    ///
    /// # Errors
    /// Why it may not.
    pub(crate) fn admit(&self, client: IpAddr) -> Result<Option<Box<Place>>, Rejection> {
        if self.limits.is_none() && !self.bans.any() {
            return Ok(None);
        }
        let client = client.to_canonical();
        if !self.behind_header && self.is_trusted(client) {
            // Its requests tell for whom it speaks.
            return Ok(None);
        }
        let now = self.clock.now();
        self.screen(client, now)?;
        let Some((rules, tables)) = &self.limits else { return Ok(None) };
        if rules.connections.is_none() && rules.connection_rate.is_none()
            || rules.exempt.contains(client)
        {
            return Ok(None);
        }
        let number = subject(client, rules.ipv6_prefix);
        let admitted = tables.clients.with(number, now, |entry| {
            let most = rules.connections.is_some_and(|max| entry.connections >= max.get());
            let early = match rules.connection_rate.map(|rate| rate.take(entry.connects, now)) {
                Some(Ok(full)) => {
                    entry.connects = full;
                    false
                }
                Some(Err(_)) => true,
                None => false,
            };
            let refused = match (most, early) {
                (true, _) => Some(Rejection::ClientConnections),
                (_, true) => Some(Rejection::ConnectionRate),
                _ => None,
            };
            if refused.is_none() || rules.observe {
                entry.connections += u32::from(rules.connections.is_some());
            }
            refused
        });
        if let Some(Some(reason)) = admitted {
            if !rules.observe {
                self.offend(client, Offence::ConnectionFlood);
            }
            self.refuse(rules.observe, reason)?;
        }
        // Whoever is not remembered is not counted.
        let counted = admitted.is_some() && rules.connections.is_some();
        Ok(counted.then(|| Box::new(Place { tables: Arc::clone(tables), client: number })))
    }

    /// Whether a request of `client`, under a `token` if it carries one, may pass on a connection with `peer`.
    ///
    /// # Errors
    /// Why it may not, and when it would.
    pub(crate) fn request(
        &self,
        peer: IpAddr,
        client: IpAddr,
        token: Option<u64>,
    ) -> Result<(), Refusal> {
        if self.limits.is_none() && !self.bans.any() {
            return Ok(());
        }
        let now = self.clock.now();
        if client != peer.to_canonical() {
            self.screen(client, now)?;
        } else if self.bans.any() {
            self.find_ban(client, now)?;
        }
        let Some(limits) = &self.limits else { return Ok(()) };
        let (rules, tables) = limits;
        if rules.exempt.contains(client) {
            return Ok(());
        }
        if self.needed.as_ref().is_some_and(|needed| !needed.lets_pass()) {
            self.refuse(rules.observe, Rejection::LimitsUnavailable)?;
        }
        if let Some(rate) = rules.request_rate {
            let number = subject(client, rules.ipv6_prefix);
            let answer = tables.clients.with(number, now, |entry| entry.requests.take(rate, now));
            self.settle(limits, Subject::Client(number), answer, Rejection::RequestRate)?;
        }
        if let (Some(limit), Some(token)) = (&rules.token, token) {
            let number = u128::from(token);
            let answer = tables.tokens.with(number, now, |bucket| bucket.take(limit.rate, now));
            self.settle(limits, Subject::Token(number), answer, Rejection::TokenRate)?;
        }
        Ok(())
    }

    /// Notes what a client has done.
    pub(crate) fn offend(&self, client: IpAddr, offence: Offence) {
        let client = client.to_canonical();
        let exempt =
            || self.limits.as_ref().is_some_and(|(rules, _)| rules.exempt.contains(client));
        if self.is_trusted(client) || exempt() {
            return;
        }
        if let Some(time) = self.bans.offend(client, offence, self.clock.now()) {
            tracing::info!(%client, offence = offence.as_str(), seconds = time.as_secs(), "client banned");
        }
    }

    /// Part of a request that names its token.
    pub(crate) fn token_key(&self) -> Option<&crate::message::choice::Key> {
        self.limits.as_ref()?.0.token.as_ref().map(|token| &token.key)
    }

    /// Lists and bans.
    fn screen(&self, client: IpAddr, now: u64) -> Result<(), Rejection> {
        if let Some((rules, _)) = &self.limits
            && rules.denies(client)
        {
            self.refuse(rules.observe, Rejection::Denied)?;
        }
        self.find_ban(client, now)
    }

    fn find_ban(&self, client: IpAddr, now: u64) -> Result<(), Rejection> {
        match self.bans.find(client, now) {
            Some(enforced) => self.refuse(enforced == Enforced::Noted, Rejection::Banned),
            None => Ok(()),
        }
    }

    /// What a bucket's answer means.
    fn settle(
        &self,
        (rules, tables): &Limited,
        subject: Subject,
        answer: Option<Result<bool, Duration>>,
        reason: Rejection,
    ) -> Result<(), Refusal> {
        match answer {
            Some(Ok(first)) => {
                if first && rules.shared {
                    tables.note(subject);
                }
                Ok(())
            }
            Some(Err(retry)) => {
                let refused = self.refuse(rules.observe, reason);
                refused.map_err(|reason| Refusal { reason, retry: Some(retry) })
            }
            None => Ok(()),
        }
    }

    /// Refuses, or only counts it.
    fn refuse(&self, observe: bool, reason: Rejection) -> Result<(), Rejection> {
        if observe {
            self.metrics.would_reject(reason);
            return Ok(());
        }
        Err(reason)
    }

    fn is_trusted(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|net| net.contains(&address))
    }
}
