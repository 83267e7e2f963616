//! Payloads: fields that protobuf carries as bytes and JSON as a document inside the document.
//!
//! They are never interpreted. From a JSON client a payload is the text it wrote; towards a JSON client it must be a document, and one
//! without line breaks, because these separate documents.

use std::borrow::Cow;

use bytes::Bytes;
use serde::de::Deserializer;
use serde::ser::{Error as _, Serialize as _, Serializer};
use serde_json::value::RawValue;

/// `bytes` as a document without line breaks; `None` if it is no JSON document.
fn line(bytes: &[u8]) -> Option<Cow<'_, RawValue>> {
    // Inside a JSON string a line break is escaped, so a bare one is space between words.
    if bytes.contains(&b'\n') || bytes.contains(&b'\r') {
        let spaced =
            bytes.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte });
        let text = String::from_utf8(spaced.collect()).ok()?;
        return RawValue::from_string(text).ok().map(Cow::Owned);
    }
    serde_json::from_slice::<&RawValue>(bytes).ok().map(Cow::Borrowed)
}

/// Whether a JSON client can be sent this payload.
pub fn is_json(bytes: &[u8]) -> bool {
    line(bytes).is_some()
}

pub(super) fn serialize<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
    line(bytes).ok_or_else(|| S::Error::custom("the payload is not JSON"))?.serialize(serializer)
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
    let raw = <Option<Box<RawValue>> as serde::Deserialize>::deserialize(deserializer)?;
    Ok(raw.map_or_else(Bytes::new, |raw| Bytes::from(Box::<str>::from(raw).into_boxed_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_become_one_line_and_keep_their_words() {
        let text = line(b"{\n \"a\": \"b\\n\",\r\n 1e400: 2}").map(|raw| raw.get().to_owned());
        assert_eq!(text, None, "a key must be a string");
        let text = line(b"{\n \"a\": \"b\\n\",\r\n \"n\": 1.50}").map(|raw| raw.get().to_owned());
        assert_eq!(text.as_deref(), Some("{  \"a\": \"b\\n\",   \"n\": 1.50}"));
        for bad in [&b""[..], b"\xff", b"not json", b"{", b"1 2", b"\"a\nb\"x"] {
            assert!(!is_json(bad), "{bad:?}");
        }
    }
}
