//! What happens inside Redis in one step, and how its results are read.
//!
//! Keys of a channel: `…meta` (hash: `e` epoch, `o` offset of the latest publication, `h` replication history it was last touched
//! under, `f` forks as [`Lineage::new`] reads them), `…log` (stream; entry ids are `<offset>-0`, so offsets are looked up without an
//! index), `…members` (hash: connection → info) and `…expiry` (sorted set: connection → when it expires). All carry the channel as a
//! hash tag, so they live on one shard of a cluster.
//!
//! The history is an argument because only the connection knows which primary it speaks to. One that is listed among the forks comes
//! from a node that has not noticed a change yet, and is ignored.

use std::sync::Arc;

use super::resp::Value;
use crate::broker::{BrokerError, Members};
use crate::stream::{Lineage, Page, Publication, StreamState};

/// Names a script; the index into [`ALL`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Script {
    /// See [`PUBLISH`].
    Publish = 0,
    /// See [`READ`].
    Read = 1,
    /// See [`ADD_MEMBER`].
    AddMember = 2,
    /// See [`REMOVE_MEMBER`].
    RemoveMember = 3,
    /// See [`MEMBERS`].
    Members = 4,
}

/// All scripts, loaded on every new connection.
pub(super) const ALL: [&str; 5] = [PUBLISH, READ, ADD_MEMBER, REMOVE_MEMBER, MEMBERS];

/// Brings the stream's meta data up to date and leaves it in `e`, `o`, `h`, `f`. Forks are kept within 512 bytes, about 20 of them;
/// whoever was away for longer is not recovered. A macro so that both scripts that touch a stream do the same.
macro_rules! touch {
    () => {
        "
local history, fresh, keep_ms = ARGV[1], ARGV[2], ARGV[3]
local meta = redis.call('HMGET', KEYS[1], 'e', 'o', 'h', 'f')
local e, o, h, f = meta[1], meta[2], meta[3], meta[4]
if not e then
  e, o, h, f = fresh, '0', history, ''
  redis.call('DEL', KEYS[2])
  redis.call('HSET', KEYS[1], 'e', e, 'o', o, 'h', h, 'f', f)
elseif h ~= history and not string.find(f, history .. '@', 1, true) then
  f = f .. h .. '@' .. o .. ','
  h = history
  while #f > 512 do f = string.gsub(f, '^[^,]*,', '') end
  redis.call('HSET', KEYS[1], 'h', h, 'f', f)
end
redis.call('PEXPIRE', KEYS[1], keep_ms)
"
    };
}

/// Next offset, append, tell the nodes. Arguments: history, fresh epoch, meta TTL, size, TTL, pub/sub channel, data, info, time.
/// Size 0: only tell. Returns nothing worth reading.
const PUBLISH: &str = concat!(
    "
local size, ttl, channel = tonumber(ARGV[4]), ARGV[5], ARGV[6]
local data, info, time = ARGV[7], ARGV[8], ARGV[9]
local tail = ' ' .. time .. ' ' .. #data .. '\\n' .. data .. info
if size == 0 then
  redis.call('PUBLISH', channel, 'p 0 - - -' .. tail)
  return 0
end
",
    touch!(),
    "
o = redis.call('HINCRBY', KEYS[1], 'o', 1)
o = string.format('%.0f', o)
redis.call('XADD', KEYS[2], 'MAXLEN', size, o .. '-0', 'd', data, 'i', info, 't', time)
redis.call('PEXPIRE', KEYS[2], ttl)
redis.call('PUBLISH', channel, 'p ' .. o .. ' ' .. e .. ' ' .. h .. ' ' .. (f == '' and '-' or f) .. tail)
return 1
"
);

/// State and publications. Arguments: history, fresh epoch, meta TTL, limit, exclusive start or `-`, 1 for newest first.
/// Returns epoch, history, forks, top, entries.
const READ: &str = concat!(
    touch!(),
    "
local limit, since, reverse = tonumber(ARGV[4]), ARGV[5], ARGV[6] == '1'
local entries = {}
if limit > 0 then
  if reverse then
    local from = since == '-' and '+' or '(' .. since .. '-0'
    entries = redis.call('XREVRANGE', KEYS[2], from, '-', 'COUNT', limit)
  else
    local from = since == '-' and '-' or '(' .. since .. '-0'
    entries = redis.call('XRANGE', KEYS[2], from, '+', 'COUNT', limit)
  end
end
return {e, h, f, o, entries}
"
);

