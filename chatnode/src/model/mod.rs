//! The chat model: accounts, contacts, groups and conversations on top of channels.
//!
//! Conversations are channels, so that history, recovery and presence are those of the protocol: `dialog:#a,b` for two people and
//! `group:<id>` for more. Clients subscribe to them, and only [`Chat::call`]'s `send` writes into them, once for each id the client made
//! up. Every user has a channel of its own, `user:#a`, to which its devices are subscribed by the node; it tells of new conversations.
//! What somebody missed is in these streams, and recovery replays it in order.
//!
//! Everything else is in records, each written in one step: an account, a user's contacts, a user's conversations with its read marks, a
//! group. A user's conversations are the authority on membership, because that is what every subscribe and send asks. A step that
//! touches two records is ordered so that doing it again repairs it. Rejected: a copy of each message per member, which makes a group of
//! a thousand a thousand times as dear.
//!
//! `docs/chat-model.md` has the methods as clients see them.

mod accounts;
mod contacts;
mod conversations;
mod groups;
pub mod http;
mod passwords;
mod send;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jsonwebtoken::EncodingKey;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::access::{Denial, Revocations, Who};
use crate::api::Control;
use crate::broker::{Broker, BrokerError, Idempotency, PublishOptions, Retention};
use crate::namespaces::{Namespaces, Options};
use crate::protocol::ErrorCode;
use crate::stream::Publication;
use crate::tokens::Verifier;
use passwords::Passwords;

/// Namespaces of the model.
pub const NAMESPACES: [&str; 3] = [USER, DIALOG, GROUP];
const USER: &str = "user";
const DIALOG: &str = "dialog";
const GROUP: &str = "group";

/// Settings of the model.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Anybody may make an account.
    pub registration: bool,
    /// How long a login lasts without being refreshed.
    pub token_ttl: Duration,
}

/// The model. Shared by all connections of a node.
pub struct Chat {
    settings: Settings,
    broker: Arc<dyn Broker>,
    namespaces: Namespaces,
    control: Control,
    revocations: Revocations,
    signer: EncodingKey,
    verifier: Arc<Verifier>,
    passwords: Passwords,
}

/// What the model is built from.
pub struct Parts {
    /// Settings.
    pub settings: Settings,
    /// Where everything is kept.
    pub broker: Arc<dyn Broker>,
    /// Rules of its channels.
    pub namespaces: Namespaces,
    /// Reaches connections on all nodes.
    pub control: Control,
    /// Logins that were ended.
    pub revocations: Revocations,
    /// Signs the tokens of logins.
    pub signer: EncodingKey,
    /// Checks them.
    pub verifier: Arc<Verifier>,
}

/// What a method answers.
type Answer = Result<Bytes, Denial>;

/// The options the model's channels have where the settings say nothing else.
pub fn default_namespaces() -> [Options; 3] {
    let kept = Options {
        presence: true,
        history_ttl: Duration::from_hours(30 * 24),
        history_meta_ttl: Duration::from_hours(90 * 24),
        force_positioning: true,
        force_recovery: true,
        ..Options::default()
    };
    let conversation = Options {
        history_size: 10_000,
        allow_history_for_subscriber: true,
        allow_presence_for_subscriber: true,
        publish_rate: 10,
        publish_burst: 30,
        ..kept.clone()
    };
    [
        Options { name: USER.to_owned(), history_size: 1_000, ..kept },
        Options { name: DIALOG.to_owned(), ..conversation.clone() },
        Options {
            name: GROUP.to_owned(),
            join_leave: true,
            force_push_join_leave: true,
            ..conversation
        },
    ]
}

/// Text before `#user` of users' own channels.
pub fn personal_prefix() -> String {
    format!("{USER}:")
}

