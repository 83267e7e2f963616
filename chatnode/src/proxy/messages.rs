//! What back ends are asked and what they answer, as Centrifugo's HTTP proxies define it.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::access::Origin;
use crate::tokens::{NotBase64, Overrides, Terms, WrittenTerms};

/// What is asked. Fields that say nothing are left out.
#[derive(Debug, Default, Serialize)]
pub struct Question<'a> {
    pub(crate) client: &'a str,
    pub(crate) transport: &'static str,
    pub(crate) protocol: &'static str,
    pub(crate) encoding: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) user: Option<&'a str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(crate) channel: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(crate) method: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(crate) name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(crate) version: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) data: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) b64data: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) meta: Option<Box<RawValue>>,
}

impl<'a> Question<'a> {
    /// Asked on behalf of a connection of this origin.
    pub fn of(origin: &'a Origin) -> Self {
        let Origin { client, transport, encoding, .. } = origin;
        // What the encoding of the payloads is, beside that of the protocol, clients cannot choose.
        Self { client, transport, protocol: encoding, encoding, ..Self::default() }
    }

    /// With this payload: as JSON where it is, else in base64.
    #[must_use]
    pub fn with_data(mut self, data: Option<&Bytes>) -> Self {
        if let Some(data) = data {
            self.data = json(data);
            if self.data.is_none() {
                self.b64data = Some(STANDARD.encode(data));
            }
        }
        self
    }

    /// With what the operator attached to the connection.
    #[must_use]
    pub fn with_meta(mut self, meta: Option<&Bytes>) -> Self {
        self.meta = meta.and_then(json);
        self
    }
}

fn json(bytes: &Bytes) -> Option<Box<RawValue>> {
    serde_json::from_slice(bytes).ok()
}

/// What is answered: one of the three.
#[derive(Debug, Deserialize)]
pub(super) struct Envelope<T> {
    pub(super) result: Option<T>,
    pub(super) error: Option<WrittenError>,
    pub(super) disconnect: Option<WrittenDisconnect>,
}

#[derive(Debug, Deserialize)]
pub(super) struct WrittenError {
    pub(super) code: u32,
    #[serde(default)]
    pub(super) message: String,
    #[serde(default)]
    pub(super) temporary: bool,
}

#[derive(Debug, Deserialize)]
pub(super) struct WrittenDisconnect {
    pub(super) code: u16,
    #[serde(default)]
    pub(super) reason: String,
}

/// Who connects.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ConnectAnswer {
    /// User id.
    pub user: String,
    /// End of the connection, in seconds since 1970.
    pub expire_at: Option<u64>,
    /// JSON shown to others as `conn_info`.
    pub info: Option<Box<RawValue>>,
    /// The same in base64.
    pub b64info: Option<String>,
    /// Data for the connect reply.
    pub data: Option<Box<RawValue>>,
    /// The same in base64.
    pub b64data: Option<String>,
    /// Server-side subscriptions.
    pub channels: Vec<String>,
    /// … with terms.
    pub subs: BTreeMap<String, WrittenTerms>,
    /// For later questions.
    pub meta: Option<Box<RawValue>>,
}

/// Whether something lives on.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct RefreshAnswer {
    /// It does not.
    pub expired: bool,
    /// New end, in seconds since 1970.
    pub expire_at: Option<u64>,
}

/// Terms of a subscription.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct SubscribeAnswer {
    info: Option<Box<RawValue>>,
    b64info: Option<String>,
    data: Option<Box<RawValue>>,
    b64data: Option<String>,
    #[serde(rename = "override")]
    overrides: Option<Overrides>,
    /// End of the subscription, in seconds since 1970.
    pub expire_at: Option<u64>,
}

impl SubscribeAnswer {
    /// The terms. Not flattened into the answer: a raw document cannot be read that way.
    ///
    /// # Errors
    /// A base64 field holds something else.
    pub fn terms(self) -> Result<Terms, NotBase64> {
        let Self { info, b64info, data, b64data, overrides, .. } = self;
        WrittenTerms { info, b64info, data, b64data, overrides }.read()
    }
}

/// A publication that may go out.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct PublishAnswer {
    /// Payload instead of the client's.
    pub data: Option<Box<RawValue>>,
    /// The same in base64.
    pub b64data: Option<String>,
    /// Not to be kept.
    pub skip_history: bool,
}

/// Result of a call.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct RpcAnswer {
    /// Result.
    pub data: Option<Box<RawValue>>,
    /// The same in base64.
    pub b64data: Option<String>,
}
