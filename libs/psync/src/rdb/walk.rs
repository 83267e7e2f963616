//! Steps over the content of an RDB file and counts its keys.

use std::io::Read;

use super::{AUX_BYTES_MAX, AUX_MAX, Counted, DATABASES_MAX, Database, Input, RdbError, Summary};

/// Records that are not keys.
mod opcode {
    pub(super) const FUNCTION: u8 = 0xf5;
    pub(super) const MODULE_AUX: u8 = 0xf7;
    pub(super) const IDLE: u8 = 0xf8;
    pub(super) const FREQUENCY: u8 = 0xf9;
    pub(super) const AUX: u8 = 0xfa;
    pub(super) const RESIZE: u8 = 0xfb;
    pub(super) const EXPIRE_MILLIS: u8 = 0xfc;
    pub(super) const EXPIRE_SECONDS: u8 = 0xfd;
    pub(super) const SELECT: u8 = 0xfe;
    pub(super) const END: u8 = 0xff;
}

/// Types of values, by how they are stepped over.
mod kind {
    pub(super) const STRING: u8 = 0;
    pub(super) const LIST: u8 = 1;
    pub(super) const SET: u8 = 2;
    pub(super) const SORTED_SET_TEXT: u8 = 3;
    pub(super) const HASH: u8 = 4;
    pub(super) const SORTED_SET: u8 = 5;
    pub(super) const MODULE: u8 = 7;
    pub(super) const ZIPMAP: u8 = 9;
    pub(super) const HASH_ZIPLIST: u8 = 13;
    pub(super) const LIST_OF_ZIPLISTS: u8 = 14;
    pub(super) const STREAM_1: u8 = 15;
    pub(super) const HASH_LISTPACK: u8 = 16;
    pub(super) const SORTED_SET_LISTPACK: u8 = 17;
    pub(super) const LIST_OF_NODES: u8 = 18;
    pub(super) const STREAM_2: u8 = 19;
    pub(super) const SET_LISTPACK: u8 = 20;
    pub(super) const STREAM_3: u8 = 21;
}

/// A stream's id: two 64-bit numbers.
const STREAM_ID_BYTES: u64 = 16;
/// A point in time, in milliseconds.
const TIME_BYTES: u64 = 8;

/// Walks from behind the magic to behind the end mark, or to the first value of an unknown type.
pub(super) fn walk<R: Read>(
    input: &mut Input<R>,
    summary: &mut Summary,
) -> Result<Counted, RdbError> {
    let mut database: Option<Database> = None;
    let mut expires = false;
    let counted = loop {
        match input.byte()? {
            opcode::END => break Counted::Exactly,
            opcode::AUX => aux(input, summary)?,
            opcode::SELECT => {
                let index = length(input)?;
                summary
                    .databases
                    .extend(database.replace(Database { index, ..Database::default() }));
                if summary.databases.len() > DATABASES_MAX {
                    return Err(damaged(input, format!("more than {DATABASES_MAX} databases")));
                }
            }
            opcode::RESIZE => {
                let keys = length(input)?;
                length(input)?;
                if let Some(database) = &mut database {
                    database.announced = Some(keys);
                }
            }
            opcode::EXPIRE_MILLIS => {
                input.skip(TIME_BYTES)?;
                expires = true;
            }
            opcode::EXPIRE_SECONDS => {
                input.skip(4)?;
                expires = true;
            }
            opcode::FREQUENCY => input.skip(1)?,
            opcode::IDLE => drop(length(input)?),
            opcode::FUNCTION => {
                string(input)?;
                summary.functions += 1;
            }
            opcode::MODULE_AUX => {
                length(input)?;
                module(input)?;
            }
            kind => {
                // The key comes before the value, whatever its type; an unknown type is noticed only then.
                string(input)?;
                if !value(input, kind)? {
                    break Counted::UpToUnknownType(kind);
                }
                // Old files may have keys before any SELECT.
                let database = database.get_or_insert_default();
                database.keys += 1;
                database.expiring += u64::from(std::mem::take(&mut expires));
            }
        }
    };
    summary.databases.extend(database);
    Ok(counted)
}

