//! Frames of HTTP/2 that break its rules, requests that would be two in HTTP/1.1, and floods. nginx gets the same bytes: what it refuses is
//! refused here.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use futures_util::future::join_all;
use support::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, GOAWAY, HEADERS, PING, PREFACE,
    PRIORITY, PUSH_PROMISE, RST_STREAM, SETTINGS, WINDOW_UPDATE, block, frame, headers, next,
};
use support::http2::{Client, get, http2};
use support::naive::{Naive, whole};
use support::{Balancer, DEADLINE, Upstream, free, until};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long each waits for a body that never comes whole.
const PATIENCE: &str = "2s";

const METHOD: (&[u8], &[u8]) = (b":method", b"GET");
const POST: (&[u8], &[u8]) = (b":method", b"POST");
const SCHEME: (&[u8], &[u8]) = (b":scheme", b"http");
const AUTHORITY: (&[u8], &[u8]) = (b":authority", b"a");
const OPEN: (&[u8], &[u8]) = (b":path", b"/open");
const HIDDEN: &[u8] = b"GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n";

/// A `GET` of `/open` with these fields besides.
fn ask(fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    headers(1, END_STREAM, &[&[METHOD, SCHEME, AUTHORITY, OPEN], fields].concat())
}

/// A `POST` to `/open` with these fields, and these bytes as its whole body.
fn post(fields: &[(&[u8], &[u8])], body: &[u8]) -> Vec<u8> {
    let head = headers(1, 0, &[&[POST, SCHEME, AUTHORITY, OPEN], fields].concat());
    [head, frame(DATA, END_STREAM, 1, body)].concat()
}

/// Requests that would be others, or two, in HTTP/1.1.
fn requests() -> Vec<(&'static str, Vec<u8>)> {
    let with = |name: &'static [u8], value: &'static [u8]| ask(&[(name, value)]);
    let pseudo = |fields: &[(&[u8], &[u8])]| headers(1, END_STREAM, fields);
    let path = |path: &'static [u8]| pseudo(&[METHOD, SCHEME, AUTHORITY, (b":path", path)]);
    let host = |host: &'static [u8]| pseudo(&[METHOD, SCHEME, (b":authority", host), OPEN]);
    let smuggled = b"a\r\n\r\nGET /hidden HTTP/1.1\r\nHost: a\r\n\r\n";
    vec![
        ("line break in a value", with(b"x", smuggled)),
        ("LF in a value", with(b"x", b"a\nhost: b")),
        ("CR in a value", with(b"x", b"a\rb")),
        ("NUL in a value", with(b"x", b"a\0b")),
        ("space before a value", with(b"x", b" a")),
        ("line break in a name", with(b"x: a\r\ny", b"b")),
        ("colon in a name", with(b"x:y", b"b")),
        ("space in a name", with(b"x y", b"b")),
        ("upper case in a name", with(b"X-Upper", b"b")),
        ("no name", with(b"", b"b")),
        ("transfer-encoding", with(b"transfer-encoding", b"chunked")),
        ("connection", with(b"connection", b"x-real-ip")),
        ("keep-alive", with(b"keep-alive", b"timeout=5")),
        ("proxy-connection", with(b"proxy-connection", b"keep-alive")),
        ("upgrade", with(b"upgrade", b"h2c")),
        ("te other than trailers", with(b"te", b"gzip")),
        ("host that is another", with(b"host", b"b")),
        ("host with a line break", with(b"host", b"a\r\nx: y")),
        ("content-length without a body", with(b"content-length", b"5")),
        ("content-length twice", ask(&[(b"content-length", b"0"), (b"content-length", b"5")])),
        ("content-length plus", with(b"content-length", b"+0")),
        ("content-length too small", post(&[(b"content-length", b"5")], HIDDEN)),
        ("content-length too large", post(&[(b"content-length", b"500")], HIDDEN)),
        ("content-length 0 and a body", post(&[(b"content-length", b"0")], HIDDEN)),
        ("body as chunks", post(&[(b"transfer-encoding", b"chunked")], b"0\r\n\r\n")),
        ("space in the path", path(b"/open HTTP/1.1\r\nx: y")),
        ("line break in the path", path(b"/open\r\nx: y")),
        ("path without a slash", path(b"open")),
        ("path with a host", path(b"http://b/open")),
        ("no path in it", path(b"")),
        ("no :path", pseudo(&[METHOD, SCHEME, AUTHORITY])),
        ("no :method", pseudo(&[SCHEME, AUTHORITY, OPEN])),
        ("no :scheme", pseudo(&[METHOD, AUTHORITY, OPEN])),
        (":path twice", pseudo(&[METHOD, SCHEME, AUTHORITY, OPEN, (b":path", b"/hidden")])),
        (":status", pseudo(&[METHOD, SCHEME, AUTHORITY, OPEN, (b":status", b"200")])),
        ("unknown pseudo field", pseudo(&[METHOD, SCHEME, AUTHORITY, OPEN, (b":x", b"y")])),
        ("pseudo field after others", pseudo(&[METHOD, SCHEME, AUTHORITY, (b"x", b"y"), OPEN])),
        (
            "space in the method",
            pseudo(&[(b":method", b"GET /hidden HTTP/1.1\r\n"), SCHEME, AUTHORITY, OPEN]),
        ),
        ("line break in the host", host(b"a\r\nx: y")),
        ("path in the host", host(b"a/b")),
        ("user in the host", host(b"b@a")),
        ("no host", pseudo(&[METHOD, SCHEME, OPEN])),
        ("host twice", pseudo(&[METHOD, SCHEME, OPEN, (b"host", b"a"), (b"host", b"b")])),
        ("CONNECT", pseudo(&[(b":method", b"CONNECT"), AUTHORITY])),
        ("TRACE", pseudo(&[(b":method", b"TRACE"), SCHEME, AUTHORITY, OPEN])),
    ]
}

