//! Records of the write-ahead log and of checkpoints.
//!
//! A record is a mark, its length, a checksum (CRC-32) of all that follows, its kind, and a compressed body. A reader that meets
//! something wrong looks for the next mark with a good record behind it; if there is none, the file was cut there. Samples are stored by
//! column: numbers of series, times, then the values' bytes by significance, which compresses far better than rows would.

use super::payload;
use crate::Sample;
use crate::codec::{Reader, compress, expand, put_labels, put_len, put_signed, put_varint};
use crate::histogram::HistogramSample;
use crate::histogram::codec as histogram;
use crate::labels::Labels;
use crate::queue::Queued;
use crate::series::Found;

/// Every record begins with it, so that one can be found behind damage.
const MARK: &[u8; 4] = b"\xf1HFr";
/// Mark, length and checksum.
const HEADER_BYTES: usize = 12;
/// Most bytes of a record's body; what is written stays far below.
const BODY_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Most entries in one record, so that a reader needs bounded memory.
pub(crate) const ENTRIES_MAX: usize = 50_000;

/// One record.
#[derive(Debug)]
pub(crate) enum Record {
    /// Names of new series.
    Series(Vec<(u64, Labels)>),
    /// Samples in the order in which they were taken.
    Samples(Vec<Queued>),
    /// Histograms likewise.
    Histograms(Vec<(u64, HistogramSample)>),
    /// A series with all its samples, in a checkpoint.
    Snapshot(Vec<(u64, Labels, Found)>),
    /// The last record of a checkpoint: how many series it has.
    End(u64),
}

impl Record {
    fn kind(&self) -> u8 {
        match self {
            Self::Series(_) => 1,
            Self::Samples(_) => 2,
            Self::Histograms(_) => 3,
            Self::Snapshot(_) => 4,
            Self::End(_) => 5,
        }
    }

    /// Appends the record to `out`.
    pub(crate) fn write(&self, out: &mut Vec<u8>) -> std::io::Result<()> {
        let mut body = Vec::new();
        match self {
            Self::Series(all) => {
                put_len(&mut body, all.len());
                for (id, labels) in all {
                    put_varint(&mut body, *id);
                    put_labels(&mut body, labels);
                }
            }
            Self::Samples(all) => put_samples(&mut body, all),
            Self::Histograms(all) => {
                put_len(&mut body, all.len());
                for (id, sample) in all {
                    put_varint(&mut body, *id);
                    histogram::put(&mut body, sample);
                }
            }
            Self::Snapshot(all) => {
                put_len(&mut body, all.len());
                let mut samples = Vec::new();
                for (id, labels, found) in all {
                    put_varint(&mut body, *id);
                    put_labels(&mut body, labels);
                    samples.clear();
                    payload::encode(found, &mut samples)?;
                    put_len(&mut body, samples.len());
                    body.extend_from_slice(&samples);
                }
            }
            Self::End(series) => put_varint(&mut body, *series),
        }
        let body = compress(&body)?;
        let len = u32::try_from(body.len() + 1)
            .map_err(|_| std::io::Error::other("record longer than 4 GiB"))?;
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&[self.kind()]);
        hasher.update(&body);
        out.extend_from_slice(MARK);
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(&hasher.finalize().to_le_bytes());
        out.push(self.kind());
        out.extend_from_slice(&body);
        Ok(())
    }

    pub(crate) fn read(kind: u8, body: &[u8]) -> Option<Self> {
        let body = expand(body)?;
        let mut reader = Reader::new(&body);
        let record = match kind {
            1 => {
                let mut all = Vec::new();
                for _ in 0..reader.count()? {
                    all.push((reader.varint()?, reader.labels()?));
                }
                Self::Series(all)
            }
            2 => Self::Samples(samples(&mut reader)?),
            3 => {
                let mut all = Vec::new();
                for _ in 0..reader.count()? {
                    all.push((reader.varint()?, histogram::read(&mut reader)?));
                }
                Self::Histograms(all)
            }
            4 => {
                let mut all = Vec::new();
                for _ in 0..reader.count()? {
                    let (id, labels) = (reader.varint()?, reader.labels()?);
                    let (len, mut found) = (reader.count()?, Found::default());
                    payload::decode(reader.bytes(len)?, i64::MIN, i64::MAX, &mut found)?;
                    all.push((id, labels, found));
                }
                Self::Snapshot(all)
            }
            5 => Self::End(reader.varint()?),
            _ => return None,
        };
        Some(record)
    }
}

