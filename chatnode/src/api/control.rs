//! Reaches connections wherever they are: every node is asked, and each does its part.
//!
//! Which node a user is on is not written down anywhere, so an order goes to all. It is a question and not a message: the caller learns
//! whether every node that is alive has carried it out, and how many connections there were.

use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use serde::{Deserialize, Serialize};

use super::Locals;
use crate::access::{Denial, Revocations};
use crate::broker::bus::{Bus, Question, Target};
use crate::protocol::ErrorCode;
use crate::tokens::Overrides;

/// How long nodes may take to answer. Far more than a round trip through Redis, and less than callers wait.
pub(super) const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// What is asked for over the bus.
const ORDER: &str = "order";
const INFO: &str = "info";
const CHANNELS: &str = "channels";
const REVOCATIONS: &str = "revocations";

/// Most channels one node names; more names would not fit a message, and nobody reads them.
pub const CHANNELS_MAX: usize = 10_000;

/// Which connections: all that fit what is given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Whom {
    /// User id.
    pub user: String,
    /// Connection id; empty: any.
    #[serde(default)]
    pub client: String,
    /// Session id of an emulated connection; empty: any.
    #[serde(default)]
    pub session: String,
}

/// What is to be done with connections.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Subscribe them.
    Subscribe {
        /// Channel; its namespace exists.
        channel: String,
        /// `chan_info`.
        info: Option<Bytes>,
        /// Data for the client.
        data: Option<Bytes>,
        /// End of the subscription, in seconds since 1970.
        ends_at: Option<u64>,
        /// Position to recover from: offset and epoch.
        since: Option<(u64, String)>,
        /// Options that differ from the namespace's.
        overrides: Overrides,
    },
    /// End a subscription.
    Unsubscribe {
        /// Channel; empty: all.
        channel: String,
        /// Code of the push.
        code: u32,
        /// Reason of the push.
        reason: String,
    },
    /// Close them.
    Disconnect {
        /// Close code.
        code: u16,
        /// Close reason.
        reason: String,
        /// Connection ids that stay.
        except: Vec<String>,
    },
    /// Give them another end.
    Refresh {
        /// They end now.
        expired: bool,
        /// In seconds since 1970; `None`: never.
        ends_at: Option<u64>,
        /// New `conn_info`.
        info: Option<Bytes>,
    },
}

#[derive(Serialize, Deserialize)]
struct Letter {
    whom: Whom,
    order: Order,
}

/// The way to all nodes' connections; clones share it.
#[derive(Clone)]
pub struct Control {
    bus: Bus,
    locals: Locals,
    revocations: Revocations,
}

/// What a node says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeInfo {
    pub(super) uid: String,
    pub(super) name: String,
    pub(super) version: String,
    pub(super) num_clients: usize,
    pub(super) num_users: usize,
    pub(super) num_subs: usize,
    pub(super) num_channels: usize,
    /// Seconds.
    pub(super) uptime: u64,
}

impl Control {
    /// Over `bus`, for the connections `locals` of this node; answers other nodes from now on.
    pub fn start(bus: Bus, name: &str, locals: Locals, revocations: Revocations) -> Self {
        let control = Self { bus, locals, revocations };
        let started = tokio::time::Instant::now();
        let own = control.clone();
        control.bus.answer(ORDER, move |question: Question| {
            let reached = own.receive(&question.payload);
            async move { Bytes::from(reached.to_string()) }.boxed()
        });
        let (own, name) = (control.clone(), name.to_owned());
        control.bus.answer(INFO, move |_: Question| {
            let info = own.own_info(&name, started.elapsed());
            async move { encode(&info) }.boxed()
        });
        let own = control.clone();
        control.bus.answer(CHANNELS, move |question: Question| {
            let channels = own.own_channels(&question.payload);
            async move { encode(&channels) }.boxed()
        });
        let own = control.clone();
        control.bus.answer(REVOCATIONS, move |_: Question| {
            let own = own.clone();
            async move {
                // If Redis does not answer now, the next regular look finds it.
                if own.revocations.look().await.is_ok() {
                    own.close_revoked();
                }
                Bytes::new()
            }
            .boxed()
        });
        control
    }

    fn receive(&self, letter: &[u8]) -> usize {
        match serde_json::from_slice::<Letter>(letter) {
            Ok(letter) => self.locals.carry_out(&letter.whom, &letter.order),
            Err(error) => {
                tracing::warn!(%error, "order of another node cannot be read");
                0
            }
        }
    }

