//! PROXY headers, as the balancer reads them.

use holdfast_balancer::proxy_protocol::{Version, needed, read, write};

/// Reads one as from a socket, and the ends it names once more after they were written.
pub fn run(input: &[u8]) {
    let mut length = 0;
    loop {
        match needed(&input[..length]) {
            Ok(0) => break,
            Ok(more) if length + more <= input.len() => length += more,
            Ok(_) | Err(_) => return,
        }
    }
    let Ok(Some(ends)) = read(&input[..length]) else { return };
    if ends.source.is_ipv4() != ends.destination.is_ipv4() {
        return;
    }
    for version in [Version::V1, Version::V2] {
        let written = write(version, Some(ends));
        assert_eq!(needed(&written).ok(), Some(0));
        assert_eq!(read(&written).ok(), Some(Some(ends)), "{version:?}");
    }
}
