use http::Request;

use super::*;

fn head(target: &str, headers: &[(&str, &str)]) -> request::Parts {
    let mut request = Request::builder().uri(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

/// Headers as sorted lines.
fn lines(head: &request::Parts) -> Vec<String> {
    let mut lines: Vec<_> =
        head.headers.iter().map(|(n, v)| format!("{n}: {}", v.to_str().unwrap())).collect();
    lines.sort();
    lines
}

fn prepare(head: &mut request::Parts, peer: &str) -> Result<Prepared, Refused> {
    let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
    prepare_request(head, &Peer::new(peer.parse().unwrap()), &trusted)
}

#[test]
fn a_stranger_cannot_say_who_it_is() {
    let mut head = head(
        "/a?b=c",
        &[
            ("host", "chat.example"),
            ("x-forwarded-for", "1.2.3.4"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "evil.example"),
            ("x-real-ip", "1.2.3.4"),
            ("forwarded", "for=1.2.3.4"),
        ],
    );
    let prepared = prepare(&mut head, "203.0.113.7").unwrap();
    assert_eq!(prepared, Prepared { client: "203.0.113.7".parse().unwrap(), upgrade: false });
    assert_eq!(
        lines(&head),
        [
            "host: chat.example",
            "x-forwarded-for: 203.0.113.7",
            "x-forwarded-host: chat.example",
            "x-forwarded-proto: http",
            "x-real-ip: 203.0.113.7",
        ]
    );
}

#[test]
fn trusted_proxies_are_believed_as_far_as_they_reach() {
    let cases = [
        ("10.0.0.1", "198.51.100.9", "198.51.100.9"),
        ("10.0.0.1", "6.6.6.6, 198.51.100.9, 10.0.0.2", "198.51.100.9"),
        ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("10.0.0.1", "nonsense", "10.0.0.1"),
        ("::1", "2001:db8::5", "2001:db8::5"),
        ("::ffff:10.0.0.1", "198.51.100.9", "198.51.100.9"),
    ];
    for (peer, chain, client) in cases {
        let mut head =
            head("/", &[("host", "a"), ("x-forwarded-for", chain), ("x-forwarded-proto", "https")]);
        let prepared = prepare(&mut head, peer).unwrap();
        assert_eq!(prepared.client.to_string(), client, "{peer} {chain}");
        let peer = Peer::new(peer.parse().unwrap()).address;
        assert_eq!(head.headers["x-forwarded-for"], format!("{chain}, {peer}"));
        assert_eq!(head.headers["x-forwarded-proto"], "https");
        assert_eq!(head.headers["x-real-ip"], client);
    }
}

#[test]
fn the_hop_ends_here() {
    let mut head = head(
        "/",
        &[
            ("host", "a"),
            ("connection", "keep-alive, X-Secret"),
            ("connection", "te, Host"),
            ("x-secret", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "close"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("expect", "100-continue"),
            ("accept", "*/*"),
        ],
    );
    assert!(!prepare(&mut head, "203.0.113.7").unwrap().upgrade);
    let kept: Vec<_> = lines(&head).into_iter().filter(|l| !l.starts_with("x-")).collect();
    assert_eq!(kept, ["accept: */*", "host: a"]);
}

#[test]
fn upgrades_are_passed_on_but_not_to_http2() {
    for (connection, protocol, expected) in [
        ("Upgrade", "websocket", true),
        ("keep-alive, upgrade", "websocket", true),
        ("keep-alive", "websocket", false),
        ("Upgrade, HTTP2-Settings", "h2c", false),
    ] {
        let mut head =
            head("/", &[("host", "a"), ("connection", connection), ("upgrade", protocol)]);
        let prepared = prepare(&mut head, "203.0.113.7").unwrap();
        assert_eq!(prepared.upgrade, expected, "{connection} {protocol}");
        assert_eq!(head.headers.contains_key("upgrade"), expected);
        assert_eq!(head.headers.contains_key("connection"), expected);
    }
}

#[test]
fn the_host_is_one_and_the_target_has_origin_form() {
    let mut twice = head("/", &[("host", "a"), ("host", "a")]);
    assert!(matches!(prepare(&mut twice, "203.0.113.7"), Err(Refused::Malformed(_))));
    let mut none = head("/", &[]);
    assert!(matches!(prepare(&mut none, "203.0.113.7"), Err(Refused::Malformed(_))));
    let mut absolute = head("http://user@chat.example:8000/x?y=1", &[("host", "other")]);
    prepare(&mut absolute, "203.0.113.7").unwrap();
    assert_eq!(absolute.headers["host"], "chat.example:8000");
    assert_eq!(absolute.uri, "/x?y=1");
    let mut connect = head("/", &[("host", "a")]);
    connect.method = Method::CONNECT;
    assert_eq!(prepare(&mut connect, "203.0.113.7"), Err(Refused::Method));
}
