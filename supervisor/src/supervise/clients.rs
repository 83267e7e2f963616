//! What chat nodes say of Redis, on its way from the scrapes to the judgement.
//!
//! A chat node knows by its own messages whether Redis works for it (`chatnode_redis_up`). Every member scrapes the nodes it reaches and
//! passes their words on with its reports, so that a node which only one member reaches is heard by all. With several Redis primaries
//! a node does not say which of them it means; its word then counts for none.

use std::collections::HashMap;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::group::{ClientWords, Group};
use crate::observe::scrape::NodeFacts;

/// Passes the nodes' words on until `stop`.
pub(super) async fn share(
    group: Group,
    mut facts: watch::Receiver<HashMap<String, NodeFacts>>,
    stop: CancellationToken,
) {
    loop {
        let words = words(&facts.borrow_and_update());
        group.share_clients(words);
        tokio::select! {
            () = stop.cancelled() => return,
            changed = facts.changed() => if changed.is_err() {
                // Nobody scrapes: what was said last grows old, as it should.
                return stop.cancelled().await;
            },
        }
    }
}

fn words(facts: &HashMap<String, NodeFacts>) -> ClientWords {
    let said = facts.iter().filter_map(|(name, facts)| facts.redis.map(|word| (name, word)));
    said.map(|(name, word)| (name.clone(), (word.up, word.at))).collect()
}
