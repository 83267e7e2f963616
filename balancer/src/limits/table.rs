//! What is remembered of clients: a bounded number of them, in shards, so that two workers seldom wait for each other.
//!
//! A client is known by a number of 128 bits ([`subject`] for addresses). When a shard is full, a newcomer takes the place of somebody who
//! would not notice: an entry with nothing in it ([`Entry::worth`]). If there is none among those looked at, the one that loses least
//! goes and is counted, so that an operator sees when the table is too small. An entry that counts something open is never lost; where
//! there is nothing but those, the newcomer is not remembered, which is counted as well: better an attacker unlimited than a client
//! limited by another's count.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks; more than there are workers on most machines.
const SHARDS: usize = 32;
/// Entries looked at for a place. The hand goes on from where it stopped, so that all come to be looked at.
const LOOKED_AT: usize = 16;

/// What a table remembers of one client.
pub(crate) trait Entry: Default {
    /// What is lost with it at `now`: 0 if nobody would notice, `None` if it may not go.
    fn worth(&self, now: u64) -> Option<u64>;
}

/// Entries by client.
#[derive(Debug)]
pub(crate) struct Table<E> {
    shards: Box<[Mutex<Shard<E>>]>,
    entries_max: usize,
    evicted: AtomicU64,
    unknown: AtomicU64,
    seed: u64,
}

#[derive(Debug)]
struct Shard<E> {
    places: HashMap<u128, usize>,
    entries: Vec<(u128, E)>,
    hand: usize,
}

impl<E: Entry> Table<E> {
    /// For at most `entries_max` clients, or one per shard if that is more.
    pub(crate) fn new(entries_max: usize) -> Self {
        let shard = || Mutex::new(Shard { places: HashMap::new(), entries: Vec::new(), hand: 0 });
        Self {
            shards: (0..SHARDS).map(|_| shard()).collect(),
            entries_max: entries_max.div_ceil(SHARDS),
            evicted: AtomicU64::new(0),
            unknown: AtomicU64::new(0),
            // Nobody outside shall choose whom he shares a shard with.
            seed: fastrand::u64(..) | 1,
        }
    }

    /// Does something with the entry of `subject`, made if there is none; `None` if there is no room for it.
    pub(crate) fn with<T>(
        &self,
        subject: u128,
        now: u64,
        act: impl FnOnce(&mut E) -> T,
    ) -> Option<T> {
        let mut shard = self.shard(subject);
        let known = shard.places.get(&subject).copied();
        let place = if let Some(place) = known {
            place
        } else if let Some((place, lost)) = shard.make_room(subject, now, self.entries_max) {
            self.evicted.fetch_add(u64::from(lost), Ordering::Relaxed);
            place
        } else {
            self.unknown.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        Some(act(&mut shard.entries[place].1))
    }

    /// Does something with the entry of `subject`, if there is one.
    pub(crate) fn with_known<T>(&self, subject: u128, act: impl FnOnce(&mut E) -> T) -> Option<T> {
        let mut shard = self.shard(subject);
        let place = *shard.places.get(&subject)?;
        Some(act(&mut shard.entries[place].1))
    }

    /// Shows every entry to `look`, a shard at a time.
    pub(crate) fn each(&self, mut look: impl FnMut(u128, &mut E)) {
        for shard in &self.shards {
            for (subject, entry) in &mut lock(shard).entries {
                look(*subject, entry);
            }
        }
    }

    /// Clients remembered.
    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).entries.len()).sum()
    }

    /// Entries lost that had something in them, and clients that found no place, since this was last asked.
    pub(crate) fn take_losses(&self) -> (u64, u64) {
        (self.evicted.swap(0, Ordering::Relaxed), self.unknown.swap(0, Ordering::Relaxed))
    }

    #[expect(clippy::cast_possible_truncation, reason = "both halves are folded into one")]
    fn shard(&self, subject: u128) -> MutexGuard<'_, Shard<E>> {
        let folded = (subject >> 64) as u64 ^ (subject as u64).rotate_left(17);
        let mixed = folded.wrapping_mul(self.seed) >> 32;
        lock(&self.shards[mixed as usize % SHARDS])
    }
}

