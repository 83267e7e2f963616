//! Bytes meant to be read in two ways, sent to the balancer, to HAProxy and to nginx: what the others refuse is refused here, and
//! nothing hidden in a body ever reaches a server as a request. Then clients that are slow on purpose.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use futures_util::future::join_all;
use support::naive::{Naive, head};
use support::{Balancer, DEADLINE, Upstream, free, raw, request, settings, until};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long each proxy waits for bytes that never come; so long do the vectors take that end too early.
const PATIENCE: &str = "4s";

/// Heads and bodies by name. Each asks for `/open`, and what must never be seen by a server asks for `/hidden`.
fn vectors() -> Vec<(&'static str, String)> {
    let hidden = "GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n";
    let get = |fields: &str| format!("GET /open HTTP/1.1\r\nConnection: close\r\n{fields}\r\n");
    let post = |fields: &str, body: &str| {
        format!("POST /open HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{fields}\r\n{body}")
    };
    let length = hidden.len() + 5;
    let in_chunks = |body: &str| post("Transfer-Encoding: chunked\r\n", body);
    let zero = format!("0\r\n\r\n{hidden}");
    vec![
        (
            "CL.TE",
            post(&format!("Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n"), &zero),
        ),
        (
            "TE.CL",
            post(&format!("Transfer-Encoding: chunked\r\nContent-Length: {length}\r\n"), &zero),
        ),
        ("CL.0 twice", post(&format!("Content-Length: 0\r\nContent-Length: {length}\r\n"), &zero)),
        ("CL list", post(&format!("Content-Length: 0, {length}\r\n"), &zero)),
        ("CL plus", post(&format!("Content-Length: +{length}\r\n"), &zero)),
        ("CL hex", post("Content-Length: 0x5\r\n", &zero)),
        ("CL space inside", post("Content-Length: 1 0\r\n", &zero)),
        ("CL negative", post("Content-Length: -1\r\n", &zero)),
        ("CL too large", post("Content-Length: 18446744073709551616\r\n", &zero)),
        ("CL empty", post("Content-Length: \r\n", &zero)),
        ("TE twice", post("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", &zero)),
        (
            "TE xchunked",
            post(&format!("Transfer-Encoding: xchunked\r\nContent-Length: {length}\r\n"), &zero),
        ),
        ("TE chunked last but one", post("Transfer-Encoding: chunked, identity\r\n", &zero)),
        ("TE vertical tab", post("Transfer-Encoding: \x0bchunked\r\n", &zero)),
        ("TE space before colon", post("Transfer-Encoding : chunked\r\n", &zero)),
        ("TE folded", post("Transfer-Encoding:\r\n chunked\r\n", &zero)),
        ("TE quoted", post("Transfer-Encoding: \"chunked\"\r\n", &zero)),
        ("TE in HTTP/1.0", in_chunks(&zero).replacen("HTTP/1.1", "HTTP/1.0", 1)),
        ("chunk size negative", in_chunks(&format!("-1\r\n\r\n{zero}"))),
        ("chunk size 0x", in_chunks(&format!("0x0\r\n\r\n{hidden}"))),
        ("chunk size too large", in_chunks(&format!("10000000000000000\r\n{zero}"))),
        ("chunk size empty", in_chunks(&format!("\r\n{zero}"))),
        ("chunk too long", in_chunks(&format!("2\r\nabcde\r\n{zero}"))),
        ("chunk size ends in LF", in_chunks(&format!("1;a\nb\r\nx\r\n{zero}"))),
        ("trailer without colon", in_chunks(&format!("0\r\nbad trailer\r\n\r\n{hidden}"))),
        ("Host twice", get("Host: a\r\nHost: b\r\n")),
        ("Host missing", get("")),
        ("Host with a path", get("Host: a/b\r\n")),
        ("Host with a space", get("Host: a b\r\n")),
        ("folded field", get("Host: a\r\nX: a\r\n b\r\n")),
        ("space before colon", get("Host : a\r\n")),
        ("space before the first field", get(" Host: a\r\n")),
        ("NUL in a value", get("Host: a\r\nX: a\0b\r\n")),
        ("CR in a value", get("Host: a\r\nX: a\rb\r\n")),
        ("no field name", get("Host: a\r\n: b\r\n")),
        ("space in the target", get("Host: a\r\n").replacen("/open", "/open /x", 1)),
        ("tab in the target", get("Host: a\r\n").replacen("/open", "/open\t/x", 1)),
        ("HTTP/1.2 and more", get("Host: a\r\n").replacen("HTTP/1.1", "HTTP/9.9", 1)),
        ("no version", "GET /open\r\n\r\n".to_owned()),
        (
            "a field with a name of 20,000 bytes",
            get(&format!("Host: a\r\n{}: b\r\n", "x".repeat(20_000))),
        ),
        ("2,000 fields", get(&format!("Host: a\r\n{}", "a: b\r\n".repeat(2_000)))),
    ]
}

