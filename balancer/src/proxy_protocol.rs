//! The PROXY protocol, versions 1 and 2: who the client is, said before its first byte (the specification is HAProxy's
//! `doc/proxy-protocol.txt`).
//!
//! Pure: bytes in, addresses out, and the other way. A header is read without touching what follows it, because that may be a TLS
//! handshake: [`needed`] says how much to read next. Only TCP over IPv4 and IPv6 is taken over; for anything else (`LOCAL`, `UNKNOWN`,
//! UNIX sockets) the connection's own address stands, as the specification asks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::message::Malformed;

/// What version 2 begins with.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Bytes of version 2 before the addresses.
const FIXED_BYTES: usize = 16;
/// The longest line of version 1 (specification, 2.1).
const LINE_BYTES_MAX: usize = 107;
/// Addresses and extensions of version 2 that are read; certificates' names are the longest in use.
const REST_BYTES_MAX: usize = 4_096;

/// Which version is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Version {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// The ends of the client's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// The client.
    pub source: SocketAddr,
    /// What it connected to.
    pub destination: SocketAddr,
}

/// How many more bytes belong to the header that `bytes` begin, as far as they tell; 0 when it is complete.
///
/// # Errors
/// It is no header.
pub fn needed(bytes: &[u8]) -> Result<usize, Malformed> {
    let known = bytes.len().min(SIGNATURE.len());
    if bytes.len() < SIGNATURE.len() {
        return Ok(SIGNATURE.len() - known);
    }
    if bytes.starts_with(SIGNATURE) {
        let Some(length) = bytes.get(14..FIXED_BYTES) else { return Ok(FIXED_BYTES - bytes.len()) };
        let rest = usize::from(u16::from_be_bytes([length[0], length[1]]));
        if rest > REST_BYTES_MAX {
            return Err(Malformed("the PROXY header is too long"));
        }
        return Ok((FIXED_BYTES + rest).saturating_sub(bytes.len()));
    }
    if !bytes.starts_with(b"PROXY ") {
        return Err(Malformed("there is no PROXY header"));
    }
    if bytes.ends_with(b"\n") {
        return Ok(0);
    }
    // A byte at a time: the line's length is not known, and what follows it is not ours.
    if bytes.len() < LINE_BYTES_MAX { Ok(1) } else { Err(Malformed("the PROXY line is too long")) }
}

/// The ends a complete header names; `None` if the connection's own count.
///
/// # Errors
/// It breaks the rules.
pub fn read(header: &[u8]) -> Result<Option<Ends>, Malformed> {
    match header.strip_prefix(SIGNATURE) {
        Some(binary) => read_binary(binary),
        None => read_line(header),
    }
}

fn read_line(line: &[u8]) -> Result<Option<Ends>, Malformed> {
    const BAD: Malformed = Malformed("bad PROXY line");
    let text = std::str::from_utf8(line).map_err(|_| BAD)?;
    let text = text.strip_suffix("\r\n").ok_or(BAD)?;
    let mut words = text.split(' ').skip(1);
    let family = words.next();
    if family == Some("UNKNOWN") {
        return Ok(None);
    }
    let mut address = || -> Option<IpAddr> { words.next()?.parse().ok() };
    let (source, destination) = (address().ok_or(BAD)?, address().ok_or(BAD)?);
    let mut port = || -> Option<u16> { words.next()?.parse().ok() };
    let (source_port, destination_port) = (port().ok_or(BAD)?, port().ok_or(BAD)?);
    let right = match family {
        Some("TCP4") => source.is_ipv4() && destination.is_ipv4(),
        Some("TCP6") => source.is_ipv6() && destination.is_ipv6(),
        _ => false,
    };
    if !right || words.next().is_some() {
        return Err(BAD);
    }
    Ok(Some(Ends {
        source: (source, source_port).into(),
        destination: (destination, destination_port).into(),
    }))
}

fn read_binary(rest: &[u8]) -> Result<Option<Ends>, Malformed> {
    const SHORT: Malformed = Malformed("the PROXY header is too short for its addresses");
    let (fixed, rest) = rest.split_first_chunk::<4>().ok_or(SHORT)?;
    match fixed[0] {
        // LOCAL: the proxy speaks for itself, as in health checks.
        0x20 => return Ok(None),
        0x21 => {}
        _ => return Err(Malformed("bad version or command in the PROXY header")),
    }
    let port = |bytes: &[u8]| u16::from_be_bytes([bytes[0], bytes[1]]);
    match fixed[1] {
        0x11 => {
            let (block, _) = rest.split_first_chunk::<12>().ok_or(SHORT)?;
            let ip =
                |at: usize| Ipv4Addr::new(block[at], block[at + 1], block[at + 2], block[at + 3]);
            Ok(Some(Ends {
                source: (ip(0), port(&block[8..])).into(),
                destination: (ip(4), port(&block[10..])).into(),
            }))
        }
        0x21 => {
            let (block, _) = rest.split_first_chunk::<36>().ok_or(SHORT)?;
            let ip = |at: usize| {
                let mut octets = [0; 16];
                octets.copy_from_slice(&block[at..at + 16]);
                Ipv6Addr::from(octets)
            };
            Ok(Some(Ends {
                source: (ip(0), port(&block[32..])).into(),
                destination: (ip(16), port(&block[34..])).into(),
            }))
        }
        _ => Ok(None),
    }
}

/// A header for a connection between `ends`, or for one of our own.
pub fn write(version: Version, ends: Option<Ends>) -> Vec<u8> {
    match version {
        Version::V1 => write_line(ends).into_bytes(),
        Version::V2 => write_binary(ends),
    }
}