/// Frames that break the rules of the connection (RFC 9113 4 to 6), after which it or the stream has to end.
fn frames() -> Vec<(&'static str, Vec<u8>)> {
    let open = headers(1, 0, &[POST, SCHEME, AUTHORITY, OPEN]);
    let after = |next: Vec<u8>| [open.clone(), next].concat();
    let setting =
        |id: u8, value: u32| frame(SETTINGS, 0, 0, &[&[0, id][..], &value.to_be_bytes()].concat());
    vec![
        ("DATA on stream 0", frame(DATA, 0, 0, b"x")),
        ("DATA on an idle stream", frame(DATA, 0, 1, b"x")),
        ("DATA padded beyond its end", after(frame(DATA, 8, 1, &[200, 0]))),
        ("HEADERS on stream 0", headers(0, END_STREAM, &[METHOD, SCHEME, AUTHORITY, OPEN])),
        ("HEADERS on an even stream", headers(2, END_STREAM, &[METHOD, SCHEME, AUTHORITY, OPEN])),
        (
            "HEADERS cut by PING",
            [frame(HEADERS, 0, 1, &block(&[METHOD])), frame(PING, 0, 0, &[0; 8])].concat(),
        ),
        (
            "HEADERS no one can read",
            frame(HEADERS, END_HEADERS, 1, &[0xff, 0xff, 0xff, 0xff, 0xff]),
        ),
        ("CONTINUATION of nothing", frame(CONTINUATION, END_HEADERS, 1, &block(&[METHOD]))),
        ("PRIORITY too short", after(frame(PRIORITY, 0, 1, &[0; 4]))),
        ("RST_STREAM on stream 0", frame(RST_STREAM, 0, 0, &[0; 4])),
        ("RST_STREAM on an idle stream", frame(RST_STREAM, 0, 7, &[0; 4])),
        ("RST_STREAM too short", after(frame(RST_STREAM, 0, 1, &[0; 3]))),
        ("SETTINGS on a stream", frame(SETTINGS, 0, 1, &[])),
        ("SETTINGS cut", frame(SETTINGS, 0, 0, &[0; 5])),
        ("SETTINGS with ACK and content", frame(SETTINGS, 1, 0, &[0; 6])),
        ("SETTINGS: push neither 0 nor 1", setting(2, 2)),
        ("SETTINGS: window too large", setting(4, 0x8000_0000)),
        ("SETTINGS: frame size too small", setting(5, 100)),
        ("PUSH_PROMISE by a client", after(frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2]))),
        ("PING on a stream", frame(PING, 0, 1, &[0; 8])),
        ("PING too short", frame(PING, 0, 0, &[0; 7])),
        ("WINDOW_UPDATE by nothing", frame(WINDOW_UPDATE, 0, 0, &[0; 4])),
        ("WINDOW_UPDATE beyond the limit", frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff])),
        ("WINDOW_UPDATE too short", frame(WINDOW_UPDATE, 0, 0, &[0; 3])),
        ("a frame larger than agreed", frame(PING, 0, 0, &[0; 20_000])),
    ]
}

