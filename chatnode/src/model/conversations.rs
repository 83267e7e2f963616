//! What conversations a user is in, what it has read of them, and what it has not.
//!
//! One record for each user: for each conversation a field that says it is in it, how far it has read, and under which epoch. Unread is
//! the distance to the top of the stream, so a message costs its recipients nothing until they look.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;

use super::{
    Answer, Chat, Conversation, NOTHING, To, answer, internal, no_such, personal, read, score,
    too_fast,
};
use crate::access::Denial;
use crate::broker::{Change, Condition, Key, Range, Rate, Record, Write};
use crate::protocol::ErrorCode;

/// Most conversations of one user. With three fields of 100 bytes each, an inbox read is 300 KB at the very most.
pub(super) const CONVERSATIONS_MAX: u32 = 1_000;

/// Fields a conversation takes in the record.
const FIELDS_EACH: u32 = 3;

/// Conversations of an inbox reply unless asked otherwise, and at most.
const INBOX_DEFAULT: usize = 50;
const INBOX_MAX: usize = 200;

/// Streams looked at together.
const TOGETHER: usize = 32;

/// "Is typing" of one user: what people who type produce, and no more.
const TYPING: Rate = Rate { burst: 5, every: std::time::Duration::from_millis(500) };

pub(super) fn key(user: &str) -> Key<'_> {
    Key { collection: "conversations", id: user }
}

fn in_field(channel: &str) -> String {
    format!("in {channel}")
}

fn read_field(channel: &str) -> String {
    format!("read {channel}")
}

fn epoch_field(channel: &str) -> String {
    format!("epoch {channel}")
}

/// A message as it stands in a stream.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Message {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) id: String,
    pub(super) from: String,
    pub(super) name: String,
    pub(super) body: Box<RawValue>,
    /// When it was accepted, in milliseconds since 1970.
    pub(super) time: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) offset: Option<u64>,
}

#[derive(Serialize)]
struct Entry {
    channel: String,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    with: Option<String>,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    last: Option<Message>,
    unread: u64,
    read: u64,
    top: u64,
    epoch: String,
}

#[derive(Deserialize)]
struct InChannel {
    channel: String,
}

