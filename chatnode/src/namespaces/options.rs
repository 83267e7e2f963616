//! The options of one namespace: what its channels keep, and what they let whom do.

use std::time::Duration;

use regex::Regex;
use serde::{Deserialize, Deserializer, de};

/// How long a stream's epoch and top outlive its publications, unless set: a month, the longest absence after which a client may hope
/// to be told exactly what it missed.
pub const META_TTL: Duration = Duration::from_hours(30 * 24);

/// Options of a namespace, as written and as used.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "one switch for each documented option")]
pub struct Options {
    /// Text before the first `:` of its channels; empty for channels without one.
    pub name: String,
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
    /// How long epoch and top of a stream outlive its last use.
    #[serde(with = "holdfast_settings::duration")]
    pub history_meta_ttl: Duration,
    /// Gap detection for every subscriber.
    pub force_positioning: bool,
    /// Gap detection for those who ask.
    pub allow_positioning: bool,
    /// Recovery for every subscriber.
    pub force_recovery: bool,
    /// Recovery for those who ask.
    pub allow_recovery: bool,
    /// What recovery replays.
    pub force_recovery_mode: RecoveryMode,
    /// Forms in which a publication may be sent as its difference to the one before, to those who ask.
    pub allowed_delta_types: Vec<DeltaType>,
    /// Compute differences for publications of clients; the server API asks for them publication by publication.
    pub delta_publish: bool,
    /// Every user may subscribe.
    pub allow_subscribe_for_client: bool,
    /// … the anonymous one too.
    pub allow_subscribe_for_anonymous: bool,
    /// Every user may publish.
    pub allow_publish_for_client: bool,
    /// Subscribers may publish.
    pub allow_publish_for_subscriber: bool,
    /// What users may, the anonymous one may too.
    pub allow_publish_for_anonymous: bool,
    /// Every user may ask who is there.
    pub allow_presence_for_client: bool,
    /// Subscribers may ask who is there.
    pub allow_presence_for_subscriber: bool,
    /// What users may, the anonymous one may too.
    pub allow_presence_for_anonymous: bool,
    /// Every user may read history.
    pub allow_history_for_client: bool,
    /// Subscribers may read history.
    pub allow_history_for_subscriber: bool,
    /// What users may, the anonymous one may too.
    pub allow_history_for_anonymous: bool,
    /// Users listed in the channel's name may subscribe.
    pub allow_user_limited_channels: bool,
    /// Subscribers may ask for publications with certain tags only.
    pub allow_tags_filter: bool,
    /// What the part of the name after the namespace must look like.
    pub channel_regex: Option<ChannelPattern>,
    /// Publications one user may send to the namespace in a second, over all nodes; 0: no limit.
    pub publish_rate: u32,
    /// … and at once after a pause; 0: as many as in a second.
    pub publish_burst: u32,
    /// Back end that is asked before a client is subscribed; empty: none.
    pub subscribe_proxy: String,
    /// Back end that is asked before a client's publication is accepted; empty: none.
    pub publish_proxy: String,
    /// Back end that is asked to prolong subscriptions; empty: none.
    pub sub_refresh_proxy: String,
}

impl Default for Options {
    /// Closed, and nothing is kept: each namespace says what it opens.
    fn default() -> Self {
        Self {
            name: String::new(),
            presence: false,
            join_leave: false,
            force_push_join_leave: false,
            history_size: 0,
            history_ttl: Duration::ZERO,
            history_meta_ttl: META_TTL,
            force_positioning: false,
            allow_positioning: false,
            force_recovery: false,
            allow_recovery: false,
            force_recovery_mode: RecoveryMode::Stream,
            allowed_delta_types: Vec::new(),
            delta_publish: false,
            allow_subscribe_for_client: false,
            allow_subscribe_for_anonymous: false,
            allow_publish_for_client: false,
            allow_publish_for_subscriber: false,
            allow_publish_for_anonymous: false,
            allow_presence_for_client: false,
            allow_presence_for_subscriber: false,
            allow_presence_for_anonymous: false,
            allow_history_for_client: false,
            allow_history_for_subscriber: false,
            allow_history_for_anonymous: false,
            allow_user_limited_channels: false,
            allow_tags_filter: false,
            channel_regex: None,
            publish_rate: 0,
            publish_burst: 0,
            subscribe_proxy: String::new(),
            publish_proxy: String::new(),
            sub_refresh_proxy: String::new(),
        }
    }
}

