//! Streams and positions in them: what a client may continue from, and what it may not.
//!
//! A stream is the ordered publications of one channel. Its first one has offset 1, each later one the next number, under a random
//! *epoch* that changes when the stream starts over. That is not enough with Redis replication: a replica that is promoted may lack the
//! last publications of the old primary and hand their offsets out again under the same epoch, and a client that saw the lost ones
//! would be told it missed nothing.
//!
//! So the epoch a client sees has two parts, `epoch.history`: the stream's own epoch, and the replication history (the primary's
//! replication id) it was written under. When a stream is first touched under a new history, the offset it then ends at is kept as the
//! *fork* of the old one. A position of an old history continues exactly if it does not lie past any fork since. A history that is not
//! known any more does not continue: the honest answer is "not recovered".

use std::sync::Arc;

use bytes::Bytes;

/// One publication as stored and as sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Publication {
    /// Position in the stream; 0 if the channel keeps no history.
    pub offset: u64,
    /// The payload: a JSON document without line breaks, or whatever bytes a protobuf client sent.
    pub data: Bytes,
    /// Who published: a finished `ClientInfo` document in JSON.
    pub info: Option<Bytes>,
    /// Labels that subscribers may filter by: a JSON object of strings.
    pub tags: Option<Bytes>,
    /// Subscribers that asked for deltas may be sent one instead of the payload.
    pub delta: bool,
    /// When the publishing node accepted it, in milliseconds since 1970.
    pub time_ms: u64,
    /// What makes it the same publication when it is written again: the idempotency key, or else something the broker makes up.
    pub id: Bytes,
}

/// Which stream this is, and through which replication histories it went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lineage {
    visible: Arc<str>,
    epoch_len: usize,
    forks: Vec<(Box<str>, u64)>,
}

impl Lineage {
    /// From the stored parts; `forks` is a list of `history@offset,` in the order they happened, each the offset its history ended at.
    pub fn new(epoch: &str, history: &str, forks: &str) -> Self {
        let forks = forks
            .split(',')
            .filter_map(|fork| {
                let (history, offset) = fork.split_once('@')?;
                Some((history.into(), offset.parse().ok()?))
            })
            .collect();
        Self { visible: format!("{epoch}.{history}").into(), epoch_len: epoch.len(), forks }
    }

    /// The epoch as clients see it.
    pub fn visible(&self) -> &Arc<str> {
        &self.visible
    }

    /// Whether a client at `offset` under `epoch` (as it saw it) has nothing this stream has not. An empty epoch is one the client
    /// never learnt, which fits any.
    pub fn continues(&self, epoch: &str, offset: u64) -> bool {
        if epoch.is_empty() || epoch == &*self.visible {
            return true;
        }
        let (own_epoch, _) = self.visible.split_at(self.epoch_len);
        let Some(history) = epoch.strip_prefix(own_epoch).and_then(|rest| rest.strip_prefix('.'))
        else {
            return false;
        };
        let Some(left) = self.forks.iter().position(|(old, _)| &**old == history) else {
            return false;
        };
        self.forks[left..].iter().all(|(_, end)| offset <= *end)
    }

    /// Whether a publication at `offset` is the first that tells a client about this epoch: the stream's very first one, or the first
    /// after the last fork.
    pub fn begins_at(&self, offset: u64) -> bool {
        offset == 1 || self.forks.last().is_some_and(|(_, end)| offset == end + 1)
    }
}

/// A stream at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamState {
    /// Which stream.
    pub lineage: Arc<Lineage>,
    /// Offset of its latest publication; 0 if there was none yet.
    pub top: u64,
}

/// A stream's state together with some of its publications.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The state at the moment the publications were read.
    pub state: StreamState,
    /// In the order asked for.
    pub publications: Vec<Publication>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_continues_up_to_the_fork_and_not_past_it() {
        let lineage = Lineage::new("e", "h3", "h1@10,h2@15,");
        for (epoch, offset, expected) in [
            ("", 99, true),
            ("e.h3", 99, true),
            ("e.h2", 15, true),
            ("e.h2", 16, false),
            ("e.h1", 10, true),
            ("e.h1", 11, false),
            ("e.h0", 1, false),
            ("x.h3", 1, false),
            ("_", 1, false),
            ("e", 1, false),
            ("eh3", 1, false),
        ] {
            assert_eq!(lineage.continues(epoch, offset), expected, "{epoch}@{offset}");
        }
        assert_eq!(&**lineage.visible(), "e.h3");
    }

    #[test]
    fn a_later_fork_below_an_earlier_one_counts_for_both() {
        let lineage = Lineage::new("e", "h3", "h1@10,h2@8,");
        assert!(lineage.continues("e.h1", 8));
        assert!(!lineage.continues("e.h1", 9));
    }

    #[test]
    fn clients_learn_the_epoch_at_the_start_and_after_a_fork() {
        let lineage = Lineage::new("e", "h2", "h1@10,");
        assert!(lineage.begins_at(1) && lineage.begins_at(11));
        assert!(!lineage.begins_at(2) && !lineage.begins_at(12));
        assert!(!Lineage::new("e", "h", "").begins_at(2));
    }
}
