//! What each channel offers and to whom: namespaces and their options.
//!
//! The text before the first `:` of a channel names its namespace; without one the default options hold. A namespace that is not
//! configured does not exist, so a typing mistake is an error and not a channel with default rights. `$` marks private channels, which
//! need a token of their own; `#` starts a list of the only users who may enter (`dialog#42,43`).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use crate::protocol::ErrorCode;

/// Longest channel name, in bytes.
pub const NAME_BYTES_MAX: usize = 255;

/// How long a stream's epoch and top outlive its publications: a month, the longest absence after which a client may hope to be told
/// exactly what it missed.
pub const META_TTL: Duration = Duration::from_hours(30 * 24);

/// Options of a namespace, as written and as used.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "one switch for each documented option")]
pub struct Options {
    /// Keep who is subscribed.
    pub presence: bool,
    /// Tell subscribers that ask for it who comes and goes.
    pub join_leave: bool,
    /// Tell all subscribers.
    pub force_push_join_leave: bool,
    /// Publications kept; 0: none.
    pub history_size: u32,
    /// How long they are kept.
    #[serde(with = "holdfast_settings::duration")]
    pub history_ttl: Duration,
    /// Gap detection for every subscriber.
    pub force_positioning: bool,
    /// Gap detection for those who ask.
    pub allow_positioning: bool,
    /// Recovery for every subscriber.
    pub force_recovery: bool,
    /// Recovery for those who ask.
    pub allow_recovery: bool,
    /// Every user may subscribe.
    pub allow_subscribe_for_client: bool,
    /// Every user may publish.
    pub allow_publish_for_client: bool,
    /// Every user may ask who is there.
    pub allow_presence_for_client: bool,
    /// Every user may read history.
    pub allow_history_for_client: bool,
    /// Users listed in the channel's name may subscribe.
    pub allow_user_limited_channels: bool,
}

impl Options {
    /// Whether publications are kept.
    pub fn keeps_history(&self) -> bool {
        self.history_size > 0 && !self.history_ttl.is_zero()
    }

    /// What is wrong with these options: key and message.
    pub fn faults(&self) -> Vec<(&'static str, &'static str)> {
        let mut faults = Vec::new();
        let needs = "needs history_size and history_ttl above 0";
        if self.force_recovery && !self.keeps_history() {
            faults.push(("force_recovery", needs));
        }
        if self.allow_recovery && !self.keeps_history() {
            faults.push(("allow_recovery", needs));
        }
        if self.force_positioning && !self.keeps_history() {
            faults.push(("force_positioning", needs));
        }
        if self.force_push_join_leave && !self.join_leave {
            faults.push(("force_push_join_leave", "needs join_leave = true"));
        }
        faults
    }
}

/// All namespaces.
#[derive(Debug, Clone, Default)]
pub struct Namespaces {
    default: Arc<Options>,
    named: HashMap<String, Arc<Options>>,
}

impl Namespaces {
    /// `default` holds for channels without a namespace.
    pub fn new(default: Options, named: impl IntoIterator<Item = (String, Options)>) -> Self {
        let named = named.into_iter().map(|(name, options)| (name, Arc::new(options)));
        Self { default: Arc::new(default), named: named.collect() }
    }

    /// Options of `channel`.
    ///
    /// # Errors
    /// The name cannot be a channel (107), or its namespace is not configured (102).
    pub fn options(&self, channel: &str) -> Result<&Arc<Options>, ErrorCode> {
        // Control characters are kept for channels of our own, such as the one nodes probe themselves with.
        if channel.len() > NAME_BYTES_MAX || channel.bytes().any(|b| !(b' '..=b'~').contains(&b)) {
            return Err(ErrorCode::BAD_REQUEST);
        }
        match channel.strip_prefix('$').unwrap_or(channel).split_once(':') {
            None => Ok(&self.default),
            Some((name, _)) => self.named.get(name).ok_or(ErrorCode::UNKNOWN_CHANNEL),
        }
    }
}

/// Whether `user` may subscribe to `channel` without a subscription token.
pub fn may_subscribe(options: &Options, channel: &str, user: &str) -> bool {
    if channel.starts_with('$') {
        return false;
    }
    match channel.split_once('#') {
        Some((_, users)) => {
            options.allow_user_limited_channels && users.split(',').any(|listed| listed == user)
        }
        None => options.allow_subscribe_for_client,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespaces() -> Namespaces {
        let named = Options { history_size: 5, ..Options::default() };
        Namespaces::new(Options::default(), [("room".to_owned(), named)])
    }

    #[test]
    fn the_text_before_the_first_colon_is_the_namespace() {
        let namespaces = namespaces();
        for (channel, history_size) in
            [("plain", Ok(0)), ("room:1", Ok(5)), ("room:a:b", Ok(5)), ("$room:1", Ok(5))]
        {
            assert_eq!(namespaces.options(channel).map(|o| o.history_size), history_size);
        }
        assert_eq!(namespaces.options("other:1"), Err(ErrorCode::UNKNOWN_CHANNEL));
        assert_eq!(namespaces.options(":1"), Err(ErrorCode::UNKNOWN_CHANNEL));
    }

    #[test]
    fn names_that_cannot_be_are_refused() {
        let namespaces = namespaces();
        let long = "x".repeat(256);
        for channel in ["räume", "a\u{1}", "a\n", long.as_str()] {
            assert_eq!(namespaces.options(channel), Err(ErrorCode::BAD_REQUEST), "{channel:?}");
        }
        assert!(namespaces.options(&"x".repeat(255)).is_ok());
    }

    #[test]
    fn private_and_user_limited_channels_are_closed_to_others() {
        let open = Options { allow_subscribe_for_client: true, ..Options::default() };
        assert!(may_subscribe(&open, "a", "42"));
        assert!(!may_subscribe(&open, "$a", "42"));
        assert!(!may_subscribe(&open, "dialog#42,43", "42"));
        let limited = Options { allow_user_limited_channels: true, ..Options::default() };
        assert!(!may_subscribe(&limited, "a", "42"));
        assert!(may_subscribe(&limited, "dialog#42,43", "42"));
        assert!(!may_subscribe(&limited, "dialog#42,43", "4"));
    }

    #[test]
    fn recovery_needs_history() {
        let options = Options { force_recovery: true, history_size: 1, ..Options::default() };
        assert_eq!(options.faults()[0].0, "force_recovery");
        let options = Options { history_ttl: Duration::from_secs(1), ..options };
        assert!(options.faults().is_empty());
    }
}
