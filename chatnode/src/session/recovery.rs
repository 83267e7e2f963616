//! What a client missed: which part of the stream a subscribe reads, and what of it the reply says.
//!
//! In stream mode the client gets all that it missed or is told that this cannot be; in cache mode only the latest publication counts.

use bytes::Bytes;

use super::connect::told;
use super::event::shaped;
use super::position::{Position, recovers};
use super::subscriptions::{Pending, Subscription};
use super::{Form, Note, Now, Output, lifetime};
use crate::broker::Range;
use crate::namespaces::{Options, RecoveryMode};
use crate::protocol::command::Subscribe;
use crate::protocol::reply::{Publication, SubscribeResult, tags_of};
use crate::protocol::{ErrorCode, Protocol};
use crate::stream::Page;

/// Most publications of one recovery.
const RECOVERY_PUBLICATIONS_MAX: usize = 300;

/// What of the stream is to be read for a subscribe; `None` if the subscription has no position.
pub(super) fn range(options: &Options, request: &Subscribe) -> Option<Range> {
    if !positioned(options, request) {
        return None;
    }
    let recover = request.recover && recoverable(options, request);
    Some(match options.force_recovery_mode {
        RecoveryMode::Cache if recover => Range::LATEST,
        RecoveryMode::Cache | RecoveryMode::Stream => {
            let limit = if recover { RECOVERY_PUBLICATIONS_MAX } else { 0 };
            Range { since: Some(request.offset), limit, reverse: false }
        }
    })
}

/// The answer to a subscribe whose stream, if it has one, was read.
pub(super) fn answer(
    now: Now,
    protocol: Protocol,
    subscription: &mut Subscription,
    pending: &Pending,
    page: Option<Page>,
    out: &mut Output,
) -> Result<SubscribeResult, ErrorCode> {
    let request = &pending.request;
    let term = subscription.extra.as_ref().map(|extra| extra.term).unwrap_or_default();
    let (expires, ttl) = lifetime(told(term), now);
    let delta = subscription.extra.as_ref().is_some_and(|extra| extra.delta);
    let mut answer = SubscribeResult {
        expires,
        ttl,
        delta,
        data: pending.data.clone(),
        ..SubscribeResult::default()
    };
    let (Some(page), Some(options)) = (page, subscription.options().cloned()) else {
        return Ok(answer);
    };
    subscription.position = Some(Position::at(&page.state));
    answer.positioned = true;
    answer.epoch = page.state.lineage.visible().to_string();
    answer.offset = page.state.top;
    answer.recoverable = recoverable(&options, request);
    answer.was_recovering = answer.recoverable && request.recover;
    if !answer.was_recovering {
        return Ok(answer);
    }
    match options.force_recovery_mode {
        RecoveryMode::Stream => {
            answer.recovered = recovers(&page, &request.epoch, request.offset);
            if answer.recovered {
                // A recovering client moves on by itself, publication by publication.
                answer.offset = request.offset;
                answer.publications = replayed(protocol, subscription, &page)?;
            }
        }
        RecoveryMode::Cache => {
            let latest = page.publications.first();
            answer.recovered = latest.is_some_and(|latest| latest.offset == page.state.top);
            let known = request.offset > 0 && request.offset == page.state.top;
            if answer.recovered && !(known && request.epoch == answer.epoch) {
                answer.publications = replayed(protocol, subscription, &page)?;
            }
        }
    }
    out.notes.push(Note::Recovery(answer.recovered));
    if request.flag & Subscribe::REJECT_UNRECOVERED != 0 && !answer.recovered {
        return Err(ErrorCode::UNRECOVERABLE_POSITION);
    }
    Ok(answer)
}

/// What a client missed, in the form it takes publications: each the difference to the one before, if it takes differences.
fn replayed(
    protocol: Protocol,
    subscription: &mut Subscription,
    page: &Page,
) -> Result<Vec<Publication>, ErrorCode> {
    let mut previous: Option<&Bytes> = None;
    let mut publications = Vec::with_capacity(page.publications.len());
    for stored in &page.publications {
        let mut form = Form::Plain;
        if let Some(extra) = &mut subscription.extra {
            let unwanted = extra.filter.as_ref().is_some_and(|filter| {
                let tags = stored.tags.as_ref().map(|tags| tags_of(tags));
                !filter.accepts(&tags.unwrap_or_default())
            });
            if unwanted {
                continue;
            }
            if extra.delta {
                form = if stored.delta { Form::Difference } else { Form::Whole };
                extra.last = Some(stored.id.clone());
            }
        }
        // Bytes that cannot be said in the client's protocol are found when the reply is encoded.
        let publication = shaped(stored, protocol, form, previous);
        publications.push(publication.ok_or(ErrorCode::INTERNAL)?);
        previous = Some(&stored.data);
    }
    Ok(publications)
}

fn positioned(options: &Options, request: &Subscribe) -> bool {
    options.keeps_history()
        && (options.force_positioning
            || (request.positioned && options.allow_positioning)
            || recoverable(options, request))
}

fn recoverable(options: &Options, request: &Subscribe) -> bool {
    options.keeps_history()
        && (options.force_recovery
            || (request.recoverable
                && (options.allow_recovery || options.allow_history_for_client)))
}
