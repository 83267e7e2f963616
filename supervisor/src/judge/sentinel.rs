//! What do other people's Redis Sentinels think, and what would go wrong if they had to act now?
//!
//! Sentinels agree by configuration epochs: only a majority can begin a new one, so the primary named under the highest epoch is the one
//! that counts, however many still name the former one. The risks are Sentinel's own weak spots, found before they cost anything: it takes
//! a server back that restarted empty, prefers priority to data, and below a second of `down-after-milliseconds` fails over twice.

use std::time::{Duration, Instant};

use crate::cluster::{Address, RedisRole};
use crate::judge::redis::{Sample, ServerView};

/// Below this, Sentinel marks a new primary down before it has connected to it, and fails over again (14 of 15 crashes at 200 ms).
pub const DOWN_AFTER_MIN: Duration = Duration::from_secs(1);

/// A replica whose link is up may be seen this far behind another only because we ask them one after the other: 0.1 s at 10 MB/s.
const APART_BYTES_MAX: u64 = 1 << 20;

/// One Sentinel as it is seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SentinelView {
    /// Where it is.
    pub address: Address,
    /// Why it cannot be asked now; `None` if it can.
    pub fault: Option<String>,
    /// Its newest answer.
    pub seen: Option<Seen>,
}

impl SentinelView {
    /// A Sentinel nothing is known of.
    pub fn new(address: Address) -> Self {
        Self { address, fault: Some("not tried yet".to_owned()), seen: None }
    }

    /// Its newest answer, if it answers.
    pub fn present(&self) -> Option<&Seen> {
        self.seen.as_ref().filter(|_| self.fault.is_none())
    }
}

/// What a Sentinel says about a primary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The server it takes for the primary.
    pub primary: Address,
    /// The epoch in which that was agreed on.
    pub config_epoch: u64,
    /// Silence of the primary counts from here on.
    pub down_after: Duration,
    /// Why no failover could be agreed on now, in its words; `None` if one could.
    pub no_quorum: Option<String>,
}

/// A weak spot that is open now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Risk {
    /// The Sentinels could not agree on a failover.
    NoMajority,
    /// They name different primaries.
    Disagree,
    /// The primary keeps nothing on disk: restarted within `down-after`, it stays the primary and empties its replicas.
    EmptyRestart,
    /// They would promote a replica that lacks what another has, because of its priority.
    StaleChoice,
    /// `down-after-milliseconds` is so short that they fail over twice.
    DownAfterShort,
}

impl Risk {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::NoMajority,
        Self::Disagree,
        Self::EmptyRestart,
        Self::StaleChoice,
        Self::DownAfterShort,
    ];

    /// The name in metrics and events.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoMajority => "no_majority",
            Self::Disagree => "disagree",
            Self::EmptyRestart => "empty_restart",
            Self::StaleChoice => "stale_choice",
            Self::DownAfterShort => "down_after_short",
        }
    }
}

/// A risk, and how it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Which.
    pub risk: Risk,
    /// For people.
    pub text: String,
}

/// Everything the assessment rests on.
#[derive(Debug, Clone, Copy)]
pub struct Evidence<'a> {
    /// The Sentinels of the settings.
    pub sentinels: &'a [SentinelView],
    /// The Redis servers as we see them.
    pub servers: &'a [ServerView],
    /// Whether the primary keeps its data on disk, if that is known.
    pub persists: Option<bool>,
    /// The present.
    pub now: Instant,
    /// A server whose answer is overdue by this much cannot be asked.
    pub patience: Duration,
}

/// How things stand with the Sentinels.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Assessment {
    /// The primary they agreed on last; `None` if none can be asked or it is not clear.
    pub primary: Option<Address>,
    /// The replica they would promote now.
    pub choice: Option<Address>,
    /// How much less it has than the one that has most, bytes.
    pub choice_lacks_bytes: Option<u64>,
    /// What is not as it should be.
    pub findings: Vec<Finding>,
}

/// Assesses the Sentinels.
pub fn assess(evidence: &Evidence<'_>) -> Assessment {
    let seen: Vec<_> = evidence
        .sentinels
        .iter()
        .filter_map(|sentinel| Some((&sentinel.address, sentinel.present()?)))
        .collect();
    let primary = agreed(&seen);
    let mut findings = Vec::new();
    let mut find = |risk, text: String| findings.push(Finding { risk, text });
    if let Some(text) = no_majority(evidence.sentinels, &seen) {
        find(Risk::NoMajority, text);
    }
    if let Some(((a, first), (b, second))) = seen
        .iter()
        .flat_map(|one| seen.iter().map(move |other| (*one, *other)))
        .find(|((_, one), (_, other))| one.primary != other.primary)
    {
        let text = format!("{a} names {}, {b} names {}", first.primary, second.primary);
        find(Risk::Disagree, text);
    }
    if let (Some(false), Some(primary)) = (evidence.persists, &primary) {
        let text = format!(
            "{primary} keeps nothing on disk: restarted within down-after, it empties its replicas"
        );
        find(Risk::EmptyRestart, text);
    }
    let choice = choice(evidence, primary.as_ref());
    if let Some(stale) = choice.as_ref().and_then(|choice| choice.stale.clone()) {
        find(Risk::StaleChoice, stale);
    }
    if let Some((address, short)) = seen.iter().find(|(_, seen)| seen.down_after < DOWN_AFTER_MIN) {
        let text = format!(
            "{address} has down-after-milliseconds {}: below {} it fails over twice",
            short.down_after.as_millis(),
            DOWN_AFTER_MIN.as_millis()
        );
        find(Risk::DownAfterShort, text);
    }
    Assessment {
        primary,
        choice_lacks_bytes: choice.as_ref().map(|choice| choice.lacks_bytes),
        choice: choice.map(|choice| choice.address),
        findings,
    }
}

