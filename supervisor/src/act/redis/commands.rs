//! The single operations on Redis servers that failovers are made of.

use std::time::Duration;

use futures_util::future::join_all;
use holdfast_psync::resp::Reply;
use holdfast_psync::{Connection, Endpoint};
use tokio::time::{Instant, sleep};

use crate::cluster::{Address, RedisRole};
use crate::group::ProposeError;
use crate::judge::redis::Sample;
use crate::observe::redis::{AskError, Command, Watch, command};
use crate::plan::failover::{Barrier, DRAIN_LIMIT, Drain};

/// Pause between two looks at a replica that drains or catches up: a look costs it 0.05 ms.
pub(super) const POLL_EVERY: Duration = Duration::from_millis(1);

/// An operation that only changes a role in memory; it takes well under a millisecond on a server that is well.
pub(super) const ORDER_LIMIT: Duration = Duration::from_millis(500);

/// How long the new primary may take to accept its first write.
const WRITE_LIMIT: Duration = Duration::from_secs(3);

/// How long a replica may take to confirm it: enough for a partial copy, which takes milliseconds; a full one takes what it takes.
const CONFIRM_LIMIT: Duration = Duration::from_secs(1);

/// Why an operation did not work.
#[derive(Debug, thiserror::Error)]
pub(super) enum ActError {
    /// The server could not be asked.
    #[error("cannot {what}")]
    Ask {
        what: String,
        #[source]
        source: AskError,
    },
    /// The group does not agree.
    #[error("cannot agree on it")]
    Agree(#[source] ProposeError),
    /// It was asked, and is not what it should be now.
    #[error("{0} is still a replica after its promotion")]
    StillReplica(Address),
    /// It began to copy other data before it was promoted.
    #[error("{0} has not kept the data it was chosen for")]
    Changed(Address),
    /// A write did not get through.
    #[error("{address} takes no writes within {} ms: {last}", after.as_millis())]
    NoWrite { address: Address, after: Duration, last: String },
    /// The target did not reach the primary's offset.
    #[error("{address} did not catch up within {} ms", after.as_millis())]
    NotCaughtUp { address: Address, after: Duration },
}

impl ActError {
    fn ask(what: impl Into<String>) -> impl FnOnce(AskError) -> Self {
        let what = what.into();
        move |source| Self::Ask { what, source }
    }
}

/// What the replicas have, once nothing more comes in.
pub(super) struct Drained {
    /// Their state, of those that answered.
    pub(super) samples: Vec<(Address, Sample)>,
    /// At least one has lost its link to the primary, or none was left to ask.
    pub(super) link_lost: bool,
}

/// Waits until the replicas have applied what they received.
///
/// `until_link_lost`: the primary is said to be dead, so its replicas must notice; if none does until the limit, it is not.
pub(super) async fn drain(watches: &[Watch], from: &Address, until_link_lost: bool) -> Drained {
    let mut barrier = Barrier::new(Instant::now().into_std(), until_link_lost);
    let mut open: Vec<&Watch> = watches.iter().filter(|watch| watch.address() != from).collect();
    loop {
        let looks = join_all(open.iter().map(|watch| watch.sample(DRAIN_LIMIT / 3))).await;
        let mut samples = Vec::new();
        for (watch, look) in std::mem::take(&mut open).into_iter().zip(looks) {
            // One that cannot be asked now cannot be promoted either.
            let Ok(sample) = look else { continue };
            samples.push((watch.address().clone(), sample));
            open.push(watch);
        }
        if let Drain::Shut { link_lost } = barrier.look(Instant::now().into_std(), &samples) {
            return Drained { samples, link_lost };
        }
        sleep(POLL_EVERY).await;
    }
}

/// A fence holds this long, if nobody takes it away: longer than any supervisor is away. It ends with the server's process, and a new
/// process is dealt with as a server that comes back.
const FENCE: Duration = Duration::from_hours(30 * 24);

/// Keeps a server from taking writes and closes its clients, in one piece: no client gets a reply to what it wrote before.
///
/// The data stay as they are, so that what others lack can still be read. The `INFO` in between tells how far it had come. Writes of
/// clients that come back wait; they are refused once the server is a replica.
pub(super) fn fence() -> Vec<Command> {
    vec![
        command(["MULTI"]),
        command(["INFO", "replication"]),
        command(["CLIENT", "PAUSE", &FENCE.as_millis().to_string(), "WRITE"]),
        command(["CLIENT", "KILL", "TYPE", "normal"]),
        command(["CLIENT", "KILL", "TYPE", "pubsub"]),
        command(["EXEC"]),
    ]
}

/// Makes a server a replica of `to`, closes its clients and ends a pause, in one piece.
///
/// The `INFO` in between tells how far it had come at that moment.
pub(super) fn demotion(to: &Address) -> Vec<Command> {
    let port = to.port().to_string();
    vec![
        command(["MULTI"]),
        command(["INFO", "replication"]),
        command(["REPLICAOF", to.host(), &port]),
        command(["CLIENT", "KILL", "TYPE", "normal"]),
        command(["CLIENT", "KILL", "TYPE", "pubsub"]),
        command(["CLIENT", "UNPAUSE"]),
        command(["EXEC"]),
    ]
}

/// Carries a [`demotion`] out and waits for it.
pub(super) async fn demote(watch: &Watch, to: &Address) -> Result<Option<(String, u64)>, ActError> {
    let what = format!("make {} a replica of {to}", watch.address());
    let replies =
        watch.ask(demotion(to), ORDER_LIMIT).await.map_err(ActError::ask(what.clone()))?;
    watch.sample(ORDER_LIMIT).await.map_err(ActError::ask(what))?;
    Ok(primary_at(&replies))
}

/// Replication id and offset of a server at its [`demotion`] or [`fence`]; `None` if it was a replica before, or did not take it.
pub(super) fn primary_at(replies: &[Reply]) -> Option<(String, u64)> {
    let Some(Reply::Array(Some(results))) = replies.last() else { return None };
    let info = crate::observe::redis::parse(&results.first()?.text()?);
    if info.get("role")? != "master" {
        return None;
    }
    Some((info.get("master_replid")?.clone(), info.get("master_repl_offset")?.parse().ok()?))
}

/// Makes a server the primary and closes its clients, so that they look anew. Safe to repeat.
pub(super) async fn promote(watch: &Watch) -> Result<Sample, ActError> {
    let what = || format!("promote {}", watch.address());
    let orders = vec![
        command(["REPLICAOF", "NO", "ONE"]),
        command(["CLIENT", "KILL", "TYPE", "normal"]),
        command(["CLIENT", "KILL", "TYPE", "pubsub"]),
    ];
    let answers = watch.send(orders).map_err(ActError::ask(what()))?;
    // Sent behind it on the same connection: no second round trip.
    let sample = watch.sample(ORDER_LIMIT).await.map_err(ActError::ask(what()))?;
    let replies = answers.within(ORDER_LIMIT).await.map_err(ActError::ask(what()))?;
    if let Some(Reply::Error(reply)) = replies.first() {
        let (address, command) = (watch.address().clone(), "REPLICAOF NO ONE".to_owned());
        let source = AskError::Refused { address, command, reply: reply.clone() };
        return Err(ActError::Ask { what: what(), source });
    }
    if sample.role == RedisRole::Primary {
        Ok(sample)
    } else {
        Err(ActError::StillReplica(watch.address().clone()))
    }
}

/// Points a replica at `to`. Safe to repeat.
pub(super) async fn repoint(watch: &Watch, to: &Address) -> Result<(), ActError> {
    let order = command(["REPLICAOF", to.host(), &to.port().to_string()]);
    let what = format!("point {} at {to}", watch.address());
    watch.order(order, ORDER_LIMIT).await.map_err(ActError::ask(what.clone()))?;
    // Whoever looks next sees whom it follows now.
    watch.sample(ORDER_LIMIT).await.map(drop).map_err(ActError::ask(what))
}

/// Has servers write their role into their own settings files, where they have one.
pub(super) fn keep_roles(watches: &[Watch]) {
    for watch in watches {
        // Without a settings file the server refuses, and the next start of ours puts its role right.
        if let Err(error) = watch.send(vec![command(["CONFIG", "REWRITE"])]) {
            tracing::debug!(redis = %watch.address(), %error, "CONFIG REWRITE not sent");
        }
    }
}

/// For a connection of its own, beside the kept one, to a server that is in use.
pub(super) fn brisk(mut endpoint: Endpoint) -> Endpoint {
    endpoint.connect_timeout = ORDER_LIMIT;
    endpoint.command_timeout = ORDER_LIMIT;
    endpoint
}

/// Proof that a primary takes writes.
pub(super) struct Verified {
    /// When the first write was accepted.
    pub(super) written: Instant,
    /// Whether a replica confirmed it; `None` if there is none to do so.
    pub(super) confirmed: Option<bool>,
}

/// Writes to the new primary as a client would, and has a replica confirm it.
pub(super) async fn verify(
    address: &Address,
    endpoint: Endpoint,
    epoch: u64,
    replicas: bool,
) -> Result<Verified, ActError> {
    let start = Instant::now();
    let endpoint = brisk(endpoint);
    let key = format!("holdfast:failover-check:{epoch}");
    let (mut connection, written) = loop {
        let error = match Connection::open(&endpoint).await {
            Ok(mut connection) => match connection.command(&["SET", &key, "1", "EX", "60"]).await {
                Ok(_) => break (connection, Instant::now()),
                Err(error) => error,
            },
            Err(error) => error,
        };
        // It takes no writes yet, for instance for want of replicas; these are on their way.
        if start.elapsed() >= WRITE_LIMIT || matches!(error, holdfast_psync::Error::Connect { .. })
        {
            let last = holdfast_telemetry::errors::Chain(&error).to_string();
            return Err(ActError::NoWrite {
                address: address.clone(),
                after: start.elapsed(),
                last,
            });
        }
        sleep(POLL_EVERY * 5).await;
    };
    if !replicas {
        return Ok(Verified { written, confirmed: None });
    }
    let limit = Instant::now() + CONFIRM_LIMIT;
    let mut confirmed = false;
    while !confirmed && Instant::now() < limit {
        match connection.command(&["WAIT", "1", "100"]).await {
            Ok(reply) => confirmed = reply.integer().is_some_and(|count| count > 0),
            Err(_) => break,
        }
    }
    Ok(Verified { written, confirmed: Some(confirmed) })
}
