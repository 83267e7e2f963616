//! Chat client.
