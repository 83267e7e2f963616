//! Is this byte stream a whole RDB file, and what is in it?
//!
//! One pass with a fixed buffer: magic and version, the facts Redis writes in front (`redis-ver`, `repl-id`, …), the number of keys in
//! each database, the end mark and the checksum. Keys are counted by walking over them, not by believing the sizes announced in front of
//! each database, since those say nothing about what follows; the announced sizes are compared with the count. Values are stepped over, not
//! decoded. A value type that is not known here (a newer Redis) ends the counting, and the checksum still decides over the whole.
//!
//! Format: <https://github.com/redis/redis/blob/7.0/src/rdb.h> and `rdb.c` there.

mod walk;

use std::collections::BTreeMap;
use std::io::{self, Read};

use crate::Crc64;

/// Bytes read at once.
const BUFFER_BYTES: usize = 128 * 1024;

/// Facts kept; Redis writes about ten.
const AUX_MAX: usize = 64;

/// Longest fact kept; a longer one is stepped over (Redis once kept whole scripts there).
const AUX_BYTES_MAX: u64 = 1024;

/// Databases listed; Redis has 16 unless told otherwise.
const DATABASES_MAX: usize = 16 * 1024;

/// The first version that ends with a checksum.
const VERSION_WITH_CHECKSUM: u32 = 5;

/// The checksum's length.
const CHECKSUM_BYTES: usize = 8;

/// One database of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Database {
    /// Its number.
    pub index: u64,
    /// Keys in it.
    pub keys: u64,
    /// Keys among them that expire.
    pub expiring: u64,
    /// Keys it was announced to have.
    pub announced: Option<u64>,
}

/// How far the keys were counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// All of them.
    Exactly,
    /// Up to the first value of this type, which is not known here. Later databases are missing.
    UpToUnknownType(u8),
}

/// What an RDB file contains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Version of the format.
    pub version: u32,
    /// Facts in front: `redis-ver`, `ctime`, `used-mem`, `repl-id`, `repl-offset`, …
    pub aux: BTreeMap<String, String>,
    /// Databases that have keys, in the order of the file.
    pub databases: Vec<Database>,
    /// Function libraries.
    pub functions: u64,
    /// Whether the databases are complete.
    pub counted: Counted,
    /// Length of the file.
    pub bytes: u64,
    /// The checksum, which was found right; `None` if the server writes none (`rdbchecksum no`).
    pub checksum: Option<u64>,
}

impl Summary {
    /// Keys in all databases.
    pub fn keys(&self) -> u64 {
        self.databases.iter().map(|database| database.keys).sum()
    }
}

/// Why a byte stream is not a whole RDB file.
#[derive(Debug, thiserror::Error)]
pub enum RdbError {
    /// The stream itself failed.
    #[error("cannot read the RDB file at byte {at}")]
    Read {
        /// Bytes read before.
        at: u64,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// It is no RDB file at all.
    #[error("not an RDB file: it begins with {0:?}")]
    Magic(String),
    /// It stops too early.
    #[error("the RDB file ends at byte {at}, in the middle")]
    Truncated {
        /// Its length.
        at: u64,
    },
    /// The content contradicts itself.
    #[error("the RDB file is damaged at byte {at}: {detail}")]
    Damaged {
        /// Where it was noticed.
        at: u64,
        /// What was found.
        detail: String,
    },
    /// The content is not what the checksum was made of.
    #[error(
        "the RDB file is damaged: its checksum is {found:016x}, its content gives {computed:016x}"
    )]
    Checksum {
        /// The checksum at its end.
        found: u64,
        /// The checksum of what is before.
        computed: u64,
    },
    /// A database has another number of keys than announced.
    #[error(
        "the RDB file is damaged: database {database} has {keys} keys, {announced} were announced"
    )]
    KeysMissing {
        /// The database.
        database: u64,
        /// Keys found.
        keys: u64,
        /// Keys announced.
        announced: u64,
    },
}

