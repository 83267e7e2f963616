//! Which server is the primary when we start?
//!
//! We do not change anything to find out. What was agreed on last counts most, as long as the servers do not contradict it; without it,
//! the one primary that has replicas is the primary. If that leaves doubt, a person has to say so: the wrong answer here costs data.

use std::time::Instant;

use super::{Register, Settings};
use crate::cluster::{Address, RedisRole};
use crate::judge::redis::{Lineage, Link, Sample, ServerView};

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// The primary, and why it is taken for it.
    Primary {
        /// Where it is.
        address: Address,
        /// Its history: ours as saved, or its own word.
        lineage: Option<Lineage>,
        /// Why.
        why: String,
    },
    /// Not all servers have been heard yet.
    Waiting,
    /// Nothing that can be relied on.
    Doubt(String),
}

/// Looks for the present primary.
pub fn find(
    views: &[ServerView],
    register: &Register,
    settings: &Settings,
    started: Instant,
    now: Instant,
) -> Found {
    let settled = now.saturating_duration_since(started) >= settings.probe_timeout * 2;
    if !settled && views.iter().any(is_undecided) {
        return Found::Waiting;
    }
    let present: Vec<(&Address, &Sample)> = views
        .iter()
        .filter_map(|view| Some((&view.address, view.present(now, settings.probe_timeout)?)))
        .collect();
    let primaries: Vec<_> =
        present.iter().filter(|(_, sample)| sample.role == RedisRole::Primary).collect();
    if let Some(agreed) = &register.primary
        && views.iter().any(|view| view.address == *agreed)
    {
        return known(agreed, register.lineage.as_ref(), &primaries);
    }
    let found = |address: &Address, sample: &Sample, why: &str| Found::Primary {
        address: address.clone(),
        lineage: Some(Lineage::of(sample)),
        why: why.to_owned(),
    };
    let with_replicas: Vec<_> = primaries.iter().filter(|(_, s)| s.replicas > 0).collect();
    let with_data: Vec<_> = primaries.iter().filter(|(_, s)| s.offset > 0).collect();
    match (&primaries[..], &with_replicas[..], &with_data[..]) {
        ([], ..) if present.is_empty() => Found::Doubt("no server answers".to_owned()),
        ([], ..) => Found::Doubt("no server that answers is a primary".to_owned()),
        ([(address, sample)], ..) => found(address, sample, "it is the only primary"),
        (_, [(address, sample)], _) => found(address, sample, "it is the only one with replicas"),
        (_, [], [(address, sample)]) => found(address, sample, "it is the only one with data"),
        _ => {
            let names: Vec<_> = primaries.iter().map(|(address, _)| address.to_string()).collect();
            Found::Doubt(format!("{} all say they are the primary", names.join(", ")))
        }
    }
}

/// We were here before: the server we left as the primary is it, unless another one carries its history on.
fn known(agreed: &Address, lineage: Option<&Lineage>, primaries: &[&(&Address, &Sample)]) -> Found {
    let heir = primaries.iter().find(|(address, sample)| {
        let former = sample.replid2.as_ref();
        *address != agreed && former.is_some() && former == lineage.map(|lineage| &lineage.replid)
    });
    let still = primaries.iter().any(|(address, _)| *address == agreed);
    match heir {
        Some((address, sample)) if !still => Found::Primary {
            address: (*address).clone(),
            lineage: Some(Lineage::of(sample)),
            why: format!("it carries on what {agreed} had when we last ran"),
        },
        _ => Found::Primary {
            address: agreed.clone(),
            lineage: lineage.cloned(),
            why: "it was the primary when we last ran".to_owned(),
        },
    }
}

fn is_undecided(view: &ServerView) -> bool {
    match view.link {
        Link::Untried | Link::Closed(_) => true,
        Link::Open => view.answered_at.is_none(),
        Link::Refused | Link::Unreachable(_) => false,
    }
}
