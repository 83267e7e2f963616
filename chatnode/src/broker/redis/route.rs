//! Which server a channel or record lives on.
//!
//! With several independent servers by jump consistent hashing (Lamping and Veach, 2014): no table, and one more server takes over only
//! its share of the names. Adding one still moves that share, whose history stays behind on the old server: clients of those channels
//! are told that they cannot recover.

/// The share of one server.
#[derive(Debug, Clone)]
pub(super) struct Route {
    /// Its number, from 0.
    pub(super) index: usize,
    /// How many there are.
    pub(super) count: usize,
}

impl Route {
    /// Whether what has this name lives here.
    pub(super) fn is_ours(&self, name: &str) -> bool {
        index(name, self.count) == self.index
    }
}

/// The number of the server among `count` that `name` lives on.
pub(super) fn index(name: &str, count: usize) -> usize {
    if count == 1 { 0 } else { jump(fnv1a(name), count) }
}

/// A hash that stays the same over versions and machines, as the choice must.
fn fnv1a(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the algorithm's own arithmetic: the result is below `count`"
)]
fn jump(mut key: u64, count: usize) -> usize {
    let (mut bucket, mut next) = (0, 0_u64);
    while next < count as u64 {
        bucket = next;
        key = key.wrapping_mul(2_862_933_555_777_941_757).wrapping_add(1);
        let scale = f64::from(1_u32 << 31) / ((key >> 33) + 1) as f64;
        next = ((bucket + 1) as f64 * scale) as u64;
    }
    bucket as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_spread_evenly_and_few_move() {
        let names: Vec<String> = (0..10_000).map(|n| format!("room:{n}")).collect();
        let share = |count| {
            let mut shares = vec![0_usize; count];
            for name in &names {
                shares[index(name, count)] += 1;
            }
            shares
        };
        for count in [1, 3, 10] {
            let expected = 10_000 / count;
            assert!(share(count).iter().all(|n| n.abs_diff(expected) < expected / 5), "{count}");
        }
        let moved = names.iter().filter(|name| index(name, 4) != index(name, 5)).count();
        assert!((1500..2500).contains(&moved), "{moved} of 10000 for one more server of five");
        assert!(names.iter().all(|name| [index(name, 4), 4].contains(&index(name, 5))));
    }
}