fn number(record: &Record, field: &str) -> u64 {
    let text = record.get(field).and_then(|value| std::str::from_utf8(value).ok());
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

impl Chat {
    /// Whether `user` is in the conversation.
    pub(super) async fn is_in(
        &self,
        user: &str,
        conversation: &Conversation,
    ) -> Result<bool, Denial> {
        match conversation {
            Conversation::Dialog(first, second) => Ok(user == first || user == second),
            Conversation::Group(_) => {
                let field = in_field(&conversation.channel());
                let fields = self.broker.fields(key(user), &[&field]).await.map_err(internal)?;
                Ok(fields.into_iter().flatten().next().is_some())
            }
        }
    }

    /// Puts a conversation into a user's record. True if it was not there.
    pub(super) async fn enter(&self, user: &str, channel: &str) -> Result<bool, Denial> {
        let write = Write {
            conditions: vec![
                Condition::FieldAbsent(in_field(channel)),
                Condition::FieldsBelow(CONVERSATIONS_MAX * FIELDS_EACH),
            ],
            changes: vec![Change::Set(in_field(channel), "1".into())],
            ttl: None,
        };
        if self.broker.write(key(user), write).await.map_err(internal)? {
            return Ok(true);
        }
        // It was there, or there is no room.
        let fields =
            self.broker.fields(key(user), &[&in_field(channel)]).await.map_err(internal)?;
        let there = fields.into_iter().flatten().next().is_some();
        if there { Ok(false) } else { Err(ErrorCode::LIMIT_EXCEEDED.into()) }
    }

    /// Takes a conversation out of a user's record.
    pub(super) async fn leave(&self, user: &str, channel: &str) -> Result<(), Denial> {
        let fields = [in_field(channel), read_field(channel), epoch_field(channel)];
        let changes = fields.into_iter().map(Change::Remove).collect();
        let write = Write { changes, ..Write::default() };
        self.broker.write(key(user), write).await.map_err(internal)?;
        Ok(())
    }

    /// The conversation that a method names, if the user may write into it.
    pub(super) async fn writable(&self, user: &str, to: &To) -> Result<Conversation, Denial> {
        match to {
            To::User(other) => {
                if other == user || self.shown_name(other).await?.is_none() {
                    return Err(no_such("no such user"));
                }
                if self.has_blocked(other, user).await? || self.has_blocked(user, other).await? {
                    return Err(ErrorCode::PERMISSION_DENIED.into());
                }
                Ok(Conversation::between(user, other))
            }
            To::Group(id) => {
                let group = Conversation::Group(id.clone());
                if self.is_in(user, &group).await? {
                    Ok(group)
                } else {
                    Err(ErrorCode::PERMISSION_DENIED.into())
                }
            }
        }
    }

    /// Makes sure that both sides of a dialog have it in their inbox, and tells those who did not.
    pub(super) async fn begin(&self, conversation: &Conversation) -> Result<(), Denial> {
        let Conversation::Dialog(first, second) = conversation else { return Ok(()) };
        let channel = conversation.channel();
        let (one, other) =
            futures_util::future::join(self.enter(first, &channel), self.enter(second, &channel))
                .await;
        for (user, entered) in [(first, one?), (second, other?)] {
            if entered {
                self.notify_of_conversation(user, &channel).await?;
            }
        }
        Ok(())
    }

    pub(super) async fn open(&self, user: &str, data: Option<&Bytes>) -> Answer {
        #[derive(Deserialize)]
        struct Request {
            to: To,
        }
        let request: Request = read(data)?;
        let conversation = self.writable(user, &request.to).await?;
        self.begin(&conversation).await?;
        answer(&json!({"channel": conversation.channel()}))
    }

    pub(super) async fn inbox(&self, user: &str, data: Option<&Bytes>) -> Answer {
        #[derive(Deserialize)]
        struct Request {
            limit: Option<usize>,
        }
        let request: Request = read(data)?;
        let limit = request.limit.unwrap_or(INBOX_DEFAULT).min(INBOX_MAX);
        let record = self.broker.record(key(user)).await.map_err(internal)?;
        let channels: BTreeSet<_> =
            record.keys().filter_map(|field| field.strip_prefix("in ")).collect();
        let conversations = channels.into_iter().filter_map(Conversation::of);
        let entries: Vec<_> =
            conversations.map(|conversation| self.entry(user, conversation, &record)).collect();
        let entries: Vec<_> = stream::iter(entries).buffer_unordered(TOGETHER).collect().await;
        let mut entries = entries.into_iter().collect::<Result<Vec<_>, _>>()?;
        // Those without any message come last.
        let time = |entry: &Entry| entry.last.as_ref().map_or(0, |last| last.time);
        entries.sort_by(|a, b| time(b).cmp(&time(a)).then_with(|| a.channel.cmp(&b.channel)));
        entries.truncate(limit);
        answer(&json!({"conversations": entries}))
    }

    async fn entry(
        &self,
        user: &str,
        conversation: Conversation,
        record: &Record,
    ) -> Result<Entry, Denial> {
        let channel = conversation.channel();
        let page = self.broker.read(&channel, Range::LATEST).await.map_err(internal)?;
        let with = conversation.other(user).map(str::to_owned);
        let name = match &conversation {
            Conversation::Group(id) => self.group_name(id).await?.unwrap_or_default(),
            Conversation::Dialog(..) => {
                let other = with.as_deref().unwrap_or_default();
                self.shown_name(other).await?.unwrap_or_else(|| other.to_owned())
            }
        };
        let last = page.publications.first().and_then(|publication| {
            let message: Message = serde_json::from_slice(&publication.data).ok()?;
            Some(Message { offset: Some(publication.offset), ..message })
        });
        let state = &page.state;
        let read = number(record, &read_field(&channel));
        let epoch = record.get(&epoch_field(&channel)).map_or(&b""[..], |epoch| epoch);
        let epoch = std::str::from_utf8(epoch).unwrap_or_default();
        // What was read of a stream that is no more does not count.
        let read = if state.lineage.continues(epoch, read) { read.min(state.top) } else { 0 };
        Ok(Entry {
            kind: if with.is_some() { "dialog" } else { "group" },
            channel,
            with,
            name,
            last,
            unread: state.top - read,
            read,
            top: state.top,
            epoch: state.lineage.visible().to_string(),
        })
    }

    /// Notes how far a user has read; never moves back within one stream.
    pub(super) async fn has_read(
        &self,
        user: &str,
        channel: &str,
        epoch: &str,
        offset: u64,
    ) -> Result<(), Denial> {
        let epoch = Bytes::copy_from_slice(epoch.as_bytes());
        let (read, epoch_name) = (read_field(channel), epoch_field(channel));
        let further = Write {
            conditions: vec![Condition::FieldIs(epoch_name.clone(), epoch.clone())],
            changes: vec![Change::Raise(read.clone(), score(offset))],
            ttl: None,
        };
        if self.broker.write(key(user), further).await.map_err(internal)? {
            return Ok(());
        }
        let anew = Write {
            conditions: vec![Condition::FieldPresent(in_field(channel))],
            changes: vec![
                Change::Set(epoch_name, epoch),
                Change::Set(read, offset.to_string().into()),
            ],
            ttl: None,
        };
        self.broker.write(key(user), anew).await.map_err(internal)?;
        Ok(())
    }

    pub(super) async fn mark_read(&self, user: &str, data: Option<&Bytes>) -> Answer {
        #[derive(Deserialize)]
        struct Request {
            channel: String,
            offset: u64,
        }
        let Request { channel, offset } = read(data)?;
        self.joined(user, &channel).await?;
        let page = self.broker.read(&channel, Range::STATE).await.map_err(internal)?;
        let offset = offset.min(page.state.top);
        self.has_read(user, &channel, page.state.lineage.visible(), offset).await?;
        let own = json!({"type": "read", "channel": channel, "offset": offset});
        self.mention(&personal(user), own).await?;
        let shown = json!({"type": "read", "from": user, "offset": offset});
        self.mention(&channel, shown).await?;
        Ok(NOTHING)
    }

    pub(super) async fn typing(&self, user: &str, data: Option<&Bytes>) -> Answer {
        let InChannel { channel } = read(data)?;
        let conversation = self.joined(user, &channel).await?;
        if let Some(other) = conversation.other(user)
            && self.has_blocked(other, user).await?
        {
            return Err(ErrorCode::PERMISSION_DENIED.into());
        }
        let allowance = self.broker.take(&format!("typing {user}"), TYPING, 1);
        if !allowance.await.map_err(internal)?.allowed {
            return Err(too_fast());
        }
        self.mention(&channel, json!({"type": "typing", "from": user})).await?;
        Ok(NOTHING)
    }

    /// The conversation of `channel`, which the user is in.
    async fn joined(&self, user: &str, channel: &str) -> Result<Conversation, Denial> {
        let conversation = Conversation::of(channel).ok_or(ErrorCode::BAD_REQUEST)?;
        if self.is_in(user, &conversation).await? {
            Ok(conversation)
        } else {
            Err(ErrorCode::PERMISSION_DENIED.into())
        }
    }
}
