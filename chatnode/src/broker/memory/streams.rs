//! Streams and remembered publishes. Pure.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use tokio::time::Instant;

use crate::broker::{PublishOptions, Published, Range};
use crate::namespaces::META_TTL;
use crate::stream::{Lineage, Page, Publication, StreamState};

/// There is one replication history only.
const HISTORY: &str = "memory";

struct Stream {
    lineage: Arc<Lineage>,
    top: u64,
    log: VecDeque<Publication>,
    log_until: Instant,
    /// Number and epoch of the latest version.
    version: Option<(u64, Box<str>)>,
    meta_ttl: std::time::Duration,
    until: Instant,
}

/// A publication that was published just now, and its stream's identity if it is kept.
type News = (Publication, Option<Arc<Lineage>>);

/// Bounded by what the namespaces' limits keep of the channels in use.
#[derive(Default)]
pub(super) struct Streams {
    streams: HashMap<Box<str>, Stream>,
    remembered: HashMap<(Box<str>, Box<str>), (Published, Instant)>,
}

impl Stream {
    fn new(now: Instant) -> Self {
        let epoch = format!("{:08x}", fastrand::u32(..));
        Self {
            lineage: Arc::new(Lineage::new(&epoch, HISTORY, "")),
            top: 0,
            log: VecDeque::new(),
            log_until: now,
            version: None,
            meta_ttl: META_TTL,
            until: now + META_TTL,
        }
    }
}

impl Streams {
    pub(super) fn publish(
        &mut self,
        now: Instant,
        channel: &str,
        mut publication: Publication,
        options: &PublishOptions,
    ) -> (Published, Option<News>) {
        let key = options.idempotency.as_ref().map(|once| (channel.into(), once.key.clone()));
        if let Some((first, until)) = key.as_ref().and_then(|key| self.remembered.get(key))
            && *until > now
        {
            return (Published { suppressed: true, ..first.clone() }, None);
        }
        let retention = options.retention;
        let (published, news) = if retention.size == 0 {
            (
                Published { offset: 0, epoch: "".into(), suppressed: false },
                Some((publication, None)),
            )
        } else {
            let stream = self.stream(now, channel);
            stream.meta_ttl = retention.meta_ttl;
            stream.until = now + retention.meta_ttl;
            let epoch = Arc::clone(stream.lineage.visible());
            if let Some(version) = &options.version {
                let newer = stream.version.as_ref().is_none_or(|(number, epoch)| {
                    *epoch != version.epoch || version.number > *number
                });
                if !newer {
                    return (Published { offset: 0, epoch, suppressed: true }, None);
                }
                stream.version = Some((version.number, version.epoch.clone()));
            }
            stream.top += 1;
            publication.offset = stream.top;
            stream.log.push_back(publication.clone());
            while stream.log.len() > retention.size as usize {
                stream.log.pop_front();
            }
            stream.log_until = now + retention.ttl;
            let published = Published { offset: stream.top, epoch, suppressed: false };
            (published, Some((publication, Some(Arc::clone(&stream.lineage)))))
        };
        if let (Some(key), Some(once)) = (key, &options.idempotency) {
            self.remembered.insert(key, (published.clone(), now + once.ttl));
        }
        (published, news)
    }

    pub(super) fn read(&mut self, now: Instant, channel: &str, range: Range) -> Page {
        let stream = self.stream(now, channel);
        stream.until = now + stream.meta_ttl;
        let state = StreamState { lineage: Arc::clone(&stream.lineage), top: stream.top };
        let log = stream.log.iter();
        let publications = if range.reverse {
            let before = range.since.unwrap_or(u64::MAX);
            log.rev().filter(|p| p.offset < before).take(range.limit).cloned().collect()
        } else {
            let after = range.since.unwrap_or(0);
            log.filter(|p| p.offset > after).take(range.limit).cloned().collect()
        };
        Page { state, publications }
    }

    pub(super) fn remove_history(&mut self, channel: &str) {
        if let Some(stream) = self.streams.get_mut(channel) {
            stream.log.clear();
        }
    }

    pub(super) fn sweep(&mut self, now: Instant) {
        self.streams.retain(|_, stream| stream.until > now);
        for stream in self.streams.values_mut().filter(|stream| stream.log_until <= now) {
            stream.log = VecDeque::new();
        }
        self.remembered.retain(|_, (_, until)| *until > now);
    }

    fn stream(&mut self, now: Instant, channel: &str) -> &mut Stream {
        let stream = self.streams.entry(channel.into()).or_insert_with(|| Stream::new(now));
        if stream.until <= now {
            *stream = Stream::new(now);
        }
        if stream.log_until <= now {
            stream.log.clear();
        }
        stream
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::broker::Retention;

    fn publish(streams: &mut Streams, now: Instant) -> Published {
        let (ttl, meta_ttl) = (Duration::from_secs(10), Duration::from_secs(20));
        let retention = Retention { size: 2, ttl, meta_ttl };
        let options = PublishOptions { retention, ..PublishOptions::default() };
        streams.publish(now, "a", Publication::default(), &options).0
    }

    #[test]
    fn publications_expire_before_positions_do() {
        let (mut streams, start) = (Streams::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let all = Range { since: None, limit: 10, reverse: false };
        let epoch = publish(&mut streams, at(0)).epoch;
        publish(&mut streams, at(5));
        assert_eq!(streams.read(at(14), "a", all).publications.len(), 2);
        let page = streams.read(at(15), "a", all);
        assert_eq!((page.publications.len(), page.state.top), (0, 2));
        streams.sweep(at(34));
        assert_eq!(streams.read(at(34), "a", Range::STATE).state.lineage.visible(), &epoch);
        streams.sweep(at(54));
        assert!(streams.streams.is_empty());
        assert_ne!(publish(&mut streams, at(54)).epoch, epoch);
    }
}