/// What recovery replays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecoveryMode {
    /// Everything that was missed.
    #[default]
    Stream,
    /// The latest publication.
    Cache,
}

/// A form of differences.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeltaType {
    /// That of the Fossil version control system.
    Fossil,
}

/// A regular expression over channel names.
#[derive(Debug, Clone)]
pub struct ChannelPattern(Regex);

impl ChannelPattern {
    /// Whether `rest`, the name without its namespace, is one of those.
    pub fn matches(&self, rest: &str) -> bool {
        self.0.is_match(rest)
    }
}

impl PartialEq for ChannelPattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for ChannelPattern {}

impl<'de> Deserialize<'de> for ChannelPattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Regex::new(&text).map(Self).map_err(de::Error::custom)
    }
}

/// How fast one user may publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// In the long run.
    pub per_second: u32,
    /// At once, after a pause.
    pub burst: u32,
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub struct Asker<'a> {
    /// User id; empty: anonymous.
    pub user: &'a str,
    /// Whether the connection is subscribed to the channel.
    pub subscribed: bool,
}

impl Asker<'_> {
    fn passes(self, client: bool, subscriber: bool, anonymous: bool) -> bool {
        (client || (subscriber && self.subscribed)) && (anonymous || !self.user.is_empty())
    }
}

impl Options {
    /// Whether publications are kept.
    pub fn keeps_history(&self) -> bool {
        self.history_size > 0 && !self.history_ttl.is_zero()
    }

    /// How fast one user may publish; `None`: as fast as it can.
    pub fn rate(&self) -> Option<Rate> {
        let burst = if self.publish_burst == 0 { self.publish_rate } else { self.publish_burst };
        (self.publish_rate > 0).then_some(Rate { per_second: self.publish_rate, burst })
    }

    /// Whether subscribers may be sent differences.
    pub fn allows_delta(&self, kind: DeltaType) -> bool {
        self.allowed_delta_types.contains(&kind)
    }

    /// Whether `user` may subscribe to `channel` with neither a subscription token nor a back end's word.
    pub fn may_subscribe(&self, channel: &str, user: &str) -> bool {
        if channel.starts_with('$') {
            return false;
        }
        if let Some((_, users)) = channel.split_once('#') {
            let listed = users.split(',').any(|listed| listed == user);
            return self.allow_user_limited_channels && listed && !user.is_empty();
        }
        let anonymous = self.allow_subscribe_for_anonymous || !user.is_empty();
        self.allow_subscribe_for_client && anonymous
    }

    /// Whether the asker may publish.
    pub fn may_publish(&self, asker: Asker<'_>) -> bool {
        asker.passes(
            self.allow_publish_for_client,
            self.allow_publish_for_subscriber,
            self.allow_publish_for_anonymous,
        )
    }

    /// Whether the asker may see who is there.
    pub fn may_see_presence(&self, asker: Asker<'_>) -> bool {
        asker.passes(
            self.allow_presence_for_client,
            self.allow_presence_for_subscriber,
            self.allow_presence_for_anonymous,
        )
    }

    /// Whether the asker may read history.
    pub fn may_read_history(&self, asker: Asker<'_>) -> bool {
        asker.passes(
            self.allow_history_for_client,
            self.allow_history_for_subscriber,
            self.allow_history_for_anonymous,
        )
    }

