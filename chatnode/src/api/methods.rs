//! What each method of the server API does.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::{ApiError, Parts, orders};
use crate::access::{REVOKED_FOR, Revocation, unix_seconds};
use crate::broker::{Idempotency, PublishOptions, Range, Retention, Version};
use crate::model::{retention, unix_ms};
use crate::protocol::ErrorCode;
use crate::stream::Publication;
use crate::tokens::either;

/// How long an idempotency key is remembered.
const ONCE_FOR: Duration = Duration::from_mins(5);

/// Most publications of one history answer.
const HISTORY_MAX: usize = 10_000;

/// Most commands of a batch, and channels of a broadcast: what one request may hold up.
const TOGETHER_MAX: usize = 1_000;

/// Of those under way at once, where their order does not matter.
const PARALLEL: usize = 64;

/// Longest tag, key and value together; and most of them.
const TAGS_BYTES_MAX: usize = 4096;

/// A method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Method(&'static str);

impl Method {
    /// Every method.
    pub(super) const NAMES: [&'static str; 16] = [
        "publish",
        "broadcast",
        "subscribe",
        "unsubscribe",
        "disconnect",
        "refresh",
        "presence",
        "presence_stats",
        "history",
        "history_remove",
        "channels",
        "info",
        "rpc",
        "batch",
        "revoke_token",
        "invalidate_user_tokens",
    ];

    pub(super) fn named(name: &str) -> Option<Self> {
        Self::NAMES.into_iter().find(|known| *known == name).map(Self)
    }

    pub(super) fn name(self) -> &'static str {
        self.0
    }
}

/// What a method answers.
pub(super) type Answer = Result<Value, ApiError>;

/// Runs a method.
pub(super) async fn run(parts: &Parts, method: Method, body: &RawValue) -> Answer {
    if method.0 == "batch" {
        batch(parts, read(body)?).await
    } else {
        single(parts, method, body).await
    }
}

async fn single(parts: &Parts, method: Method, body: &RawValue) -> Answer {
    match method.0 {
        "publish" => {
            let Publish { channel, content } = read(body)?;
            publish(parts, &channel, &content.read()?).await
        }
        "broadcast" => broadcast(parts, read(body)?).await,
        "subscribe" => orders::subscribe(parts, read(body)?).await,
        "unsubscribe" => orders::unsubscribe(parts, read(body)?).await,
        "disconnect" => orders::disconnect(parts, read(body)?).await,
        "refresh" => orders::refresh(parts, read(body)?).await,
        "presence" => presence(parts, read(body)?).await,
        "presence_stats" => presence_stats(parts, read(body)?).await,
        "history" => history(parts, read(body)?).await,
        "history_remove" => history_remove(parts, read(body)?).await,
        "channels" => channels(parts, read(body)?).await,
        "info" => Ok(json!({"nodes": parts.control.info().await?})),
        "revoke_token" => revoke_token(parts, read(body)?).await,
        "invalidate_user_tokens" => invalidate_user_tokens(parts, read(body)?).await,
        // Procedures are the back end's own; there are none to call from there. And batches do not nest.
        _ => Err(ErrorCode::METHOD_NOT_FOUND.into()),
    }
}

fn read<T: DeserializeOwned>(body: &RawValue) -> Result<T, ApiError> {
    // The position in the text would tell nothing beside the library's own words, which name the field.
    serde_json::from_str(body.get()).map_err(|error| ApiError::bad(&error.to_string()))
}

pub(super) fn base64<T>(result: Result<T, crate::tokens::NotBase64>) -> Result<T, ApiError> {
    result.map_err(|error| ApiError::bad(&error.to_string()))
}

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct InChannel {
    channel: String,
}

/// `publish`. Not flattened: raw documents cannot be read that way.
struct Publish {
    channel: String,
    content: Content,
}

impl<'de> Deserialize<'de> for Publish {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let body = Box::<RawValue>::deserialize(deserializer)?;
        let channel: InChannel =
            serde_json::from_str(body.get()).map_err(serde::de::Error::custom)?;
        let content = serde_json::from_str(body.get()).map_err(serde::de::Error::custom)?;
        Ok(Self { channel: channel.channel, content })
    }
}

/// What is published, without where.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Content {
    data: Option<Box<RawValue>>,
    b64data: Option<String>,
    skip_history: bool,
    tags: BTreeMap<String, String>,
    idempotency_key: String,
    delta: bool,
    version: u64,
    version_epoch: String,
}

/// The same, checked.
struct Checked {
    publication: Publication,
    skip_history: bool,
    idempotency: Option<Idempotency>,
    version: Option<Version>,
}