/// Arguments: history (unused), client, info, TTL. Time is Redis's own, as the nodes' clocks may differ.
const ADD_MEMBER: &str = "
local now = redis.call('TIME')
local expires = now[1] * 1000 + math.floor(now[2] / 1000) + ARGV[4]
redis.call('HSET', KEYS[1], ARGV[2], ARGV[3])
redis.call('ZADD', KEYS[2], expires, ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('PEXPIRE', KEYS[2], ARGV[4])
return 1
";

/// Arguments: history (unused), client.
const REMOVE_MEMBER: &str = "
redis.call('HDEL', KEYS[1], ARGV[2])
redis.call('ZREM', KEYS[2], ARGV[2])
return 1
";

/// Members that have not expired, after taking off those that have.
const MEMBERS: &str = "
local now = redis.call('TIME')
local expired = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now[1] * 1000 + math.floor(now[2] / 1000))
for _, client in ipairs(expired) do
  redis.call('HDEL', KEYS[1], client)
  redis.call('ZREM', KEYS[2], client)
end
return redis.call('HGETALL', KEYS[1])
";

/// What other nodes tell over pub/sub.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Envelope {
    /// `p <offset> <epoch> <history> <forks> <time> <length of data>\n<data><info>`, `-` for what does not apply.
    Publication(Publication, Option<Lineage>),
    /// `j <info>`
    Join(Box<str>),
    /// `l <info>`
    Leave(Box<str>),
}

/// Reads an envelope; `None` if it was not written by a node.
pub(super) fn envelope(text: &str) -> Option<Envelope> {
    let (kind, rest) = text.split_once(' ')?;
    match kind {
        "j" => Some(Envelope::Join(rest.into())),
        "l" => Some(Envelope::Leave(rest.into())),
        "p" => {
            let (header, body) = rest.split_once('\n')?;
            let mut fields = header.split(' ');
            let offset = fields.next()?.parse().ok()?;
            let [epoch, history, forks] = [fields.next()?, fields.next()?, fields.next()?];
            let time_ms = fields.next()?.parse().ok()?;
            let (data, info) = body.split_at_checked(fields.next()?.parse().ok()?)?;
            let info = Some(info).filter(|info| !info.is_empty()).map(Into::into);
            let publication = Publication { offset, data: data.into(), info, time_ms };
            let forks = if forks == "-" { "" } else { forks };
            let lineage = (epoch != "-").then(|| Lineage::new(epoch, history, forks));
            Some(Envelope::Publication(publication, lineage))
        }
        _ => None,
    }
}

/// Reads what [`Script::Read`] returns.
pub(super) fn page(value: &Value) -> Result<Page, BrokerError> {
    read_page(value).ok_or(BrokerError::Unexpected)
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
    let [_, data, _, info, _, time] = fields.array()? else { return None };
    Some(Publication {
        offset: id.text()?.split_once('-')?.0.parse().ok()?,
        data: data.text()?.into(),
        info: info.text().filter(|info| !info.is_empty()).map(Into::into),
        time_ms: time.number()?,
    })
}

/// Reads what [`Script::Members`] returns. Entries that are not JSON are left out; no node wrote them.
pub(super) fn members(value: &Value) -> Result<Members, BrokerError> {
    let fields = value.array().ok_or(BrokerError::Unexpected)?;
    let members = fields.chunks_exact(2).filter_map(|pair| {
        let info = serde_json::from_str(pair[1].text()?).ok()?;
        Some((pair[0].text()?.to_owned(), info))
    });
    Ok(members.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn envelopes_are_read_back() {
        let Some(Envelope::Publication(publication, Some(lineage))) =
            envelope("p 7 e h2 h1@5, 123 4\n{\"\":{\"user\":\"\"}")
        else {
            panic!("not a publication")
        };
        assert_eq!(
            (publication.offset, &*publication.data, publication.time_ms),
            (7, "{\"\":", 123)
        );
        assert_eq!(publication.info.as_deref(), Some("{\"user\":\"\"}"));
        assert!(lineage.continues("e.h1", 5) && !lineage.continues("e.h1", 6));

        let Some(Envelope::Publication(publication, None)) = envelope("p 0 - - - 123 2\n{}") else {
            panic!("not a publication without history")
        };
        assert_eq!((publication.offset, publication.info), (0, None));
        assert_eq!(envelope("j {}"), Some(Envelope::Join("{}".into())));
    }

    #[test]
    fn what_no_node_wrote_is_left_alone() {
        for text in ["", "p", "p 1", "x {}", "p 1 e h - 5 99\n{}", "p a e h - 5 2\n{}"] {
            assert_eq!(envelope(text), None, "{text:?}");
        }
    }
}
