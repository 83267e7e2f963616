//! Heads of requests, as the balancer reads them.

use std::net::{IpAddr, Ipv4Addr};

use holdfast_balancer::message::choice::{Choice, Key, Seen};
use holdfast_balancer::message::request::{Peer, Reading, RequestHead, read};

/// Looks at everything that routes, hashes and limits look at.
fn choose(seen: &Seen<'_>) -> Choice {
    assert!(seen.host().len() <= u16::MAX.into() && seen.path().len() <= u16::MAX.into());
    let named = |key: Key| seen.key(&key);
    Choice {
        route: None,
        key: named(Key::Uri).or_else(|| named(Key::Header("x-room".into()))),
        sticky: seen.sticky("server"),
        stick: named(Key::Header("x-token".into())),
        token: named(Key::Query("t".into())).or_else(|| named(Key::Cookie("t".into()))),
    }
}

/// What goes on must be read by the next program as it was read here: one head, to its last byte, with the same body behind it.
pub fn run(input: &[u8]) {
    let client = Peer::new(Ipv4Addr::new(192, 0, 2, 1).into(), "https");
    let us = Peer::new(Ipv4Addr::LOCALHOST.into(), "http");
    let everybody = ["0.0.0.0/0".parse().expect("a network")];
    for trusted in [&[][..], &everybody] {
        let request_id = trusted.is_empty().then_some(7);
        let trace = request_id.map(|number| (number, 9));
        let reading = Reading { peer: &client, trusted, forwarded: true, request_id, trace };
        let mut out = b"before".to_vec();
        let head = read(input, &reading, &mut out, choose);
        let Ok(Some(head)) = head else {
            assert_eq!(out, b"before", "something was written of no head");
            continue;
        };
        assert!(head.length <= input.len());
        let early = read(&input[..head.length - 1], &reading, &mut Vec::new(), choose);
        assert!(!matches!(early, Ok(Some(_))), "a head ended before its end");
        again(&out[6..], &us, &head);
    }
}

fn again(out: &[u8], us: &Peer, first: &RequestHead) {
    let reading =
        Reading { peer: us, trusted: &[], forwarded: false, request_id: None, trace: None };
    match read(out, &reading, &mut Vec::new(), choose) {
        Ok(Some(second)) => {
            assert_eq!(second.length, out.len(), "there is more than one head");
            assert_eq!(second.framing, first.framing);
            assert_eq!((second.is_head, second.upgrade), (first.is_head, first.upgrade));
            assert_eq!(second.client, IpAddr::from(Ipv4Addr::LOCALHOST));
        }
        // With the lines of ours there may be more than are read.
        Err(holdfast_balancer::message::request::Refused::TooManyFields) => {}
        other => panic!("what goes on is no head: {other:?}"),
    }
}
