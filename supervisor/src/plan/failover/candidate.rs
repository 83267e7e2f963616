//! Who follows the primary: the replica with the most of its history.
//!
//! Only offsets of the same replication id can be compared. Among those the highest wins; `replica-priority` decides between equals, 0
//! bars a server altogether, and run id and address make the choice the same wherever it is made. Rejected: priority before offset,
//! as Redis Sentinel has it, which promotes a stale replica and loses what the others have.

use std::cmp::Reverse;
use std::time::{Duration, Instant};

use crate::cluster::{Address, RedisRole};
use crate::judge::redis::{Lineage, Sample, ServerView};
use crate::record::Reason;

/// The server to promote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Where it is.
    pub address: Address,
    /// Its history.
    pub replid: String,
    /// How much of it it has.
    pub offset: u64,
    /// What the old primary had more when last seen; `None` if that is not known.
    pub lacks_bytes: Option<u64>,
    /// Why this one, and why not the others.
    pub reasons: Vec<Reason>,
}

/// What the choice depends on beside the views.
#[derive(Debug, Clone, Copy)]
pub struct Search<'a> {
    /// The present.
    pub now: Instant,
    /// A server whose answer is overdue by this much cannot be chosen.
    pub patience: Duration,
    /// The server to replace.
    pub from: Option<&'a Address>,
    /// The history to continue.
    pub lineage: Option<&'a Lineage>,
    /// The operator's wish.
    pub wanted: Option<&'a Address>,
}

/// Chooses, or says for every server why it cannot be.
///
/// # Errors
/// No server qualifies; the reasons say why.
pub fn choose(views: &[ServerView], search: &Search<'_>) -> Result<Choice, Vec<Reason>> {
    let mut reasons = Vec::new();
    let mut fit: Vec<(u8, &Address, &Sample)> = Vec::new();
    for view in views.iter().filter(|view| Some(&view.address) != search.from) {
        match fitness(view, search) {
            Ok((distance, sample)) => fit.push((distance, &view.address, sample)),
            Err(why) => reasons.push(against(format!("{} {why}", view.address))),
        }
    }
    if search.lineage.is_none()
        && let [(_, first, one), rest @ ..] = &fit[..]
        && let Some((_, other, _)) = rest.iter().find(|(_, _, s)| s.replid != one.replid)
    {
        reasons.push(against(format!(
            "{first} and {other} have different histories, and the primary's is not known"
        )));
        return Err(reasons);
    }
    if let Some(wanted) = search.wanted {
        for (_, address, _) in fit.extract_if(.., |(_, address, _)| *address != wanted) {
            reasons.push(against(format!("{address} was not asked for")));
        }
    }
    fit.sort_by_key(|(distance, address, sample)| {
        (*distance, Reverse(sample.offset), sample.priority, sample.run_id.as_str(), *address)
    });
    let [(_, address, best), rest @ ..] = &fit[..] else { return Err(reasons) };
    reasons.insert(
        0,
        Reason {
            favours: true,
            text: format!("{address} has the most data: offset {}", best.offset),
        },
    );
    for (distance, other, sample) in rest {
        reasons.push(against(if *distance > 0 {
            format!(
                "{other} is still on the history before the last change, at offset {}",
                sample.offset
            )
        } else if sample.offset < best.offset {
            format!("{other} lacks {} bytes more", best.offset - sample.offset)
        } else if sample.priority > best.priority {
            format!("{other} has as much, but replica-priority {}", sample.priority)
        } else {
            format!("{other} is as good; the smaller run id decides")
        }));
    }
    Ok(Choice {
        address: (*address).clone(),
        replid: best.replid.clone(),
        offset: best.offset,
        lacks_bytes: search.lineage.map(|lineage| lineage.offset.saturating_sub(best.offset)),
        reasons,
    })
}

/// How near a server is to the history to continue, or why it cannot be promoted.
fn fitness<'v>(view: &'v ServerView, search: &Search<'_>) -> Result<(u8, &'v Sample), String> {
    let Some(sample) = view.present(search.now, search.patience) else {
        return Err(match view.fault() {
            Some(fault) => format!("cannot be reached ({fault})"),
            None => "does not answer".to_owned(),
        });
    };
    if sample.loading || view.complaint.as_deref().is_some_and(|c| c.starts_with("LOADING")) {
        return Err("is loading a dataset".to_owned());
    }
    if sample.priority == 0 {
        return Err("has replica-priority 0".to_owned());
    }
    let Some(lineage) = search.lineage else {
        return match sample.role {
            RedisRole::Replica => Ok((0, sample)),
            RedisRole::Primary => Err("is a primary of its own".to_owned()),
        };
    };
    match lineage.distance(sample) {
        None => Err("has another history".to_owned()),
        // A replica promoted by a run of ours that did not get further continues the history itself.
        Some(_) if sample.replid2.as_ref() == Some(&lineage.replid) => Ok((0, sample)),
        Some(_) if sample.role == RedisRole::Primary => Err("is a primary of its own".to_owned()),
        Some(distance) => Ok((distance, sample)),
    }
}

fn against(text: String) -> Reason {
    Reason { favours: false, text }
}
