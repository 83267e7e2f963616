//! Sentinel endpoint.
