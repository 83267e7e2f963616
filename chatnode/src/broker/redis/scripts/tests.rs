use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::broker::Retention;
use crate::stream::Publication;

fn sample() -> Publication {
    Publication {
        offset: 7,
        data: "{\"a\":\n1}\u{e4}".into(),
        info: Some("{\"user\":\"\"}".into()),
        tags: Some("{}".into()),
        delta: true,
        time_ms: 123,
        id: "an id".into(),
    }
}

#[test]
fn envelopes_are_read_back() {
    let body = body(&sample(), Retention { size: 5, ..Retention::default() }, Duration::ZERO);
    let message = |head: &str| Bytes::from([head.as_bytes(), &body[..]].concat());
    let Some(Envelope::Publication { publication, lineage: Some(lineage), body: heard }) =
        envelope(&message("p 7 e h2 h1@5, "))
    else {
        panic!("not a publication")
    };
    assert_eq!((publication, &heard), (sample(), &body));
    assert!(lineage.continues("e.h1", 5) && !lineage.continues("e.h1", 6));

    let Some(Envelope::Publication { publication, lineage: None, .. }) =
        envelope(&message("p 0 - - - "))
    else {
        panic!("not a publication without history")
    };
    assert_eq!(publication, Publication { offset: 0, ..sample() });
    assert_eq!(envelope(&super::message('j', b"{}")), Some(Envelope::Join("{}".into())));
    let signal = Envelope::Signal(Bytes::from_static(b"\xff"));
    assert_eq!(envelope(&super::message('s', b"\xff")), Some(signal));
}

#[test]
fn what_no_node_wrote_is_left_alone() {
    for text in [
        "",
        "p",
        "p ",
        "p 1",
        "x {}",
        "p 1 e h - 5 0 0 0 0 99 0 0\n{}",
        "p a e h - 5 0 0 0 0 2 0 0\n{}",
        "p 1 e h - 5 0 0 0 0 2 0\n{}",
        "p 1 e h - 5 0 0 0 0 2 0 0",
    ] {
        assert_eq!(envelope(&Bytes::from(text)), None, "{text:?}");
    }
}
