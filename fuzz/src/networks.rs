//! Lists of networks, as operators and feeds write them.

use holdfast_balancer::limits::networks::{Networks, parse_list};

/// A set must hold the ends of each of its networks.
pub fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Ok(networks) = parse_list(text) else { return };
    let set: Networks = networks.iter().copied().collect();
    assert!(set.len() <= networks.len() && set.is_empty() == networks.is_empty());
    for net in networks {
        assert!(set.contains(net.network()) && set.contains(net.broadcast()), "{net}");
    }
}