/// The primary of the highest epoch, if all who know that epoch name the same.
fn agreed(seen: &[(&Address, &Seen)]) -> Option<Address> {
    let epoch = seen.iter().map(|(_, seen)| seen.config_epoch).max()?;
    let mut named = seen.iter().filter(|(_, seen)| seen.config_epoch == epoch);
    let (_, first) = named.next()?;
    named.all(|(_, seen)| seen.primary == first.primary).then(|| first.primary.clone())
}

/// One that hears enough others is enough: that we reach few of them may be our own trouble.
fn no_majority(sentinels: &[SentinelView], seen: &[(&Address, &Seen)]) -> Option<String> {
    if seen.is_empty() {
        // Before the first answers there is nothing to complain about.
        let tried = sentinels
            .iter()
            .all(|s| s.seen.is_some() || s.fault.as_deref() != Some("not tried yet"));
        return tried.then(|| format!("none of {} Sentinels can be asked", sentinels.len()));
    }
    let complaint = |(address, seen): &(&Address, &Seen)| {
        seen.no_quorum.as_ref().map(|words| format!("{address} says: {words}"))
    };
    let complaints: Option<Vec<_>> = seen.iter().map(complaint).collect();
    complaints?.into_iter().next()
}

struct Choice {
    address: Address,
    lacks_bytes: u64,
    /// Why it should not be chosen, if so.
    stale: Option<String>,
}

