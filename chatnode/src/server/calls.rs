//! Carries out what a session asks of gate and broker.
//!
//! Work is queued at the broker before a call's future is returned, so calls take effect in the order they were made.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, join};
use tokio::time::Instant;

use super::Node;
use crate::access::{Accepted, Denial, PublishAsk, Who};
use crate::broker::{BrokerError, Pending, PublishOptions, Rate, Retention};
use crate::mailbox::Mailbox;
use crate::namespaces::Options;
use crate::protocol::{Disconnect, ErrorCode};
use crate::session::{Admitted, Call, Now, Outcome, Publish, Session};
use crate::stream::Publication;

/// A call under way; `None` if the session does not wait for its outcome.
pub(super) type Running = BoxFuture<'static, Option<Outcome>>;

/// The connection on whose behalf calls are made.
pub(super) struct Caller<'a> {
    pub(super) node: &'a Arc<Node>,
    pub(super) number: u64,
    pub(super) mailbox: &'a Arc<Mailbox>,
    pub(super) session: &'a Session,
}

impl Caller<'_> {
    /// Starts a call.
    pub(super) fn start(&self, call: Call, now: Now) -> Running {
        let Node { broker, gate, hub, .. } = &**self.node;
        match call {
            Call::Connect(ask) => {
                let (asked, node, number) =
                    (gate.connect(*ask), Arc::clone(self.node), self.number);
                let admitted = asked.map(move |admission| {
                    let admission = admission?;
                    let user_bucket = node.connections.identify(number, &admission.who, now)?;
                    Ok(Box::new(Admitted { admission, user_bucket }))
                });
                admitted.map(|result| Some(Outcome::Admitted(result))).boxed()
            }
            Call::Refresh(id, token) => match self.session.who() {
                Some(who) => {
                    gate.refresh(who, token).map(move |r| Some(Outcome::Refreshed(id, r))).boxed()
                }
                None => nobody(Outcome::Refreshed(id, Err(denial()))),
            },
            Call::Grant(channel, ask) => match self.session.who() {
                Some(who) => {
                    let granted = gate.subscribe(who, *ask);
                    granted.map(|r| Some(Outcome::Granted(channel, r.map(Box::new)))).boxed()
                }
                None => nobody(Outcome::Granted(channel, Err(denial()))),
            },
            Call::SubRefresh(id, channel, token) => match self.session.who() {
                Some(who) => {
                    let refreshed = gate.sub_refresh(who, channel.to_string(), token);
                    refreshed.map(move |r| Some(Outcome::SubRefreshed(id, channel, r))).boxed()
                }
                None => nobody(Outcome::SubRefreshed(id, channel, Err(denial()))),
            },
            Call::Rpc(id, method, data) => match self.session.who() {
                Some(who) => {
                    let data = Some(data).filter(|data| !data.is_empty());
                    gate.rpc(who, method, data).map(move |r| Some(Outcome::Rpc(id, r))).boxed()
                }
                None => nobody(Outcome::Rpc(id, Err(denial()))),
            },
            Call::Publish(publish) => self.publish(*publish, now),
            Call::Subscribe { channel, range, member } => {
                hub.join(&channel, self.number, self.mailbox);
                let followed = broker.follow(&channel);
                let (client, user) = (self.session.client().to_owned(), self.user().to_owned());
                let (broker, name) = (Arc::clone(broker), Arc::clone(&channel));
                let subscribe = async move {
                    followed.await?;
                    let added = member.map(|info| broker.add_member(&name, &client, &user, &info));
                    let page = range.map(|range| broker.read(&name, range));
                    let (added, page) = join(optional(added), optional(page)).await;
                    added?;
                    page
                };
                subscribe.map(move |result| Some(Outcome::Subscribed(channel, result))).boxed()
            }
            Call::Unsubscribe { channel, member, leave } => {
                hub.leave(&channel, self.number, || broker.unfollow(&channel));
                let removed = member.then(|| broker.remove_member(&channel, self.session.client()));
                let left = leave.map(|info| broker.leave(&channel, &info));
                join(optional(removed), optional(left)).map(|_| None).boxed()
            }
            Call::Join(channel, info) => broker.join(&channel, &info).map(|_| None).boxed(),
            Call::KeepMember(channel, info) => {
                let kept = broker.add_member(&channel, self.session.client(), self.user(), &info);
                kept.map(|_| None).boxed()
            }
            Call::History { id, channel, range, since } => {
                let page = broker.read(&channel, range);
                page.map(move |result| Some(Outcome::History(id, since, result))).boxed()
            }
            Call::Presence(id, channel) => {
                let members = broker.members(&channel);
                members.map(move |result| Some(Outcome::Presence(id, result))).boxed()
            }
            Call::PresenceStats(id, channel) => {
                let counts = broker.member_counts(&channel);
                counts.map(move |result| Some(Outcome::PresenceStats(id, result))).boxed()
            }
        }
    }

    fn user(&self) -> &str {
        self.session.who().map_or("", |who| &who.user)
    }

    fn publish(&self, publish: Publish, now: Now) -> Running {
        let (id, free) = (publish.id, publish.free);
        if free {
            let Publish { options, data, .. } = &publish;
            let (options, data) = (Arc::clone(options), data.clone());
            let accepted = Accepted { options, data, skip_history: false };
            let sent = send(self.node, &publish, accepted, now);
            return sent.map(move |result| Some(Outcome::Published(id, free, result))).boxed();
        }
        let (node, who) = (Arc::clone(self.node), self.session.who().cloned().unwrap_or_default());
        let sent = async move {
            let accepted = accepted(&node, &who, &publish).await?;
            send(&node, &publish, accepted, now).await
        };
        sent.map(move |result| Some(Outcome::Published(id, free, result))).boxed()
    }
}

