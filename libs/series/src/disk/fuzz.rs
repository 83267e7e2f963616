//! Entry points for the fuzz targets: the readers of log and blocks on any bytes.
//!
//! Random bytes hardly ever have the right checksum or are a zstd frame, so the input is also taken as what lies behind both.

use super::block::fuzz as block_fuzz;
use super::payload;
use super::record::{Next, Record, next};
use crate::codec::{Reader, compress};
use crate::histogram::codec as histogram;
use crate::series::Found;

/// Reads `input` as a file of records, and as the body of one record whose kind is its first byte. Whatever is read must be written
/// and read again as the same.
pub fn records(input: &[u8]) {
    let mut position = 0;
    loop {
        match next(input, position) {
            Next::Record(record, following) => {
                again(&record);
                position = following;
            }
            Next::Bad(following) => position = following,
            Next::Torn | Next::End => break,
        }
    }
    let Some((&kind, body)) = input.split_first() else { return };
    if let Some(record) = compress(body).ok().and_then(|body| Record::read(kind, &body)) {
        again(&record);
    }
}

fn again(record: &Record) {
    let mut bytes = Vec::new();
    record.write(&mut bytes).expect("memory can be written");
    let Next::Record(read, end) = next(&bytes, 0) else { panic!("a record just written is bad") };
    assert_eq!(end, bytes.len());
    // Labels that came twice or empty are put in order when they are read, so only the second reading is comparable.
    let mut second = Vec::new();
    read.write(&mut second).expect("memory can be written");
    assert_eq!(bytes, second);
}

/// Reads `input` as the parts of a block: footer, index, page of series, samples.
pub fn block(input: &[u8]) {
    block_fuzz::parts(input);
    let mut found = Found::default();
    if payload::decode(input, i64::MIN, i64::MAX, &mut found).is_some() {
        let ascends = found.samples.is_sorted_by(|a, b| a.timestamp_ms < b.timestamp_ms);
        let mut bytes = Vec::new();
        payload::encode(&found, &mut bytes).expect("memory can be written");
        let mut back = Found::default();
        let read = payload::decode(&bytes, i64::MIN, i64::MAX, &mut back);
        // Times that go back never come from a writer, and need not survive one.
        assert!(read.is_some() || !ascends);
        assert!(back.len() == found.len() || !ascends);
    }
    // As a histogram alone.
    let _nonsense = histogram::read(&mut Reader::new(input));
}