    fn own_info(&self, name: &str, uptime: Duration) -> NodeInfo {
        let counts = self.locals.connections.counts();
        NodeInfo {
            uid: self.bus.node().to_string(),
            name: name.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            num_clients: counts.clients,
            num_users: counts.users,
            num_subs: counts.subscriptions,
            num_channels: self.locals.hub.channel_count(),
            uptime: uptime.as_secs(),
        }
    }

    fn own_channels(&self, pattern: &[u8]) -> Vec<(String, usize)> {
        let pattern = std::str::from_utf8(pattern).ok().and_then(|p| glob::Pattern::new(p).ok());
        let all = self.locals.hub.channels().into_iter().filter(|(name, _)| {
            // Channels of the nodes' own begin with a control character.
            !name.starts_with(char::is_control)
                && pattern.as_ref().is_none_or(|pattern| pattern.matches(name))
        });
        all.take(CHANNELS_MAX).map(|(name, count)| (name.to_string(), count)).collect()
    }

    /// Closes connections here whose token was taken back.
    pub fn close_revoked(&self) {
        let now = crate::access::unix_seconds();
        self.locals.close_where(|who| self.revocations.cover(who, now));
    }

    /// Has an order carried out on all nodes; how many connections it was for.
    ///
    /// # Errors
    /// A node that is alive did not answer.
    pub async fn order(&self, whom: Whom, order: Order) -> Result<usize, Denial> {
        let answers = self.ask(ORDER, encode(&Letter { whom, order })).await?;
        Ok(answers.iter().filter_map(|a| std::str::from_utf8(a).ok()?.parse::<usize>().ok()).sum())
    }

    /// Ends a user's subscription on all nodes; it does not come back by itself.
    ///
    /// # Errors
    /// As [`Self::order`].
    pub async fn unsubscribe_user(&self, user: &str, channel: &str) -> Result<(), Denial> {
        let whom = Whom { user: user.to_owned(), ..Whom::default() };
        let order = Order::Unsubscribe {
            channel: channel.to_owned(),
            code: 2000,
            reason: "server unsubscribe".to_owned(),
        };
        self.order(whom, order).await.map(|_| ())
    }

    /// All nodes look at the list of revocations now. Best effort: they look by themselves every few seconds.
    pub async fn revocations_changed(&self) {
        self.bus.survey(Target::All, REVOCATIONS, Bytes::new(), ANSWER_LIMIT).await;
    }

    /// What every node says of itself.
    ///
    /// # Errors
    /// As [`Self::order`].
    pub async fn info(&self) -> Result<Vec<NodeInfo>, Denial> {
        let answers = self.ask(INFO, Bytes::new()).await?;
        Ok(answers.iter().filter_map(|answer| serde_json::from_slice(answer).ok()).collect())
    }

    /// Channels that fit `pattern` (`*` and `?`; empty: all), and their subscribers.
    ///
    /// # Errors
    /// As [`Self::order`].
    pub async fn channels(
        &self,
        pattern: &str,
    ) -> Result<std::collections::BTreeMap<String, usize>, Denial> {
        let pattern = if pattern.is_empty() { "*" } else { pattern };
        let answers = self.ask(CHANNELS, Bytes::copy_from_slice(pattern.as_bytes())).await?;
        let mut channels = std::collections::BTreeMap::new();
        for answer in answers {
            let part: Vec<(String, usize)> = serde_json::from_slice(&answer).unwrap_or_default();
            for (name, count) in part {
                *channels.entry(name).or_insert(0) += count;
            }
        }
        Ok(channels)
    }

    async fn ask(&self, kind: &'static str, payload: Bytes) -> Result<Vec<Bytes>, Denial> {
        let survey = self.bus.survey(Target::All, kind, payload, ANSWER_LIMIT).await;
        if survey.silent.is_empty() {
            return Ok(survey.answers.into_iter().map(|(_, answer)| answer).collect());
        }
        tracing::warn!(kind, silent = survey.silent.len(), "nodes did not answer in time");
        Err(ErrorCode::INTERNAL.into())
    }
}

fn encode(value: &impl Serialize) -> Bytes {
    // These types have nothing that JSON cannot say.
    serde_json::to_vec(value).map(Bytes::from).unwrap_or_default()
}
