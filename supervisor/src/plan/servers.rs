//! Plan for servers.
