//! Clients that are not served for a while because of what they did.
//!
//! A client that offends more often than allowed is banned, twice as long each time, until it has behaved for as long as the longest
//! ban lasts. Operators ban and pardon by hand. Clients are known by their address; who comes through a trusted proxy that
//! speaks for many is known by what that proxy says, and a proxy itself is never banned.
//!
//! As long as nobody is banned, the question costs one load.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::networks::Networks;
use super::rate::Rate;
use super::table::{self, Entry, Table};
use crate::metrics::BanMetrics;

pub(crate) use crate::metrics::Offence;

/// Offenders remembered; at 80 bytes each, 5 MiB. Whoever is not remembered is not banned.
const OFFENDERS_MAX: usize = 65_536;
/// How often a ban may double: beyond, it is as long as it gets.
const LEVEL_MAX: u8 = 30;

/// When clients are banned, and for how long.
#[derive(Debug, Clone, PartialEq)]
pub struct BanRules {
    /// Whether bans are only listed and counted.
    pub observe: bool,
    /// Offences that are let pass.
    pub offences: Rate,
    /// The first ban of a client.
    pub first: Duration,
    /// The longest.
    pub longest: Duration,
    /// Never banned.
    pub exempt: Networks,
    /// Bits of an IPv6 address that make a client.
    pub ipv6_prefix: u8,
}

/// One offender.
#[derive(Debug, Default)]
struct Offender {
    /// When its bucket of offences is full again.
    full: u64,
    /// Banned before this.
    until: u64,
    /// Its record is kept until then.
    remembered: u64,
    /// Bans so far.
    level: u8,
    offence: Option<Offence>,
}

impl Offender {
    /// Its ban, if it is banned.
    fn ban(&self, subject: u128, now: u64) -> Option<Ban> {
        let left = self.until.checked_sub(now).filter(|left| *left > 0)?;
        Some(Ban {
            address: table::address(subject),
            offence: self.offence?,
            left: Duration::from_nanos(left),
            times: self.level,
            remembered: Duration::from_nanos(self.remembered.saturating_sub(now)),
        })
    }
}

impl Entry for Offender {
    fn worth(&self, now: u64) -> Option<u64> {
        if self.offence == Some(Offence::Operator) && self.until > now {
            return None;
        }
        let banned = self.until.saturating_sub(now);
        // A ban in force goes last.
        let record = self.full.max(self.remembered).saturating_sub(now);
        Some(if banned > 0 { u64::MAX / 2 + banned.min(u64::MAX / 4) } else { record })
    }
}

/// A ban in force, as operators see it and another process takes it over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ban {
    /// The client; the first address of an IPv6 network.
    pub(crate) address: IpAddr,
    pub(crate) offence: Offence,
    /// Time left.
    pub(crate) left: Duration,
    /// How often it was banned, this time included.
    pub(crate) times: u8,
    /// For how long that is not forgotten.
    pub(crate) remembered: Duration,
}

/// Every ban. Times are nanoseconds since the process began.
#[derive(Debug)]
pub(crate) struct Bans {
    /// Without any, only operators ban.
    rules: RwLock<Option<Arc<BanRules>>>,
    offenders: Table<Offender>,
    /// When the last ban in force ends; 0 without one.
    latest: AtomicU64,
    metrics: BanMetrics,
}

impl Bans {
    pub(crate) fn new(rules: Option<BanRules>, metrics: BanMetrics) -> Self {
        Self {
            rules: RwLock::new(rules.map(Arc::new)),
            offenders: Table::new(OFFENDERS_MAX),
            latest: AtomicU64::new(0),
            metrics,
        }
    }

    /// Puts other rules in force; bans stay.
    pub(crate) fn set_rules(&self, rules: Option<BanRules>) {
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = rules.map(Arc::new);
    }

    /// Whether anybody may be banned; false costs next to nothing.
    pub(crate) fn any(&self) -> bool {
        self.latest.load(Ordering::Relaxed) > 0
    }

    /// Whether `client` is banned, and whether that is only to be noted.
    pub(crate) fn find(&self, client: IpAddr, now: u64) -> Option<Enforced> {
        if self.latest.load(Ordering::Relaxed) <= now {
            return None;
        }
        let rules = self.rules();
        let observe = rules.as_ref().is_some_and(|rules| rules.observe);
        let find = |offender: &mut Offender| {
            (offender.until > now).then(|| offender.offence != Some(Offence::Operator) && observe)
        };
        let noted = self.offenders.with_known(subject(client, rules.as_deref()), find)??;
        Some(if noted { Enforced::Noted } else { Enforced::Fully })
    }