/// The present, in milliseconds since 1970.
#[expect(
    clippy::disallowed_methods,
    reason = "the edge reads the clock that messages are stamped with"
)]
pub(crate) fn unix_ms() -> u64 {
    let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since_1970.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// A time or an offset as records keep them.
fn score(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn no_such(what: &'static str) -> Denial {
    Denial::Error { code: 404, message: what.into(), temporary: false }
}

fn too_fast() -> Denial {
    Denial::Error { code: 111, message: "too many requests".into(), temporary: true }
}

fn internal(_: BrokerError) -> Denial {
    // The cause is counted where the connection to Redis is kept.
    ErrorCode::INTERNAL.into()
}

fn answer(value: &impl Serialize) -> Answer {
    serde_json::to_vec(value).map(Bytes::from).map_err(|_| ErrorCode::INTERNAL.into())
}

/// The answer of methods that have nothing to say.
const NOTHING: Bytes = Bytes::from_static(b"{}");

fn read<T: DeserializeOwned>(data: Option<&Bytes>) -> Result<T, Denial> {
    let data = data.map_or(&b"{}"[..], |data| data);
    serde_json::from_slice(data).map_err(|_| ErrorCode::BAD_REQUEST.into())
}

/// A conversation, as methods name it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum To {
    /// The dialog with this user.
    User(String),
    /// This group.
    Group(String),
}

/// A conversation, as its channel names it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Conversation {
    /// Of two users, in the order of their names.
    Dialog(String, String),
    /// Of a group.
    Group(String),
}

impl Conversation {
    fn of(channel: &str) -> Option<Self> {
        if let Some(id) = channel.strip_prefix("group:") {
            return (!id.is_empty()).then(|| Self::Group(id.to_owned()));
        }
        let (first, second) = channel.strip_prefix("dialog:#")?.split_once(',')?;
        // One order only, or there would be two channels for one dialog.
        let good = accounts::is_name(first) && accounts::is_name(second) && first < second;
        good.then(|| Self::Dialog(first.to_owned(), second.to_owned()))
    }

    fn between(one: &str, other: &str) -> Self {
        let (first, second) = if one < other { (one, other) } else { (other, one) };
        Self::Dialog(first.to_owned(), second.to_owned())
    }

    fn channel(&self) -> String {
        match self {
            Self::Dialog(first, second) => format!("{DIALOG}:#{first},{second}"),
            Self::Group(id) => format!("{GROUP}:{id}"),
        }
    }

    /// The other one of a dialog.
    fn other(&self, user: &str) -> Option<&str> {
        match self {
            Self::Dialog(first, second) if first == user => Some(second),
            Self::Dialog(first, _) => Some(first),
            Self::Group(_) => None,
        }
    }
}

fn personal(user: &str) -> String {
    format!("{USER}:#{user}")
}

impl Chat {
    /// Puts it together.
    pub fn new(parts: Parts) -> Self {
        let Parts { settings, broker, namespaces, control, revocations, signer, verifier } = parts;
        let passwords = Passwords::new();
        Self { settings, broker, namespaces, control, revocations, signer, verifier, passwords }
    }

    /// Answers a procedure call; `None` if the method is not one of the model's.
    pub async fn call(&self, who: &Who, method: &str, data: Option<&Bytes>) -> Option<Answer> {
        let user = &*who.user;
        let known = METHODS.contains(&method);
        if known && user.is_empty() {
            return Some(Err(ErrorCode::PERMISSION_DENIED.into()));
        }
        Some(match method {
            "send" => self.send(user, data).await,
            "open" => self.open(user, data).await,
            "inbox" => self.inbox(user, data).await,
            "mark_read" => self.mark_read(user, data).await,
            "typing" => self.typing(user, data).await,
            "contacts.add" => self.change_contact(user, data, contacts::Edit::Add).await,
            "contacts.remove" => self.change_contact(user, data, contacts::Edit::Remove).await,
            "contacts.block" => self.change_contact(user, data, contacts::Edit::Block).await,
            "contacts.unblock" => self.change_contact(user, data, contacts::Edit::Unblock).await,
            "contacts.list" => self.contacts(user).await,
            "contacts.presence" => self.contacts_presence(user).await,
            "groups.create" => self.create_group(user, data).await,
            "groups.join" => self.join_group(user, data).await,
            "groups.add" => self.add_to_group(user, data).await,
            "groups.leave" => self.leave_group(user, data).await,
            "groups.members" => self.group_members(user, data).await,
            "groups.list" => self.groups(user, data).await,
            _ => return None,
        })
    }

