//! Differences between payloads, in the format of the Fossil version control system, which the SDKs read.
//!
//! `<target length>\n`, then commands: `n@o,` copies n bytes from offset o of the source, `n:bytes` inserts bytes; at the end
//! `checksum;`, the sum of the target's big-endian 32-bit words. Numbers are written in base 64 with digits of their own.
//!
//! The source is cut into blocks of 16 bytes that are found by their content; a block found in the target is stretched both ways as
//! far as the bytes agree. Blocks are found through a hash table, so the time is linear in both lengths.
//! Only creating is here: the node never applies what a client computed.

use std::collections::HashMap;

/// Shorter repetitions cost about as much to copy as to insert.
const BLOCK: usize = 16;

/// Blocks with the same content that are tried for the longest match. Without a bound, repetitive payloads would cost quadratic time.
const CANDIDATES_MAX: usize = 8;

/// The delta that turns `source` into `target`, or `None` if it would not be smaller than `target`.
pub fn create(source: &[u8], target: &[u8]) -> Option<Vec<u8>> {
    let mut delta = Vec::with_capacity(target.len() / 2 + 16);
    number(&mut delta, target.len());
    delta.push(b'\n');
    let blocks = index(source);
    let mut done = 0;
    let mut at = 0;
    while at + BLOCK <= target.len() {
        let Some(copy) = longest(&blocks, source, target, at, done) else {
            at += 1;
            continue;
        };
        insert(&mut delta, &target[done..copy.target]);
        number(&mut delta, copy.length);
        delta.push(b'@');
        number(&mut delta, copy.source);
        delta.push(b',');
        done = copy.target + copy.length;
        at = done;
        if delta.len() >= target.len() {
            return None;
        }
    }
    insert(&mut delta, &target[done..]);
    number(&mut delta, checksum(target) as usize);
    delta.push(b';');
    (delta.len() < target.len()).then_some(delta)
}

struct Copy {
    source: usize,
    target: usize,
    length: usize,
}

/// Where each block of the source begins.
fn index(source: &[u8]) -> HashMap<&[u8], Vec<usize>> {
    let mut blocks: HashMap<&[u8], Vec<usize>> = HashMap::new();
    for (index, block) in source.chunks_exact(BLOCK).enumerate() {
        let places = blocks.entry(block).or_default();
        if places.len() < CANDIDATES_MAX {
            places.push(index * BLOCK);
        }
    }
    blocks
}

/// The longest copy that covers the block of the target at `at` and nothing before `done`.
fn longest(
    blocks: &HashMap<&[u8], Vec<usize>>,
    source: &[u8],
    target: &[u8],
    at: usize,
    done: usize,
) -> Option<Copy> {
    let candidates = blocks.get(&target[at..at + BLOCK])?;
    let copies = candidates.iter().map(|&place| {
        let before = same(source[..place].iter().rev(), target[done..at].iter().rev());
        let after = same(source[place..].iter(), target[at..].iter());
        Copy { source: place - before, target: at - before, length: before + after }
    });
    copies.max_by_key(|copy| copy.length)
}

fn same<'a>(a: impl Iterator<Item = &'a u8>, b: impl Iterator<Item = &'a u8>) -> usize {
    a.zip(b).take_while(|(a, b)| a == b).count()
}

fn insert(delta: &mut Vec<u8>, bytes: &[u8]) {
    if !bytes.is_empty() {
        number(delta, bytes.len());
        delta.push(b':');
        delta.extend_from_slice(bytes);
    }
}

/// A number in base 64, without leading zeros.
fn number(delta: &mut Vec<u8>, value: usize) {
    const DIGITS: &[u8; 64] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz~";
    let digits = (usize::BITS - value.leading_zeros()).div_ceil(6).max(1);
    for digit in (0..digits).rev() {
        delta.push(DIGITS[(value >> (digit * 6)) & 63]);
    }
}

/// The sum of big-endian 32-bit words, the last one filled up with zeros.
fn checksum(bytes: &[u8]) -> u32 {
    let words = bytes.chunks(4).map(|chunk| {
        let mut word = [0; 4];
        word[..chunk.len()].copy_from_slice(chunk);
        u32::from_be_bytes(word)
    });
    words.fold(0, u32::wrapping_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Applies a delta, by the format's description and not by the code above.
    fn apply(source: &[u8], delta: &[u8]) -> Vec<u8> {
        let (length, mut at) = digits(delta, 0);
        assert_eq!(delta[at], b'\n');
        at += 1;
        let mut target = Vec::new();
        loop {
            let (value, next) = digits(delta, at);
            at = next + 1;
            match delta[next] {
                b'@' => {
                    let (offset, end) = digits(delta, at);
                    assert_eq!(delta[end], b',');
                    target.extend_from_slice(&source[offset..offset + value]);
                    at = end + 1;
                }
                b':' => {
                    target.extend_from_slice(&delta[at..at + value]);
                    at += value;
                }
                b';' => {
                    assert_eq!((value, at), (checksum(&target) as usize, delta.len()));
                    assert_eq!(target.len(), length);
                    return target;
                }
                other => panic!("unexpected {other}"),
            }
        }
    }

    fn digits(delta: &[u8], mut at: usize) -> (usize, usize) {
        let mut value = 0;
        loop {
            let digit = match delta[at] {
                byte @ b'0'..=b'9' => byte - b'0',
                byte @ b'A'..=b'Z' => byte - b'A' + 10,
                b'_' => 36,
                byte @ b'a'..=b'z' => byte - b'a' + 37,
                b'~' => 63,
                _ => return (value, at),
            };
            value = value * 64 + usize::from(digit);
            at += 1;
        }
    }

    #[test]
    fn a_change_in_the_middle_costs_little() {
        let source = "The quick brown fox jumps over the lazy dog, and then it rests a while.";
        let target = source.replace("lazy", "very lazy").replace("while", "little while");
        let delta = create(source.as_bytes(), target.as_bytes()).unwrap();
        assert_eq!(apply(source.as_bytes(), &delta), target.as_bytes());
        assert!(delta.len() < 45, "{}", String::from_utf8_lossy(&delta));
    }

    #[test]
    fn the_format_is_that_of_fossil() {
        let source = b"0123456789abcdefghij";
        let delta = create(source, b"0123456789abcdefghijX").unwrap();
        assert_eq!(delta, b"L\nK@0,1:X2~R9YS;".as_slice());
        assert_eq!(apply(source, &delta), b"0123456789abcdefghijX");
    }

    #[test]
    fn a_delta_that_saves_nothing_is_none() {
        assert_eq!(create(b"", b"abc"), None);
        assert_eq!(create(b"abc", b""), None);
        assert_eq!(create(b"one thing here", b"another, all different"), None);
    }

    #[test]
    fn whatever_is_created_leads_back_to_the_target() {
        let mut random = fastrand::Rng::with_seed(5);
        let mut created = 0;
        for round in 0..2000 {
            let letters = if round % 2 == 0 { 2 } else { 200 };
            let source: Vec<u8> = (0..random.usize(..300)).map(|_| random.u8(..letters)).collect();
            let mut target = source.clone();
            for _ in 0..random.usize(..5) {
                let at = random.usize(..=target.len());
                let end = random.usize(at..=target.len().min(at + 20));
                let new: Vec<u8> = (0..random.usize(..20)).map(|_| random.u8(..letters)).collect();
                target.splice(at..end, new);
            }
            if let Some(delta) = create(&source, &target) {
                created += 1;
                assert_eq!(apply(&source, &delta), target, "{source:?}");
            }
        }
        assert!(created > 1000, "{created}");
    }
}
