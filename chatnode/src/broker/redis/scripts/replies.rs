//! The forms that publications have in Redis, and how replies of the scripts are read. Pure.
//!
//! A publication is one *body*, encoded once by the node that accepts it, stored in the log and sent to the nodes as it is:
//! `<time> <delta> <once> <size> <ttl> <data length> <info length> <tags length>\n<data><info><tags><id>`, all times in milliseconds. How long its
//! id keeps others from being published (`once`, 0: not at all), and size and TTL of the history, are in it so that whoever heard it can write it again.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};

use super::super::resp::Value;
use crate::broker::{Allowance, BrokerError, MemberCounts, Members, Published, Record, Retention};
use crate::stream::{Lineage, Page, Publication, StreamState};

/// What other nodes tell over pub/sub.
#[derive(Debug, PartialEq, Eq)]
pub(in super::super) enum Envelope {
    /// `p <offset> <epoch> <history> <forks> <body>`, `-` for what does not apply.
    Publication { publication: Publication, lineage: Option<Lineage>, body: Bytes },
    /// `j <info>`
    Join(Box<str>),
    /// `l <info>`
    Leave(Box<str>),
    /// `s <message>`
    Signal(Bytes),
}

/// Encodes a publication.
pub(in super::super) fn body(
    publication: &Publication,
    retention: Retention,
    once: Duration,
) -> Bytes {
    let Publication { data, info, tags, delta, time_ms, id, .. } = publication;
    let [info, tags] = [info, tags].map(|part| part.as_deref().unwrap_or_default());
    let mut body = BytesMut::with_capacity(80 + data.len() + info.len() + tags.len() + id.len());
    let (delta, once) = (u8::from(*delta), once.as_millis());
    let (size, ttl) = (retention.size, retention.ttl.as_millis());
    let lengths = [data.len(), info.len(), tags.len()];
    let [data_len, info_len, tags_len] = lengths;
    writeln!(body, "{time_ms} {delta} {once} {size} {ttl} {data_len} {info_len} {tags_len}")
        .expect("writing to memory does not fail");
    for part in [data, info, tags, &id[..]] {
        body.put_slice(part);
    }
    body.freeze()
}

/// Reads a body; `None` if it was not written by a node.
fn read_body(body: &Bytes, offset: u64) -> Option<Publication> {
    let end = body.iter().position(|byte| *byte == b'\n')?;
    let mut numbers = std::str::from_utf8(&body[..end]).ok()?.split(' ');
    let mut number = || numbers.next()?.parse::<u64>().ok();
    let (time_ms, delta) = (number()?, number()? == 1);
    let (_once, _size, _ttl) = (number()?, number()?, number()?);
    let mut rest = body.slice(end + 1..);
    let mut part = || {
        let length = usize::try_from(number()?).ok()?;
        (length <= rest.len()).then(|| rest.split_to(length))
    };
    let (data, info, tags) = (part()?, part()?, part()?);
    let given = |part: Bytes| Some(part).filter(|part| !part.is_empty());
    let (info, tags) = (given(info), given(tags));
    Some(Publication { offset, data, info, tags, delta, time_ms, id: rest })
}

/// A message about a client or of a node, as it is told over pub/sub.
pub(in super::super) fn message(kind: char, content: &[u8]) -> Bytes {
    let mut message = BytesMut::with_capacity(content.len() + 2);
    message.put_slice(&[kind as u8, b' ']);
    message.put_slice(content);
    message.freeze()
}

/// Reads what came over pub/sub; `None` if it was not written by a node.
pub(in super::super) fn envelope(message: &Bytes) -> Option<Envelope> {
    let (kind, content) = (message.get(..2)?, message.slice(2..));
    let text = |content: &Bytes| std::str::from_utf8(content).ok().map(Box::from);
    match kind {
        b"j " => Some(Envelope::Join(text(&content)?)),
        b"l " => Some(Envelope::Leave(text(&content)?)),
        b"s " => Some(Envelope::Signal(content)),
        b"p " => {
            let mut at = 0;
            let mut word = || {
                let length = content[at..].iter().position(|byte| *byte == b' ')?;
                let word = std::str::from_utf8(&content[at..at + length]).ok()?;
                at += length + 1;
                Some(word)
            };
            let offset = word()?.parse().ok()?;
            let [epoch, history, forks] = [word()?, word()?, word()?];
            let forks = if forks == "-" { "" } else { forks };
            let lineage = (epoch != "-").then(|| Lineage::new(epoch, history, forks));
            let body = content.slice(at..);
            let publication = read_body(&body, offset)?;
            Some(Envelope::Publication { publication, lineage, body })
        }
        _ => None,
    }
}

fn expected<T>(value: Option<T>) -> Result<T, BrokerError> {
    value.ok_or(BrokerError::Unexpected)
}

