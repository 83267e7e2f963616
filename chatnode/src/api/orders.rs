//! Methods of the server API that order connections about, wherever they are.

use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::methods::{Answer, Position, base64, known};
use super::{ApiError, Order, Parts, Whom};
use crate::tokens::{Overrides, Terms, WrittenTerms, either};

/// Close code and reason where the caller gives none.
const FORCED: (u16, &str) = (3503, "force disconnect");

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Subscribe {
    user: String,
    channel: String,
    client: String,
    session: String,
    info: Option<Box<RawValue>>,
    b64info: Option<String>,
    data: Option<Box<RawValue>>,
    b64data: Option<String>,
    expire_at: u64,
    recover_since: Option<Position>,
    #[serde(rename = "override")]
    overrides: Option<Overrides>,
}

pub(super) async fn subscribe(parts: &Parts, request: Subscribe) -> Answer {
    known(parts, &request.channel)?;
    let Subscribe { info, b64info, data, b64data, overrides, .. } = request;
    let terms = WrittenTerms { info, b64info, data, b64data, overrides };
    let Terms { info, data, overrides } = base64(terms.read())?;
    let whom = Whom { user: request.user, client: request.client, session: request.session };
    let order = Order::Subscribe {
        channel: request.channel,
        info,
        data,
        ends_at: Some(request.expire_at).filter(|end| *end > 0),
        since: request.recover_since.map(|since| (since.offset, since.epoch)),
        overrides,
    };
    ordered(parts, whom, order).await
}

/// Has an order carried out; it must say whom it is for.
async fn ordered(parts: &Parts, whom: Whom, order: Order) -> Answer {
    if whom == Whom::default() {
        return Err(ApiError::bad("expected a user, a client or a session"));
    }
    parts.control.order(whom, order).await?;
    Ok(json!({}))
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Unsubscribe {
    user: String,
    channel: String,
    client: String,
    session: String,
}

pub(super) async fn unsubscribe(parts: &Parts, request: Unsubscribe) -> Answer {
    let Unsubscribe { user, channel, client, session } = request;
    if !channel.is_empty() {
        known(parts, &channel)?;
    }
    let order = Order::Unsubscribe { channel, code: 2000, reason: "server unsubscribe".to_owned() };
    ordered(parts, Whom { user, client, session }, order).await
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Disconnect {
    user: String,
    client: String,
    session: String,
    whitelist: Vec<String>,
    #[serde(rename = "disconnect")]
    how: Option<Close>,
}

#[derive(Deserialize)]
struct Close {
    code: u16,
    #[serde(default)]
    reason: String,
}

pub(super) async fn disconnect(parts: &Parts, request: Disconnect) -> Answer {
    let Disconnect { user, client, session, whitelist, how } = request;
    let (code, reason) = match how {
        // The frame that carries it has room for 123 bytes.
        Some(close) if !(3000..5000).contains(&close.code) || close.reason.len() > 123 => {
            return Err(ApiError::bad("expected a code of 3000 to 4999 and a short reason"));
        }
        Some(close) => (close.code, close.reason),
        None => (FORCED.0, FORCED.1.to_owned()),
    };
    let order = Order::Disconnect { code, reason, except: whitelist };
    ordered(parts, Whom { user, client, session }, order).await
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Refresh {
    user: String,
    client: String,
    session: String,
    expired: bool,
    expire_at: u64,
    info: Option<Box<RawValue>>,
}

pub(super) async fn refresh(parts: &Parts, request: Refresh) -> Answer {
    let Refresh { user, client, session, expired, expire_at, info } = request;
    let info = base64(either(info, None))?;
    let ends_at = Some(expire_at).filter(|end| *end > 0);
    let order = Order::Refresh { expired, ends_at, info };
    ordered(parts, Whom { user, client, session }, order).await
}
