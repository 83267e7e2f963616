//! What tokens say: the claims as written, and as used.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::TokenError;
use crate::namespaces::Options;

/// What a valid connection token says.
#[derive(Debug, Default)]
pub struct ConnectionToken {
    /// User id; empty: anonymous.
    pub user: String,
    /// Id of the token (`jti`).
    pub id: Option<String>,
    /// When it was issued, in seconds since 1970.
    pub issued_at: Option<u64>,
    /// JSON shown to others as `conn_info`.
    pub info: Option<Bytes>,
    /// JSON for back ends.
    pub meta: Option<Bytes>,
    /// When the connection ends unless refreshed, in seconds since 1970.
    pub ends_at: Option<u64>,
    /// Server-side subscriptions.
    pub subscriptions: Vec<(String, Terms)>,
}

/// What a valid subscription token says.
#[derive(Debug, Default)]
pub struct SubscriptionToken {
    /// User id that it was made for.
    pub user: String,
    /// Channel that it was made for.
    pub channel: String,
    /// Connection that it was made for, if only for one.
    pub client: Option<String>,
    /// Id of the token (`jti`).
    pub id: Option<String>,
    /// When it was issued, in seconds since 1970.
    pub issued_at: Option<u64>,
    /// When the subscription ends unless refreshed, in seconds since 1970.
    pub ends_at: Option<u64>,
    /// The rest.
    pub terms: Terms,
}

/// What a token, a back end or the server API says of one subscription.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Terms {
    /// JSON shown to others as `chan_info`.
    pub info: Option<Bytes>,
    /// Data for the subscriber.
    pub data: Option<Bytes>,
    /// Options that differ from those of the namespace.
    pub overrides: Overrides,
}

/// Options that one subscription may have otherwise than its namespace says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Overrides {
    presence: Option<Switch>,
    join_leave: Option<Switch>,
    force_recovery: Option<Switch>,
    force_positioning: Option<Switch>,
    force_push_join_leave: Option<Switch>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Switch {
    value: bool,
}

impl Overrides {
    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The options that hold where `options` are those of the namespace.
    pub fn apply(&self, options: &Options) -> Options {
        let or = |switch: Option<Switch>, otherwise| switch.map_or(otherwise, |s| s.value);
        Options {
            presence: or(self.presence, options.presence),
            join_leave: or(self.join_leave, options.join_leave),
            force_recovery: or(self.force_recovery, options.force_recovery),
            force_positioning: or(self.force_positioning, options.force_positioning),
            force_push_join_leave: or(self.force_push_join_leave, options.force_push_join_leave),
            ..options.clone()
        }
    }
}

/// [`Terms`] as written: JSON documents beside others in base64.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct WrittenTerms {
    /// JSON shown to others as `chan_info`.
    pub info: Option<Box<RawValue>>,
    /// The same in base64.
    pub b64info: Option<String>,
    /// Data for the subscriber.
    pub data: Option<Box<RawValue>>,
    /// The same in base64.
    pub b64data: Option<String>,
    /// Options that differ from those of the namespace.
    #[serde(rename = "override")]
    pub overrides: Option<Overrides>,
}

/// A text that should be base64 and is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected base64")]
pub struct NotBase64;

impl WrittenTerms {
    /// The terms meant.
    ///
    /// # Errors
    /// A base64 field holds something else.
    pub fn read(self) -> Result<Terms, NotBase64> {
        Ok(Terms {
            info: either(self.info, self.b64info)?,
            data: either(self.data, self.b64data)?,
            overrides: self.overrides.unwrap_or_default(),
        })
    }
}

/// A payload given as JSON or in base64; base64 wins, as it is only used for what JSON cannot say.
///
/// # Errors
/// The base64 is none.
pub fn either(
    json: Option<Box<RawValue>>,
    base64: Option<String>,
) -> Result<Option<Bytes>, NotBase64> {
    match base64.filter(|text| !text.is_empty()) {
        Some(text) => STANDARD.decode(text).map(|bytes| Some(bytes.into())).map_err(|_| NotBase64),
        None => Ok(json.map(|json| compact(&json))),
    }
}

