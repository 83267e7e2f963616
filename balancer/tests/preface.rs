//! What comes before the first byte of a message: TLS by name, its reload, clients' certificates, TLS to servers, PROXY headers in and out.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use std::io;

use rustls::pki_types::CertificateDer;
use support::authority::Authority;
use support::{Balancer, DEADLINE, Upstream, raw, request, settings};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

fn shown(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0].clone()
}

/// One request on a connection that stays; its answer as text, once it holds `awaited`.
async fn ask(stream: &mut TlsStream<TcpStream>, awaited: &str) -> io::Result<String> {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await?;
    let mut answer = Vec::new();
    timeout(DEADLINE, async {
        while !String::from_utf8_lossy(&answer).contains(awaited) {
            if stream.read_buf(&mut answer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok::<_, io::Error>(String::from_utf8_lossy(&answer).into_owned())
    })
    .await?
}

#[tokio::test]
async fn certificates_are_shown_by_name_and_replaced_without_a_drop() {
    let authority = Authority::new();
    for name in ["a.test", "b.test"] {
        authority.sign(name);
    }
    let upstream = Upstream::start("a");
    let text = settings("", &[("a", upstream.address)]).replacen(
        "pool = \"p\"",
        &authority.listener(&["a.test", "b.test"], ""),
        1,
    );
    let balancer = Balancer::start(&text).await;
    let address = balancer.address("l");
    let mut old = authority.connect(address, "a.test", None).await.unwrap();
    let other = authority.connect(address, "b.test", None).await.unwrap();
    assert!(shown(&old) == authority.leaf("a.test") && shown(&other) == authority.leaf("b.test"));
    let answer = ask(&mut old, "\"x-real-ip\"").await.unwrap();
    assert!(answer.contains("\"x-forwarded-proto\":\"https\""), "{answer}");
    let expiry =
        "balancer_listener_certificate_expiry_timestamp_seconds{certificate=\"1\",listener=\"l\"}";
    assert!(balancer.metric(expiry).await > 1.7e9);

    authority.sign("a.test");
    let (status, answer) = balancer.api("POST", "/reload", "").await;
    assert_eq!(status, 200, "{answer}");
    let new = authority.connect(address, "a.test", None).await.unwrap();
    assert!(shown(&new) == authority.leaf("a.test") && shown(&new) != shown(&old));
    // What was open before goes on.
    ask(&mut old, "\"x-real-ip\"").await.unwrap();

    // A file that cannot be used changes nothing.
    std::fs::write(authority.path("b.test.pem"), "no certificate").unwrap();
    let (status, answer) = balancer.api("POST", "/reload", "").await;
    assert_eq!(status, 422, "{answer}");
    assert!(answer.to_string().contains("listener[0].tls.certificate[1]"), "{answer}");
    assert!(authority.connect(address, "b.test", None).await.is_ok());
    balancer.end().await;
}

#[tokio::test]
async fn clients_show_who_they_are_where_they_have_to() {
    let authority = Authority::new();
    for name in ["a.test", "client.test"] {
        authority.sign(name);
    }
    let upstream = Upstream::start("a");
    let ca = format!("client_ca = \"{}\"", authority.path("ca.pem").display());
    let text = settings("", &[("a", upstream.address)]).replacen(
        "pool = \"p\"",
        &authority.listener(&["a.test"], &ca),
        1,
    );
    let balancer = Balancer::start(&text).await;
    let address = balancer.address("l");
    let mut known = authority.connect(address, "a.test", Some("client.test")).await.unwrap();
    ask(&mut known, "\"server\":\"a\"").await.unwrap();
    // In TLS 1.3 a client hears of the refusal with its first read.
    let served = match authority.connect(address, "a.test", None).await {
        Ok(mut unknown) => ask(&mut unknown, "200 OK").await.is_ok(),
        Err(_) => false,
    };
    assert!(!served);
    let plain = raw(address, b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    assert!(!plain.starts_with(b"HTTP/"), "{}", String::from_utf8_lossy(&plain));
    let rejected = "balancer_listener_rejected_total{listener=\"l\",reason=\"tls_handshake\"}";
    balancer.wait_metric(rejected, 2.0).await;
}

#[tokio::test]
async fn servers_are_asked_in_tls_for_a_certificate_of_their_name() {
    let authority = Authority::new();
    authority.sign("a.test");
    let upstream = Upstream::start("a");
    let inner = settings("", &[("a", upstream.address)]).replacen(
        "pool = \"p\"",
        &authority.listener(&["a.test"], ""),
        1,
    );
    let inner = Balancer::start(&inner).await;
    for (name, status) in [("a.test", 200), ("b.test", 502)] {
        let ca = authority.path("ca.pem");
        let pool = format!("[pool.tls]\nca = \"{}\"\nserver_name = \"{name}\"", ca.display());
        let outer = Balancer::start(&settings(&pool, &[("inner", inner.address("l"))])).await;
        // Twice: on a new connection and on a kept one.
        for _ in 0..2 {
            let body = vec![b'x'; 300_000];
            let response = request(outer.address("l"), "POST", "/upload", &[], &body).await;
            assert_eq!(response.status, status, "{name}");
            assert!(status != 200 || response.body == body);
        }
        outer.end().await;
    }
}

#[tokio::test]
async fn a_trusted_proxy_says_who_the_client_is() {
    let upstream = Upstream::start("a");
    let text = settings("", &[("a", upstream.address)]).replacen(
        "pool = \"p\"",
        "pool = \"p\"\nproxy_protocol = true\ntrusted_proxies = [\"127.0.0.1\"]",
        1,
    );
    let balancer = Balancer::start(&text).await;
    let get = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let headed = format!("PROXY TCP4 203.0.113.7 10.0.0.1 4711 80\r\n{get}");
    let answer = raw(balancer.address("l"), headed.as_bytes()).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(answer.contains("\"x-forwarded-for\":\"203.0.113.7\""), "{answer}");
    assert!(answer.contains("\"x-real-ip\":\"203.0.113.7\""), "{answer}");
    assert!(raw(balancer.address("l"), get.as_bytes()).await.is_empty());
    let rejected = "balancer_listener_rejected_total{listener=\"l\",reason=\"proxy_header\"}";
    balancer.wait_metric(rejected, 1.0).await;
}

#[tokio::test]
async fn servers_are_told_who_the_client_is() {
    for (version, length) in [("v1", None), ("v2", Some(28))] {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let text = settings(
            &format!("send_proxy_protocol = \"{version}\""),
            &[("a", server.local_addr().unwrap())],
        )
        .replacen("pool = \"p\"", "pool = \"p\"\nmode = \"tcp\"", 1);
        let balancer = Balancer::start(&text).await;
        let address = balancer.address("l");
        let mut client = TcpStream::connect(address).await.unwrap();
        let ours = client.local_addr().unwrap();
        client.write_all(b"!").await.unwrap();
        let (mut stream, _) = timeout(DEADLINE, server.accept()).await.unwrap().unwrap();
        let mut seen = Vec::new();
        // The bytes of a port may be any.
        let is_whole = |seen: &[u8]| match length {
            None => seen.ends_with(b"\n!"),
            Some(length) => seen.len() > length,
        };
        while !is_whole(&seen) {
            assert!(timeout(DEADLINE, stream.read_buf(&mut seen)).await.unwrap().unwrap() > 0);
        }
        match length {
            None => {
                let line = format!(
                    "PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\n!",
                    ours.port(),
                    address.port()
                );
                assert_eq!(String::from_utf8_lossy(&seen), line);
            }
            Some(length) => {
                assert_eq!(seen.len(), length + 1);
                assert_eq!(&seen[16..24], &[127, 0, 0, 1, 127, 0, 0, 1]);
                assert_eq!(&seen[24..26], &ours.port().to_be_bytes());
            }
        }
    }
}

#[tokio::test]
async fn a_cookie_brings_a_client_back_to_its_server() {
    let (a, b) = (Upstream::start("a"), Upstream::start("b"));
    let text = settings(
        "algorithm = \"random_two\"\nsticky_cookie = \"node\"",
        &[("a", a.address), ("b", b.address)],
    );
    let balancer = Balancer::start(&text).await;
    let address = balancer.address("l");
    let first = request(address, "GET", "/", &[], b"").await;
    let cookie = first.head.lines().find_map(|line| line.strip_prefix("set-cookie: ")).unwrap();
    let (pair, rest) = cookie.split_once(';').unwrap();
    assert!(rest.contains("httponly") && !rest.contains("secure"), "{cookie}");
    let server: serde_json::Value = serde_json::from_slice(&first.body).unwrap();
    for _ in 0..20 {
        let again = request(address, "GET", "/", &[("Cookie", pair)], b"").await;
        let seen: serde_json::Value = serde_json::from_slice(&again.body).unwrap();
        assert_eq!(seen["server"], server["server"]);
        assert!(!again.head.contains("set-cookie"), "{}", again.head);
    }
    // Its server goes into drain: another one takes over, and says so.
    let name = server["server"].as_str().unwrap();
    let (status, _) =
        balancer.api("PATCH", &format!("/pools/p/servers/{name}"), "{\"state\":\"drain\"}").await;
    assert_eq!(status, 200);
    let moved = request(address, "GET", "/", &[("Cookie", pair)], b"").await;
    let seen: serde_json::Value = serde_json::from_slice(&moved.body).unwrap();
    assert_ne!(seen["server"], server["server"]);
    assert!(moved.head.contains("set-cookie: node="), "{}", moved.head);
}