/// Reads what [`super::Script::Publish`] and [`super::Script::TellOnce`] return.
pub(in super::super) fn published(value: &Value) -> Result<Published, BrokerError> {
    let read = || {
        let [offset, epoch, suppressed] = value.array()? else { return None };
        let suppressed = suppressed.number()? == 1;
        Some(Published { offset: offset.number()?, epoch: epoch.text()?.into(), suppressed })
    };
    expected(read())
}

/// Reads what [`super::Script::Read`] returns.
pub(in super::super) fn page(value: &Value) -> Result<Page, BrokerError> {
    expected(read_page(value))
}

fn read_page(value: &Value) -> Option<Page> {
    let [epoch, history, forks, top, entries] = value.array()? else { return None };
    let lineage = Arc::new(Lineage::new(epoch.text()?, history.text()?, forks.text()?));
    let state = StreamState { lineage, top: top.number()? };
    let publications = entries.array()?.iter().map(read_entry).collect::<Option<_>>()?;
    Some(Page { state, publications })
}

fn read_entry(value: &Value) -> Option<Publication> {
    let [id, fields] = value.array()? else { return None };
    let [_, body] = fields.array()? else { return None };
    read_body(body.bytes()?, id.text()?.split_once('-')?.0.parse().ok()?)
}

/// Reads what [`super::Script::Members`] returns. Entries that are not JSON are left out; no node wrote them.
pub(in super::super) fn members(value: &Value) -> Result<Members, BrokerError> {
    let fields = expected(value.array())?;
    let members = fields.chunks_exact(2).filter_map(|pair| {
        let (length, rest) = pair[1].text()?.split_once(':')?;
        let info = serde_json::from_str(rest.get(length.parse().ok()?..)?).ok()?;
        Some((pair[0].text()?.to_owned(), info))
    });
    Ok(members.collect())
}

/// Reads what [`super::Script::MemberCounts`] returns.
pub(in super::super) fn counts(value: &Value) -> Result<MemberCounts, BrokerError> {
    let read = || {
        let [clients, users] = value.array()? else { return None };
        let count = |value: &Value| usize::try_from(value.number()?).ok();
        Some(MemberCounts { clients: count(clients)?, users: count(users)? })
    };
    expected(read())
}

/// Reads what [`super::Script::Take`] returns.
pub(in super::super) fn allowance(value: &Value) -> Result<Allowance, BrokerError> {
    let read = || {
        let [allowed, wait] = value.array()? else { return None };
        let retry_after = Duration::from_micros(wait.number()?);
        Some(Allowance { allowed: allowed.number()? == 1, retry_after })
    };
    expected(read())
}

/// Reads the reply to `HMGET`.
pub(in super::super) fn fields(value: &Value) -> Result<Vec<Option<Bytes>>, BrokerError> {
    let values = expected(value.array())?;
    Ok(values.iter().map(|value| value.bytes().cloned()).collect())
}

/// Reads the reply to `HGETALL`.
pub(in super::super) fn record(value: &Value) -> Result<Record, BrokerError> {
    let pairs = expected(value.array())?.chunks_exact(2);
    let entry = |pair: &[Value]| Some((pair[0].text()?.to_owned(), pair[1].bytes()?.clone()));
    expected(pairs.map(entry).collect())
}

/// Reads the reply to `ZRANGE … WITHSCORES`.
pub(in super::super) fn ranked(value: &Value) -> Result<Vec<(String, i64)>, BrokerError> {
    let pairs = expected(value.array())?.chunks_exact(2);
    let entry = |pair: &[Value]| Some((pair[0].text()?.to_owned(), score(pair[1].text()?)?));
    expected(pairs.map(entry).collect())
}

/// A score, which Redis may write as a float.
#[expect(clippy::cast_possible_truncation, reason = "scores are documented to be exact up to 2^53")]
fn score(text: &str) -> Option<i64> {
    text.parse().ok().or_else(|| text.parse::<f64>().ok().map(|score| score as i64))
}

/// What [`super::Script::Repair`] returns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Repaired {
    /// Epoch of the stream now, as clients see it.
    pub(in super::super) visible: Arc<str>,
    /// Up to where the old history is contained in the present one.
    pub(in super::super) reached: u64,
    /// Publications put back in their place.
    pub(in super::super) put_back: u64,
    /// Publications appended because their place was taken.
    pub(in super::super) appended: u64,
    /// The stream began anew.
    pub(in super::super) anew: bool,
    /// Something is missing before what is held; another node may hold it.
    pub(in super::super) again: bool,
}

/// Reads what [`super::Script::Repair`] returns.
pub(in super::super) fn repaired(value: &Value) -> Result<Repaired, BrokerError> {
    let read = || {
        let [epoch, history, rest @ ..] = value.array()? else { return None };
        let [reached, put_back, appended, anew, again] = rest else { return None };
        Some(Repaired {
            visible: format!("{}.{}", epoch.text()?, history.text()?).into(),
            reached: reached.number()?,
            put_back: put_back.number()?,
            appended: appended.number()?,
            anew: anew.number()? == 1,
            again: again.number()? == 1,
        })
    };
    expected(read())
}
