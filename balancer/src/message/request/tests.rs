use super::*;
use crate::message::choice::Key;
use crate::pool::balance;

fn plain(peer: &Peer) -> Reading<'_> {
    Reading { peer, trusted: &[], forwarded: false, request_id: None, trace: None }
}

fn nowhere(_: &Seen<'_>) -> Choice {
    Choice::default()
}

fn read_from(head: &str, peer: &str) -> Result<(RequestHead, String), Refused> {
    let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
    let mut out = b"before".to_vec();
    let peer = Peer::new(peer.parse().unwrap(), "http");
    let reading = Reading { trusted: &trusted, ..plain(&peer) };
    let read = read(head.as_bytes(), &reading, &mut out, nowhere)?.expect("a whole head");
    assert_eq!(read.length, head.len());
    let out = String::from_utf8(out).unwrap();
    Ok((read, out.strip_prefix("before").unwrap().to_owned()))
}

fn stranger(head: &str) -> Result<(RequestHead, String), Refused> {
    read_from(head, "203.0.113.7")
}

#[test]
fn a_stranger_cannot_say_who_it_is() {
    let (head, out) = stranger(
        "GET /a?b=c HTTP/1.1\r\nX-Forwarded-For: 1.2.3.4\r\nHost: chat.example\r\nAccept: */*\r\n\
         x-forwarded-proto: https\r\nX-Forwarded-Host: evil.example\r\nX-REAL-IP: 1.2.3.4\r\n\
         Forwarded: for=1.2.3.4\r\nConnection: X-Forwarded-For\r\nCookie: a=b\r\n\r\n",
    )
    .unwrap();
    assert_eq!(head.client.to_string(), "203.0.113.7");
    assert_eq!(
        out,
        "GET /a?b=c HTTP/1.1\r\nHost: chat.example\r\nAccept: */*\r\nCookie: a=b\r\n\
         X-Forwarded-For: 203.0.113.7\r\nX-Real-IP: 203.0.113.7\r\nX-Forwarded-Proto: http\r\n\
         X-Forwarded-Host: chat.example\r\n\r\n"
    );
}

#[test]
fn trusted_proxies_are_believed_as_far_as_they_reach() {
    let cases = [
        ("10.0.0.1", "198.51.100.9", "198.51.100.9"),
        ("10.0.0.1", "6.6.6.6, 198.51.100.9, 10.0.0.2", "198.51.100.9"),
        ("10.0.0.1", "6.6.6.6\r\nX-Forwarded-For: 198.51.100.9, 10.0.0.2", "198.51.100.9"),
        ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("10.0.0.1", "nonsense", "10.0.0.1"),
        ("::1", "2001:db8::5", "2001:db8::5"),
        ("::ffff:10.0.0.1", "198.51.100.9", "198.51.100.9"),
    ];
    for (peer, chain, client) in cases {
        let head = format!(
            "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {chain}\r\nX-Forwarded-Proto: https\r\n\r\n"
        );
        let (read, out) = read_from(&head, peer).unwrap();
        assert_eq!(read.client.to_string(), client, "{peer} {chain}");
        let peer = Peer::new(peer.parse().unwrap(), "http").address;
        let chain = chain.replace("\r\nX-Forwarded-For:", ",");
        assert!(out.contains(&format!("X-Forwarded-For: {chain}, {peer}\r\n")), "{out}");
        assert!(out.contains("X-Forwarded-Proto: https\r\n"), "{out}");
        assert!(!out.contains("X-Forwarded-Proto: http\r\n"), "{out}");
        assert!(out.contains(&format!("X-Real-IP: {client}\r\n")), "{out}");
    }
}

#[test]
fn the_hop_ends_here() {
    let (head, out) = stranger(
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, X-Secret\r\nConnection: te, Host\r\n\
         X-Secret: 1\r\nKeep-Alive: timeout=5\r\nProxy-Connection: close\r\nTE: trailers\r\n\
         Transfer-Encoding: chunked\r\nUpgrade: websocket\r\nExpect: 100-continue\r\n\
         Proxy-Authorization: Basic x\r\nAccept: */*\r\n\r\n",
    )
    .unwrap();
    assert!(!head.upgrade && head.expects_continue && head.keep_alive && !head.repeatable);
    assert_eq!(head.framing, Framing::Chunked(Chunked::default()));
    let kept: Vec<_> = out.lines().filter(|line| !line.starts_with("X-")).collect();
    assert_eq!(
        kept,
        ["POST / HTTP/1.1", "Host: a", "Transfer-Encoding: chunked", "Accept: */*", ""]
    );
}

#[test]
fn upgrades_are_passed_on_but_not_to_http2() {
    for (connection, protocol, expected) in [
        ("Upgrade", "websocket", true),
        ("keep-alive, upgrade", "websocket", true),
        ("keep-alive", "websocket", false),
        ("Upgrade, HTTP2-Settings", "h2c", false),
    ] {
        let (head, out) = stranger(&format!(
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: {connection}\r\nUpgrade: {protocol}\r\n\r\n"
        ))
        .unwrap();
        assert_eq!(head.upgrade, expected, "{connection} {protocol}");
        assert_eq!(out.contains("Upgrade: websocket\r\n"), expected, "{out}");
        assert_eq!(out.contains("Connection: Upgrade\r\n"), expected, "{out}");
    }
}

