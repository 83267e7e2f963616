//! Carries out what a session asks of the broker.
//!
//! Work is queued at the broker before a call's future is returned, so calls take effect in the order they were made.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, join};
use tokio::time::Instant;

use super::Node;
use crate::broker::{BrokerError, Pending, PublishOptions, Published};
use crate::hub::Mailbox;
use crate::session::{Call, Outcome, Session};
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
    /// Starts a call; `unix_ms` is the present time.
    pub(super) fn start(&self, call: Call, unix_ms: u64) -> Running {
        let broker = &self.node.broker;
        let info = self.session.info();
        match call {
            Call::Publish { id, channel, data, retention } => {
                let info = Some(Bytes::from(info.to_string()));
                let data = Bytes::from(String::from(data));
                let publication =
                    Publication { data, info, time_ms: unix_ms, ..Publication::default() };
                let options = PublishOptions { retention, ..PublishOptions::default() };
                let published = broker.publish(&channel, publication, options);
                self.measured(published)
                    .map(move |r| Some(Outcome::Published(id, r.map(drop))))
                    .boxed()
            }
            Call::Subscribe { channel, range, presence } => {
                self.node.hub.join(&channel, self.number, self.mailbox);
                let followed = broker.follow(&channel);
                let (broker, info) = (Arc::clone(broker), Arc::clone(info));
                let client = self.session.client().to_owned();
                let user = self.session.user().to_owned();
                let name = Arc::clone(&channel);
                let subscribe = async move {
                    followed.await?;
                    let member = presence.then(|| broker.add_member(&name, &client, &user, &info));
                    let page = range.map(|range| broker.read(&name, range));
                    let (member, page) = join(optional(member), optional(page)).await;
                    member?;
                    page
                };
                subscribe.map(move |result| Some(Outcome::Subscribed(channel, result))).boxed()
            }
            Call::Unsubscribe { channel, presence, leave } => {
                self.node.hub.leave(&channel, self.number, || broker.unfollow(&channel));
                let client = self.session.client();
                let removed = presence.then(|| broker.remove_member(&channel, client));
                let left = leave.then(|| broker.leave(&channel, info));
                join(optional(removed), optional(left)).map(|_| None).boxed()
            }
            Call::Join { channel } => broker.join(&channel, info).map(|_| None).boxed(),
            Call::KeepMember { channel } => {
                let (client, user) = (self.session.client(), self.session.user());
                broker.add_member(&channel, client, user, info).map(|_| None).boxed()
            }
            Call::History { id, channel, range, since } => {
                let page = broker.read(&channel, range);
                page.map(move |result| Some(Outcome::History(id, since, result))).boxed()
            }
            Call::Presence { id, channel, stats } => {
                let members = broker.members(&channel);
                members.map(move |result| Some(Outcome::Presence(id, stats, result))).boxed()
            }
        }
    }

    fn measured(&self, published: Pending<Published>) -> Pending<Published> {
        let metrics = self.node.metrics.clone();
        let accepted_at = Instant::now();
        Box::pin(async move {
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
            result
        })
    }
}

/// The outcome of a call that may not have been made.
async fn optional<T>(call: Option<Pending<T>>) -> Result<Option<T>, BrokerError> {
    match call {
        Some(call) => call.await.map(Some),
        None => Ok(None),
    }
}
