//! All client connections of the node: how many there may be, whose they are, and whether the node is leaving.
//!
//! A place is taken before the upgrade is answered and given back when the connection is gone, so that no limit can be passed by
//! connecting faster than connections are counted.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::access::Who;
use crate::config;
use crate::mailbox::Mailbox;
use crate::metrics::Metrics;
use crate::protocol::Disconnect;
use crate::session::{Bucket, Now};

/// All client connections of the node.
pub struct Connections {
    table: Mutex<Table>,
    limits: Limits,
    pub(crate) draining: CancellationToken,
    pub(crate) metrics: Metrics,
}

/// What the table enforces.
#[derive(Debug, Clone, Copy)]
struct Limits {
    connections: usize,
    per_user: usize,
    per_address: usize,
    user_commands: config::CommandRate,
}

#[derive(Default)]
struct Table {
    next: u64,
    taken: usize,
    open: HashMap<u64, Entry>,
    users: HashMap<Box<str>, User>,
    addresses: HashMap<IpAddr, usize>,
    /// Connections whose commands come by separate requests, by their secret.
    sessions: HashMap<Box<str>, u64>,
}

struct Entry {
    mailbox: Arc<Mailbox>,
    session: Box<str>,
}

struct User {
    connections: Vec<u64>,
    bucket: Option<Arc<Mutex<Bucket>>>,
}

/// Why there is no place; the reason as counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// The node is leaving.
    Draining,
    /// The node has all the connections it may have.
    Node,
    /// The address has all the connections it may have.
    Address,
}

/// A place among the connections; given back on drop.
pub struct Place {
    connections: Arc<Connections>,
    address: Option<IpAddr>,
    /// The connection's number, from 1.
    pub number: u64,
}

/// Which connections are meant; all that is given must fit.
#[derive(Debug, Clone, Default)]
pub struct Selector {
    /// Of this user.
    pub user: Option<String>,
    /// With this id.
    pub client: Option<String>,
    /// With this secret.
    pub session: Option<String>,
}

/// How many there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections.
    pub clients: usize,
    /// Different users.
    pub users: usize,
    /// Subscriptions of all connections.
    pub subscriptions: usize,
}

impl Connections {
    /// None open.
    pub fn new(limits: &config::Client, metrics: Metrics) -> Self {
        let limits = Limits {
            connections: limits.connections_max,
            per_user: limits.user_connections_max,
            per_address: limits.address_connections_max,
            user_commands: limits.user_command_rate,
        };
        let (table, draining) = (Mutex::default(), CancellationToken::new());
        Self { table, limits, draining, metrics }
    }

    /// Takes a place for a client at `address`.
    ///
    /// # Errors
    /// There is none for it.
    pub fn take(self: &Arc<Self>, address: Option<IpAddr>) -> Result<Place, Full> {
        if self.is_draining() {
            return Err(Full::Draining);
        }
        let mut table = self.lock();
        if table.taken >= self.limits.connections {
            return Err(Full::Node);
        }
        if let Some(address) = address.filter(|_| self.limits.per_address > 0) {
            let count = table.addresses.entry(address).or_default();
            if *count >= self.limits.per_address {
                return Err(Full::Address);
            }
            *count += 1;
        }
        table.taken += 1;
        table.next += 1;
        let number = table.next;
        drop(table);
        self.metrics.connections.inc();
        Ok(Place { connections: Arc::clone(self), address, number })
    }

    /// Connections that are meant.
    pub fn select(&self, selector: &Selector) -> Vec<Arc<Mailbox>> {
        let table = self.lock();
        let fits = |number: &u64| {
            let entry = table.open.get(number)?;
            let Selector { user, client, session } = selector;
            let of_user = user
                .as_ref()
                .is_none_or(|user| entry.mailbox.who().is_some_and(|who| *who.user == **user));
            let client = client.as_ref().is_none_or(|client| entry.mailbox.client() == client);
            let session = session.as_ref().is_none_or(|session| *entry.session == **session);
            (of_user && client && session).then(|| Arc::clone(&entry.mailbox))
        };
        match &selector.user {
            Some(user) => table
                .users
                .get(user.as_str())
                .map(|user| user.connections.iter().filter_map(fits).collect())
                .unwrap_or_default(),
            None => table.open.keys().filter_map(fits).collect(),
        }
    }