impl<E: Entry> Shard<E> {
    /// An empty entry for `subject`, and whether something was lost for it.
    fn make_room(&mut self, subject: u128, now: u64, entries_max: usize) -> Option<(usize, bool)> {
        let count = self.entries.len();
        let (place, lost) = if count < entries_max {
            self.entries.push((subject, E::default()));
            (count, false)
        } else {
            let mut least: Option<(u64, usize)> = None;
            for _ in 0..LOOKED_AT.min(count) {
                self.hand = (self.hand + 1) % count;
                let worth = self.entries[self.hand].1.worth(now);
                if let Some(worth) = worth
                    && least.is_none_or(|(least, _)| worth < least)
                {
                    least = Some((worth, self.hand));
                }
                if worth == Some(0) {
                    break;
                }
            }
            let (worth, place) = least?;
            let old = std::mem::replace(&mut self.entries[place], (subject, E::default()));
            self.places.remove(&old.0);
            (place, worth > 0)
        };
        self.places.insert(subject, place);
        Some((place, lost))
    }
}

/// Entries are changed in one step each, so a panic leaves nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// By what number a client is known: its IPv4 address, or the first `prefix` bits of its IPv6 address, as whoever has one address of a
/// network has them all.
pub(crate) fn subject(address: IpAddr, prefix: u8) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => {
            let host_bits = 128 - u32::from(prefix.min(128));
            address.to_bits() & u128::MAX.checked_shl(host_bits).unwrap_or(0)
        }
    }
}

/// The address a [`subject`] stands for; the first one of an IPv6 network.
pub(crate) fn address(subject: u128) -> IpAddr {
    IpAddr::from(subject.to_be_bytes()).to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, PartialEq)]
    struct Mark {
        until: u64,
        open: u32,
    }

    impl Entry for Mark {
        fn worth(&self, now: u64) -> Option<u64> {
            (self.open == 0).then(|| self.until.saturating_sub(now))
        }
    }

    #[test]
    fn memory_is_bounded_and_what_is_lost_is_told() {
        let table: Table<Mark> = Table::new(1_000);
        let bound = 1_000_usize.div_ceil(SHARDS) * SHARDS;
        for subject in 0..10_000 {
            table.with(subject, 0, |mark| mark.until = 5);
        }
        assert!(table.len() <= bound);
        let (evicted, unknown) = table.take_losses();
        assert_eq!((evicted, unknown), (10_000 - table.len() as u64, 0));
        // Once they are spent, nobody notices that they go.
        for subject in 10_000..20_000 {
            table.with(subject, 6, |_| {});
        }
        assert!(table.len() <= bound);
        assert_eq!(table.take_losses(), (0, 0));
    }

    #[test]
    fn what_is_open_is_never_lost() {
        let table: Table<Mark> = Table::new(SHARDS * 4);
        let kept: Vec<u128> =
            (0..10_000).filter(|s| table.with(*s, 0, |mark| mark.open = 1).is_some()).collect();
        assert_eq!(kept.len(), SHARDS * 4);
        assert_eq!(table.take_losses(), (0, 10_000 - kept.len() as u64));
        for subject in &kept {
            assert_eq!(table.with_known(*subject, |mark| mark.open), Some(1));
            table.with_known(*subject, |mark| mark.open = 0);
        }
        assert!(table.with(10_000, 0, |_| {}).is_some());
    }

    #[test]
    fn an_ipv6_client_is_its_network() {
        let of = |text: &str| subject(text.parse().unwrap(), 64);
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:0:0:2"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
        assert_eq!(address(of("192.0.2.1")).to_string(), "192.0.2.1");
        assert_eq!(address(of("2001:db8::1")).to_string(), "2001:db8::");
        assert_eq!(subject("2001:db8::1".parse().unwrap(), 0), 0);
    }
}