fn put_samples(body: &mut Vec<u8>, all: &[Queued]) {
    put_len(body, all.len());
    let (mut id, mut timestamp_ms) = (0_u64, 0_i64);
    for (next, _) in all {
        put_signed(body, next.wrapping_sub(id).cast_signed());
        id = *next;
    }
    for (_, sample) in all {
        put_signed(body, sample.timestamp_ms.wrapping_sub(timestamp_ms));
        timestamp_ms = sample.timestamp_ms;
    }
    for plane in (0..8).rev() {
        body.extend(all.iter().map(|(_, sample)| sample.value.to_bits().to_le_bytes()[plane]));
    }
}

fn samples(reader: &mut Reader<'_>) -> Option<Vec<Queued>> {
    let count = reader.count()?;
    let (mut id, mut timestamp_ms) = (0_u64, 0_i64);
    let mut all = Vec::with_capacity(count);
    for _ in 0..count {
        id = id.wrapping_add_signed(reader.signed()?);
        all.push((id, Sample { timestamp_ms: 0, value: 0.0 }));
    }
    for (_, sample) in &mut all {
        timestamp_ms = timestamp_ms.wrapping_add(reader.signed()?);
        sample.timestamp_ms = timestamp_ms;
    }
    let mut bits = vec![0_u64; count];
    for _ in 0..8 {
        let plane = reader.bytes(count)?;
        for (bits, &byte) in bits.iter_mut().zip(plane) {
            *bits = *bits << 8 | u64::from(byte);
        }
    }
    for ((_, sample), bits) in all.iter_mut().zip(bits) {
        sample.value = f64::from_bits(bits);
    }
    Some(all)
}

/// What stands at a place in a file of records.
#[derive(Debug)]
pub(crate) enum Next {
    /// A record, and where the next one begins.
    Record(Record, usize),
    /// Damage, and where the next good record begins.
    Bad(usize),
    /// Nothing more that could be read: the file was cut here.
    Torn,
    /// The end.
    End,
}

/// Reads the record of `bytes` at `position`.
pub(crate) fn next(bytes: &[u8], position: usize) -> Next {
    if position >= bytes.len() {
        return Next::End;
    }
    match read_at(bytes, position) {
        Some((record, following)) => Next::Record(record, following),
        None => next_good(bytes, position + 1).map_or(Next::Torn, Next::Bad),
    }
}

fn read_at(bytes: &[u8], position: usize) -> Option<(Record, usize)> {
    let mut reader = Reader::new(bytes.get(position..)?);
    if reader.bytes(MARK.len())? != MARK {
        return None;
    }
    let (len, checksum) = (reader.u32()? as usize, reader.u32()?);
    if len == 0 || len > BODY_BYTES_MAX {
        return None;
    }
    let content = reader.bytes(len)?;
    if crc32fast::hash(content) != checksum {
        return None;
    }
    let record = Record::read(content[0], &content[1..])?;
    Some((record, position + HEADER_BYTES + len))
}

/// Where the first good record at or after `position` begins.
fn next_good(bytes: &[u8], position: usize) -> Option<usize> {
    let marks = bytes.get(position..)?.windows(MARK.len()).enumerate();
    let mut places = marks.filter(|(_, window)| *window == MARK).map(|(at, _)| position + at);
    places.find(|&place| read_at(bytes, place).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_and_bad_ones_are_skipped() {
        let labels = Labels::from_pairs([("__name__", "up")]);
        let sample = |at| Sample { timestamp_ms: at, value: at as f64 / 3.0 };
        let records = [
            Record::Series(vec![(7, labels.clone())]),
            Record::Samples(vec![(7, sample(5)), (2, sample(-3)), (u64::MAX, sample(1))]),
            Record::Snapshot(vec![(
                7,
                labels,
                Found { samples: vec![sample(1)], ..Default::default() },
            )]),
            Record::End(1),
        ];
        let mut bytes = Vec::new();
        for record in &records {
            record.write(&mut bytes).unwrap();
        }
        let mut position = 0;
        for record in &records {
            let Next::Record(read, following) = next(&bytes, position) else { panic!("a record") };
            assert_eq!(format!("{read:?}"), format!("{record:?}"));
            position = following;
        }
        assert!(matches!(next(&bytes, position), Next::End));
        bytes[HEADER_BYTES + 1] ^= 1;
        let Next::Bad(second) = next(&bytes, 0) else { panic!("a bad record") };
        assert!(matches!(next(&bytes, second), Next::Record(Record::Samples(_), _)));
        assert!(matches!(next(&bytes[..5], 0), Next::Torn));
    }
}
