//! Targets from DNS: SRV records name hosts and ports, A and AAAA records hosts.
//!
//! The system's own resolver knows no SRV records, and a resolver library with cache, DNSSEC and its own sockets is more than a question
//! every half minute needs. So this asks the servers of `/etc/resolv.conf` one after the other, over UDP and over TCP where an answer was
//! cut; messages are read and written by `simple-dns`. As in Prometheus, a name that does not exist is a name without targets, and
//! only servers that do not answer are a fault. Search domains are not tried: names are to be given in full.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use simple_dns::rdata::RData;
use simple_dns::{CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, Question, RCODE, TYPE};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::discover::Group;
use crate::config::{DnsLookup, DnsRecord};

const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Servers asked at most; the system's resolver has the same bound.
const SERVERS_MAX: usize = 3;
/// How long one server may take.
const SERVER_TIMEOUT: Duration = Duration::from_secs(2);
/// Targets of one name at most.
const TARGETS_MAX: usize = 1_000;
/// The largest answer over UDP without extensions is 512 bytes; servers may send more.
const DATAGRAM_BYTES_MAX: usize = 4096;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum DnsError {
    /// The servers cannot be found out.
    #[error("read {RESOLV_CONF}")]
    Config(#[source] io::Error),
    /// There are none.
    #[error("{RESOLV_CONF} names no server")]
    NoServer,
    /// The name is none.
    #[error("{0:?} is no domain name")]
    Name(String),
    /// No server has answered; this is what the last one did.
    #[error("ask {server} for {name}")]
    Server {
        /// The name.
        name: String,
        /// The last server.
        server: SocketAddr,
        /// What it did.
        #[source]
        source: io::Error,
    },
}

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Answer {
    Host(IpAddr),
    Service(String, u16),
}

/// The targets of all names of `lookup`, a group for each.
pub(super) async fn look_up(lookup: &DnsLookup) -> Result<Vec<Group>, DnsError> {
    let servers = match lookup.server {
        Some(server) => vec![server],
        None => servers(&tokio::fs::read_to_string(RESOLV_CONF).await.map_err(DnsError::Config)?),
    };
    if servers.is_empty() {
        return Err(DnsError::NoServer);
    }
    let mut groups = Vec::new();
    for name in &lookup.names {
        for answer in ask_all(name, lookup.record, &servers).await? {
            groups.push(group(name, answer, lookup.port));
        }
    }
    Ok(groups)
}

/// The servers that a `resolv.conf` names.
fn servers(text: &str) -> Vec<SocketAddr> {
    let address = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let address =
            words.next().filter(|word| *word == "nameserver").and_then(|_| words.next())?;
        let address: IpAddr = address.parse().ok()?;
        Some(SocketAddr::new(address, 53))
    };
    text.lines().filter_map(address).take(SERVERS_MAX).collect()
}

fn group(name: &str, answer: Answer, port: u16) -> Group {
    let mut labels = BTreeMap::from([("__meta_dns_name".to_owned(), name.to_owned())]);
    let address = match answer {
        Answer::Host(host) => SocketAddr::new(host, port).to_string(),
        Answer::Service(host, port) => {
            labels.insert("__meta_dns_srv_record_target".to_owned(), format!("{host}."));
            labels.insert("__meta_dns_srv_record_port".to_owned(), port.to_string());
            format!("{host}:{port}")
        }
    };
    Group { targets: vec![address], labels }
}

/// Asks one server after the other until one answers.
async fn ask_all(
    name: &str,
    record: DnsRecord,
    servers: &[SocketAddr],
) -> Result<Vec<Answer>, DnsError> {
    let id = fastrand::u16(..);
    let question = question(id, name, record)?;
    let mut last = DnsError::NoServer;
    for &server in servers {
        let asked = timeout(SERVER_TIMEOUT, ask(server, &question, id)).await;
        let asked = asked.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        match asked.and_then(|bytes| read(&bytes)) {
            Ok(answers) => return Ok(answers),
            Err(source) => last = DnsError::Server { name: name.to_owned(), server, source },
        }
    }
    Err(last)
}

fn question(id: u16, name: &str, record: DnsRecord) -> Result<Vec<u8>, DnsError> {
    let bad = |_| DnsError::Name(name.to_owned());
    let kind = match record {
        DnsRecord::Srv => TYPE::SRV,
        DnsRecord::A => TYPE::A,
        DnsRecord::Aaaa => TYPE::AAAA,
    };
    let owner = Name::new(name.trim_end_matches('.')).map_err(bad)?;
    let mut packet = Packet::new_query(id);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    let question = Question::new(owner, QTYPE::TYPE(kind), QCLASS::CLASS(CLASS::IN), false);
    packet.questions.push(question);
    packet.build_bytes_vec().map_err(bad)
}