/// What became of stream 1, or of its connection.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    /// Its response has ended; the first byte of its head.
    Answered(u8),
    Reset,
    /// With the error it was given.
    GoAway(u32),
    Closed,
}

/// Sends frames after the preface, and reads until it is known what became of them.
async fn send(address: SocketAddr, bytes: &[u8]) -> Seen {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let bytes = [PREFACE, &frame(SETTINGS, 0, 0, &[]), bytes].concat();
    // It may be refused before all of it is sent.
    let _ = stream.write_all(&bytes).await;
    let mut status = 0;
    let read = async {
        loop {
            match next(&mut stream).await {
                None => return Seen::Closed,
                Some((RST_STREAM, _, 1, _)) => return Seen::Reset,
                Some((GOAWAY, _, _, payload)) => {
                    return Seen::GoAway(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
                }
                Some((kind @ (HEADERS | DATA), flags, 1, payload)) => {
                    if kind == HEADERS {
                        // Changes of the table's size may stand before it.
                        let size = |byte: &&u8| **byte & 0xe0 == 0x20;
                        status = *payload.iter().find(|byte| !size(byte)).unwrap();
                    }
                    if flags & END_STREAM != 0 {
                        return Seen::Answered(status);
                    }
                }
                Some(_) => {}
            }
        }
    };
    timeout(DEADLINE, read).await.expect("an end in time")
}

/// nginx, ended with the test.
struct Nginx {
    address: SocketAddr,
    process: Child,
}

impl Nginx {
    async fn start(dir: &Path, server: SocketAddr) -> Self {
        let address = free();
        let file = dir.join("nginx.conf");
        let dir = dir.display();
        let mut text = format!(
            "daemon off;\nmaster_process off;\nerror_log {dir}/error.log crit;\npid {dir}/pid;\nevents {{}}\n\
             http {{\n  access_log off;\n  client_header_timeout {PATIENCE};\n  client_body_timeout {PATIENCE};\n  \
             client_body_temp_path {dir}/body;\n"
        );
        for kind in ["proxy", "fastcgi", "uwsgi", "scgi"] {
            writeln!(text, "  {kind}_temp_path {dir}/{kind};").unwrap();
        }
        write!(
            text,
            "  server {{\n    listen {address} http2;\n    location / {{\n      proxy_pass http://{server};\n      \
             proxy_read_timeout {PATIENCE};\n    }}\n  }}\n}}\n"
        )
        .unwrap();
        std::fs::write(&file, text).unwrap();
        let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        let process = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "nginx", "-c"])
            .arg(&file)
            .env("PATH", path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let nginx = Self { address, process };
        until("nginx", async || TcpStream::connect(nginx.address).await.map(drop)).await;
        nginx
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // It may have ended by itself, which the test has found out before.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn is_ok(seen: &Seen) -> bool {
    // 0x88 is ":status: 200" of the static table.
    *seen == Seen::Answered(0x88)
}

#[tokio::test]
async fn what_breaks_the_rules_is_refused_and_nothing_hidden_gets_through() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, theirs) = (Naive::start(whole).await, Naive::start(whole).await);
    let text = http2(&format!("response_timeout = \"{PATIENCE}\""), &[("a", ours.address)]);
    let balancer = Balancer::start(&text).await;
    let nginx = Nginx::start(dir.path(), theirs.address).await;
    let addresses = [balancer.address("l"), nginx.address];
    // The harness itself: what is right is served by both.
    for address in addresses {
        let seen = send(address, &ask(&[])).await;
        assert!(is_ok(&seen), "{address}: {seen:?}");
        assert!(is_ok(&send(address, &post(&[(b"content-length", b"2")], b"ab")).await));
    }
    ours.take_seen();
    let vectors = [requests(), frames()].concat();
    let outcomes = join_all(vectors.iter().map(|(name, bytes)| async move {
        (*name, join_all(addresses.map(|address| send(address, bytes))).await)
    }))
    .await;
    let mut served = Vec::new();
    for (name, seen) in &outcomes {
        println!("{name:32} ours {:<16} nginx {:?}", format!("{:?}", seen[0]), seen[1]);
        if is_ok(&seen[0]) {
            served.push(*name);
        }
    }
    assert!(served.is_empty(), "served here: {served:?}");
    let seen = ours.take_seen();
    assert!(seen.is_empty(), "a server has seen {seen:?}");
    // A pseudo field among trailers is dropped, not passed on.
    let trailers = headers(1, END_STREAM, &[(b":path", b"/hidden"), (b"x-sum", b"1")]);
    let head = headers(1, 0, &[POST, SCHEME, AUTHORITY, OPEN]);
    assert!(is_ok(&send(addresses[0], &[head, trailers].concat()).await));
    assert!(ours.has_seen("0\r\nx-sum: 1\r\n\r\n") && !ours.has_seen("/hidden"));
    balancer.end().await;
}

