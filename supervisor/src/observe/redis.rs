//! Redis probes.