    /// Whether `user` may subscribe to `channel`; `None` if the channel is not one of the model's.
    pub async fn may_subscribe(&self, user: &str, channel: &str) -> Option<Result<bool, Denial>> {
        let (namespace, _) = channel.split_once(':')?;
        if namespace != DIALOG && namespace != GROUP {
            return None;
        }
        let Some(conversation) = Conversation::of(channel) else { return Some(Ok(false)) };
        Some(self.is_in(user, &conversation).await)
    }

    /// Tells a user's devices, now and when they come back.
    async fn notify(&self, user: &str, notice: serde_json::Value) -> Result<(), Denial> {
        let channel = personal(user);
        let publication = Publication {
            data: notice.to_string().into(),
            time_ms: unix_ms(),
            ..Publication::default()
        };
        let options = self.kept(&channel, None)?;
        self.broker.publish(&channel, publication, options).await.map_err(internal)?;
        Ok(())
    }

    /// Tells those who are subscribed now; nothing is kept.
    async fn mention(&self, channel: &str, notice: serde_json::Value) -> Result<(), Denial> {
        let publication = Publication {
            data: notice.to_string().into(),
            time_ms: unix_ms(),
            ..Publication::default()
        };
        let options = PublishOptions::default();
        self.broker.publish(channel, publication, options).await.map_err(internal)?;
        Ok(())
    }

    /// How publications of a channel are kept.
    fn kept(
        &self,
        channel: &str,
        idempotency: Option<Idempotency>,
    ) -> Result<PublishOptions, Denial> {
        let options = self.namespaces.of(channel)?;
        let retention = retention(&options);
        Ok(PublishOptions { retention, idempotency, version: None })
    }

    /// Tells a user of a conversation it is now part of.
    async fn notify_of_conversation(&self, user: &str, channel: &str) -> Result<(), Denial> {
        self.notify(user, json!({"type": "conversation", "channel": channel})).await
    }
}

/// How publications are kept under these options.
pub(crate) fn retention(options: &Options) -> Retention {
    if options.keeps_history() {
        let Options { history_size, history_ttl, history_meta_ttl, .. } = *options;
        Retention { size: history_size, ttl: history_ttl, meta_ttl: history_meta_ttl }
    } else {
        Retention::default()
    }
}

/// Every method of the model.
const METHODS: [&str; 17] = [
    "send",
    "open",
    "inbox",
    "mark_read",
    "typing",
    "contacts.add",
    "contacts.remove",
    "contacts.block",
    "contacts.unblock",
    "contacts.list",
    "contacts.presence",
    "groups.create",
    "groups.join",
    "groups.add",
    "groups.leave",
    "groups.members",
    "groups.list",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dialog_has_one_channel_whoever_opens_it() {
        let dialog = Conversation::between("bob", "ada");
        assert_eq!(dialog, Conversation::between("ada", "bob"));
        assert_eq!(dialog.channel(), "dialog:#ada,bob");
        assert_eq!(Conversation::of("dialog:#ada,bob").as_ref(), Some(&dialog));
        assert_eq!((dialog.other("ada"), dialog.other("bob")), (Some("bob"), Some("ada")));
        for bad in [
            "dialog:#bob,ada",
            "dialog:#ada,ada",
            "dialog:#ada",
            "dialog:ada,bob",
            "dialog:#a,b,c",
            "group:",
            "x",
        ] {
            assert_eq!(Conversation::of(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_namespaces_of_the_model_are_consistent_and_closed_to_plain_publishing() {
        for options in default_namespaces() {
            assert!(options.faults().is_empty(), "{}", options.name);
            let asker = crate::namespaces::Asker { user: "a", subscribed: true };
            assert!(!options.may_publish(asker), "{}", options.name);
        }
    }
}
