//! RDB files built by hand; files of a real server are in the crate's integration tests.

use super::*;

/// An RDB file with `body` between the magic and the end mark.
fn file(body: &[u8]) -> Vec<u8> {
    let mut bytes = b"REDIS0010".to_vec();
    bytes.extend_from_slice(b"\xfa\x09redis-ver\x067.0.15\xfa\x05ctime\xc2\x01\x02\x03\x04");
    bytes.extend_from_slice(body);
    bytes.push(0xff);
    let mut crc = Crc64::new();
    crc.update(&bytes);
    bytes.extend_from_slice(&crc.value().to_le_bytes());
    bytes
}

/// Two databases: one string that expires, a hash, a compressed string; and a set of integers.
const BODY: &[u8] = b"\xfe\x00\xfb\x03\x01\xfc\x01\x02\x03\x04\x05\x06\x07\x08\x00\x01a\x01b\x04\x01h\x01\x01f\x01v\x00\x01c\xc3\x03\x0aabc\
    \xfe\x05\xfb\x01\x00\x0b\x01s\x04abcd";

fn summary(bytes: &[u8]) -> Result<Summary, RdbError> {
    inspect(bytes)
}

/// Gives one byte at a time.
struct Trickle<'a>(&'a [u8]);

impl Read for Trickle<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.0.len().min(1);
        self.0.read(&mut buffer[..count])
    }
}

#[test]
fn facts_and_keys_are_read() {
    let bytes = file(BODY);
    let summary = summary(&bytes).unwrap();
    assert_eq!((summary.version, summary.bytes), (10, bytes.len() as u64));
    assert_eq!(summary.aux["redis-ver"], "7.0.15");
    assert_eq!(summary.aux["ctime"], 0x0403_0201.to_string());
    let zero = Database { index: 0, keys: 3, expiring: 1, announced: Some(3) };
    let five = Database { index: 5, keys: 1, expiring: 0, announced: Some(1) };
    assert_eq!(summary.databases, [zero, five]);
    assert_eq!((summary.keys(), summary.counted), (4, Counted::Exactly));
    assert!(summary.checksum.is_some());
    assert_eq!(inspect(Trickle(&bytes)).unwrap(), summary);
}

#[test]
fn no_byte_can_be_changed_or_missing() {
    let bytes = file(BODY);
    for position in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[position] ^= 0x10;
        assert!(summary(&changed).is_err(), "byte {position} changed");
        assert!(summary(&bytes[..position]).is_err(), "cut at {position}");
    }
    let mut longer = bytes;
    longer.push(0);
    assert!(matches!(summary(&longer), Err(RdbError::Damaged { .. })));
}

#[test]
fn keys_that_were_announced_must_be_there() {
    let error = summary(&file(b"\xfe\x00\xfb\x02\x00\x00\x01a\x01b")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the RDB file is damaged: database 0 has 1 keys, 2 were announced"
    );
}

#[test]
fn an_unknown_type_ends_the_counting_but_not_the_checking() {
    for length in [0, 3, 20, 300_000] {
        let mut body = b"\xfe\x00\xfb\x02\x00\x00\x01a\x01b\xc8\x01k".to_vec();
        body.extend(std::iter::repeat_n(7, length));
        let mut bytes = file(&body);
        let found = summary(&bytes).unwrap();
        assert_eq!(found.counted, Counted::UpToUnknownType(0xc8));
        assert_eq!((found.keys(), found.bytes), (1, bytes.len() as u64));
        let last = bytes.len() - 10;
        bytes[last] ^= 1;
        assert!(matches!(summary(&bytes), Err(RdbError::Checksum { .. })), "{length}");
    }
}

#[test]
fn a_server_without_checksums_is_accepted_as_such() {
    let mut bytes = file(BODY);
    let end = bytes.len() - 8;
    bytes[end..].fill(0);
    assert_eq!(summary(&bytes).unwrap().checksum, None);
}

#[test]
fn lengths_that_promise_too_much_end_as_truncated() {
    let body = b"\xfe\x00\x00\x01a\x81\xff\xff\xff\xff\xff\xff\xff\xff";
    assert!(matches!(summary(&file(body)), Err(RdbError::Truncated { .. })));
    assert!(matches!(summary(b"HELLO WORLD"), Err(RdbError::Magic(_))));
    assert!(matches!(summary(b""), Err(RdbError::Truncated { .. })));
}