/// Asks whoever has to be asked about a publication.
async fn accepted(node: &Node, who: &Arc<Who>, publish: &Publish) -> Result<Accepted, Denial> {
    let Publish { channel, data, options, subscribed, .. } = publish;
    if let Some(rate) = options.rate() {
        let every = Duration::from_secs(1) / rate.per_second.max(1);
        let key = format!("publish:{}:{}", options.name, who.user);
        let allowance = node.broker.take(&key, Rate { burst: rate.burst, every }, 1).await;
        if !allowance.map_err(|_| ErrorCode::INTERNAL)?.allowed {
            node.metrics.limited_commands.with_label_values(&["publish"]).inc();
            return Err(ErrorCode::TOO_MANY_REQUESTS.into());
        }
    }
    if options.publish_proxy.is_empty() {
        let (options, data) = (Arc::clone(options), data.clone());
        return Ok(Accepted { options, data, skip_history: false });
    }
    let (channel, data) = (channel.to_string(), data.clone());
    node.gate.publish(who, PublishAsk { channel, data, subscribed: *subscribed }).await
}

/// Stores and sends a publication that is accepted.
fn send(node: &Node, publish: &Publish, accepted: Accepted, now: Now) -> Sending {
    let Accepted { options, data, skip_history } = accepted;
    let publication = Publication {
        data,
        info: Some(Bytes::copy_from_slice(publish.info.as_bytes())),
        delta: options.delta_publish,
        time_ms: now.unix_ms,
        ..Publication::default()
    };
    let retention = if skip_history { Retention::default() } else { retention(&options) };
    let how = PublishOptions { retention, ..PublishOptions::default() };
    let published = node.broker.publish(&publish.channel, publication, how);
    let metrics = node.metrics.clone();
    let accepted_at = Instant::now();
    let sent = async move {
        let result = published.await;
        let label = match &result {
            Ok(_) => {
                metrics.publish_seconds.observe(accepted_at.elapsed().as_secs_f64());
                "confirmed"
            }
            Err(BrokerError::Unconfirmed { .. }) => "unconfirmed",
            Err(_) => "failed",
        };
        metrics.publishes.with_label_values(&[label]).inc();
        result.map(drop).map_err(|_| Denial::from(ErrorCode::INTERNAL))
    };
    sent.boxed()
}

type Sending = BoxFuture<'static, Result<(), Denial>>;

fn retention(options: &Options) -> Retention {
    let size = if options.keeps_history() { options.history_size } else { 0 };
    Retention { size, ttl: options.history_ttl, meta_ttl: options.history_meta_ttl }
}

/// The answer to what only a connected client asks, should the connection be none.
fn denial() -> Denial {
    Disconnect::BAD_REQUEST.into()
}

fn nobody(outcome: Outcome) -> Running {
    futures_util::future::ready(Some(outcome)).boxed()
}

/// The outcome of a call that may not have been made.
async fn optional<T>(call: Option<Pending<T>>) -> Result<Option<T>, BrokerError> {
    match call {
        Some(call) => call.await.map(Some),
        None => Ok(None),
    }
}
