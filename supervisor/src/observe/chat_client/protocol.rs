//! The conversation with a node, without a socket: frames in, effects out.
//!
//! What has been asked and not answered is kept by command id, subscriptions by channel with the position they have reached. A new
//! connection begins with [`Protocol::open`], which forgets the unanswered calls (their outcome is unknown) and subscribes again.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use serde_json::{Value, json};

use super::ChatError;

/// Messages in one page of history: what Centrifugo allows at most by default.
pub(super) const PAGE: u32 = 300;

/// A place in a channel's stream.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Position {
    /// The last message seen; the first one has 1.
    pub offset: u64,
    /// The stream the offset counts in.
    pub epoch: String,
}

/// A message.
#[derive(Debug, Clone, PartialEq)]
pub struct Publication {
    /// The channel.
    pub channel: String,
    /// The content.
    pub data: Value,
    /// Its place in the channel's stream; 0 where the channel keeps none.
    pub offset: u64,
    /// It came with a recovery, not live.
    pub recovered: bool,
}

/// The answer to a subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscribed {
    /// The channel.
    pub channel: String,
    /// `None`: nothing was to be recovered. Else whether all that was missed follows.
    pub recovered: Option<bool>,
    /// Recovered messages that follow.
    pub count: usize,
    /// Where the subscription stands before them; `None` if the channel has no positions.
    pub position: Option<Position>,
}

/// What the driver has to do.
#[derive(Debug)]
pub(super) enum Effect<R> {
    /// The connection is usable.
    Connected { client: String, ping: Option<Duration>, ttl: Option<Duration> },
    /// A call is answered.
    Answer(R, Result<Value, ChatError>),
    /// Something for whoever subscribed.
    Event(super::Event),
    /// To be sent to the node.
    Send(String),
    /// The connection is of no use; come back unless `is_final`.
    Leave { reason: String, is_final: bool },
}

enum Waiting<R> {
    Connect,
    Refresh,
    Subscribe { channel: String },
    Call(R),
}

struct Subscription<R> {
    /// `None` until a node has told one, and for channels without positions.
    position: Option<Position>,
    /// Whoever waits for the first answer.
    reply: Option<R>,
}

/// See the module's documentation. `R` is whatever identifies who asked.
pub(super) struct Protocol<R> {
    last_id: u32,
    waiting: HashMap<u32, Waiting<R>>,
    subscriptions: BTreeMap<String, Subscription<R>>,
    /// The connect command was sent, so that others may follow it.
    opened: bool,
    connected: bool,
    pong: bool,
}

impl<R> Protocol<R> {
    pub(super) fn new() -> Self {
        Self {
            last_id: 0,
            waiting: HashMap::new(),
            subscriptions: BTreeMap::new(),
            opened: false,
            connected: false,
            pong: false,
        }
    }

    pub(super) fn is_connected(&self) -> bool {
        self.connected
    }

    /// The first frame of a new connection: connect, and all subscriptions with it, which saves a round trip.
    pub(super) fn open(&mut self, token: &str) -> String {
        self.connected = false;
        self.opened = true;
        let connect = self.command(
            "connect",
            &json!({ "token": token, "name": "holdfast" }),
            Waiting::Connect,
        );
        let channels: Vec<String> = self.subscriptions.keys().cloned().collect();
        let subscribes = channels.iter().map(|channel| self.subscribe_command(channel));
        [connect].into_iter().chain(subscribes).collect::<Vec<_>>().join("\n")
    }

    /// The connection is gone: whoever waits for an answer will not get one.
    pub(super) fn abandon(&mut self) -> Vec<R> {
        self.connected = false;
        self.opened = false;
        let waiting = self.waiting.drain().map(|(_, waiting)| waiting);
        waiting
            .filter_map(|w| if let Waiting::Call(reply) = w { Some(reply) } else { None })
            .collect()
    }

    /// The client has ended: nobody will be answered.
    pub(super) fn end(&mut self) -> Vec<R> {
        let mut replies = self.abandon();
        replies.extend(self.subscriptions.values_mut().filter_map(|s| s.reply.take()));
        replies
    }

    /// A call, ready to be sent.
    pub(super) fn call(&mut self, field: &str, body: &Value, reply: R) -> String {
        self.command(field, body, Waiting::Call(reply))
    }

    /// Extends the connection's life.
    pub(super) fn refresh(&mut self, token: &str) -> String {
        self.command("refresh", &json!({ "token": token }), Waiting::Refresh)
    }

    /// Keeps a subscription, and returns what to send if there is a connection.
    pub(super) fn subscribe(
        &mut self,
        channel: &str,
        position: Option<Position>,
        reply: R,
    ) -> Option<String> {
        let subscription = Subscription { position, reply: Some(reply) };
        self.subscriptions.insert(channel.to_owned(), subscription);
        self.opened.then(|| self.subscribe_command(channel))
    }

