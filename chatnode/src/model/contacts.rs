//! Contacts: whom a user knows, whom it does not want to hear from, and who of them is there.
//!
//! One record for each user. Somebody is there who has a connection, which shows in the presence of its own channel; those who blocked
//! the one who asks are never there for it.

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Answer, Chat, NOTHING, answer, internal, no_such, personal, read};
use crate::access::Denial;
use crate::broker::{Change, Condition, Key, Write};
use crate::protocol::ErrorCode;

/// Most contacts, blocked ones included, of one user.
const CONTACTS_MAX: u32 = 1_000;

/// Contacts looked up together.
const TOGETHER: usize = 32;

/// What is done to a contact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Edit {
    Add,
    Remove,
    Block,
    Unblock,
}

#[derive(Serialize)]
struct Contact {
    user: String,
    name: String,
    online: bool,
    blocked: bool,
}

fn key(user: &str) -> Key<'_> {
    Key { collection: "contacts", id: user }
}

fn knows(other: &str) -> String {
    format!("knows {other}")
}

fn blocks(other: &str) -> String {
    format!("blocks {other}")
}

impl Chat {
    pub(super) async fn change_contact(
        &self,
        user: &str,
        data: Option<&Bytes>,
        edit: Edit,
    ) -> Answer {
        #[derive(Deserialize)]
        struct Request {
            user: String,
        }
        let Request { user: other } = read(data)?;
        let adds = matches!(edit, Edit::Add | Edit::Block);
        if adds && (other == user || self.shown_name(&other).await?.is_none()) {
            return Err(no_such("no such user"));
        }
        let change = match edit {
            Edit::Add => Change::Set(knows(&other), "1".into()),
            Edit::Remove => Change::Remove(knows(&other)),
            Edit::Block => Change::Set(blocks(&other), "1".into()),
            Edit::Unblock => Change::Remove(blocks(&other)),
        };
        let conditions = if adds { vec![Condition::FieldsBelow(CONTACTS_MAX)] } else { Vec::new() };
        let write = Write { conditions, changes: vec![change], ttl: None };
        if self.broker.write(key(user), write).await.map_err(internal)? {
            Ok(NOTHING)
        } else {
            Err(ErrorCode::LIMIT_EXCEEDED.into())
        }
    }

    /// Whether `user` has blocked `other`.
    pub(super) async fn has_blocked(&self, user: &str, other: &str) -> Result<bool, Denial> {
        let fields = self.broker.fields(key(user), &[&blocks(other)]).await.map_err(internal)?;
        Ok(fields.into_iter().flatten().next().is_some())
    }

    /// Whether `user` has a connection, as far as `other` may know.
    pub(super) async fn is_online(&self, user: &str, other: &str) -> Result<bool, Denial> {
        let counts = self.broker.member_counts(&personal(user)).await.map_err(internal)?;
        Ok(counts.clients > 0 && !self.has_blocked(user, other).await?)
    }

    pub(super) async fn contacts(&self, user: &str) -> Answer {
        let mut contacts = self.known(user).await?;
        contacts.sort_by(|a, b| a.user.cmp(&b.user));
        answer(&json!({"contacts": contacts}))
    }

    pub(super) async fn contacts_presence(&self, user: &str) -> Answer {
        let known = self.known(user).await?;
        let mut online: Vec<_> =
            known.into_iter().filter(|contact| contact.online).map(|c| c.user).collect();
        online.sort();
        answer(&json!({"online": online}))
    }

    async fn known(&self, user: &str) -> Result<Vec<Contact>, Denial> {
        let record = self.broker.record(key(user)).await.map_err(internal)?;
        let mut others: Vec<&str> = record
            .keys()
            .filter_map(|field| {
                field.strip_prefix("knows ").or_else(|| field.strip_prefix("blocks "))
            })
            .collect();
        others.sort_unstable();
        others.dedup();
        let contacts = others.into_iter().map(|other| {
            let blocked = record.contains_key(&blocks(other));
            self.contact(user, other.to_owned(), blocked)
        });
        let contacts: Vec<_> = contacts.collect();
        let contacts: Vec<_> = stream::iter(contacts).buffer_unordered(TOGETHER).collect().await;
        contacts.into_iter().collect()
    }

    async fn contact(&self, user: &str, other: String, blocked: bool) -> Result<Contact, Denial> {
        let name = self.shown_name(&other).await?.unwrap_or_else(|| other.clone());
        let online = !blocked && self.is_online(&other, user).await?;
        Ok(Contact { user: other, name, online, blocked })
    }
}
