//! Who follows the primary: the replica with the most of its history.
//!
//! Only offsets of the same replication id can be compared, and those of the one before up to the fork. Among those the highest wins. Between equals decide, in this order, the
//! operator's promotion rule, `replica-priority`, the former primary's zone (its clients are near) and the older version (an older replica
//! cannot read what a newer primary sends); run id and address make the choice the same wherever it is made. The rule `never` and
//! `replica-priority 0` bar a server altogether. Rejected: priority before offset, as Redis Sentinel has it, which promotes a stale
//! replica and loses what the others have; a preferred server that is behind takes over later, when it has caught up.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::cluster::{Address, RedisRole};
use crate::judge::redis::{Lineage, Sample, ServerView};
use crate::record::Reason;

/// How gladly a server is promoted, the gladdest first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Promotion {
    /// Rather than others; it also takes over from one that is not preferred, when it has caught up.
    Prefer,
    /// Like any other.
    #[default]
    Neutral,
    /// Only if there is no other; it gives the place away when another has caught up.
    PreferNot,
    /// Not at all.
    Never,
}

/// What an operator's settings say for and against a server as a primary.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// The promotion rule.
    pub promotion: Promotion,
    /// Rack, room or data centre.
    pub zone: Option<String>,
}

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

impl Choice {
    /// Whether the server still had what it was chosen for when it was promoted: a replica may have begun to copy other data meanwhile.
    pub fn is_kept_by(&self, promoted: &Sample) -> bool {
        let same =
            promoted.replid == self.replid || promoted.replid2.as_ref() == Some(&self.replid);
        same && promoted.offset >= self.offset
    }
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
    /// The primary has come back without its data: a former primary with the history before the last change is better than nothing.
    pub last_resort: bool,
    /// The operator's settings for each server; one that is missing has the default.
    pub standings: &'a HashMap<Address, Standing>,
}

/// Chooses, or says for every server why it cannot be.
///
/// # Errors
/// No server qualifies; the reasons say why.
pub fn choose(views: &[ServerView], search: &Search<'_>) -> Result<Choice, Vec<Reason>> {
    let mut reasons = Vec::new();
    let mut fit: Vec<Fit<'_>> = Vec::new();
    for view in views.iter().filter(|view| Some(&view.address) != search.from) {
        match fitness(view, search) {
            Ok((distance, sample)) => fit.push(Fit::new(distance, &view.address, sample, search)),
            Err(why) => reasons.push(against(format!("{} {why}", view.address))),
        }
    }
    if !search.last_resort {
        // A former primary may have gone its own way since: it is taken only for what the replicas lack.
        let most = fit.iter().filter(|fit| fit.distance < 2).map(|fit| fit.shares).max();
        let is_needless =
            |fit: &mut Fit<'_>| fit.distance == 2 && most.is_none_or(|most| fit.shares <= most);
        for fit in fit.extract_if(.., is_needless) {
            reasons.push(against(format!("{} is a primary of its own", fit.address)));
        }
    }
    if search.lineage.is_none()
        && let [first, rest @ ..] = &fit[..]
        && let Some(other) = rest.iter().find(|fit| fit.sample.replid != first.sample.replid)
    {
        reasons.push(against(format!(
            "{} and {} have different histories, and the primary's is not known",
            first.address, other.address
        )));
        return Err(reasons);
    }
    if let Some(wanted) = search.wanted {
        for fit in fit.extract_if(.., |fit| fit.address != wanted) {
            reasons.push(against(format!("{} was not asked for", fit.address)));
        }
    }
    fit.sort_by(|one, other| one.rank().cmp(&other.rank()));
    let [best, rest @ ..] = &fit[..] else { return Err(reasons) };
    let text = format!("{} has the most data: offset {}", best.address, best.sample.offset);
    reasons.insert(0, Reason { favours: true, text });
    reasons.extend(rest.iter().map(|other| against(other.behind(best))));
    Ok(Choice {
        address: best.address.clone(),
        replid: best.sample.replid.clone(),
        offset: best.sample.offset,
        lacks_bytes: search.lineage.map(|lineage| {
            lineage.offset.saturating_sub(best.shares.unwrap_or(best.sample.offset))
        }),
        reasons,
    })
}

/// A server that may be promoted.
struct Fit<'a> {
    /// From the history to continue; 2: the one before, and it has gone its own way since.
    distance: u8,
    address: &'a Address,
    sample: &'a Sample,
    promotion: Promotion,
    is_far: bool,
    version: Vec<u32>,
    /// How much it has of the history to continue; `None` if it is on the one before and the fork is not known.
    shares: Option<u64>,
}

impl<'a> Fit<'a> {
    fn new(distance: u8, address: &'a Address, sample: &'a Sample, search: &Search<'_>) -> Self {
        let standing = search.standings.get(address);
        let zone_of = |address| search.standings.get(address).and_then(|s| s.zone.as_ref());
        let home = search.from.and_then(zone_of);
        Self {
            distance,
            address,
            sample,
            promotion: standing.map(|standing| standing.promotion).unwrap_or_default(),
            is_far: home.is_some() && zone_of(address) != home,
            version: sample.version.split('.').map_while(|part| part.parse().ok()).collect(),
            shares: match (distance, search.lineage.and_then(|lineage| lineage.forked_at)) {
                (0, _) => Some(sample.offset),
                // Whoever is still before the fork may lack what one that stayed behind has.
                (_, Some(forked_at)) => Some(sample.offset.min(forked_at)),
                _ => None,
            },
        }
    }

    /// The smallest is the best.
    fn rank(&self) -> impl Ord {
        (
            (Reverse(self.shares), self.distance, Reverse(self.sample.offset)),
            (self.promotion, self.sample.priority, self.is_far, self.version.as_slice()),
            (self.sample.run_id.as_str(), self.address),
        )
    }

    /// What puts it behind the best.
    fn behind(&self, best: &Self) -> String {
        let Self { address, sample, .. } = self;
        if self.shares.is_some() && self.shares < best.shares {
            let lacks = best.shares.unwrap_or_default() - self.shares.unwrap_or_default();
            format!("{address} lacks {lacks} bytes more")
        } else if self.distance > best.distance {
            let offset = sample.offset;
            format!("{address} is still on the history before the last change, at offset {offset}")
        } else if self.promotion > best.promotion {
            format!("{address} has as much, but its promotion rule puts it behind")
        } else if sample.priority > best.sample.priority {
            format!("{address} has as much, but replica-priority {}", sample.priority)
        } else if self.is_far && !best.is_far {
            format!("{address} is in another zone than the former primary")
        } else if self.version > best.version {
            format!("{address} runs version {}, which older replicas cannot follow", sample.version)
        } else {
            format!("{address} is as good; the smaller run id decides")
        }
    }
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
    let rule = search.standings.get(&view.address).map(|standing| standing.promotion);
    if rule == Some(Promotion::Never) {
        return Err("is never to be promoted (`redis.promotion.never`)".to_owned());
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
        Some(_) if sample.role == RedisRole::Primary => Ok((2, sample)),
        Some(distance) => Ok((distance, sample)),
    }
}

fn against(text: String) -> Reason {
    Reason { favours: false, text }
}
