//! What happens in a channel, shared by all its subscribers on this node.
//!
//! A publication is encoded when the first subscriber needs it in some form, and the finished frame serves all others: once for each
//! protocol and, where subscribers take differences, once for each of those.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::protocol::filter::Tags;
use crate::protocol::reply::{self, ClientInfo, Membership, Push, Reply};
use crate::protocol::{Frame, Protocol, delta};
use crate::stream::{Lineage, Publication, StreamState};

/// Something that happened in a channel.
#[derive(Debug)]
pub struct Event {
    /// The channel.
    pub channel: Arc<str>,
    /// What happened.
    pub kind: EventKind,
}

/// What happened in a channel.
#[derive(Debug)]
pub enum EventKind {
    /// A publication.
    Publication(Box<News>),
    /// A client came or left.
    Membership(Presence),
    /// The stream was looked at, because something may have been missed.
    Looked(StreamState),
}

/// In which form a subscriber takes publications.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As they are.
    Plain,
    /// Whole, to one who also takes differences: in JSON the payload is then text.
    Whole,
    /// As the difference to the one before, if that is smaller.
    Difference,
}

/// A publication on its way.
#[derive(Debug)]
pub struct News {
    /// As it came from the broker.
    pub publication: Publication,
    /// The stream's identity; `None` without history.
    pub lineage: Option<Arc<Lineage>>,
    /// The publication before it, where differences may be sent.
    pub previous: Option<Basis>,
    tags: OnceLock<Tags>,
    frames: [OnceLock<Option<Frame>>; 5],
}

/// What a difference is computed against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Basis {
    /// Which publication.
    pub id: Bytes,
    /// Its payload.
    pub data: Bytes,
}

impl News {
    /// A publication that follows `previous`.
    pub fn new(
        publication: Publication,
        lineage: Option<Arc<Lineage>>,
        previous: Option<Basis>,
    ) -> Self {
        let (tags, frames) = (OnceLock::new(), Default::default());
        Self { publication, lineage, previous, tags, frames }
    }

    /// What subscribers filter by.
    pub fn tags(&self) -> &Tags {
        self.tags.get_or_init(|| {
            self.publication.tags.as_ref().map(|tags| reply::tags_of(tags)).unwrap_or_default()
        })
    }

    /// Whether a subscriber whose latest publication was `last` can use the difference.
    pub fn follows(&self, last: Option<&Bytes>) -> bool {
        last.is_some_and(|last| {
            !last.is_empty() && self.previous.as_ref().is_some_and(|previous| previous.id == last)
        })
    }

    /// The finished push; `None` if the payload cannot be said in this protocol.
    pub fn frame(&self, channel: &str, protocol: Protocol, form: Form) -> Option<&Frame> {
        let index = match (protocol, form) {
            (Protocol::Json, Form::Plain) => 0,
            (Protocol::Json, Form::Whole) => 1,
            (Protocol::Json, Form::Difference) => 2,
            (Protocol::Protobuf, Form::Plain | Form::Whole) => 3,
            (Protocol::Protobuf, Form::Difference) => 4,
        };
        self.frames[index]
            .get_or_init(|| {
                let news = self.lineage.as_deref();
                let epoch = news.filter(|lineage| lineage.begins_at(self.publication.offset));
                let basis = self.previous.as_ref().map(|previous| &previous.data);
                let publication = reply::Publication {
                    epoch: epoch.map(|lineage| lineage.visible().to_string()).unwrap_or_default(),
                    ..shaped(&self.publication, protocol, form, basis)?
                };
                let push = Push { publication: Some(publication), ..Push::default() };
                protocol.encode(&Reply::push(channel, push)).ok()
            })
            .as_ref()
    }

    /// About what it takes in memory.
    pub fn size(&self) -> usize {
        let Publication { data, info, tags, .. } = &self.publication;
        data.len() + info.as_ref().map_or(0, Bytes::len) + tags.as_ref().map_or(0, Bytes::len)
    }
}

