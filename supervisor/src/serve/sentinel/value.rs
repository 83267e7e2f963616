//! Replies, and how they look in RESP2 and RESP3.

/// The version of RESP a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Resp2,
    Resp3,
}

/// A reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Simple(String),
    /// Without the leading `-`.
    Error(String),
    Integer(i64),
    Bulk(String),
    Array(Vec<Self>),
    /// Flat in RESP2.
    Map(Vec<(Self, Self)>),
    /// Something nobody asked for; an array in RESP2.
    Push(Vec<Self>),
    NullArray,
    NullBulk,
}

impl Value {
    pub(super) fn ok() -> Self {
        Self::Simple("OK".to_owned())
    }

    pub(super) fn bulk(text: impl Into<String>) -> Self {
        Self::Bulk(text.into())
    }

    pub(super) fn error(text: impl Into<String>) -> Self {
        Self::Error(text.into())
    }

    /// Fields and their values, all as strings.
    pub(super) fn fields(fields: Vec<(&'static str, String)>) -> Self {
        let pair = |(name, value)| (Self::bulk(name), Self::Bulk(value));
        Self::Map(fields.into_iter().map(pair).collect())
    }

    /// Appends the reply as bytes.
    pub(super) fn encode(&self, protocol: Protocol, out: &mut Vec<u8>) {
        let resp3 = protocol == Protocol::Resp3;
        match self {
            Self::Simple(text) => line(out, '+', text),
            // A line break would end the reply early.
            Self::Error(text) => line(out, '-', &text.replace(['\r', '\n'], " ")),
            Self::Integer(number) => line(out, ':', &number.to_string()),
            Self::Bulk(text) => {
                line(out, '$', &text.len().to_string());
                out.extend_from_slice(text.as_bytes());
                out.extend_from_slice(b"\r\n");
            }
            Self::Array(items) => list(out, '*', items, protocol),
            Self::Push(items) => list(out, if resp3 { '>' } else { '*' }, items, protocol),
            Self::Map(pairs) => {
                let (kind, length) =
                    if resp3 { ('%', pairs.len()) } else { ('*', pairs.len() * 2) };
                line(out, kind, &length.to_string());
                for (name, value) in pairs {
                    name.encode(protocol, out);
                    value.encode(protocol, out);
                }
            }
            Self::NullArray | Self::NullBulk if resp3 => out.extend_from_slice(b"_\r\n"),
            Self::NullArray => out.extend_from_slice(b"*-1\r\n"),
            Self::NullBulk => out.extend_from_slice(b"$-1\r\n"),
        }
    }
}

fn line(out: &mut Vec<u8>, kind: char, text: &str) {
    out.extend_from_slice(format!("{kind}{text}\r\n").as_bytes());
}

fn list(out: &mut Vec<u8>, kind: char, items: &[Value], protocol: Protocol) {
    line(out, kind, &items.len().to_string());
    for item in items {
        item.encode(protocol, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: &Value, protocol: Protocol) -> String {
        let mut out = Vec::new();
        value.encode(protocol, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn maps_pushes_and_nulls_differ_between_the_protocols() {
        let map = Value::fields(vec![("a", "1".to_owned())]);
        assert_eq!(text(&map, Protocol::Resp2), "*2\r\n$1\r\na\r\n$1\r\n1\r\n");
        assert_eq!(text(&map, Protocol::Resp3), "%1\r\n$1\r\na\r\n$1\r\n1\r\n");
        let push = Value::Push(vec![Value::Integer(1)]);
        assert_eq!(text(&push, Protocol::Resp2), "*1\r\n:1\r\n");
        assert_eq!(text(&push, Protocol::Resp3), ">1\r\n:1\r\n");
        assert_eq!(text(&Value::NullArray, Protocol::Resp2), "*-1\r\n");
        assert_eq!(text(&Value::NullBulk, Protocol::Resp3), "_\r\n");
    }

    #[test]
    fn an_error_stays_on_its_line() {
        let error = Value::error("ERR 'a\r\n+OK'");
        assert_eq!(text(&error, Protocol::Resp2), "-ERR 'a  +OK'\r\n");
    }
}
