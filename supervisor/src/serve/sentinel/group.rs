//! The other supervisors, as clients know Sentinels.

use std::fmt::Write as _;
use std::time::Instant;

use sha2::{Digest as _, Sha256};

use crate::cluster::Address;

/// Characters of an identifier in Redis' world.
const ID_CHARS: usize = 40;

/// The supervisors besides this one, and whether they can decide anything together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sentinels {
    /// Those whose endpoint is known.
    pub others: Vec<Sentinel>,
    /// Those besides this one that were heard lately, known endpoint or not.
    pub heard: usize,
    /// Members that vote, this one included.
    pub voters: usize,
    /// Whether a majority is there, so that a failover could be agreed on.
    pub has_majority: bool,
    /// The endpoint of the one that leads, if it is another one; what clients order is handed on to it.
    pub leader: Option<Address>,
}

impl Default for Sentinels {
    /// One alone.
    fn default() -> Self {
        Self { others: Vec::new(), heard: 0, voters: 1, has_majority: true, leader: None }
    }
}

impl Sentinels {
    /// How many see the primary and can be asked, this one included.
    pub(super) fn usable(&self) -> usize {
        1 + self.heard
    }

    /// How many must agree.
    pub(super) fn quorum(&self) -> usize {
        self.voters / 2 + 1
    }
}

/// Another supervisor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sentinel {
    /// Its name.
    pub name: String,
    /// Where its endpoint is.
    pub address: Address,
    /// When it was heard last; `None`: never.
    pub heard: Option<Instant>,
    /// Whether that is too long ago.
    pub is_down: bool,
}

/// The identifier of the supervisor of this name: the same at each restart and from each other supervisor.
pub(super) fn id_of(name: &str) -> String {
    let digest = Sha256::digest(format!("holdfast supervisor {name}"));
    let mut id = String::with_capacity(2 * digest.len());
    for byte in digest {
        write!(id, "{byte:02x}").expect("writing to a string cannot fail");
    }
    id.truncate(ID_CHARS);
    id
}