/// Reads a whole RDB file from `source`. Blocking; memory is bounded whatever the file contains.
///
/// # Errors
/// See [`RdbError`]. Bytes after the checksum are an error too.
pub fn inspect(source: impl Read) -> Result<Summary, RdbError> {
    let mut input = Input::new(source);
    let magic: [u8; 9] = input.array()?;
    let version = std::str::from_utf8(&magic[5..]).ok().and_then(|digits| digits.parse().ok());
    let Some(version) = version.filter(|_| magic.starts_with(b"REDIS")) else {
        return Err(RdbError::Magic(String::from_utf8_lossy(&magic).into_owned()));
    };
    let mut summary = Summary {
        version,
        aux: BTreeMap::new(),
        databases: Vec::new(),
        functions: 0,
        counted: Counted::Exactly,
        bytes: 0,
        checksum: None,
    };
    summary.counted = walk::walk(&mut input, &mut summary)?;
    let (found, computed) = match summary.counted {
        Counted::Exactly if version < VERSION_WITH_CHECKSUM => (0, 0),
        Counted::Exactly => {
            let computed = input.checksum();
            (u64::from_le_bytes(input.array()?), computed)
        }
        Counted::UpToUnknownType(_) => input.skip_to_checksum()?,
    };
    if !input.at_end()? {
        let detail = "bytes follow the checksum".to_owned();
        return Err(RdbError::Damaged { at: input.position(), detail });
    }
    if found != 0 && found != computed {
        return Err(RdbError::Checksum { found, computed });
    }
    summary.checksum = (found != 0).then_some(found);
    summary.bytes = input.position();
    if summary.counted == Counted::Exactly {
        for database in &summary.databases {
            let (index, keys) = (database.index, database.keys);
            if let Some(announced) = database.announced.filter(|announced| *announced != keys) {
                return Err(RdbError::KeysMissing { database: index, keys, announced });
            }
        }
    }
    Ok(summary)
}

/// A buffered reader that knows its position and the checksum up to it.
struct Input<R> {
    source: R,
    buffer: Box<[u8]>,
    /// What of the buffer is unread.
    start: usize,
    end: usize,
    /// Up to where the buffer is in the checksum.
    summed: usize,
    crc: Crc64,
    /// Bytes read from the source before the buffer.
    before: u64,
}

impl<R: Read> Input<R> {
    fn new(source: R) -> Self {
        let buffer = vec![0; BUFFER_BYTES].into_boxed_slice();
        Self { source, buffer, start: 0, end: 0, summed: 0, crc: Crc64::new(), before: 0 }
    }

    fn position(&self) -> u64 {
        self.before + self.start as u64
    }

    /// The checksum of everything before the position.
    fn checksum(&mut self) -> u64 {
        self.crc.update(&self.buffer[self.summed..self.start]);
        self.summed = self.start;
        self.crc.value()
    }

    /// Reads on if nothing is unread; false at the end of the source.
    fn refill(&mut self) -> Result<bool, RdbError> {
        if self.start < self.end {
            return Ok(true);
        }
        self.checksum();
        self.before += self.end as u64;
        (self.start, self.end, self.summed) = (0, 0, 0);
        loop {
            match self.source.read(&mut self.buffer) {
                Ok(count) => {
                    self.end = count;
                    return Ok(count > 0);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(RdbError::Read { at: self.before, source }),
            }
        }
    }

    fn at_end(&mut self) -> Result<bool, RdbError> {
        self.refill().map(|more| !more)
    }

    fn need(&mut self) -> Result<(), RdbError> {
        if self.refill()? { Ok(()) } else { Err(RdbError::Truncated { at: self.position() }) }
    }

    fn byte(&mut self) -> Result<u8, RdbError> {
        self.need()?;
        self.start += 1;
        Ok(self.buffer[self.start - 1])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], RdbError> {
        let mut bytes = [0; N];
        for byte in &mut bytes {
            *byte = self.byte()?;
        }
        Ok(bytes)
    }

    fn skip(&mut self, mut count: u64) -> Result<(), RdbError> {
        while count > 0 {
            self.need()?;
            let step = usize::try_from(count).unwrap_or(usize::MAX).min(self.end - self.start);
            self.start += step;
            count -= step as u64;
        }
        Ok(())
    }

    /// Reads up to the end; the last eight bytes are the checksum. Returns it and the one computed of what is before.
    fn skip_to_checksum(&mut self) -> Result<(u64, u64), RdbError> {
        // What may be the checksum stays out of the sum until more follows it.
        let mut crc = self.crc;
        crc.update(&self.buffer[self.summed..self.start]);
        let mut tail = Vec::with_capacity(BUFFER_BYTES + CHECKSUM_BYTES);
        while self.refill()? {
            tail.extend_from_slice(&self.buffer[self.start..self.end]);
            self.start = self.end;
            let sure = tail.len().saturating_sub(CHECKSUM_BYTES);
            crc.update(&tail[..sure]);
            tail.drain(..sure);
        }
        let tail = tail.try_into().map_err(|_| RdbError::Truncated { at: self.position() })?;
        Ok((u64::from_le_bytes(tail), crc.value()))
    }
}

#[cfg(test)]
mod tests;