    /// The connection that gets its commands by separate requests with this secret.
    pub fn by_session(&self, session: &str) -> Option<Arc<Mailbox>> {
        let table = self.lock();
        let number = table.sessions.get(session)?;
        table.open.get(number).map(|entry| Arc::clone(&entry.mailbox))
    }

    /// Every open connection.
    pub(crate) fn all(&self) -> Vec<Arc<Mailbox>> {
        self.lock().open.values().map(|entry| Arc::clone(&entry.mailbox)).collect()
    }

    /// How many there are.
    pub fn counts(&self) -> Counts {
        let table = self.lock();
        let subscriptions = usize::try_from(self.metrics.subscriptions.get()).unwrap_or(0);
        Counts { clients: table.open.len(), users: table.users.len(), subscriptions }
    }

    /// Whether the node is leaving.
    pub fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }

    /// Asks the node to leave.
    pub fn request_drain(&self) {
        self.draining.cancel();
    }

    /// Ready when the node was asked to leave.
    pub async fn drain_requested(&self) {
        self.draining.cancelled().await;
    }

    /// A panic while the lock is held is a bug that has been reported; the table is still who is connected.
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// The connection is open. If the node is leaving it is asked to close at once.
    pub fn open(&self, mailbox: &Arc<Mailbox>, session: &str) {
        let mut table = self.connections.lock();
        let entry = Entry { mailbox: Arc::clone(mailbox), session: session.into() };
        table.open.insert(self.number, entry);
        if !session.is_empty() {
            table.sessions.insert(session.into(), self.number);
        }
        drop(table);
        if self.connections.is_draining() {
            mailbox.cut(Disconnect::SHUTDOWN);
        }
    }
}

impl Connections {
    /// The connection with this number belongs to `who`. The answer is what all connections of the user may send together.
    ///
    /// # Errors
    /// The user has all the connections it may have.
    pub fn identify(
        &self,
        number: u64,
        who: &Arc<Who>,
        now: Now,
    ) -> Result<Option<Arc<Mutex<Bucket>>>, Disconnect> {
        let mut table = self.lock();
        let Some(mailbox) = table.open.get(&number).map(|entry| Arc::clone(&entry.mailbox)) else {
            return Err(Disconnect::CONNECTION_CLOSED);
        };
        let user = table.users.entry(who.user.clone()).or_insert_with(|| {
            let bucket = Bucket::full(self.limits.user_commands, now.instant);
            let bucket = bucket.map(|bucket| Arc::new(Mutex::new(bucket)));
            User { connections: Vec::new(), bucket }
        });
        // The anonymous are many, and have nothing in common.
        let limited = self.limits.per_user > 0 && !who.user.is_empty();
        if limited && user.connections.len() >= self.limits.per_user {
            self.metrics.rejected_connections.with_label_values(&["user"]).inc();
            return Err(Disconnect::CONNECTION_LIMIT);
        }
        user.connections.push(number);
        let bucket = user.bucket.clone().filter(|_| !who.user.is_empty());
        mailbox.set_who(Arc::clone(who));
        Ok(bucket)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut table = self.connections.lock();
        table.taken -= 1;
        if let Some(address) = self.address
            && let Some(count) = table.addresses.get_mut(&address)
        {
            *count -= 1;
            if *count == 0 {
                table.addresses.remove(&address);
            }
        }
        if let Some(entry) = table.open.remove(&self.number) {
            table.sessions.remove(&entry.session);
            if let Some(who) = entry.mailbox.who()
                && let Some(user) = table.users.get_mut(&who.user)
            {
                user.connections.retain(|number| *number != self.number);
                if user.connections.is_empty() {
                    table.users.remove(&who.user);
                }
            }
        }
        drop(table);
        self.connections.metrics.connections.dec();
    }
}
