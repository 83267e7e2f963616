//! What is written about a backup: the manifest beside its parts, and the records of its verifications.

use chrono::{DateTime, Utc};
use holdfast_psync::rdb::{Counted, Summary};
use serde::{Deserialize, Serialize};

/// The format described in the module above; a reader refuses one it does not know.
pub(super) const FORMAT: u32 = 1;

/// Everything about a backup that does not change after it was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Format of manifest and parts.
    pub format: u32,
    /// The Redis cluster.
    pub cluster: String,
    /// Where the snapshot came from.
    pub source: Source,
    /// Replication id: the history this snapshot belongs to.
    pub replid: String,
    /// Replication offset: its place in that history.
    pub offset: u64,
    /// Version of the server that wrote it.
    pub redis_version: Option<String>,
    /// When it was taken.
    pub taken_at: DateTime<Utc>,
    /// Size of the RDB file.
    pub raw_bytes: u64,
    /// Size of all parts.
    pub stored_bytes: u64,
    /// Memory the server used; a server that loads it needs about as much.
    pub used_memory_bytes: Option<u64>,
    /// CRC-64 at the end of the RDB file, hexadecimal; `None` if the server writes none.
    pub rdb_checksum: Option<String>,
    /// Databases that have keys.
    pub databases: Vec<DatabaseKeys>,
    /// False if the RDB file has values of a type we cannot step over, so that `databases` is not complete.
    pub keys_counted: bool,
    /// Function libraries.
    pub functions: u64,
    /// The parts, in their order.
    pub parts: Vec<Part>,
    /// Why this backup may be the picture of a loss rather than of the data.
    pub suspicious: Option<String>,
}

/// Where a snapshot came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// The server.
    pub address: String,
    /// What it was then.
    pub role: Role,
    /// Why this server was used.
    pub reason: String,
}

/// Role of a Redis server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It takes writes.
    Primary,
    /// It follows a primary.
    Replica,
}

/// Keys in one database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseKeys {
    /// The database's number.
    pub index: u64,
    /// Its keys.
    pub keys: u64,
    /// Keys among them that expire.
    pub expiring: u64,
}

/// One stored file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Its name, `part-000.zst` and so on.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// SHA-256 of its content, hexadecimal.
    pub sha256: String,
}

/// The result of loading a backup into a scratch server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verification {
    /// When.
    pub at: DateTime<Utc>,
    /// Whether everything was as it should be.
    pub passed: bool,
    /// Why not.
    pub failure: Option<String>,
    /// Version of the scratch server.
    pub redis_version: Option<String>,
    /// Keys it had after loading.
    pub keys: u64,
}

impl Manifest {
    /// Keys in all databases.
    pub fn keys(&self) -> u64 {
        self.databases.iter().map(|database| database.keys).sum()
    }

    /// Checks what a reader relies on. The text says what is wrong.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.format != FORMAT {
            return Err(format!("format {}, expected {FORMAT}", self.format));
        }
        if self.parts.is_empty() {
            return Err("it names no parts".to_owned());
        }
        // Names are joined to the folder's path, so only our own are let through.
        for (index, part) in self.parts.iter().enumerate() {
            if part.name != part_name(index) {
                return Err(format!("part {:?}, expected {:?}", part.name, part_name(index)));
            }
        }
        let stored: u64 = self.parts.iter().map(|part| part.bytes).sum();
        if stored != self.stored_bytes {
            return Err(format!("its parts have {stored} bytes, expected {}", self.stored_bytes));
        }
        Ok(())
    }

    /// Where the snapshot that was read back differs from this; `None` if nowhere.
    pub(super) fn difference(&self, summary: &Summary) -> Option<String> {
        let checksum = checksum_text(summary);
        if summary.bytes != self.raw_bytes {
            Some(format!("it has {} bytes, expected {}", summary.bytes, self.raw_bytes))
        } else if checksum != self.rdb_checksum {
            Some(format!("its checksum is {checksum:?}, expected {:?}", self.rdb_checksum))
        } else if databases(summary) != self.databases {
            Some("its databases have other numbers of keys".to_owned())
        } else {
            None
        }
    }
}

/// Name of the part at `index`.
pub(super) fn part_name(index: usize) -> String {
    format!("part-{index:03}.zst")
}

pub(super) fn checksum_text(summary: &Summary) -> Option<String> {
    summary.checksum.map(|checksum| format!("{checksum:016x}"))
}

pub(super) fn keys_counted(summary: &Summary) -> bool {
    summary.counted == Counted::Exactly
}

pub(super) fn databases(summary: &Summary) -> Vec<DatabaseKeys> {
    let convert = |database: &holdfast_psync::rdb::Database| DatabaseKeys {
        index: database.index,
        keys: database.keys,
        expiring: database.expiring,
    };
    summary.databases.iter().map(convert).collect()
}