impl Content {
    fn read(self) -> Result<Checked, ApiError> {
        let data = base64(either(self.data, self.b64data))?;
        let data = data.filter(|data| !data.is_empty()).ok_or_else(|| ApiError::bad("no data"))?;
        let tags_bytes: usize = self.tags.iter().map(|(key, value)| key.len() + value.len()).sum();
        if tags_bytes > TAGS_BYTES_MAX {
            return Err(ApiError::bad("tags are too long"));
        }
        let tags = (!self.tags.is_empty()).then(|| Bytes::from(json!(self.tags).to_string()));
        let key = self.idempotency_key.into_boxed_str();
        let version = Version { number: self.version, epoch: self.version_epoch.into() };
        Ok(Checked {
            publication: Publication { data, tags, delta: self.delta, ..Publication::default() },
            skip_history: self.skip_history,
            idempotency: (!key.is_empty()).then_some(Idempotency { key, ttl: ONCE_FOR }),
            version: (version.number > 0).then_some(version),
        })
    }
}

async fn publish(parts: &Parts, channel: &str, content: &Checked) -> Answer {
    let options = known(parts, channel)?;
    let retention = if content.skip_history { Retention::default() } else { retention(&options) };
    let time_ms = unix_ms();
    let publication =
        Publication { time_ms, delta: content.delta_for(&options), ..content.publication.clone() };
    let (idempotency, version) = (content.idempotency.clone(), content.version.clone());
    let how = PublishOptions { retention, idempotency, version };
    let published = parts.broker.publish(channel, publication, how).await?;
    Ok(json!({"offset": published.offset, "epoch": &*published.epoch}))
}

impl Checked {
    fn delta_for(&self, options: &crate::namespaces::Options) -> bool {
        self.publication.delta || options.delta_publish
    }
}

pub(super) fn known(
    parts: &Parts,
    channel: &str,
) -> Result<std::sync::Arc<crate::namespaces::Options>, ApiError> {
    if channel.is_empty() {
        return Err(ApiError::bad("no channel"));
    }
    Ok(parts.namespaces.of(channel)?)
}

struct Broadcast {
    channels: Vec<String>,
    content: Content,
}

impl<'de> Deserialize<'de> for Broadcast {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct InChannels {
            channels: Vec<String>,
        }
        let body = Box::<RawValue>::deserialize(deserializer)?;
        let to: InChannels = serde_json::from_str(body.get()).map_err(serde::de::Error::custom)?;
        let content = serde_json::from_str(body.get()).map_err(serde::de::Error::custom)?;
        Ok(Self { channels: to.channels, content })
    }
}

async fn broadcast(parts: &Parts, request: Broadcast) -> Answer {
    if request.channels.is_empty() || request.channels.len() > TOGETHER_MAX {
        return Err(ApiError::bad(&format!("expected 1 to {TOGETHER_MAX} channels")));
    }
    let content = request.content.read()?;
    let publishes = request.channels.iter().map(|channel| publish(parts, channel, &content));
    let publishes: Vec<_> = publishes.collect();
    let done: Vec<_> = stream::iter(publishes).buffered(PARALLEL).collect().await;
    let responses: Vec<_> = done.into_iter().map(envelope).collect();
    Ok(json!({"responses": responses}))
}

/// One of several answers.
fn envelope(answer: Answer) -> Value {
    match answer {
        Ok(result) => json!({"result": result}),
        Err(error) => json!({"error": {"code": error.code, "message": error.message}}),
    }
}

#[derive(Deserialize)]
struct Batch {
    commands: Vec<BTreeMap<String, Box<RawValue>>>,
    #[serde(default)]
    parallel: bool,
}

async fn batch(parts: &Parts, request: Batch) -> Answer {
    if request.commands.len() > TOGETHER_MAX {
        return Err(ApiError::bad(&format!("expected at most {TOGETHER_MAX} commands")));
    }
    let commands = request.commands.iter().map(|command| one_of_batch(parts, command));
    let commands: Vec<_> = commands.collect();
    let together = if request.parallel { PARALLEL } else { 1 };
    let replies: Vec<_> = stream::iter(commands).buffered(together).collect().await;
    Ok(json!({"replies": replies}))
}

