//! How channels, records and rates are named in Redis. Pure.
//!
//! Everything of one channel or record carries its name between braces: in a cluster the part between the first `{` and the first `}`
//! after it decides where a key lies.

use bytes::Bytes;

use crate::broker::Key;

/// Stands before a name that would otherwise leave nothing between the braces.
const ESCAPE: char = '\u{2}';

const EVENTS_PREFIX: &str = "holdfast:{";
const EVENTS_SUFFIX: &str = "}:events";

fn tag(name: &str) -> String {
    if name.starts_with('}') || name.is_empty() {
        format!("{ESCAPE}{name}")
    } else {
        name.to_owned()
    }
}

fn of_channel(channel: &str, part: &str) -> String {
    format!("holdfast:{{{}}}:{part}", tag(channel))
}

/// The stream's meta data and log.
pub(super) fn stream(channel: &str) -> Vec<String> {
    vec![of_channel(channel, "meta"), of_channel(channel, "log")]
}

/// What remembers an idempotency key.
pub(super) fn remembered(channel: &str, key: &str) -> String {
    of_channel(channel, &format!("id:{key}"))
}

/// Who is in a channel.
pub(super) fn members(channel: &str) -> Vec<String> {
    ["members", "expiry", "users"].map(|part| of_channel(channel, part)).into()
}

/// The pub/sub channel that tells what happens in a channel.
pub(super) fn events(channel: &str) -> Bytes {
    of_channel(channel, "events").into()
}

/// The channel that a pub/sub channel tells of.
pub(super) fn channel_of_events(events: &str) -> Option<&str> {
    let tag = events.strip_prefix(EVENTS_PREFIX)?.strip_suffix(EVENTS_SUFFIX)?;
    Some(tag.strip_prefix(ESCAPE).unwrap_or(tag))
}

/// A record's fields and ordered members.
pub(super) fn record(key: Key<'_>) -> Vec<String> {
    ["fields", "members"]
        .map(|part| format!("holdfast:{}:{{{}}}:{part}", key.collection, tag(key.id)))
        .into()
}

/// What counts against a rate.
pub(super) fn rate(key: &str) -> String {
    format!("holdfast:rate:{{{}}}", tag(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_lead_back_to_their_channel() {
        for channel in ["a", "}a", "a}b", "{", "", "a:b#c,d"] {
            let events = events(channel);
            let events = std::str::from_utf8(&events).unwrap();
            assert_eq!(channel_of_events(events), Some(channel));
            assert!(
                !events.starts_with("holdfast:{}"),
                "an empty tag would not keep keys together"
            );
        }
        assert_eq!(channel_of_events("holdfast:{a}:meta"), None);
    }
}