#[tokio::test]
async fn what_is_unknown_is_ignored_and_what_is_asked_answered() {
    let a = Upstream::start("a");
    let balancer = Balancer::start(&http2("", &[("a", a.address)])).await;
    let mut stream = TcpStream::connect(balancer.address("l")).await.unwrap();
    let unknown = frame(0xbe, 0xff, 0, b"from another time");
    let setting = frame(SETTINGS, 0, 0, &[0xff, 0xff, 0, 0, 0, 1]);
    let ping = frame(PING, 0, 0, b"12345678");
    // A preface that comes byte by byte is the same preface.
    for byte in PREFACE {
        stream.write_all(&[*byte]).await.unwrap();
    }
    stream.write_all(&[setting, unknown, ping, ask(&[])].concat()).await.unwrap();
    let (mut acknowledged, mut answered, mut pinged) = (false, false, false);
    while !(acknowledged && answered && pinged) {
        let (kind, flags, number, payload) =
            timeout(DEADLINE, next(&mut stream)).await.unwrap().unwrap();
        acknowledged |= kind == SETTINGS && flags == 1;
        pinged |= kind == PING && flags == 1 && payload == b"12345678";
        answered |= kind == HEADERS && number == 1 && payload[0] == 0x88;
    }
    balancer.end().await;
}

/// Sends frames again and again until the balancer has had enough; what it says, and how many it took at most.
async fn flood(
    address: SocketAddr,
    first: &[u8],
    mut piece: impl FnMut(u32) -> Vec<u8>,
) -> (Seen, u32) {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut read, mut write) = stream.into_split();
    let sending = tokio::spawn({
        let begin = [PREFACE, &frame(SETTINGS, 0, 0, &[]), first].concat();
        let pieces: Vec<_> = (0..20_000).map(&mut piece).collect();
        async move {
            let mut sent = 0;
            if write.write_all(&begin).await.is_ok() {
                for piece in pieces {
                    if write.write_all(&piece).await.is_err() {
                        break;
                    }
                    sent += 1;
                }
            }
            // Kept open, so that the end is the balancer's.
            (write, sent)
        }
    });
    let mut said = Vec::new();
    let reading = async { while matches!(read.read_buf(&mut said).await, Ok(1..)) {} };
    timeout(DEADLINE, reading).await.expect("the flood to be cut off");
    let (_write, sent) = timeout(DEADLINE, sending).await.unwrap().unwrap();
    let mut rest = &said[..];
    while rest.len() >= 9 {
        let length = u32::from_be_bytes([0, rest[0], rest[1], rest[2]]) as usize;
        if rest[3] == GOAWAY && rest.len() >= 17 {
            let code = u32::from_be_bytes(rest[13..17].try_into().unwrap());
            return (Seen::GoAway(code), sent);
        }
        rest = rest.get(9 + length..).unwrap_or_default();
    }
    (Seen::Closed, sent)
}

async fn wait_counted(balancer: &Balancer) {
    let rejected = "balancer_listener_rejected_total{listener=\"l\",reason=\"http2\"}";
    until("a broken connection to be counted", async || {
        let count = balancer.metric(rejected).await;
        if count > 0.5 { Ok(()) } else { Err(count) }
    })
    .await;
}