async fn one_of_batch(parts: &Parts, command: &BTreeMap<String, Box<RawValue>>) -> Value {
    let Some((name, body)) = command.iter().next().filter(|_| command.len() == 1) else {
        return envelope(Err(ApiError::bad("expected one method for each command")));
    };
    let answer = match Method::named(name) {
        Some(method) => single(parts, method, body).await,
        None => Err(ErrorCode::METHOD_NOT_FOUND.into()),
    };
    match answer {
        Ok(result) => json!({name.as_str(): result}),
        error @ Err(_) => envelope(error),
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Position {
    pub(super) offset: u64,
    pub(super) epoch: String,
}

async fn presence(parts: &Parts, request: InChannel) -> Answer {
    if !known(parts, &request.channel)?.presence {
        return Err(ErrorCode::NOT_AVAILABLE.into());
    }
    let members = parts.broker.members(&request.channel).await?;
    Ok(json!({"presence": members}))
}

async fn presence_stats(parts: &Parts, request: InChannel) -> Answer {
    if !known(parts, &request.channel)?.presence {
        return Err(ErrorCode::NOT_AVAILABLE.into());
    }
    let counts = parts.broker.member_counts(&request.channel).await?;
    Ok(json!({"num_clients": counts.clients, "num_users": counts.users}))
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct History {
    channel: String,
    limit: i64,
    since: Option<Position>,
    reverse: bool,
}

/// A publication as callers see it.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    b64data: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    info: Option<&'a RawValue>,
    offset: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    tags: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "is_zero")]
    time: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the form serde asks for")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn shown(publication: &Publication) -> Shown<'_> {
    use base64::Engine as _;
    let raw = |bytes: &'_ Bytes| serde_json::from_slice::<&RawValue>(bytes).is_ok();
    let document = |bytes| serde_json::from_slice::<&RawValue>(bytes).ok();
    let is_json = raw(&publication.data);
    let encode = || base64::engine::general_purpose::STANDARD.encode(&publication.data);
    Shown {
        data: document(&publication.data[..]),
        b64data: (!is_json).then(encode),
        info: publication.info.as_deref().and_then(document),
        offset: publication.offset,
        tags: publication.tags.as_deref().and_then(document),
        time: publication.time_ms,
    }
}

async fn history(parts: &Parts, request: History) -> Answer {
    let options = known(parts, &request.channel)?;
    if !options.keeps_history() {
        return Err(ErrorCode::NOT_AVAILABLE.into());
    }
    let start = request.since.as_ref().map(|since| since.offset);
    if request.reverse && start == Some(0) {
        return Err(ApiError::BAD_REQUEST);
    }
    let limit = usize::try_from(request.limit).unwrap_or(usize::MAX).min(HISTORY_MAX);
    let range = Range { since: start, limit, reverse: request.reverse };
    let page = parts.broker.read(&request.channel, range).await?;
    let state = &page.state;
    if let Some(since) = &request.since
        && !state.lineage.continues(&since.epoch, since.offset)
    {
        return Err(ErrorCode::UNRECOVERABLE_POSITION.into());
    }
    let publications: Vec<_> = page.publications.iter().map(shown).collect();
    Ok(json!({
        "publications": publications,
        "epoch": &**state.lineage.visible(),
        "offset": state.top,
    }))
}

async fn history_remove(parts: &Parts, request: InChannel) -> Answer {
    if !known(parts, &request.channel)?.keeps_history() {
        return Err(ErrorCode::NOT_AVAILABLE.into());
    }
    parts.broker.remove_history(&request.channel).await?;
    Ok(json!({}))
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Channels {
    pattern: String,
}

async fn channels(parts: &Parts, request: Channels) -> Answer {
    let channels = parts.control.channels(&request.pattern).await?.into_iter();
    let channels = channels.map(|(name, clients)| (name, json!({"num_clients": clients})));
    Ok(json!({"channels": channels.collect::<serde_json::Map<_, _>>()}))
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RevokeToken {
    uid: String,
    expire_at: u64,
}

async fn revoke_token(parts: &Parts, request: RevokeToken) -> Answer {
    if request.uid.is_empty() || request.uid.len() > 256 {
        return Err(ApiError::bad("expected the id (jti) of a token as uid"));
    }
    revoke(parts, Revocation::Token(request.uid), request.expire_at).await
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct InvalidateUserTokens {
    user: String,
    issued_before: u64,
    expire_at: u64,
}

async fn invalidate_user_tokens(parts: &Parts, request: InvalidateUserTokens) -> Answer {
    if request.user.is_empty() {
        return Err(ApiError::bad("no user"));
    }
    let before = match request.issued_before {
        0 => unix_seconds(),
        before => before,
    };
    let revocation = Revocation::User { user: request.user, before };
    revoke(parts, revocation, request.expire_at).await
}

async fn revoke(parts: &Parts, revocation: Revocation, expire_at: u64) -> Answer {
    let now = unix_seconds();
    let until = if expire_at == 0 { now + REVOKED_FOR.as_secs() } else { expire_at };
    parts.revocations.add(revocation, now, until).await?;
    parts.control.revocations_changed().await;
    Ok(json!({}))
}