    /// Notes an offence of `client`; the length of its ban, if that was one too many.
    pub(crate) fn offend(&self, client: IpAddr, offence: Offence, now: u64) -> Option<Duration> {
        let rules = self.rules()?;
        self.metrics.offence(offence);
        if rules.exempt.contains(client) {
            return None;
        }
        let banned = self.offenders.with(subject(client, Some(&rules)), now, |offender| {
            if offender.until > now {
                return None;
            }
            if let Ok(full) = rules.offences.take(offender.full, now) {
                offender.full = full;
                return None;
            }
            if offender.remembered <= now {
                offender.level = 0;
            }
            let factor = 1_u32.checked_shl(u32::from(offender.level)).unwrap_or(u32::MAX);
            let time = rules.first.saturating_mul(factor).min(rules.longest);
            offender.level = (offender.level + 1).min(LEVEL_MAX);
            offender.until = now.saturating_add(nanoseconds(time));
            offender.remembered = offender.until.saturating_add(nanoseconds(rules.longest));
            offender.offence = Some(offence);
            // It starts afresh afterwards.
            offender.full = 0;
            Some((time, offender.until))
        });
        let (time, until) = banned??;
        self.latest.fetch_max(until, Ordering::Relaxed);
        self.metrics.ban(offence);
        Some(time)
    }

    /// Bans `client` by an operator's will, in place of any ban it has. `None` if there are too many.
    pub(crate) fn add(&self, client: IpAddr, time: Duration, now: u64) -> Option<Ban> {
        let until = now.saturating_add(nanoseconds(time));
        let number = self.subject(client);
        let ban = self.offenders.with(number, now, |offender| {
            offender.until = until;
            offender.remembered = offender.remembered.max(until);
            offender.level = (offender.level + 1).min(LEVEL_MAX);
            offender.offence = Some(Offence::Operator);
            offender.ban(number, now)
        })?;
        self.latest.fetch_max(until, Ordering::Relaxed);
        self.metrics.ban(Offence::Operator);
        ban
    }

    /// Takes over the bans of another process. Whoever finds no place in the table is not banned.
    pub(crate) fn adopt(&self, bans: &[Ban], now: u64) {
        for ban in bans {
            let until = now.saturating_add(nanoseconds(ban.left));
            let known = self.offenders.with(self.subject(ban.address), now, |offender| {
                offender.until = until;
                offender.remembered = now.saturating_add(nanoseconds(ban.remembered));
                offender.level = ban.times.min(LEVEL_MAX);
                offender.offence = Some(ban.offence);
            });
            if known.is_some() {
                self.latest.fetch_max(until, Ordering::Relaxed);
            }
        }
    }

    /// Ends the ban of `client` and forgets what it did. False if it has none.
    pub(crate) fn lift(&self, client: IpAddr, now: u64) -> bool {
        let lift = |offender: &mut Offender| {
            let banned = offender.until > now;
            *offender = Offender::default();
            banned
        };
        self.offenders.with_known(self.subject(client), lift).unwrap_or(false)
    }

    /// The first `count` bans in force, the longest left first, and how many there are.
    pub(crate) fn list(&self, now: u64, count: usize) -> (Vec<Ban>, usize) {
        let mut bans = Vec::new();
        self.offenders.each(|subject, offender| bans.extend(offender.ban(subject, now)));
        let total = bans.len();
        bans.sort_by_key(|ban| std::cmp::Reverse(ban.left));
        bans.truncate(count);
        (bans, total)
    }

    /// Brings the figures up to date.
    pub(crate) fn tick(&self, now: u64) {
        let latest = self.latest.load(Ordering::Relaxed);
        if latest > 0 && latest <= now {
            // A ban that began meanwhile is not lost: the exchange fails then.
            let gone =
                self.latest.compare_exchange(latest, 0, Ordering::Relaxed, Ordering::Relaxed);
            tracing::debug!(ended = gone.is_ok(), "the last ban is over");
        }
        let total = if self.any() { self.list(now, 0).1 } else { 0 };
        self.metrics.in_force(total);
        let (evicted, unknown) = self.offenders.take_losses();
        self.metrics.lost(evicted + unknown);
    }

    /// The number under which `client` is known.
    fn subject(&self, client: IpAddr) -> u128 {
        subject(client, self.rules().as_deref())
    }