    /// What is wrong with these options: key and message.
    pub fn faults(&self) -> Vec<(&'static str, &'static str)> {
        let history = self.keeps_history();
        let needs_history = "needs history_size and history_ttl above 0";
        [
            (self.force_recovery && !history, "force_recovery", needs_history),
            (self.allow_recovery && !history, "allow_recovery", needs_history),
            (self.force_positioning && !history, "force_positioning", needs_history),
            (
                history && self.history_meta_ttl < self.history_ttl,
                "history_meta_ttl",
                "expected at least history_ttl: publications without a position cannot be recovered",
            ),
            (
                self.force_push_join_leave && !self.join_leave,
                "force_push_join_leave",
                "needs join_leave = true",
            ),
            (
                self.delta_publish && self.allowed_delta_types.is_empty(),
                "delta_publish",
                "needs allowed_delta_types = [\"fossil\"]",
            ),
            (
                self.publish_burst > 0 && self.publish_rate == 0,
                "publish_burst",
                "needs publish_rate above 0",
            ),
            (
                self.allow_subscribe_for_anonymous && !self.allow_subscribe_for_client,
                "allow_subscribe_for_anonymous",
                "needs allow_subscribe_for_client = true, which it extends",
            ),
        ]
        .into_iter()
        .filter_map(|(wrong, key, message)| wrong.then_some((key, message)))
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_and_user_limited_channels_are_closed_to_others() {
        let open = Options { allow_subscribe_for_client: true, ..Options::default() };
        assert!(open.may_subscribe("a", "42"));
        assert!(!open.may_subscribe("a", ""));
        assert!(!open.may_subscribe("$a", "42"));
        assert!(!open.may_subscribe("dialog#42,43", "42"));
        let limited = Options { allow_user_limited_channels: true, ..Options::default() };
        assert!(!limited.may_subscribe("a", "42"));
        assert!(limited.may_subscribe("dialog#42,43", "42"));
        assert!(!limited.may_subscribe("dialog#42,43", "4"));
        assert!(!limited.may_subscribe("dialog#", ""));
    }

    #[test]
    fn subscribers_may_what_is_for_subscribers_and_the_anonymous_one_only_what_is_for_both() {
        let stranger = Asker { user: "42", subscribed: false };
        let subscriber = Asker { user: "42", subscribed: true };
        let anonymous = Asker { user: "", subscribed: true };
        let options = Options { allow_publish_for_subscriber: true, ..Options::default() };
        assert!(!options.may_publish(stranger));
        assert!(options.may_publish(subscriber));
        assert!(!options.may_publish(anonymous));
        let options = Options { allow_publish_for_anonymous: true, ..options };
        assert!(options.may_publish(anonymous));
        let options = Options { allow_publish_for_anonymous: true, ..Options::default() };
        assert!(!options.may_publish(anonymous) && !options.may_publish(subscriber));
    }

    #[test]
    fn contradictions_are_named_by_their_key() {
        let keys = |options: &Options| -> Vec<_> {
            options.faults().into_iter().map(|(key, _)| key).collect()
        };
        let options = Options { force_recovery: true, history_size: 1, ..Options::default() };
        assert_eq!(keys(&options), ["force_recovery"]);
        let options = Options { history_ttl: Duration::from_mins(1), ..options };
        assert!(keys(&options).is_empty());
        let options = Options { history_meta_ttl: Duration::from_secs(1), ..options };
        assert_eq!(keys(&options), ["history_meta_ttl"]);
        let options = Options { delta_publish: true, publish_burst: 5, ..Options::default() };
        assert_eq!(keys(&options), ["delta_publish", "publish_burst"]);
    }

    #[test]
    fn a_rate_without_burst_allows_a_second_at_once() {
        let options = Options { publish_rate: 10, ..Options::default() };
        assert_eq!(options.rate(), Some(Rate { per_second: 10, burst: 10 }));
        assert_eq!(Options::default().rate(), None);
    }
}
