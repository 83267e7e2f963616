//! What each channel offers and to whom: namespaces and their options.
//!
//! The text before the first `:` of a channel names its namespace; without one the default options hold. A namespace that is not
//! configured does not exist, so a typing mistake is an error and not a channel with default rights. `$` marks private channels, which
//! need a token of their own; `#` starts a list of the only users who may enter (`dialog#42,43`).
//!
//! [`Namespaces`] is a handle: its clones see the same table, and a reload swaps the table as a whole. Whoever asked before keeps the
//! options it got, so that a subscription lives by the rules it was made under; no connection is dropped for a reload.

mod options;

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

pub use options::{Asker, ChannelPattern, DeltaType, META_TTL, Options, Rate, RecoveryMode};

use crate::protocol::ErrorCode;

/// Longest channel name, in bytes.
pub const NAME_BYTES_MAX: usize = 255;

/// All namespaces at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    default: Arc<Options>,
    named: HashMap<String, Arc<Options>>,
}

impl Table {
    /// `default` holds for channels without a namespace; the others are known by their name.
    pub fn new(default: Options, named: impl IntoIterator<Item = Options>) -> Self {
        let named = named.into_iter().map(|options| (options.name.clone(), Arc::new(options)));
        Self { default: Arc::new(default), named: named.collect() }
    }

    /// The options of every namespace, the default ones included.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Options>> {
        std::iter::once(&self.default).chain(self.named.values())
    }

    fn of(&self, channel: &str) -> Result<&Arc<Options>, ErrorCode> {
        // Control characters are kept for channels of our own, such as the one nodes probe themselves with.
        if channel.len() > NAME_BYTES_MAX || channel.bytes().any(|b| !(b' '..=b'~').contains(&b)) {
            return Err(ErrorCode::BAD_REQUEST);
        }
        let name = channel.strip_prefix('$').unwrap_or(channel);
        let (options, rest) = match name.split_once(':') {
            None => (&self.default, name),
            Some((name, rest)) => (self.named.get(name).ok_or(ErrorCode::UNKNOWN_CHANNEL)?, rest),
        };
        match &options.channel_regex {
            Some(pattern) if !pattern.matches(rest) => Err(ErrorCode::BAD_REQUEST),
            _ => Ok(options),
        }
    }
}

/// All namespaces as they are now; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Namespaces {
    table: Arc<RwLock<Arc<Table>>>,
}

impl Namespaces {
    /// Begins with `table`.
    pub fn new(table: Table) -> Self {
        Self { table: Arc::new(RwLock::new(Arc::new(table))) }
    }

    /// Options of `channel`.
    ///
    /// # Errors
    /// The name cannot be a channel (107), or its namespace is not configured (102).
    pub fn of(&self, channel: &str) -> Result<Arc<Options>, ErrorCode> {
        self.table.read().unwrap_or_else(PoisonError::into_inner).of(channel).cloned()
    }

    /// The whole table.
    pub fn table(&self) -> Arc<Table> {
        Arc::clone(&self.table.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// From now on `table` holds.
    pub fn replace(&self, table: Table) {
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(table);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespaces() -> Namespaces {
        let named = Options { name: "room".to_owned(), history_size: 5, ..Options::default() };
        Namespaces::new(Table::new(Options::default(), [named]))
    }

    #[test]
    fn the_text_before_the_first_colon_is_the_namespace() {
        let namespaces = namespaces();
        for (channel, history_size) in
            [("plain", Ok(0)), ("room:1", Ok(5)), ("room:a:b", Ok(5)), ("$room:1", Ok(5))]
        {
            assert_eq!(namespaces.of(channel).map(|o| o.history_size), history_size);
        }
        assert_eq!(namespaces.of("other:1"), Err(ErrorCode::UNKNOWN_CHANNEL));
        assert_eq!(namespaces.of(":1"), Err(ErrorCode::UNKNOWN_CHANNEL));
    }

    #[test]
    fn names_that_cannot_be_are_refused() {
        let namespaces = namespaces();
        let long = "x".repeat(256);
        for channel in ["räume", "a\u{1}", "a\n", long.as_str()] {
            assert_eq!(namespaces.of(channel), Err(ErrorCode::BAD_REQUEST), "{channel:?}");
        }
        assert!(namespaces.of(&"x".repeat(255)).is_ok());
    }

    #[test]
    fn a_pattern_holds_for_the_name_without_its_namespace() {
        let options: Options = toml::from_str("name = 'n'\nchannel_regex = '^[0-9]+$'").unwrap();
        let namespaces = Namespaces::new(Table::new(Options::default(), [options]));
        assert!(namespaces.of("n:12").is_ok());
        assert!(namespaces.of("$n:12").is_ok());
        assert_eq!(namespaces.of("n:12a"), Err(ErrorCode::BAD_REQUEST));
        assert!(toml::from_str::<Options>("channel_regex = '['").is_err());
    }

    #[test]
    fn a_reload_is_seen_by_all_and_taken_from_nobody() {
        let namespaces = namespaces();
        let (clone, before) = (namespaces.clone(), namespaces.of("room:1").unwrap());
        let named = Options { name: "hall".to_owned(), ..Options::default() };
        namespaces.replace(Table::new(Options::default(), [named]));
        assert!(clone.of("hall:1").is_ok());
        assert_eq!(clone.of("room:1"), Err(ErrorCode::UNKNOWN_CHANNEL));
        assert_eq!(before.history_size, 5);
    }
}