/// A publication in the form a subscriber takes it, `basis` being the payload before it; `None` if it cannot be said so.
pub(super) fn shaped(
    stored: &Publication,
    protocol: Protocol,
    form: Form,
    basis: Option<&Bytes>,
) -> Option<reply::Publication> {
    let publication = reply::Publication::new(stored);
    let difference = match (form, basis) {
        (Form::Difference, Some(basis)) => delta::create(basis, &stored.data),
        _ => None,
    };
    match (protocol, form) {
        (_, Form::Plain) => Some(publication),
        (Protocol::Protobuf, _) => Some(match difference {
            Some(delta) => reply::Publication { data: delta.into(), delta: true, ..publication },
            None => publication,
        }),
        (Protocol::Json, _) => {
            // A difference may cut a character in two, and is then no text.
            let text = difference.and_then(|delta| String::from_utf8(delta).ok());
            let delta = text.is_some();
            let whole = || std::str::from_utf8(&stored.data).ok().map(str::to_owned);
            let text = serde_json::to_string(&text.or_else(whole)?).ok()?;
            Some(reply::Publication { data: text.into(), delta, ..publication })
        }
    }
}

/// A client came or left.
#[derive(Debug)]
pub struct Presence {
    came: bool,
    info: Bytes,
    frames: [OnceLock<Option<Frame>>; 2],
}

impl Presence {
    /// `info` is the client's `ClientInfo` document.
    pub fn new(came: bool, info: &str) -> Self {
        let info = Bytes::copy_from_slice(info.as_bytes());
        Self { came, info, frames: Default::default() }
    }

    /// The finished push; `None` if the client's infos cannot be said in this protocol.
    pub fn frame(&self, channel: &str, protocol: Protocol) -> Option<&Frame> {
        let index = usize::from(protocol == Protocol::Protobuf);
        self.frames[index]
            .get_or_init(|| {
                let member = Some(Membership { info: Some(ClientInfo::read(&self.info)?) });
                let push = if self.came {
                    Push { join: member, ..Push::default() }
                } else {
                    Push { leave: member, ..Push::default() }
                };
                protocol.encode(&Reply::push(channel, push)).ok()
            })
            .as_ref()
    }
}

impl Event {
    /// About what it takes in memory beside itself.
    pub fn size(&self) -> usize {
        match &self.kind {
            EventKind::Publication(news) => news.size(),
            EventKind::Membership(presence) => presence.info.len(),
            EventKind::Looked(_) => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn news(data: &str, previous: Option<&str>) -> News {
        let publication = Publication { data: data.to_owned().into(), ..Publication::default() };
        let basis = |data: &str| Basis { id: "p".into(), data: data.to_owned().into() };
        News::new(publication, None, previous.map(basis))
    }

    fn json(news: &News, form: Form) -> String {
        let frame = news.frame("a", Protocol::Json, form).unwrap();
        String::from_utf8(frame.document().to_vec()).unwrap()
    }

    #[test]
    fn every_form_is_made_once() {
        let news = news("{}", None);
        let first = news.frame("a", Protocol::Json, Form::Plain).unwrap().bytes().as_ptr();
        assert_eq!(news.frame("a", Protocol::Json, Form::Plain).unwrap().bytes().as_ptr(), first);
    }

    #[test]
    fn those_who_take_differences_get_payloads_as_text() {
        let before = r#"{"text":"a long enough text that is mostly the same"}"#;
        let after = r#"{"text":"a long enough text that is mostly as it was"}"#;
        let news = news(after, Some(before));
        assert!(json(&news, Form::Plain).contains(r#""data":{"text":"#));
        assert!(json(&news, Form::Whole).contains(r#""data":"{\"text\":"#));
        let difference = json(&news, Form::Difference);
        assert!(difference.contains(r#""delta":true"#), "{difference}");
        assert!(difference.len() < json(&news, Form::Whole).len());
    }

    #[test]
    fn a_difference_that_saves_nothing_is_sent_whole() {
        let news = news(r#"{"a":1}"#, Some(r#"{"b":2}"#));
        assert_eq!(json(&news, Form::Difference), json(&news, Form::Whole));
    }

    #[test]
    fn a_difference_is_for_those_who_have_its_basis() {
        let news = news("{}", Some("1"));
        assert!(news.follows(Some(&"p".into())));
        assert!(!news.follows(Some(&"other".into())) && !news.follows(None));
    }

    #[test]
    fn bytes_that_are_no_json_have_no_json_form() {
        let news = news("not json", None);
        assert!(news.frame("a", Protocol::Json, Form::Plain).is_none());
        assert!(news.frame("a", Protocol::Protobuf, Form::Plain).is_some());
    }
}
