//! Upstream drivers.