/// Steps over a value; false if its type is not known, and then nothing was read.
fn value<R: Read>(input: &mut Input<R>, kind: u8) -> Result<bool, RdbError> {
    match kind {
        kind::STRING
        | kind::ZIPMAP..=kind::HASH_ZIPLIST
        | kind::HASH_LISTPACK
        | kind::SORTED_SET_LISTPACK
        | kind::SET_LISTPACK => string(input)?,
        kind::LIST | kind::SET | kind::LIST_OF_ZIPLISTS => repeat(input, string)?,
        kind::HASH => repeat(input, |input| {
            string(input)?;
            string(input)
        })?,
        kind::SORTED_SET => repeat(input, |input| {
            string(input)?;
            input.skip(8)
        })?,
        kind::SORTED_SET_TEXT => repeat(input, |input| {
            string(input)?;
            match input.byte()? {
                // Not a number and the infinities have no digits.
                253..=255 => Ok(()),
                digits => input.skip(digits.into()),
            }
        })?,
        kind::LIST_OF_NODES => repeat(input, |input| {
            length(input)?;
            string(input)
        })?,
        kind::STREAM_1 | kind::STREAM_2 | kind::STREAM_3 => stream(input, kind)?,
        kind::MODULE => {
            length(input)?;
            module(input)?;
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn stream<R: Read>(input: &mut Input<R>, kind: u8) -> Result<(), RdbError> {
    repeat(input, |input| {
        string(input)?;
        string(input)
    })?;
    // Length and last id; since version 2 also first id, highest deleted id and entries ever added.
    lengths(input, if kind == kind::STREAM_1 { 3 } else { 8 })?;
    repeat(input, |input| {
        string(input)?;
        // Last delivered id; since version 2 also entries read.
        lengths(input, if kind == kind::STREAM_1 { 2 } else { 3 })?;
        repeat(input, |input| {
            input.skip(STREAM_ID_BYTES + TIME_BYTES)?;
            lengths(input, 1)
        })?;
        repeat(input, |input| {
            string(input)?;
            // Last seen; since version 3 also last active.
            input.skip(if kind == kind::STREAM_3 { 2 * TIME_BYTES } else { TIME_BYTES })?;
            repeat(input, |input| input.skip(STREAM_ID_BYTES))
        })
    })
}

/// Steps over what a module stored: tagged values up to an end tag.
fn module<R: Read>(input: &mut Input<R>) -> Result<(), RdbError> {
    loop {
        match length(input)? {
            0 => return Ok(()),
            1 | 2 => drop(length(input)?),
            3 => input.skip(4)?,
            4 => input.skip(8)?,
            5 => string(input)?,
            tag => return Err(damaged(input, format!("tag {tag} in the data of a module"))),
        }
    }
}

fn repeat<R: Read>(
    input: &mut Input<R>,
    mut step: impl FnMut(&mut Input<R>) -> Result<(), RdbError>,
) -> Result<(), RdbError> {
    for _ in 0..length(input)? {
        step(input)?;
    }
    Ok(())
}

fn lengths<R: Read>(input: &mut Input<R>, count: usize) -> Result<(), RdbError> {
    for _ in 0..count {
        length(input)?;
    }
    Ok(())
}

/// A length, or the form in which a string is stored instead of one.
enum Length {
    Plain(u64),
    Integer(u64),
    Compressed,
}

fn length_or_form<R: Read>(input: &mut Input<R>) -> Result<Length, RdbError> {
    let first = input.byte()?;
    let low = u64::from(first & 0x3f);
    Ok(match (first >> 6, first) {
        (0, _) => Length::Plain(low),
        (1, _) => Length::Plain(low << 8 | u64::from(input.byte()?)),
        (2, 0x80) => Length::Plain(u32::from_be_bytes(input.array()?).into()),
        (2, 0x81) => Length::Plain(u64::from_be_bytes(input.array()?)),
        (3, 0xc0) => Length::Integer(1),
        (3, 0xc1) => Length::Integer(2),
        (3, 0xc2) => Length::Integer(4),
        (3, 0xc3) => Length::Compressed,
        _ => return Err(damaged(input, format!("byte {first:#04x} where a length was expected"))),
    })
}

fn length<R: Read>(input: &mut Input<R>) -> Result<u64, RdbError> {
    match length_or_form(input)? {
        Length::Plain(length) => Ok(length),
        _ => Err(damaged(input, "a string where a length was expected".to_owned())),
    }
}

fn string<R: Read>(input: &mut Input<R>) -> Result<(), RdbError> {
    match length_or_form(input)? {
        Length::Plain(length) | Length::Integer(length) => input.skip(length),
        Length::Compressed => {
            let compressed = length(input)?;
            length(input)?;
            input.skip(compressed)
        }
    }
}

fn aux<R: Read>(input: &mut Input<R>, summary: &mut Summary) -> Result<(), RdbError> {
    let name = short_string(input)?;
    let value = short_string(input)?;
    if let (Some(name), Some(value)) = (name, value)
        && summary.aux.len() < AUX_MAX
    {
        summary.aux.insert(name, value);
    }
    Ok(())
}

/// A string as text, unless it is long or compressed.
fn short_string<R: Read>(input: &mut Input<R>) -> Result<Option<String>, RdbError> {
    match length_or_form(input)? {
        Length::Integer(1) => Ok(Some(i8::from_le_bytes(input.array()?).to_string())),
        Length::Integer(2) => Ok(Some(i16::from_le_bytes(input.array()?).to_string())),
        Length::Integer(_) => Ok(Some(i32::from_le_bytes(input.array()?).to_string())),
        Length::Plain(length) if length <= AUX_BYTES_MAX => {
            let bytes: Result<Vec<u8>, _> = (0..length).map(|_| input.byte()).collect();
            Ok(Some(String::from_utf8_lossy(&bytes?).into_owned()))
        }
        Length::Plain(length) => input.skip(length).map(|()| None),
        Length::Compressed => {
            let compressed = length(input)?;
            length(input)?;
            input.skip(compressed).map(|()| None)
        }
    }
}

fn damaged<R: Read>(input: &Input<R>, detail: String) -> RdbError {
    RdbError::Damaged { at: input.position(), detail }
}