    /// Forgets a subscription, and returns what to send; without a connection that is nothing, and the caller is answered at once.
    pub(super) fn unsubscribe(&mut self, channel: &str, reply: R) -> Result<String, R> {
        self.subscriptions.remove(channel);
        if !self.opened {
            return Err(reply);
        }
        Ok(self.command("unsubscribe", &json!({ "channel": channel }), Waiting::Call(reply)))
    }

    fn subscribe_command(&mut self, channel: &str) -> String {
        let mut body = json!({ "channel": channel });
        if let Some(position) = self.subscriptions.get(channel).and_then(|s| s.position.as_ref()) {
            body["recover"] = json!(true);
            body["offset"] = json!(position.offset);
            body["epoch"] = json!(position.epoch);
        }
        self.command("subscribe", &body, Waiting::Subscribe { channel: channel.to_owned() })
    }

    fn command(&mut self, field: &str, body: &Value, waiting: Waiting<R>) -> String {
        self.last_id = self.last_id.checked_add(1).unwrap_or(1);
        self.waiting.insert(self.last_id, waiting);
        json!({ "id": self.last_id, field: body }).to_string()
    }

    /// What a frame from the node means.
    pub(super) fn handle(&mut self, frame: &str) -> Vec<Effect<R>> {
        let mut effects = Vec::new();
        for document in frame.split('\n').filter(|document| !document.is_empty()) {
            match serde_json::from_str::<Value>(document) {
                Ok(reply) => self.handle_reply(reply, &mut effects),
                Err(error) => {
                    effects.push(leave(format!("the node sent no JSON: {error}")));
                    return effects;
                }
            }
        }
        effects
    }

    fn handle_reply(&mut self, mut reply: Value, effects: &mut Vec<Effect<R>>) {
        let Some(id) = reply.get("id").and_then(Value::as_u64) else {
            match reply.get_mut("push").map(Value::take) {
                Some(push) => self.handle_push(push, effects),
                None if self.pong => effects.push(Effect::Send("{}".to_owned())),
                None => {}
            }
            return;
        };
        let Some(waiting) = u32::try_from(id).ok().and_then(|id| self.waiting.remove(&id)) else {
            return;
        };
        let error = reply.get("error").map(refusal);
        match waiting {
            Waiting::Call(reply_to) => {
                let result = error.map_or_else(|| Ok(result_of(&mut reply)), Err);
                effects.push(Effect::Answer(reply_to, result));
            }
            Waiting::Connect => match error {
                Some(error) => effects.push(refused_connect(&error)),
                None => self.handle_connected(&reply["connect"], effects),
            },
            Waiting::Refresh => {
                if let Some(error) = error {
                    effects.push(leave(format!("refresh: {error}")));
                }
            }
            Waiting::Subscribe { channel } => match error {
                Some(error) => self.handle_subscribe_refused(&channel, error, effects),
                None => self.handle_subscribed(&channel, reply["subscribe"].take(), effects),
            },
        }
    }

    fn handle_connected(&mut self, result: &Value, effects: &mut Vec<Effect<R>>) {
        let seconds = |name: &str| {
            let seconds = result.get(name).and_then(Value::as_u64).filter(|seconds| *seconds > 0);
            seconds.map(Duration::from_secs)
        };
        self.connected = true;
        self.pong = result.get("pong").and_then(Value::as_bool).unwrap_or(false);
        effects.push(Effect::Connected {
            client: text(result, "client"),
            ping: seconds("ping"),
            ttl: seconds("ttl"),
        });
    }

    fn handle_subscribed(
        &mut self,
        channel: &str,
        mut result: Value,
        effects: &mut Vec<Effect<R>>,
    ) {
        // An unsubscribe that overtook the answer.
        let Some(subscription) = self.subscriptions.get_mut(channel) else { return };
        let publications = result.get_mut("publications").map(Value::take);
        match subscribed(channel, &result) {
            Ok(mut answer) => {
                let list = publications.as_ref().and_then(Value::as_array);
                answer.count = list.map_or(0, Vec::len);
                subscription.position.clone_from(&answer.position);
                if let Some(reply) = subscription.reply.take() {
                    result["count"] = json!(answer.count);
                    effects.push(Effect::Answer(reply, Ok(result)));
                }
                effects.push(Effect::Event(super::Event::Subscribed(answer)));
            }
            Err(error) => return effects.push(leave(error)),
        }
        if let Some(Value::Array(publications)) = publications {
            for publication in publications {
                self.handle_publication(channel, publication, true, effects);
            }
        }
    }

    fn handle_subscribe_refused(
        &mut self,
        channel: &str,
        error: ChatError,
        effects: &mut Vec<Effect<R>>,
    ) {
        if let ChatError::Refused { code, temporary, .. } = error
            && (temporary || code < 100 || code == 109)
        {
            // Comes back after the backoff, with a fresh token.
            effects.push(leave(format!("subscribe {channel}: {error}")));
            return;
        }
        let Some(subscription) = self.subscriptions.remove(channel) else { return };
        match subscription.reply {
            Some(reply) => effects.push(Effect::Answer(reply, Err(error))),
            None => effects.push(unsubscribed(channel, error.to_string())),
        }
    }