/// The answer of one server to a question.
async fn ask(server: SocketAddr, question: &[u8], id: u16) -> io::Result<Vec<u8>> {
    let any: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(question).await?;
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let datagram = &buffer[..length];
        match Packet::parse(datagram) {
            // Somebody else's, or an answer to a question of before.
            Ok(packet) if packet.id() != id || !packet.has_flags(PacketFlag::RESPONSE) => {}
            Ok(packet) if packet.has_flags(PacketFlag::TRUNCATION) => {
                return ask_whole(server, question).await;
            }
            Ok(_) => return Ok(datagram.to_vec()),
            Err(error) => return Err(io::Error::other(error)),
        }
    }
}

/// As [`ask`], over TCP: each message with its length before it.
async fn ask_whole(server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(question.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), question].concat()).await?;
    let mut answer = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

/// What an answer says.
fn read(bytes: &[u8]) -> io::Result<Vec<Answer>> {
    let packet = Packet::parse(bytes).map_err(io::Error::other)?;
    match packet.rcode() {
        RCODE::NoError => {}
        RCODE::NameError => return Ok(Vec::new()),
        other => return Err(io::Error::other(format!("it answered {other:?}"))),
    }
    let answer = |record: &simple_dns::ResourceRecord<'_>| match &record.rdata {
        RData::A(a) => Some(Answer::Host(Ipv4Addr::from(a.address).into())),
        RData::AAAA(aaaa) => Some(Answer::Host(Ipv6Addr::from(aaaa.address).into())),
        // A service whose target is the root is not offered at this name (RFC 2782).
        RData::SRV(srv) => {
            let host = srv.target.to_string();
            (!host.is_empty()).then_some(Answer::Service(host, srv.port))
        }
        _ => None,
    };
    Ok(packet.answers.iter().filter_map(answer).take(TARGETS_MAX).collect())
}

#[cfg(test)]
mod tests {
    use simple_dns::ResourceRecord;
    use simple_dns::rdata::{A, SRV};

    use super::*;

    #[test]
    fn servers_are_those_of_the_system() {
        let text =
            "# a remark\nsearch example.org\nnameserver 10.0.0.1\n nameserver ::1 \nnameserver x\n";
        let expected: [SocketAddr; 2] =
            ["10.0.0.1:53".parse().unwrap(), "[::1]:53".parse().unwrap()];
        assert_eq!(servers(text), expected);
    }

    #[test]
    fn records_become_targets() {
        let mut packet = Packet::new_reply(7);
        let owner = Name::new("_m._tcp.example.org").unwrap();
        let target = Name::new("node-1.example.org").unwrap();
        let service = RData::SRV(SRV { priority: 0, weight: 0, port: 9100, target });
        let host = RData::A(A { address: Ipv4Addr::new(10, 0, 0, 9).into() });
        for data in [service, host] {
            packet.answers.push(ResourceRecord::new(owner.clone(), CLASS::IN, 60, data));
        }
        let answers = read(&packet.build_bytes_vec().unwrap()).unwrap();
        let groups: Vec<_> =
            answers.into_iter().map(|answer| group("n.example.org", answer, 80)).collect();
        assert_eq!(groups[0].targets, ["node-1.example.org:9100"]);
        assert_eq!(groups[0].labels["__meta_dns_srv_record_target"], "node-1.example.org.");
        assert_eq!(groups[0].labels["__meta_dns_srv_record_port"], "9100");
        assert_eq!(groups[1].targets, ["10.0.0.9:80"]);
        assert_eq!(groups[1].labels["__meta_dns_name"], "n.example.org");
    }

    #[test]
    fn a_name_that_does_not_exist_has_no_targets_and_a_failing_server_is_a_fault() {
        let mut packet = Packet::new_reply(7);
        *packet.rcode_mut() = RCODE::NameError;
        assert_eq!(read(&packet.build_bytes_vec().unwrap()).unwrap(), []);
        *packet.rcode_mut() = RCODE::ServerFailure;
        assert!(read(&packet.build_bytes_vec().unwrap()).is_err());
        assert!(read(b"nothing").is_err());
        assert!(matches!(question(1, &"a".repeat(70), DnsRecord::A), Err(DnsError::Name(_))));
    }
}
