//! Free ports on loopback for programs that are told where to listen, and that nobody else takes before they do.
//!
//! Asking the kernel for any port and letting go of it again is a race: the kernel gives the same port to the next who asks, and to outgoing
//! connections. Three rules make it none:
//! - Ports come from below the range from which the kernel takes local ports by itself.
//! - Whoever takes one by this crate says so to all others by a datagram socket of that name in Linux' abstract namespace. A name is bound
//!   once in a network namespace, which is how far ports reach, and let go by the kernel when its process ends, however that ends.
//! - A port that answers to `bind` with an error is passed over: somebody who knows nothing of this has it.
//!
//! Lock files were rejected: they need a folder that all users may write to, and stay.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::{Mutex, PoisonError};

/// Below Linux' default `ip_local_port_range`, above what daemons of a distribution use.
pub const RANGE: Range<u16> = 20_000..32_000;

/// Processes begin to look this far apart, so that a port rests a while before another process has it.
const STRIDE: u32 = 97;

/// What this process has taken, with the sockets that say so.
static TAKEN: Mutex<BTreeMap<u16, UnixDatagram>> = Mutex::new(BTreeMap::new());

/// A port on 127.0.0.1 that is this process' own until it ends, to listen on or to give to a program it starts.
///
/// # Errors
/// All are taken.
pub fn take() -> io::Result<u16> {
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    // After those it has, which come first.
    let begin = usize::try_from(std::process::id().wrapping_mul(STRIDE)).unwrap_or_default();
    for port in RANGE.cycle().skip(begin % RANGE.len()).take(RANGE.len()) {
        if taken.contains_key(&port) {
            continue;
        }
        let name = SocketAddr::from_abstract_name(format!("holdfast-port-{port}"))?;
        let Ok(claim) = UnixDatagram::bind_addr(&name) else { continue };
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            taken.insert(port, claim);
            return Ok(port);
        }
    }
    Err(io::Error::new(io::ErrorKind::AddrInUse, format!("no port of {RANGE:?} is free")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_gets_a_port_twice() {
        let mut ports: Vec<u16> = (0..100).map(|_| take().unwrap()).collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 100);
        assert!(ports.iter().all(|port| RANGE.contains(port)), "{ports:?}");
    }

    #[test]
    fn a_port_that_is_taken_is_known_to_be() {
        let port = take().unwrap();
        let name = SocketAddr::from_abstract_name(format!("holdfast-port-{port}")).unwrap();
        let error = UnixDatagram::bind_addr(&name).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn a_port_in_use_is_passed_over() {
        let next = take().unwrap() + 1;
        let Ok(_used) = TcpListener::bind((Ipv4Addr::LOCALHOST, next)) else { return };
        assert_ne!(take().unwrap(), next);
    }
}
