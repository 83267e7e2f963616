//! Tell.