/// HAProxy or nginx, ended with the test.
struct Rival {
    address: SocketAddr,
    process: Child,
}

impl Rival {
    async fn start(program: &str, signal: &str, arguments: &[&str], address: SocketAddr) -> Self {
        let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        let process = Command::new("setpriv")
            .args(["--pdeathsig", signal, "--", program])
            .args(arguments)
            .env("PATH", path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let rival = Self { address, process };
        until(program, async || TcpStream::connect(rival.address).await.map(drop)).await;
        rival
    }

    async fn haproxy(dir: &Path, server: SocketAddr) -> Self {
        let (address, file) = (free(), dir.join("haproxy.cfg"));
        let text = format!(
            "defaults\n  mode http\n  timeout connect {PATIENCE}\n  timeout client {PATIENCE}\n  \
             timeout http-request {PATIENCE}\n  timeout server {PATIENCE}\nlisten l\n  bind {address}\n  \
             server a {server}\n"
        );
        std::fs::write(&file, text).unwrap();
        Self::start("haproxy", "KILL", &["-db", "-f", file.to_str().unwrap()], address).await
    }

    async fn nginx(dir: &Path, server: SocketAddr) -> Self {
        let (address, file) = (free(), dir.join("nginx.conf"));
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
            "  server {{\n    listen {address};\n    location / {{\n      proxy_pass http://{server};\n      \
             proxy_http_version 1.1;\n      proxy_request_buffering off;\n      proxy_read_timeout {PATIENCE};\n    }}\n  }}\n}}\n"
        )
        .unwrap();
        std::fs::write(&file, text).unwrap();
        Self::start("nginx", "KILL", &["-c", file.to_str().unwrap()], address).await
    }
}

impl Drop for Rival {
    fn drop(&mut self) {
        // It may have ended by itself, which the test has found out before.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Whether the first answer to `bytes` is a success.
async fn is_served(address: SocketAddr, bytes: &str) -> (bool, String) {
    let answer = raw(address, bytes.as_bytes()).await;
    let line = String::from_utf8_lossy(&answer).lines().next().unwrap_or("closed").to_owned();
    (line.contains(" 200 "), line)
}

#[tokio::test]
async fn what_others_refuse_is_refused_and_nothing_hidden_gets_through() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, theirs) = (Naive::start(head).await, Naive::start(head).await);
    let text = settings(&format!("response_timeout = \"{PATIENCE}\""), &[("a", ours.address)])
        .replacen("pool = \"p\"", &format!("pool = \"p\"\nheader_timeout = \"{PATIENCE}\""), 1);
    let balancer = Balancer::start(&text).await;
    let haproxy = Rival::haproxy(dir.path(), theirs.address).await;
    let nginx = Rival::nginx(dir.path(), theirs.address).await;
    let address = balancer.address("l");
    // The harness itself: what is right is served by all three.
    let right = "GET /open HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    for address in [address, haproxy.address, nginx.address] {
        assert!(is_served(address, right).await.0);
    }
    let vectors = vectors();
    let outcomes = join_all(vectors.iter().map(|(name, bytes)| {
        let addresses = [address, haproxy.address, nginx.address];
        async move { (*name, join_all(addresses.map(|at| is_served(at, bytes))).await) }
    }))
    .await;
    let mut looser = Vec::new();
    for (name, seen) in &outcomes {
        println!("{name:36} ours {:28} HAProxy {:28} nginx {}", seen[0].1, seen[1].1, seen[2].1);
        // Served here and refused by one of them.
        if seen[0].0 && !(seen[1].0 && seen[2].0) {
            looser.push(*name);
        }
    }
    assert!(looser.is_empty(), "served here and refused elsewhere: {looser:?}");
    assert!(!ours.has_seen("/hidden"), "a hidden request was forwarded");
    let refused = outcomes.iter().filter(|(_, seen)| !seen[0].0).count();
    assert_eq!(refused, vectors.len(), "every one of these can be read in two ways");
}

