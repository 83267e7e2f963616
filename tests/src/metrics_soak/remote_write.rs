//! A batch as a remote write request: protocol buffers in a snappy block, written by hand, as a sender would be of another make.
//!
//! Source: `prometheus/prometheus:prompb/{remote,types}.proto` (field numbers) and google/snappy's `format_description.txt`.

use super::evidence::{SERIES, Way, value};

/// The body of a request with one sample of every series.
pub(super) fn body(round: u64, at_ms: i64) -> Vec<u8> {
    let mut request = Vec::new();
    for number in 0..SERIES {
        let mut series = Vec::new();
        let labels = [
            ("__name__", Way::RemoteWrite.metric().to_owned()),
            ("number", number.to_string()),
            ("round", round.to_string()),
        ];
        for (name, text) in labels {
            let mut label = Vec::new();
            put_bytes(&mut label, 1, name.as_bytes());
            put_bytes(&mut label, 2, text.as_bytes());
            put_bytes(&mut series, 1, &label);
        }
        let mut sample = vec![1 << 3 | 1];
        sample.extend_from_slice(&value(number, at_ms).to_le_bytes());
        sample.push(2 << 3);
        put_varint(&mut sample, at_ms.cast_unsigned());
        put_bytes(&mut series, 2, &sample);
        put_bytes(&mut request, 1, &series);
    }
    block(&request)
}

/// A field of bytes.
fn put_bytes(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    out.push(field << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push((number & 0x7f) as u8);
}

/// A snappy block that is not compressed: its length, then literals of up to 60 bytes.
fn block(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_varint(&mut out, bytes.len() as u64);
    for piece in bytes.chunks(60) {
        // At most 59, in the upper six bits.
        out.push(u8::try_from(piece.len() - 1).expect("sixty at most") << 2);
        out.extend_from_slice(piece);
    }
    out
}
