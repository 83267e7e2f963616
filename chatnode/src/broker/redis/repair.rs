//! After a promotion: is what this node saw on the old primary on the new one, and if not, back it goes.
//!
//! Before anything else is asked of a primary with another replication history, every channel this node holds a tail of is compared
//! with it: first only positions, one short script for each channel, then the tails of those that are short. The script puts back what
//! is missing where its place is free, so that positions of clients go on; what finds its place taken is appended. Several nodes do
//! this at the same time with what each of them holds; each publication has an id, so it is written once.
//!
//! If something is missing that this node does not hold, it gives the others a moment and then lets the stream begin a new epoch, so
//! that clients are told that they cannot recover.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use super::connection::{ConnectionError, PrimaryConnection};
use super::pipeline::encode_script;
use super::resp::Value;
use super::route::Route;
use super::scripts::{self, Repaired, Script};
use super::tails::{Run, Tails};
use super::{fresh_epoch, millis, names};
use crate::metrics::Metrics;
use crate::namespaces::META_TTL;

/// Scripts of one batch.
const BATCH_MAX: usize = 256;

/// How long other nodes have to put back what this one does not hold. All learn of a promotion within milliseconds.
const LAST_ATTEMPT_AFTER: Duration = Duration::from_millis(300);

/// The repair of one server's streams.
pub(super) struct Repair {
    pub(super) tails: Arc<Tails>,
    pub(super) route: Route,
    pub(super) metrics: Metrics,
    /// When another attempt is due.
    pub(super) again_at: Option<Instant>,
}

impl Repair {
    /// Compares and repairs, within `limit` for each batch.
    pub(super) async fn run(
        &mut self,
        primary: &mut PrimaryConnection,
        limit: Duration,
    ) -> Result<(), ConnectionError> {
        let last_attempt = self.again_at.take().is_some_and(|at| at <= Instant::now());
        let ours = |channel: &str| self.route.is_ours(channel);
        let runs = self.tails.foreign(Instant::now(), &primary.history, ours);
        if runs.is_empty() {
            return Ok(());
        }
        let started = Instant::now();
        let looked: Vec<_> = runs.iter().map(|(channel, run)| (&**channel, run, false)).collect();
        let states = self.execute(primary, &looked, last_attempt, limit).await?;
        let short = runs.iter().zip(states).filter_map(|((channel, run), state)| match state {
            Some(state) if state.reached >= run.last() && !state.again => {
                self.tails.repaired(channel, &run.visible, &state.visible, state.reached);
                None
            }
            _ => Some((&**channel, run, true)),
        });
        let short: Vec<_> = short.collect();
        let results = self.execute(primary, &short, last_attempt, limit).await?;
        let (mut put_back, mut appended, mut anew, mut again) = (0, 0, 0, 0);
        for ((channel, run, _), result) in short.iter().zip(results) {
            let Some(result) = result else { continue };
            put_back += result.put_back;
            appended += result.appended;
            anew += u64::from(result.anew);
            if result.again {
                again += 1;
                self.again_at = Some(Instant::now() + LAST_ATTEMPT_AFTER);
            } else {
                self.tails.repaired(channel, &run.visible, &result.visible, result.reached);
            }
        }
        for (label, count) in [("put_back", put_back), ("appended", appended)] {
            self.metrics.broker.repaired_publications.with_label_values(&[label]).inc_by(count);
        }
        self.metrics.broker.streams_begun_anew.inc_by(anew);
        let (channels, behind) = (runs.len(), short.len());
        let took_ms = started.elapsed().as_millis();
        if behind == 0 {
            info!(channels, took_ms, "the new primary has everything this node has seen");
        } else {
            warn!(
                channels,
                behind,
                put_back,
                appended,
                anew,
                again,
                took_ms,
                "the new primary lacked publications"
            );
        }
        Ok(())
    }

    /// Runs the script for each run, with its bodies if so wanted. `None` where Redis refused it.
    async fn execute(
        &self,
        primary: &mut PrimaryConnection,
        runs: &[(&str, &Run, bool)],
        last_attempt: bool,
        limit: Duration,
    ) -> Result<Vec<Option<Repaired>>, ConnectionError> {
        let mut results = Vec::with_capacity(runs.len());
        for batch in runs.chunks(BATCH_MAX) {
            let mut bytes = BytesMut::new();
            for (channel, run, with_bodies) in batch {
                let (keys, arguments) = words(channel, run, *with_bodies, last_attempt);
                encode_script(&mut bytes, primary, Script::Repair, &keys, &arguments);
            }
            let exchange = async {
                primary.connection.write(&bytes).await?;
                for _ in batch {
                    let reply = primary.connection.read().await?;
                    if let Value::Error(message) = &reply {
                        warn!(message, "Redis refused to repair a stream");
                        self.metrics.broker.repairs_refused.inc();
                    }
                    results.push(scripts::repaired(&reply).ok());
                }
                Ok(())
            };
            timeout(limit, exchange).await.map_err(|_| ConnectionError::Timeout)??;
        }
        Ok(results)
    }
}

/// Keys and arguments of the script.
fn words(
    channel: &str,
    run: &Run,
    with_bodies: bool,
    last_attempt: bool,
) -> (Vec<String>, Vec<Bytes>) {
    let (first, bodies) = run.end();
    let (epoch, history) = run.names();
    let mut arguments = vec![
        fresh_epoch(),
        millis(META_TTL),
        Bytes::from(epoch.to_owned()),
        Bytes::from(history.to_owned()),
        Bytes::from_static(if last_attempt { b"1" } else { b"0" }),
        Bytes::from_static(b"PUBLISH"),
        names::events(channel),
        super::text(&first),
        super::text(&run.last()),
    ];
    if with_bodies {
        arguments.extend(bodies);
    }
    let mut keys = names::stream(channel);
    keys.push(names::remembered(channel, ""));
    (keys, arguments)
}