    fn rules(&self) -> Option<Arc<BanRules>> {
        self.rules.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// How a ban is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Enforced {
    /// The client is not served.
    Fully,
    /// It is served and counted.
    Noted,
}

/// Bits of an IPv6 address that make a client, where nothing else is set: what a household gets.
pub(crate) const IPV6_PREFIX: u8 = 64;

fn subject(client: IpAddr, rules: Option<&BanRules>) -> u128 {
    table::subject(client, rules.map_or(IPV6_PREFIX, |rules| rules.ipv6_prefix))
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use holdfast_telemetry::metrics::registry;

    use super::*;
    use crate::metrics::Metrics;

    const SECOND: u64 = 1_000_000_000;

    fn rules() -> BanRules {
        BanRules {
            observe: false,
            offences: Rate::within(3, Duration::from_secs(30)),
            first: Duration::from_secs(10),
            longest: Duration::from_mins(1),
            exempt: ["192.0.2.0/24".parse().unwrap()].into_iter().collect(),
            ipv6_prefix: 64,
        }
    }

    fn bans(rules: Option<BanRules>) -> Bans {
        Bans::new(rules, Metrics::register(&registry("balancer", "0")).limits.bans())
    }

    fn client(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// Offends until banned at `now`: after how many, and for how long.
    fn provoke(bans: &Bans, client: IpAddr, now: u64) -> (u32, Duration) {
        (1..=100)
            .find_map(|n| bans.offend(client, Offence::BadRequest, now).map(|time| (n, time)))
            .expect("a ban")
    }

    #[test]
    fn bans_grow_and_are_forgotten() {
        let (bans, client) = (bans(Some(rules())), client("198.51.100.7"));
        assert!(!bans.any() && bans.find(client, SECOND).is_none());
        let mut now = SECOND;
        for seconds in [10, 20, 40, 60, 60] {
            let time = Duration::from_secs(seconds);
            assert_eq!(provoke(&bans, client, now), (4, time));
            assert_eq!(bans.find(client, now), Some(Enforced::Fully));
            assert_eq!(bans.offend(client, Offence::BadRequest, now), None, "banned already");
            now += seconds * SECOND;
            assert_eq!(bans.find(client, now), None);
        }
        now += 60 * SECOND;
        assert_eq!(provoke(&bans, client, now), (4, Duration::from_secs(10)));
    }

    #[test]
    fn whoever_is_exempt_or_rarely_offends_is_served() {
        let bans = bans(Some(rules()));
        for n in 0..100 {
            let now = n * 11 * SECOND;
            assert_eq!(bans.offend(client("198.51.100.7"), Offence::HeaderTimeout, now), None);
            assert_eq!(bans.offend(client("192.0.2.7"), Offence::HeaderTimeout, SECOND), None);
        }
        assert!(!bans.any());
    }

    #[test]
    fn operators_ban_and_pardon_without_rules() {
        let bans = bans(None);
        let (v6, v4) = (client("2001:db8::1"), client("203.0.113.9"));
        assert_eq!(bans.offend(v4, Offence::BadRequest, 0), None, "automatic bans are off");
        assert!(bans.add(v6, Duration::from_hours(1), SECOND).is_some());
        assert!(bans.add(v4, Duration::from_mins(1), SECOND).is_some());
        assert_eq!(bans.find(client("2001:db8::ffff"), SECOND), Some(Enforced::Fully));
        let (list, total) = bans.list(SECOND, 1);
        assert_eq!(
            (total, list[0].address, list[0].offence),
            (2, client("2001:db8::"), Offence::Operator)
        );
        assert!(bans.lift(v6, SECOND) && !bans.lift(v6, SECOND));
        assert_eq!(bans.find(v6, SECOND), None);
        bans.tick(62 * SECOND);
        assert!(bans.any(), "the pardoned ban had the latest end");
        bans.tick(3_700 * SECOND);
        assert!(!bans.any());
    }

    #[test]
    fn another_process_goes_on_with_the_bans() {
        let (before, after) = (bans(Some(rules())), bans(Some(rules())));
        let (offender, other) = (client("198.51.100.7"), client("2001:db8::1"));
        for now in [SECOND, 12 * SECOND] {
            provoke(&before, offender, now);
        }
        assert!(before.add(other, Duration::from_hours(1), 12 * SECOND).is_some());
        let (list, total) = before.list(14 * SECOND, usize::MAX);
        let told = serde_json::to_string(&list).unwrap();
        // Its clock has begun later.
        after.adopt(&serde_json::from_str::<Vec<Ban>>(&told).unwrap(), 3 * SECOND);
        assert_eq!((after.list(3 * SECOND, usize::MAX), total), ((list, 2), 2));
        assert_eq!(after.find(offender, 20 * SECOND), Some(Enforced::Fully));
        assert_eq!(after.find(offender, 21 * SECOND), None, "the second ban was for 20 s");
        assert_eq!(provoke(&after, offender, 22 * SECOND), (4, Duration::from_secs(40)));
        assert_eq!(after.find(client("2001:db8::2"), 3_590 * SECOND), Some(Enforced::Fully));
    }

    #[test]
    fn a_ban_may_only_be_noted() {
        let bans = bans(Some(BanRules { observe: true, ..rules() }));
        let offender = client("198.51.100.7");
        provoke(&bans, offender, 0);
        assert_eq!(bans.find(offender, 1), Some(Enforced::Noted));
        assert!(bans.add(offender, Duration::from_secs(5), 0).is_some());
        assert_eq!(bans.find(offender, 1), Some(Enforced::Fully), "an operator means it");
    }
}