/// What Sentinel would choose: the lowest priority that is not 0, then the highest offset, then the lowest run id. (It also leaves out
/// replicas whose link was down for ten times `down-after` before the primary was.)
fn choice(evidence: &Evidence<'_>, primary: Option<&Address>) -> Option<Choice> {
    let mut replicas: Vec<(&Address, &Sample)> = evidence
        .servers
        .iter()
        .filter(|view| Some(&view.address) != primary)
        .filter_map(|view| Some((&view.address, view.present(evidence.now, evidence.patience)?)))
        .filter(|(_, sample)| sample.role == RedisRole::Replica && sample.priority > 0)
        .collect();
    replicas.sort_by(|(_, a), (_, b)| {
        (a.priority, b.offset, &a.run_id).cmp(&(b.priority, a.offset, &b.run_id))
    });
    let (address, first) = *replicas.first()?;
    let (best_address, best) = *replicas
        .iter()
        .filter(|(_, sample)| sample.replid == first.replid)
        .max_by_key(|(_, sample)| sample.offset)?;
    let lacks_bytes = best.offset - first.offset;
    let apart = if first.link_up == Some(true) && !first.syncing { APART_BYTES_MAX } else { 0 };
    let stale = (first.priority < best.priority && lacks_bytes > apart).then(|| {
        format!(
            "{address} (priority {}) would be promoted, and lacks {lacks_bytes} bytes that {best_address} (priority {}) has",
            first.priority, best.priority
        )
    });
    Some(Choice { address: address.clone(), lacks_bytes, stale })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::redis::Link;

    #[expect(clippy::disallowed_methods, reason = "tests begin at some instant")]
    fn start() -> Instant {
        Instant::now()
    }

    fn address(port: u16) -> Address {
        Address::new("h", port)
    }

    fn sentinel(port: u16) -> SentinelView {
        let seen = Seen {
            primary: address(1),
            config_epoch: 3,
            down_after: Duration::from_secs(5),
            no_quorum: None,
        };
        SentinelView { address: address(port), fault: None, seen: Some(seen) }
    }

    fn seen(view: &mut SentinelView) -> &mut Seen {
        view.seen.as_mut().unwrap()
    }

    fn server(port: u16, now: Instant) -> ServerView {
        let sample = Sample {
            at: now,
            role: if port == 1 { RedisRole::Primary } else { RedisRole::Replica },
            run_id: format!("run{port}"),
            replid: "history".to_owned(),
            replid2: None,
            forked_at: None,
            offset: 5_000_000,
            link_up: (port != 1).then_some(true),
            syncing: false,
            follows: (port != 1).then(|| address(1)),
            quiet_seconds: Some(0),
            priority: 100,
            loading: false,
            replicas: 0,
            version: String::new(),
        };
        ServerView {
            link: Link::Open,
            answered_at: Some(now),
            sample: Some(sample),
            ..ServerView::new(address(port), now)
        }
    }

    /// A change to three Sentinels, three servers and the primary's persistence, and what is found then.
    type Case = (fn(&mut [SentinelView], &mut [ServerView], &mut Option<bool>), Vec<Risk>);

    #[test]
    fn each_weak_spot_is_found_and_nothing_else() {
        let cases: [Case; 12] = [
            (|_, _, _| {}, vec![]),
            (|_, _, persists| *persists = None, vec![]),
            (|_, _, persists| *persists = Some(false), vec![Risk::EmptyRestart]),
            (
                |sentinels, _, _| seen(&mut sentinels[1]).down_after = Duration::from_millis(999),
                vec![Risk::DownAfterShort],
            ),
            // One that hears the others is enough.
            (
                |sentinels, _, _| {
                    seen(&mut sentinels[0]).no_quorum = Some("NOQUORUM".to_owned());
                    sentinels[1].fault = Some("refused".to_owned());
                },
                vec![],
            ),
            (
                |sentinels, _, _| {
                    seen(&mut sentinels[0]).no_quorum = Some("NOQUORUM".to_owned());
                    sentinels[1].fault = Some("refused".to_owned());
                    sentinels[2].fault = Some("refused".to_owned());
                },
                vec![Risk::NoMajority],
            ),
            (
                |sentinels, _, _| {
                    for sentinel in sentinels {
                        sentinel.fault = Some("refused".to_owned());
                    }
                },
                vec![Risk::NoMajority],
            ),
            (
                |sentinels, _, _| {
                    for sentinel in sentinels {
                        *sentinel = SentinelView::new(sentinel.address.clone());
                    }
                },
                vec![],
            ),
            (|sentinels, _, _| seen(&mut sentinels[2]).primary = address(2), vec![Risk::Disagree]),
            // Stale and preferred: it would be promoted.
            (
                |_, servers, _| {
                    let sample = servers[1].sample.as_mut().unwrap();
                    (sample.priority, sample.offset, sample.link_up) = (10, 4_999_000, Some(false));
                },
                vec![Risk::StaleChoice],
            ),
            // A difference that the time between two looks explains.
            (
                |_, servers, _| {
                    let sample = servers[1].sample.as_mut().unwrap();
                    (sample.priority, sample.offset) = (10, 4_999_000);
                },
                vec![],
            ),
            // Stale, but its priority does not put it first.
            (
                |_, servers, _| {
                    let sample = servers[1].sample.as_mut().unwrap();
                    (sample.offset, sample.link_up) = (1000, Some(false));
                },
                vec![],
            ),
        ];
        let now = start();
        for (number, (change, expected)) in cases.into_iter().enumerate() {
            let mut sentinels = [sentinel(11), sentinel(12), sentinel(13)];
            let mut servers = [server(1, now), server(2, now), server(3, now)];
            let mut persists = Some(true);
            change(&mut sentinels, &mut servers, &mut persists);
            let evidence = Evidence {
                sentinels: &sentinels,
                servers: &servers,
                persists,
                now,
                patience: Duration::from_millis(500),
            };
            let found = assess(&evidence);
            let risks: Vec<_> = found.findings.iter().map(|finding| finding.risk).collect();
            assert_eq!(risks, expected, "case {number}: {found:?}");
        }
    }

    #[test]
    fn the_highest_epoch_names_the_primary() {
        let now = start();
        let mut sentinels = [sentinel(11), sentinel(12), sentinel(13)];
        (seen(&mut sentinels[2]).primary, seen(&mut sentinels[2]).config_epoch) = (address(2), 4);
        let primary = |sentinels: &[SentinelView]| {
            let evidence = Evidence {
                sentinels,
                servers: &[],
                persists: None,
                now,
                patience: Duration::from_millis(500),
            };
            assess(&evidence).primary
        };
        assert_eq!(primary(&sentinels), Some(address(2)));
        // It cannot be asked any more: the others' word counts until they know better.
        sentinels[2].fault = Some("refused".to_owned());
        assert_eq!(primary(&sentinels), Some(address(1)));
        // Two primaries under one epoch: that is not for us to settle.
        seen(&mut sentinels[1]).primary = address(3);
        assert_eq!(primary(&sentinels), None);
    }

    #[test]
    fn the_choice_is_the_one_sentinel_would_make() {
        let now = start();
        let mut servers = [server(1, now), server(2, now), server(3, now), server(4, now)];
        servers[1].sample.as_mut().unwrap().priority = 0;
        servers[2].sample.as_mut().unwrap().offset = 4_000_000;
        let sentinels = [sentinel(11)];
        let evidence = Evidence {
            sentinels: &sentinels,
            servers: &servers,
            persists: None,
            now,
            patience: Duration::from_millis(500),
        };
        let found = assess(&evidence);
        assert_eq!((found.choice, found.choice_lacks_bytes), (Some(address(4)), Some(0)));
    }
}