fn write_line(ends: Option<Ends>) -> String {
    let Some(Ends { source, destination }) = ends.map(alike) else {
        return "PROXY UNKNOWN\r\n".to_owned();
    };
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (source.ip(), destination.ip());
    format!("PROXY {family} {from} {to} {} {}\r\n", source.port(), destination.port())
}

fn write_binary(ends: Option<Ends>) -> Vec<u8> {
    let mut header = SIGNATURE.to_vec();
    let Some(Ends { source, destination }) = ends.map(alike) else {
        header.extend_from_slice(&[0x20, 0, 0, 0]);
        return header;
    };
    match (source.ip(), destination.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            header.extend_from_slice(&[0x21, 0x11, 0, 12]);
            header.extend_from_slice(&from.octets());
            header.extend_from_slice(&to.octets());
        }
        (from, to) => {
            header.extend_from_slice(&[0x21, 0x21, 0, 36]);
            header.extend_from_slice(&as_v6(from).octets());
            header.extend_from_slice(&as_v6(to).octets());
        }
    }
    header.extend_from_slice(&source.port().to_be_bytes());
    header.extend_from_slice(&destination.port().to_be_bytes());
    header
}

/// Both ends in one family: IPv4 where both are, even if a dual-stack socket says it in IPv6.
fn alike(ends: Ends) -> Ends {
    let plain = |end: SocketAddr| SocketAddr::new(end.ip().to_canonical(), end.port());
    let (source, destination) = (plain(ends.source), plain(ends.destination));
    if source.is_ipv4() == destination.is_ipv4() {
        return Ends { source, destination };
    }
    let wide = |end: SocketAddr| SocketAddr::new(as_v6(end.ip()).into(), end.port());
    Ends { source: wide(source), destination: wide(destination) }
}

fn as_v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads the front of `bytes` as a connection would: what is needed and not a byte more.
    fn receive(bytes: &[u8]) -> Result<(usize, Option<Ends>), Malformed> {
        let mut at = 0;
        loop {
            match needed(&bytes[..at])? {
                0 => return Ok((at, read(&bytes[..at])?)),
                more => at += more,
            }
            assert!(at <= bytes.len(), "asked for more than there is");
        }
    }

    fn ends(source: &str, destination: &str) -> Ends {
        Ends { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
    }

    #[test]
    fn what_is_written_is_read_and_nothing_behind_it() {
        for (written, seen) in [
            (None, None),
            (
                Some(ends("203.0.113.7:4711", "10.0.0.1:443")),
                Some(ends("203.0.113.7:4711", "10.0.0.1:443")),
            ),
            (
                Some(ends("[2001:db8::5]:1", "[2001:db8::1]:65535")),
                Some(ends("[2001:db8::5]:1", "[2001:db8::1]:65535")),
            ),
            (
                Some(ends("[::ffff:203.0.113.7]:1", "10.0.0.1:2")),
                Some(ends("203.0.113.7:1", "10.0.0.1:2")),
            ),
        ] {
            for version in [Version::V1, Version::V2] {
                let mut bytes = write(version, written);
                let length = bytes.len();
                bytes.extend_from_slice(b"GET / HTTP/1.1\r\n");
                assert_eq!(receive(&bytes), Ok((length, seen)), "{version:?} {written:?}");
            }
        }
    }

    #[test]
    fn extensions_are_skipped_and_other_families_have_no_address() {
        let mut header = write(Version::V2, Some(ends("203.0.113.7:4711", "10.0.0.1:443")));
        header[15] += 7;
        header.extend_from_slice(&[0x04, 0, 4, 0, 0, 0, 0]);
        let (length, seen) = receive(&header).unwrap();
        assert_eq!((length, seen.unwrap().source.port()), (header.len(), 4_711));
        let mut unix = SIGNATURE.to_vec();
        unix.extend_from_slice(&[0x21, 0x31, 0, 0]);
        assert_eq!(receive(&unix), Ok((16, None)));
        assert_eq!(receive(b"PROXY UNKNOWN ffff:: ::1 1 2\r\n"), Ok((30, None)));
    }

    #[test]
    fn what_is_no_header_is_refused() {
        let long = [b"PROXY TCP4 ".as_slice(), &[b'1'; 120]].concat();
        let mut version3 = SIGNATURE.to_vec();
        version3.extend_from_slice(&[0x31, 0x11, 0, 0]);
        let mut short = SIGNATURE.to_vec();
        short.extend_from_slice(&[0x21, 0x11, 0, 4, 1, 2, 3, 4]);
        let mut huge = SIGNATURE.to_vec();
        huge.extend_from_slice(&[0x21, 0x11, 0xff, 0xff]);
        for bytes in [
            &b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..],
            b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n",
            b"PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n",
            b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2 3\r\n",
            b"PROXY TCP4 1.2.3.4 5.6.7.8 1 65536\r\n",
            b"PROXY TCP4 ::1 ::1 1 2\r\n",
            b"PROXY TCP6 1.2.3.4 5.6.7.8 1 2\r\n",
            b"PROXY TCP4  1.2.3.4 5.6.7.8 1 2\r\n",
            b"PROXY UDP4 1.2.3.4 5.6.7.8 1 2\r\n",
            &long,
            &version3,
            &short,
            &huge,
        ] {
            assert!(receive(bytes).is_err(), "{:?}", String::from_utf8_lossy(bytes));
        }
    }
}