/// A JSON document without line breaks, which separate documents on the wire.
fn compact(json: &RawValue) -> Bytes {
    let text = json.get();
    if !text.contains(['\n', '\r']) {
        return Bytes::copy_from_slice(text.as_bytes());
    }
    // Within a document line breaks are between tokens only: in strings they are escaped.
    Bytes::from(text.replace(['\n', '\r'], " "))
}

/// All claims of both kinds of token.
#[derive(Debug, Deserialize)]
pub(super) struct Claims {
    #[serde(default)]
    sub: String,
    pub(super) exp: Option<f64>,
    pub(super) nbf: Option<f64>,
    iat: Option<f64>,
    expire_at: Option<f64>,
    jti: Option<String>,
    aud: Option<Audience>,
    iss: Option<String>,
    client: Option<String>,
    channel: Option<String>,
    #[serde(default)]
    channels: Vec<String>,
    #[serde(default)]
    subs: std::collections::BTreeMap<String, WrittenTerms>,
    meta: Option<Box<RawValue>>,
    info: Option<Box<RawValue>>,
    b64info: Option<String>,
    data: Option<Box<RawValue>>,
    b64data: Option<String>,
    #[serde(rename = "override")]
    overrides: Option<Overrides>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

impl Claims {
    pub(super) fn is_for(&self, audience: Option<&str>, issuer: Option<&str>) -> bool {
        let audience = audience.is_none_or(|wanted| match &self.aud {
            None => false,
            Some(Audience::One(one)) => one == wanted,
            Some(Audience::Many(many)) => many.iter().any(|one| one == wanted),
        });
        audience && issuer.is_none_or(|wanted| self.iss.as_deref() == Some(wanted))
    }

    /// `expire_at` replaces `exp` as the end; 0 means that there is none.
    fn ends_at(&self) -> Option<u64> {
        self.expire_at.or(self.exp).map(seconds).filter(|end| *end > 0)
    }

    pub(super) fn into_connection(self) -> Result<ConnectionToken, TokenError> {
        // Only subscription tokens name a channel.
        if self.channel.is_some() {
            return Err(TokenError::Invalid);
        }
        let ends_at = self.ends_at();
        let mut subscriptions = Vec::with_capacity(self.channels.len() + self.subs.len());
        for channel in self.channels {
            if !self.subs.contains_key(&channel) {
                subscriptions.push((channel, Terms::default()));
            }
        }
        for (channel, terms) in self.subs {
            subscriptions.push((channel, terms.read().map_err(|_| TokenError::Invalid)?));
        }
        Ok(ConnectionToken {
            user: self.sub,
            id: self.jti,
            issued_at: self.iat.map(seconds),
            info: either(self.info, self.b64info).map_err(|_| TokenError::Invalid)?,
            meta: self.meta.map(|meta| compact(&meta)),
            ends_at,
            subscriptions,
        })
    }

    pub(super) fn into_subscription(self) -> Result<SubscriptionToken, TokenError> {
        let ends_at = self.ends_at();
        let written = WrittenTerms {
            info: self.info,
            b64info: self.b64info,
            data: self.data,
            b64data: self.b64data,
            overrides: self.overrides,
        };
        Ok(SubscriptionToken {
            user: self.sub,
            channel: self.channel.filter(|c| !c.is_empty()).ok_or(TokenError::Invalid)?,
            client: self.client.filter(|client| !client.is_empty()),
            id: self.jti,
            issued_at: self.iat.map(seconds),
            ends_at,
            terms: written.read().map_err(|_| TokenError::Invalid)?,
        })
    }
}

/// Whole seconds of a numeric date, which may have a fraction and may be nonsense.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the cast saturates: below 1970 is long ago, beyond the range is never"
)]
pub(super) fn seconds(date: f64) -> u64 {
    date as u64
}