#[tokio::test]
async fn floods_end_their_connection_and_no_other() {
    let a = Upstream::start("a");
    let balancer = Balancer::start(&http2("", &[("a", a.address)])).await;
    let address = balancer.address("l");
    let bystander = Client::connect(address).await;
    let opened = |n: u32, flags: u8| headers(2 * n + 1, flags, &[METHOD, SCHEME, AUTHORITY, OPEN]);
    // Streams opened and reset at once (CVE-2023-44487).
    let reset =
        |n: u32| [opened(n, END_STREAM), frame(RST_STREAM, 0, 2 * n + 1, &[0, 0, 0, 8])].concat();
    let (seen, sent) = flood(address, &[], reset).await;
    println!("streams reset: {seen:?} after {sent} at most");
    assert!(matches!(seen, Seen::GoAway(ENHANCE_YOUR_CALM) | Seen::Closed), "{seen:?}");
    assert!(a.requests() < 1_000, "{}", a.requests());
    // A head that never ends (CVE-2024-27316).
    let begin = frame(HEADERS, END_STREAM, 1, &block(&[METHOD, SCHEME, AUTHORITY, OPEN]));
    let more = |n: u32| frame(CONTINUATION, 0, 1, &block(&[(b"x", format!("{n}").as_bytes())]));
    flood(address, &begin, more).await;
    // Data that says nothing.
    flood(address, &opened(0, 0), |_| frame(DATA, 0, 1, &[])).await;
    let (response, _) = bystander.ask(get("/").body(()).unwrap()).await.unwrap();
    assert_eq!(response.status(), 200);
    wait_counted(&balancer).await;
    balancer.end().await;
}

#[tokio::test]
async fn requests_given_up_by_the_hundred_end_the_connection() {
    let a = Upstream::start("a");
    a.shared.hung.store(true, std::sync::atomic::Ordering::SeqCst);
    let balancer = Balancer::start(&http2("", &[("a", a.address)])).await;
    let mut stream = TcpStream::connect(balancer.address("l")).await.unwrap();
    stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await.unwrap();
    // Each one is on its way to the server, for the answer to PING comes after it, when it is given up.
    let mut refused = None;
    for n in 0..1_000_u32 {
        let id = 2 * n + 1;
        let open = headers(id, END_STREAM, &[METHOD, SCHEME, AUTHORITY, OPEN]);
        let bytes = [open, frame(PING, 0, 0, &[0; 8])].concat();
        // Whether it is still wanted is seen by what comes back.
        let _ = stream.write_all(&bytes).await;
        let answered = async {
            loop {
                match next(&mut stream).await {
                    None => return Some(Seen::Closed),
                    Some((PING, 1, _, _)) => return None,
                    Some((GOAWAY, _, _, payload)) => {
                        let code = u32::from_be_bytes(payload[4..8].try_into().unwrap());
                        return Some(Seen::GoAway(code));
                    }
                    Some(_) => {}
                }
            }
        };
        refused = timeout(DEADLINE, answered).await.unwrap();
        if refused.is_some() {
            break;
        }
        let _ = stream.write_all(&frame(RST_STREAM, 0, id, &[0, 0, 0, 8])).await;
    }
    // With frames of ours unread, the kernel may throw the reason away.
    assert!(matches!(refused, Some(Seen::GoAway(ENHANCE_YOUR_CALM) | Seen::Closed)), "{refused:?}");
    wait_counted(&balancer).await;
    until("the server to be rid of them", async || {
        let server = balancer.server("a").await;
        if server["active_connections"] == 0 { Ok(()) } else { Err(server) }
    })
    .await;
    balancer.end().await;
}

#[tokio::test]
async fn a_head_beyond_its_bounds_is_refused() {
    let a = Upstream::start("a");
    let balancer = Balancer::start(&http2("", &[("a", a.address)])).await;
    let client = Client::connect(balancer.address("l")).await;
    let (response, _) = client.ask(get("/").body(()).unwrap()).await.unwrap();
    assert_eq!(response.status(), 200);
    let large = get("/").header("x", "y".repeat(17_000)).body(()).unwrap();
    assert_eq!(client.ask(large).await.unwrap().0.status(), 431);
    let mut many = get("/");
    for n in 0..150 {
        many = many.header(format!("x-{n}"), "y");
    }
    assert_eq!(client.ask(many.body(()).unwrap()).await.unwrap().0.status(), 431);
    assert_eq!(a.requests(), 1);
    balancer.end().await;
}
