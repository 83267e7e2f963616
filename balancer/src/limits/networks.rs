//! A list of networks that may be long, and whether an address is in one of them.
//!
//! Lists of tens of thousands of networks are common (countries, data centres, feeds of known attackers), and the question is asked for
//! every connection. So a list is turned once into ranges of addresses, sorted and without overlap, and asked by binary search: 16
//! comparisons for 50,000 networks. A trie was rejected: quicker by a little, and several times the memory.

use std::net::IpAddr;

use ipnet::IpNet;

/// Networks of one list; more is a mistake or belongs into a firewall.
pub const NETWORKS_MAX: usize = 200_000;

/// Addresses as numbers; IPv4 as the part of IPv6 that maps it.
fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// A set of addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Networks {
    /// First and last address of each range, ascending, never touching.
    ranges: Box<[(u128, u128)]>,
}

impl Networks {
    /// Whether `address` is in one of them.
    pub fn contains(&self, address: IpAddr) -> bool {
        let number = number(address);
        let after = self.ranges.partition_point(|(first, _)| *first <= number);
        after > 0 && number <= self.ranges[after - 1].1
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// How many ranges they make up.
    pub fn len(&self) -> usize {
        self.ranges.len()
    }
}

impl FromIterator<IpNet> for Networks {
    fn from_iter<I: IntoIterator<Item = IpNet>>(networks: I) -> Self {
        let ends = |net: IpNet| (number(net.network()), number(net.broadcast()));
        let mut ranges: Vec<_> = networks.into_iter().map(ends).collect();
        ranges.sort_unstable();
        ranges.dedup_by(|next, kept| {
            let joins = next.0 <= kept.1.saturating_add(1);
            if joins {
                kept.1 = kept.1.max(next.1);
            }
            joins
        });
        Self { ranges: ranges.into() }
    }
}

/// An address or network as an operator writes it.
pub fn parse(text: &str) -> Option<IpNet> {
    text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).ok()
}

/// The networks of a file's `text`: one a line, with empty lines and what follows a `#` left out.
///
/// # Errors
/// The number of the first line that is none, and what it says; or the one with which there are more than [`NETWORKS_MAX`].
pub fn parse_list(text: &str) -> Result<Vec<IpNet>, (usize, String)> {
    let mut networks = Vec::new();
    for (i, line) in text.lines().enumerate() {
        let entry = line.split('#').next().unwrap_or_default().trim();
        if entry.is_empty() {
            continue;
        }
        if networks.len() == NETWORKS_MAX {
            return Err((i + 1, format!("more than {NETWORKS_MAX} networks")));
        }
        let net = parse(entry).ok_or_else(|| {
            let shown: String = entry.chars().take(60).collect();
            (i + 1, format!("expected an address or network, found {shown:?}"))
        })?;
        networks.push(net);
    }
    Ok(networks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_answers_as_its_networks_do_one_by_one() {
        let mut random = fastrand::Rng::with_seed(6);
        let networks: Vec<IpNet> = (0..500)
            .map(|i| {
                // Close together, so that they touch, overlap and contain each other.
                if i % 3 == 0 {
                    let bits = 0x2001_0db8_u128 << 96 | u128::from(random.u16(..)) << 64;
                    IpNet::new(IpAddr::from(bits.to_be_bytes()), random.u8(40..=128)).unwrap()
                } else {
                    let bits = 0x0a00_0000 | random.u32(..1 << 16);
                    IpNet::new(IpAddr::from(bits.to_be_bytes()), random.u8(18..=32)).unwrap()
                }
            })
            .collect();
        let set: Networks = networks.iter().copied().collect();
        assert!(set.len() < networks.len());
        let mut inside = 0;
        for i in 0..20_000 {
            let address = if i % 2 == 0 {
                IpAddr::from((0x0a00_0000 | random.u32(..1 << 17)).to_be_bytes())
            } else {
                let bits = 0x2001_0db8_u128 << 96 | u128::from(random.u32(..1 << 17)) << 64;
                IpAddr::from((bits | u128::from(random.u8(..))).to_be_bytes())
            };
            let one_by_one = networks.iter().any(|net| net.contains(&address));
            assert_eq!(set.contains(address), one_by_one, "{address}");
            inside += usize::from(one_by_one);
        }
        assert!((1_000..19_000).contains(&inside), "{inside}");
    }

    #[test]
    fn everything_and_nothing() {
        let all: Networks = ["0.0.0.0/0", "::/0"].into_iter().filter_map(parse).collect();
        assert_eq!(all.len(), 1);
        assert!(all.contains("255.255.255.255".parse().unwrap()));
        assert!(!Networks::default().contains("10.0.0.1".parse().unwrap()));
    }

    #[test]
    fn a_file_has_comments_and_names_its_first_fault() {
        let read = parse_list("# office\n10.0.0.0/8\n\n  192.0.2.1 # gateway\n2001:db8::/32\r\n");
        assert_eq!(read.unwrap().len(), 3);
        let (line, text) = parse_list("10.0.0.0/8\n10.0.0.0/33\n").unwrap_err();
        assert_eq!(line, 2);
        assert!(text.contains("10.0.0.0/33"), "{text}");
    }
}
