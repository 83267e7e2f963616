//! What is agreed on in a handshake: the version of HTTP, a session that was known before, an answer of the authority.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;

use h2::client::Builder;
use http::Request;
use rustls::HandshakeKind;
use rustls::client::Resumption;
use support::authority::{Authority, connect};
use support::http2::{Client, json};
use support::{Balancer, DEADLINE, Upstream, settings};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

/// Settings of a listener that shows a certificate for `a.test`.
fn secure(authority: &Authority, server: SocketAddr, more: &str) -> String {
    let listener = authority.listener(&["a.test"], more);
    settings("", &[("a", server)]).replacen("pool = \"p\"", &listener, 1)
}

#[tokio::test]
async fn the_version_of_http_is_agreed_on() {
    let authority = Authority::new();
    authority.sign("a.test");
    let upstream = Upstream::start("a");
    let text = secure(&authority, upstream.address, "").replacen(
        "pool = \"p\"",
        "pool = \"p\"\nhttp2 = true",
        1,
    );
    let balancer = Balancer::start(&text).await;
    let address = balancer.address("l");
    for (offered, agreed) in [
        (&[&b"h2"[..], b"http/1.1"][..], Some(&b"h2"[..])),
        (&[b"http/1.1"], Some(b"http/1.1")),
        (&[], None),
    ] {
        let mut config = authority.client(None);
        config.alpn_protocols = offered.iter().map(|protocol| protocol.to_vec()).collect();
        let mut stream = connect(address, "a.test", &Arc::new(config)).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), agreed);
        if agreed == Some(b"h2") {
            let (sender, connection) = Builder::new().handshake(stream).await.unwrap();
            let client = Client { sender, ended: tokio::spawn(connection) };
            let request = Request::get("https://a.test/").body(()).unwrap();
            let (response, body) = client.ask(request).await.unwrap();
            assert_eq!(response.status(), 200);
            assert_eq!(json(&body)["headers"]["x-forwarded-proto"], "https");
            continue;
        }
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await.unwrap();
        let mut answer = vec![0; 15];
        timeout(DEADLINE, stream.read_exact(&mut answer)).await.unwrap().unwrap();
        assert_eq!(answer, b"HTTP/1.1 200 OK");
    }
    balancer.end().await;
}

#[tokio::test]
async fn a_client_that_comes_back_is_known_on_every_thread() {
    let authority = Authority::new();
    authority.sign("a.test");
    let upstream = Upstream::start("a");
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let text = format!("[workers]\ncount = 3\n{}", secure(&authority, upstream.address, ""));
        let balancer = Balancer::start(&text).await;
        let mut roots = rustls::RootCertStore::empty();
        roots.add(authority.leaf("ca")).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.resumption = Resumption::in_memory_sessions(64);
        let config = Arc::new(config);
        let mut open = Vec::new();
        for n in 0..12 {
            let mut stream = connect(balancer.address("l"), "a.test", &config).await.unwrap();
            // Tickets of TLS 1.3 come with the first bytes of the server.
            stream.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await.unwrap();
            let mut answer = [0; 12];
            timeout(DEADLINE, stream.read_exact(&mut answer)).await.unwrap().unwrap();
            let kind = stream.get_ref().1.handshake_kind();
            let expected = if n == 0 { HandshakeKind::Full } else { HandshakeKind::Resumed };
            assert_eq!(kind, Some(expected), "{version:?} {n}");
            // Kept open, so that the next one may find another thread less busy.
            open.push(stream);
        }
        drop(open);
        balancer.end().await;
    }
}

/// What the authority says of a certificate, written to a file.
fn answer(authority: &Authority, name: &str, file: &str) {
    let path = |file: &str| authority.path(file).into_os_string();
    std::fs::write(authority.path("index.txt"), "").unwrap();
    let output = Command::new("openssl")
        .arg("ocsp")
        .args(["-index".into(), path("index.txt"), "-CA".into(), path("ca.pem")])
        .args(["-rsigner".into(), path("ca.pem"), "-rkey".into(), path("ca.key")])
        .args(["-issuer".into(), path("ca.pem"), "-cert".into(), path(&format!("{name}.pem"))])
        .args(["-ndays".into(), "7".into(), "-respout".into(), path(file)])
        .output()
        .unwrap();
    assert!(authority.path(file).exists(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Whether a client that asks for it is shown an OCSP response.
async fn is_stapled(address: SocketAddr) -> bool {
    let shown = tokio::task::spawn_blocking(move || {
        Command::new("openssl")
            .args(["s_client", "-status", "-servername", "a.test", "-connect"])
            .arg(address.to_string())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    });
    let output = timeout(DEADLINE, shown).await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("OCSP response"), "{text}");
    text.contains("OCSP Response Status: successful")
}

#[tokio::test]
async fn an_answer_of_the_authority_is_stapled_and_replaced_by_a_reload() {
    let authority = Authority::new();
    authority.sign("a.test");
    let upstream = Upstream::start("a");
    let plain = secure(&authority, upstream.address, "");
    let balancer = Balancer::start(&plain).await;
    assert!(!is_stapled(balancer.address("l")).await);
    answer(&authority, "a.test", "a.ocsp");
    let file = authority.path("a.ocsp");
    let key = format!("a.test.key\"\nocsp = \"{}\"", file.display());
    balancer.write(&plain.replacen("a.test.key\"", &key, 1));
    let (status, answer) = balancer.api("POST", "/reload", "").await;
    assert_eq!(status, 200, "{answer}");
    assert!(answer.to_string().contains("listener l changed"), "{answer}");
    assert!(is_stapled(balancer.address("l")).await);
    // "tryLater" is no answer; the last good one stays.
    std::fs::write(&file, [0x30, 3, 0x0a, 1, 3]).unwrap();
    let (status, answer) = balancer.api("POST", "/reload", "").await;
    assert_eq!(status, 422, "{answer}");
    let fault = answer["faults"][0].as_str().unwrap();
    assert!(fault.contains("listener[0].tls.certificate[0]") && fault.contains("OCSP"), "{fault}");
    assert!(is_stapled(balancer.address("l")).await);
    balancer.end().await;
}
