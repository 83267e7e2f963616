//! Has this subscription missed anything? A positioned subscription knows which publication comes next.

use std::sync::Arc;

use crate::stream::{Lineage, Page, StreamState};

/// Where a subscription is in its stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Position {
    epoch: Arc<str>,
    offset: u64,
}

/// What to do with a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is the next one.
    Deliver,
    /// It was delivered before.
    Drop,
    /// Something before it is missing, or this stream is not the one the client knows.
    Gap,
}

/// How a subscription stands to the state of its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Nothing is missing.
    Current,
    /// Publications up to this offset exist; they may be on their way.
    Behind(u64),
    /// The client has seen what this stream does not contain.
    Lost,
}

impl Position {
    /// At the top of a stream.
    pub(super) fn at(state: &StreamState) -> Self {
        Self { epoch: Arc::clone(state.lineage.visible()), offset: state.top }
    }

    /// Whether it is at `offset` or beyond.
    pub(super) fn has_reached(&self, offset: u64) -> bool {
        self.offset >= offset
    }

    /// Takes the publication at `offset`.
    pub(super) fn advance(&mut self, offset: u64, lineage: &Lineage) -> Verdict {
        if !lineage.continues(&self.epoch, self.offset) {
            return Verdict::Gap;
        }
        match offset.checked_sub(self.offset) {
            Some(1) => {
                self.offset = offset;
                self.learn(lineage);
                Verdict::Deliver
            }
            Some(0) | None => Verdict::Drop,
            Some(_) => Verdict::Gap,
        }
    }

    /// Compares with a state of the stream that was read a moment ago, so that it may lag behind what was delivered since.
    pub(super) fn compare(&mut self, state: &StreamState) -> Standing {
        if !state.lineage.continues(&self.epoch, self.offset) {
            return Standing::Lost;
        }
        if state.top > self.offset {
            return Standing::Behind(state.top);
        }
        self.learn(&state.lineage);
        Standing::Current
    }

    fn learn(&mut self, lineage: &Lineage) {
        if self.epoch != *lineage.visible() {
            self.epoch = Arc::clone(lineage.visible());
        }
    }
}

/// Whether `page`, read from after `offset`, holds everything a client at `(epoch, offset)` missed.
pub(super) fn recovers(page: &Page, epoch: &str, offset: u64) -> bool {
    let complete = match (page.publications.first(), page.publications.last()) {
        (Some(first), Some(last)) => {
            Some(first.offset) == offset.checked_add(1) && last.offset == page.state.top
        }
        _ => page.state.top == offset,
    };
    complete && page.state.lineage.continues(epoch, offset)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::Publication;

    fn state(history: &str, forks: &str, top: u64) -> StreamState {
        StreamState { lineage: Arc::new(Lineage::new("e", history, forks)), top }
    }

    fn page(offsets: &[u64], top: u64) -> Page {
        let publications = offsets
            .iter()
            .map(|&offset| Publication { offset, data: "1".into(), ..Publication::default() })
            .collect();
        Page { state: state("h2", "h1@5,", top), publications }
    }

    #[test]
    fn publications_are_delivered_once_and_without_gap() {
        let own = state("h1", "", 3);
        let mut position = Position::at(&own);
        assert_eq!(position.advance(3, &own.lineage), Verdict::Drop);
        assert_eq!(position.advance(4, &own.lineage), Verdict::Deliver);
        assert_eq!(position.advance(4, &own.lineage), Verdict::Drop);
        assert_eq!(position.advance(6, &own.lineage), Verdict::Gap);
        assert_eq!(position.advance(5, &Lineage::new("x", "h1", "")), Verdict::Gap);
    }

    #[test]
    fn a_promotion_is_followed_unless_the_client_is_past_the_fork() {
        let forked = Lineage::new("e", "h2", "h1@4,");
        let mut position = Position::at(&state("h1", "", 4));
        assert_eq!(position.advance(5, &forked), Verdict::Deliver);
        assert_eq!(position.advance(6, &forked), Verdict::Deliver);
        let mut past = Position::at(&state("h1", "", 5));
        assert_eq!(past.advance(5, &forked), Verdict::Gap, "this is another publication 5");
    }

    #[test]
    fn standing_is_judged_with_patience() {
        let mut position = Position::at(&state("h1", "", 4));
        assert_eq!(position.compare(&state("h1", "", 3)), Standing::Current);
        assert_eq!(position.compare(&state("h1", "", 4)), Standing::Current);
        assert_eq!(position.compare(&state("h1", "", 6)), Standing::Behind(6));
        assert_eq!(position.compare(&state("h2", "h1@3,", 3)), Standing::Lost);
        assert_eq!(position.compare(&state("h2", "h1@4,", 4)), Standing::Current);
        assert_eq!(position, Position::at(&state("h2", "", 4)));
    }

    #[test]
    fn recovery_is_claimed_only_when_nothing_is_missing() {
        for (offsets, top, epoch, offset, expected) in [
            (&[][..], 5, "e.h2", 5, true),
            (&[], 5, "", 5, true),
            (&[], 5, "_", 5, false),
            (&[], 6, "e.h2", 5, false),
            (&[], 4, "e.h2", 5, false),
            (&[6, 7], 7, "e.h2", 5, true),
            (&[6, 7], 8, "e.h2", 5, false),
            (&[7], 7, "e.h2", 5, false),
            (&[6, 7], 7, "e.h1", 5, true),
            (&[7], 7, "e.h1", 6, false),
            (&[1, 2], 2, "", 0, true),
            (&[], 0, "", 0, true),
            (&[], 0, "e.h2", u64::MAX, false),
        ] {
            let page = page(offsets, top);
            assert_eq!(
                recovers(&page, epoch, offset),
                expected,
                "{offsets:?} {top} {epoch} {offset}"
            );
        }
    }
}
