//! Observe: the world as samples and topology. Everything here touches sockets; nothing here decides.

pub mod canary;
pub mod chat_client;
pub mod redis;
pub mod relabel;
pub mod scrape;
pub mod sentinel;
