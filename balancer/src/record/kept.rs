//! What operators have set at run time, in one file that is replaced as a whole.
//!
//! Only what differs from the settings file is kept, each weight with the configured one beside it: who has changed the settings since
//! gets what they say now. The same goes from a process to the one that takes over, so a later version may add fields: each has a default.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::num::NonZeroU32;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::pool::state::AdminState;

/// Raised when a field changes its meaning, which an older program would misread.
const FORMAT: u32 = 1;

/// Everything that comes back after a restart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Kept {
    format: u32,
    /// By pool.
    pub(crate) pools: BTreeMap<String, KeptPool>,
}

/// What differs in a pool.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeptPool {
    /// Servers whose state, weight or limit was set, by name.
    #[serde(default)]
    pub(crate) servers: BTreeMap<String, KeptServer>,
    /// Servers that the settings do not name.
    #[serde(default)]
    pub(crate) added: Vec<NewServer>,
    /// Servers of the settings that were taken out.
    #[serde(default)]
    pub(crate) removed: Vec<String>,
}

/// What was set of a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeptServer {
    pub(crate) state: AdminState,
    pub(crate) weight: u16,
    /// The weight the settings gave it then.
    pub(crate) configured_weight: u16,
    /// Connections it may have, if not as many as its pool says.
    #[serde(default)]
    pub(crate) max_connections: Option<NonZeroU32>,
    /// What the settings said of that then.
    #[serde(default)]
    pub(crate) configured_max_connections: Option<NonZeroU32>,
    pub(crate) reason: Option<String>,
}

/// A server that was added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NewServer {
    pub(crate) name: String,
    pub(crate) address: String,
    pub(crate) weight: u16,
    #[serde(default)]
    pub(crate) max_connections: Option<NonZeroU32>,
}

impl Default for Kept {
    fn default() -> Self {
        Self::new(BTreeMap::new())
    }
}

impl Kept {
    pub(crate) fn new(pools: BTreeMap<String, KeptPool>) -> Self {
        Self { format: FORMAT, pools }
    }
}

/// Why nothing came back.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeptError {
    #[error("read it")]
    Read(#[source] io::Error),
    #[error("make sense of it")]
    Parse(#[source] serde_json::Error),
    #[error("it has format {0}, {FORMAT} is known")]
    Format(u32),
}

/// What the file at `path` keeps; `None` if there is none.
pub(crate) fn load(path: &Path) -> Result<Option<Kept>, KeptError> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(KeptError::Read(error)),
    };
    let kept: Kept = serde_json::from_slice(&text).map_err(KeptError::Parse)?;
    if kept.format == FORMAT { Ok(Some(kept)) } else { Err(KeptError::Format(kept.format)) }
}

/// Replaces the file at `path`: whenever the machine stops, there is the old one or the new one.
pub(super) fn save(path: &Path, kept: &Kept) -> io::Result<()> {
    let text = serde_json::to_vec_pretty(kept)?;
    let fresh = path.with_extension("json.new");
    let mut file = File::create(&fresh)?;
    file.write_all(&text)?;
    file.sync_all()?;
    drop(file);
    fs::rename(&fresh, path)?;
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    File::open(folder)?.sync_all()
}