#[test]
fn the_host_is_one_and_the_target_has_origin_form() {
    let (_, out) =
        stranger("GET http://u@chat.example:8000/x?y=1 HTTP/1.1\r\nHost: other\r\nA: b\r\n\r\n")
            .unwrap();
    assert!(out.starts_with("GET /x?y=1 HTTP/1.1\r\nHost: chat.example:8000\r\nA: b\r\n"), "{out}");
    assert!(out.contains("X-Forwarded-Host: chat.example:8000\r\n"), "{out}");
    let (old, out) = stranger("GET / HTTP/1.0\r\n\r\n").unwrap();
    assert!(old.http10 && !old.keep_alive);
    assert!(out.starts_with("GET / HTTP/1.1\r\nHost: \r\n"), "{out}");
    assert_eq!(stranger("CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n"), Err(Refused::Method));
}

#[test]
fn whatever_could_be_read_in_two_ways_is_refused() {
    for rest in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a@b\r\n\r\n",
        "GET /#x HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET x HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET * HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX : a\r\n\r\n",
        "GET / HTTP/1.1\r\n Host: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x1\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n",
        "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
    ] {
        let refused = stranger(rest);
        assert!(matches!(refused, Err(Refused::Malformed(_))), "{rest:?}: {refused:?}");
    }
    assert_eq!(stranger("GET / HTTP/2.0\r\nHost: a\r\n\r\n"), Err(Refused::Version));
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "A: b\r\n".repeat(FIELDS_MAX));
    assert_eq!(stranger(&many), Err(Refused::TooManyFields));
}

#[test]
fn a_head_is_awaited_to_its_last_byte() {
    let head = "GET / HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\n";
    let peer = Peer::new("203.0.113.7".parse().unwrap(), "http");
    for length in 0..head.len() {
        let mut out = Vec::new();
        let reading = plain(&peer);
        assert_eq!(
            read(&head.as_bytes()[..length], &reading, &mut out, nowhere),
            Ok(None),
            "{length}"
        );
        assert!(out.is_empty());
    }
}

#[test]
fn a_request_names_what_it_is_spread_by() {
    let text = "GET /rooms/42?page=2 HTTP/1.1\r\nHost: a\r\nX-Room: blue\r\n\
        Cookie: a=1; room=green; server=00000000000000ff\r\n\r\n";
    let peer = Peer::new("203.0.113.7".parse().unwrap(), "http");
    for (key, value) in [
        (Key::Uri, Some(&b"/rooms/42"[..])),
        (Key::Header("x-room".into()), Some(b"blue")),
        (Key::Header("x-other".into()), None),
        (Key::Cookie("room".into()), Some(b"green")),
        (Key::Cookie("oom".into()), None),
    ] {
        let choose = |seen: &Seen<'_>| Choice {
            route: Some(7),
            key: seen.key(&key),
            sticky: seen.sticky("server"),
            stick: None,
            token: None,
        };
        let head = read(text.as_bytes(), &plain(&peer), &mut Vec::new(), choose);
        let choice = Choice {
            route: Some(7),
            key: value.map(balance::hash),
            sticky: Some(255),
            stick: None,
            token: None,
        };
        assert_eq!(head.unwrap().unwrap().choice, choice, "{key:?}");
    }
}

#[test]
fn a_request_gets_a_number_and_a_standard_trace_of_its_way() {
    let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap()];
    let text =
        "GET / HTTP/1.1\r\nHost: a:80\r\nX-Request-Id: theirs\r\nForwarded: for=6.6.6.6\r\n\r\n";
    for (peer, id, forwarded) in [
        (
            "203.0.113.7",
            "000000000000000000000000000000ff",
            "for=203.0.113.7;host=\"a:80\";proto=https",
        ),
        (
            "2001:db8::5",
            "000000000000000000000000000000ff",
            "for=\"[2001:db8::5]\";host=\"a:80\";proto=https",
        ),
        ("10.0.0.1", "theirs", "for=6.6.6.6, for=10.0.0.1;host=\"a:80\";proto=https"),
    ] {
        let peer = Peer::new(peer.parse().unwrap(), "https");
        let reading =
            Reading { trusted: &trusted, forwarded: true, request_id: Some(255), ..plain(&peer) };
        let mut out = Vec::new();
        read(text.as_bytes(), &reading, &mut out, nowhere).unwrap().unwrap();
        let out = String::from_utf8(out).unwrap();
        assert_eq!(out.matches("X-Request-Id: ").count(), 1, "{out}");
        assert!(out.contains(&format!("X-Request-Id: {id}\r\n")), "{out}");
        assert_eq!(out.matches("Forwarded: ").count(), 1, "{out}");
        assert!(out.contains(&format!("\r\nForwarded: {forwarded}\r\n")), "{out}");
    }
}

#[test]
fn a_trace_is_kept_or_begun() {
    let right = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
    let begun = "00-00000000000000000000000000000007-0000000000000009-01";
    let peer = Peer::new("203.0.113.7".parse().unwrap(), "http");
    for (fields, trace, expected) in [
        (format!("traceparent: {right}\r\ntracestate: a=b\r\n"), true, vec![right, "a=b"]),
        ("tracestate: a=b\r\n".to_owned(), true, vec![begun]),
        ("Traceparent: 00-1-2-01\r\ntracestate: a=b\r\n".to_owned(), true, vec![begun]),
        (format!("traceparent: {right}\r\ntraceparent: {right}\r\n"), true, vec![begun]),
        ("traceparent: x\r\n".to_owned(), false, vec!["x"]),
        (String::new(), false, vec![]),
    ] {
        let text = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        let reading = Reading { trace: trace.then_some((7, 9)), ..plain(&peer) };
        let mut out = Vec::new();
        read(text.as_bytes(), &reading, &mut out, nowhere).unwrap().unwrap();
        let out = String::from_utf8(out).unwrap();
        let values: Vec<_> = out
            .lines()
            .filter(|line| line.to_lowercase().starts_with("trace"))
            .map(|line| line.split_once(": ").unwrap().1)
            .collect();
        assert_eq!(values, expected, "{fields}");
    }
}