    fn handle_push(&mut self, mut push: Value, effects: &mut Vec<Effect<R>>) {
        let channel = text(&push, "channel");
        if let Some(publication) = push.get_mut("pub").map(Value::take) {
            self.handle_publication(&channel, publication, false, effects);
        } else if let Some(end) = push.get("unsubscribe") {
            let code = end.get("code").and_then(Value::as_u64).unwrap_or(0);
            // The protocol's boundary: from 2500 on the client is to subscribe again at once.
            if code >= 2500 && self.subscriptions.contains_key(&channel) {
                effects.push(Effect::Send(self.subscribe_command(&channel)));
            } else if self.subscriptions.remove(&channel).is_some() {
                effects.push(unsubscribed(&channel, format!("{code} {}", text(end, "reason"))));
            }
        } else if let Some(end) = push.get("disconnect") {
            let code = end.get("code").and_then(Value::as_u64).unwrap_or(0);
            let reason = format!("{code} {}", text(end, "reason"));
            effects.push(Effect::Leave { reason, is_final: is_final(code) });
        }
    }

    fn handle_publication(
        &mut self,
        channel: &str,
        publication: Value,
        recovered: bool,
        effects: &mut Vec<Effect<R>>,
    ) {
        let Some(subscription) = self.subscriptions.get_mut(channel) else { return };
        let publication = read_publication(channel, publication, recovered);
        if let Some(position) = subscription.position.as_mut().filter(|_| publication.offset > 0) {
            // As the official clients do: what a node delivers twice is seen twice, and so found.
            position.offset = publication.offset;
        }
        effects.push(Effect::Event(super::Event::Publication(publication)));
    }
}

/// The protocol's rule which disconnect codes a client must not come back after.
pub(super) fn is_final(code: u64) -> bool {
    matches!(code, 3500..=3999 | 4500..=4999)
}

/// What an answer to `subscribe` says.
pub(super) fn subscribed(channel: &str, result: &Value) -> Result<Subscribed, String> {
    if !result.is_object() {
        return Err(format!("the answer to subscribe {channel} is no object"));
    }
    let flag = |name: &str| result.get(name).and_then(Value::as_bool).unwrap_or(false);
    let number = |name: &str| result.get(name).and_then(Value::as_u64).unwrap_or(0);
    Ok(Subscribed {
        channel: channel.to_owned(),
        recovered: flag("was_recovering").then(|| flag("recovered")),
        count: usize::try_from(number("count")).unwrap_or(usize::MAX),
        position: flag("recoverable")
            .then(|| Position { offset: number("offset"), epoch: text(result, "epoch") }),
    })
}

/// What an answer to `history` says.
pub(super) fn history(channel: &str, result: &Value) -> Result<super::History, String> {
    let list = result.get("publications").and_then(Value::as_array);
    let list = list.ok_or_else(|| format!("the history of {channel} has no publications"))?;
    let publications =
        list.iter().map(|publication| read_publication(channel, publication.clone(), true));
    let offset = result.get("offset").and_then(Value::as_u64).unwrap_or(0);
    Ok(super::History {
        publications: publications.collect(),
        top: Position { offset, epoch: text(result, "epoch") },
    })
}

fn read_publication(channel: &str, mut publication: Value, recovered: bool) -> Publication {
    Publication {
        channel: channel.to_owned(),
        offset: publication.get("offset").and_then(Value::as_u64).unwrap_or(0),
        data: publication.get_mut("data").map(Value::take).unwrap_or_default(),
        recovered,
    }
}

fn refusal(error: &Value) -> ChatError {
    ChatError::Refused {
        code: error
            .get("code")
            .and_then(Value::as_u64)
            .and_then(|code| u32::try_from(code).ok())
            .unwrap_or(0),
        message: text(error, "message"),
        temporary: error.get("temporary").and_then(Value::as_bool).unwrap_or(false),
    }
}

/// An expired token (109) is replaced by a fresh one with the next attempt; other lasting refusals end the client, as in the SDKs.
fn refused_connect<R>(error: &ChatError) -> Effect<R> {
    let is_final = matches!(error, ChatError::Refused { code, temporary: false, .. } if *code >= 100 && *code != 109);
    Effect::Leave { reason: format!("connect: {error}"), is_final }
}

/// The one result field of a reply.
fn result_of(reply: &mut Value) -> Value {
    let fields = reply.as_object_mut().into_iter().flatten();
    fields
        .filter(|(name, _)| *name != "id")
        .map(|(_, value)| value.take())
        .next()
        .unwrap_or_default()
}

fn leave<R>(reason: String) -> Effect<R> {
    Effect::Leave { reason, is_final: false }
}

fn unsubscribed<R>(channel: &str, reason: String) -> Effect<R> {
    Effect::Event(super::Event::Unsubscribed { channel: channel.to_owned(), reason })
}

fn text(value: &Value, name: &str) -> String {
    value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
}
