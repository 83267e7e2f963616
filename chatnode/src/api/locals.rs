//! The connections of this node, as orders reach them.

use std::borrow::Cow;
use std::sync::Arc;

use super::control::{Order, Whom};
use crate::access::{Term, Who, grant};
use crate::connections::{Connections, Selector};
use crate::hub::Hub;
use crate::namespaces::Namespaces;
use crate::protocol::Disconnect;
use crate::session;
use crate::tokens::Terms;

/// The connections of this node; clones share them.
#[derive(Clone)]
pub struct Locals {
    /// Who is connected.
    pub connections: Arc<Connections>,
    /// Who follows what.
    pub hub: Arc<Hub>,
    /// Rules of channels.
    pub namespaces: Namespaces,
}

fn given(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

impl Locals {
    /// Passes an order on to the connections it is for; how many they are.
    pub(super) fn carry_out(&self, whom: &Whom, order: &Order) -> usize {
        let selector = Selector {
            user: given(&whom.user),
            client: given(&whom.client),
            session: given(&whom.session),
        };
        let mut reached = 0;
        for mailbox in self.connections.select(&selector) {
            if matches!(order, Order::Disconnect { except, .. } if except.iter().any(|id| id == mailbox.client()))
            {
                continue;
            }
            if let Some(order) = self.for_session(order) {
                mailbox.order(order);
                reached += 1;
            }
        }
        reached
    }

    /// The order as a session takes it; `None` if it cannot be carried out here.
    fn for_session(&self, order: &Order) -> Option<session::Order> {
        Some(match order.clone() {
            Order::Subscribe { channel, info, data, ends_at, since, overrides } => {
                // The asking node knows the namespace; one whose settings are older may not.
                let options = self.namespaces.of(&channel).ok()?;
                let term = Term { ends_at, by_server: false };
                let grant = grant(options, Terms { info, data, overrides }, term);
                session::Order::Subscribe { channel, grant, since }
            }
            Order::Unsubscribe { channel, code, reason } => {
                session::Order::Unsubscribe { channel, code, reason: Cow::Owned(reason) }
            }
            Order::Disconnect { code, reason, .. } => {
                session::Order::Disconnect { code, reason: Cow::Owned(reason) }
            }
            Order::Refresh { expired: true, .. } => {
                let Disconnect { code, reason } = Disconnect::EXPIRED;
                session::Order::Disconnect { code, reason: Cow::Borrowed(reason) }
            }
            Order::Refresh { ends_at, info, .. } => {
                let term = Term { ends_at, by_server: false };
                session::Order::Refresh { term, info }
            }
        })
    }

    /// Closes the connections whose token was taken back.
    pub(super) fn close_where(&self, lost: impl Fn(&Who) -> bool) {
        for mailbox in self.connections.select(&Selector::default()) {
            if mailbox.who().is_some_and(|who| lost(who)) {
                let Disconnect { code, reason } = Disconnect::INVALID_TOKEN;
                mailbox.order(session::Order::Disconnect { code, reason: Cow::Borrowed(reason) });
            }
        }
    }
}
