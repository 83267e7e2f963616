//! `send`: a message into a conversation, exactly once.
//!
//! The client makes up the id and sends again with the same one when it got no answer; the broker remembers which ids it has seen, and
//! the second answer is the first one's. So a lost reply, a killed node or a failover costs a repetition and never a doubled message.

use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::conversations::Message;
use super::{Answer, Chat, To, answer, internal, read, too_fast, unix_ms};
use crate::access::Denial;
use crate::broker::{Idempotency, Range, Rate};
use crate::protocol::ErrorCode;
use crate::stream::Publication;

/// Largest body; pictures and files are for a store of their own, with a link here.
const BODY_BYTES_MAX: usize = 16 * 1024;

/// Longest id; a UUID has 36 characters.
const ID_BYTES_MAX: usize = 64;

/// How long an id is remembered. Clients send again within seconds of being back; a phone in a pocket is back the same day.
const ONCE_FOR: Duration = Duration::from_hours(24);

impl Chat {
    pub(super) async fn send(&self, user: &str, data: Option<&Bytes>) -> Answer {
        #[derive(Deserialize)]
        struct Request {
            to: To,
            id: String,
            body: Box<RawValue>,
        }
        let Request { to, id, body } = read(data)?;
        let good_id = !id.is_empty() && id.len() <= ID_BYTES_MAX && !id.contains(char::is_control);
        if !good_id || body.get().len() > BODY_BYTES_MAX {
            return Err(ErrorCode::BAD_REQUEST.into());
        }
        let conversation = self.writable(user, &to).await?;
        let channel = conversation.channel();
        self.within_rate(user, &channel).await?;
        self.begin(&conversation).await?;
        let name = self.shown_name(user).await?.unwrap_or_else(|| user.to_owned());
        let time = unix_ms();
        let kind = "message".to_owned();
        let message =
            Message { kind, id: id.clone(), from: user.to_owned(), name, body, time, offset: None };
        let publication =
            Publication { data: answer(&message)?, time_ms: time, ..Publication::default() };
        let key = format!("{user} {id}").into();
        let options = self.kept(&channel, Some(Idempotency { key, ttl: ONCE_FOR }))?;
        let published = self.broker.publish(&channel, publication, options).await;
        let published = published.map_err(internal)?;
        let time = if published.suppressed {
            self.time_of(&channel, published.offset).await?.unwrap_or(time)
        } else {
            time
        };
        // Who writes has read what came before. The message is out; that this failed shows as unread, which is no reason to fail.
        let read = self.has_read(user, &channel, &published.epoch, published.offset).await;
        if read.is_err() {
            tracing::debug!("read mark of a sender was not kept");
        }
        let (offset, epoch) = (published.offset, &*published.epoch);
        answer(
            &json!({"id": id, "channel": channel, "offset": offset, "epoch": epoch, "time": time}),
        )
    }

    async fn within_rate(&self, user: &str, channel: &str) -> Result<(), Denial> {
        let Some(rate) = self.namespaces.of(channel)?.rate() else { return Ok(()) };
        let every = Duration::from_secs(1) / rate.per_second;
        let rate = Rate { burst: rate.burst, every };
        let allowance = self.broker.take(&format!("send {user}"), rate, 1).await;
        if allowance.map_err(internal)?.allowed { Ok(()) } else { Err(too_fast()) }
    }

    /// When the publication at `offset` was accepted, if it is still kept.
    async fn time_of(&self, channel: &str, offset: u64) -> Result<Option<u64>, Denial> {
        let since = Some(offset.saturating_sub(1));
        let range = Range { since, limit: 1, reverse: false };
        let page = self.broker.read(channel, range).await.map_err(internal)?;
        let found = page.publications.first().filter(|publication| publication.offset == offset);
        Ok(found.map(|publication| publication.time_ms))
    }
}