/// Unusual, and right: what HAProxy and nginx both serve is served here.
fn right() -> Vec<(&'static str, String)> {
    let get = |fields: &str| format!("GET /open HTTP/1.1\r\nConnection: close\r\n{fields}\r\n");
    let post = |fields: &str, body: &str| {
        format!("POST /open HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{fields}\r\n{body}")
    };
    let in_chunks = |body: &str| post("Transfer-Encoding: chunked\r\n", body);
    let websocket = "Upgrade: websocket\r\n";
    let h2c = "Host: a\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n";
    vec![
        ("chunk extension", in_chunks("5;a=b\r\nhello\r\n0\r\n\r\n")),
        ("quoted chunk extension", in_chunks("5;a=\"b c\"\r\nhello\r\n0\r\n\r\n")),
        ("trailer", in_chunks("5\r\nhello\r\n0\r\nX-Sum: 0\r\n\r\n")),
        ("chunk size in capitals", in_chunks("A\r\n0123456789\r\n0\r\n\r\n")),
        ("chunk size with zeros", in_chunks("0005\r\nhello\r\n0\r\n\r\n")),
        ("Chunked", post("Transfer-Encoding: Chunked\r\n", "0\r\n\r\n")),
        (
            "Expect and a body at once",
            post("Content-Length: 5\r\nExpect: 100-continue\r\n", "hello"),
        ),
        ("HTTP/1.0", "GET /open HTTP/1.0\r\nHost: a\r\n\r\n".to_owned()),
        ("HTTP/1.0 without Host", "GET /open HTTP/1.0\r\n\r\n".to_owned()),
        ("absolute form", get("Host: a\r\n").replacen("/open", "http://a/open", 1)),
        ("a query alone", get("Host: a\r\n").replacen("/open", "/open?%2f&&=", 1)),
        ("bytes above ASCII in a value", get("Host: a\r\nX: \u{e9}\r\n")),
        ("an empty line before", format!("\r\n{}", get("Host: a\r\n"))),
        ("no space after the colon", get("Host:a\r\nX:b\r\n")),
        ("spaces around a value", get("Host: a\r\nX:   b \t \r\n")),
        ("an empty value", get("Host: a\r\nX:\r\n")),
        ("Upgrade without Connection", get(&format!("Host: a\r\n{websocket}"))),
        ("Connection: Upgrade alone", get("Host: a\r\n").replacen("close", "close, Upgrade", 1)),
        ("h2c", get(h2c).replacen("close", "close, Upgrade, HTTP2-Settings", 1)),
        (
            "a field named by Connection",
            get("Host: a\r\nX: b\r\n").replacen("close", "close, X", 1),
        ),
        (
            "two requests at once",
            format!(
                "{}{}",
                get("Host: a\r\n").replacen("close", "keep-alive", 1),
                get("Host: a\r\n")
            ),
        ),
    ]
}

