//! Holdfast psync.