#[tokio::test]
async fn what_others_serve_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let server = Naive::start(head).await;
    let text = settings(&format!("response_timeout = \"{PATIENCE}\""), &[("a", server.address)]);
    let balancer = Balancer::start(&text).await;
    let haproxy = Rival::haproxy(dir.path(), server.address).await;
    let nginx = Rival::nginx(dir.path(), server.address).await;
    let addresses = [balancer.address("l"), haproxy.address, nginx.address];
    let mut stricter = Vec::new();
    for (name, bytes) in right() {
        let wanted = bytes.matches(" /open").count().max(1);
        let seen = join_all(addresses.map(async |at| {
            let answer = raw(at, bytes.as_bytes()).await;
            String::from_utf8_lossy(&answer).matches("HTTP/1.1 200 ").count()
        }))
        .await;
        println!(
            "{name:32} wanted {wanted}, ours {}, HAProxy {}, nginx {}",
            seen[0], seen[1], seen[2]
        );
        if seen[0] != wanted && seen[1] == wanted && seen[2] == wanted {
            stricter.push(name);
        }
        // A framing that was misunderstood would show here.
        assert!(seen[0] <= wanted, "{name}");
    }
    assert!(stricter.is_empty(), "served elsewhere and refused here: {stricter:?}");
}

#[tokio::test]
async fn a_broken_body_never_reaches_its_end_at_the_server() {
    let server = Naive::start(head).await;
    let text = settings("", &[("a", server.address)]);
    let balancer = Balancer::start(&text).await;
    // The first chunk is right and is on its way when the second is not.
    let mut stream = TcpStream::connect(balancer.address("l")).await.unwrap();
    let head =
        b"POST /open HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
    stream.write_all(head).await.unwrap();
    until(
        "the server to have the head",
        async || {
            if server.has_seen("/open") { Ok(()) } else { Err(()) }
        },
    )
    .await;
    stream.write_all(b"zz\r\n0\r\n\r\nGET /hidden HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    timeout(DEADLINE, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("bad chunk size"), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    assert!(!server.has_seen("/hidden"));
}

#[tokio::test]
async fn clients_that_trickle_are_cut_off_while_others_are_served() {
    let upstream = Upstream::start("a");
    let text = settings("", &[("a", upstream.address)]).replacen(
        "pool = \"p\"",
        "pool = \"p\"\nheader_timeout = \"3s\"\nidle_timeout = \"6s\"",
        1,
    );
    let balancer = Balancer::start(&text).await;
    let address = balancer.address("l");
    // A byte now and then keeps no head alive: only its first byte counts.
    let trickle = async || {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let mut answer = [0; 1];
        loop {
            tokio::select! {
                read = stream.read(&mut answer) => return read.unwrap_or(0),
                () = tokio::time::sleep(Duration::from_millis(100)) => {
                    // The end shows in what is read.
                    let _ = stream.write_all(b"G").await;
                }
            }
        }
    };
    let slow = join_all((0..200).map(|_| trickle()));
    let others = async {
        for _ in 0..20 {
            assert_eq!(request(address, "GET", "/", &[], b"").await.status, 200);
        }
    };
    let (ends, ()) = timeout(DEADLINE * 2, async { tokio::join!(slow, others) }).await.unwrap();
    assert!(ends.iter().all(|bytes| *bytes == 0), "closed without a response");
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_off() {
    let upstream = Upstream::start("a");
    let text = settings("", &[("a", upstream.address)]).replacen(
        "pool = \"p\"",
        "pool = \"p\"\nidle_timeout = \"3s\"",
        1,
    );
    let balancer = Balancer::start(&text).await;
    let mut stream = TcpStream::connect(balancer.address("l")).await.unwrap();
    // More than fits into the socket buffers on the way back.
    let body = vec![b'x'; 32 << 20];
    let head =
        format!("POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
    // On a busy machine it may be cut off before it has sent everything, which is as good.
    let _ = stream.write_all(&[head.as_bytes(), &body].concat()).await;
    let closed = "balancer_listener_closed_total{cause=\"timeout\",listener=\"l\"}";
    balancer.wait_metric(closed, 1.0).await;
}
