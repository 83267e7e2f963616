//! Heads of responses, as the balancer reads them.

use holdfast_balancer::message::Framing;
use holdfast_balancer::message::response::{Asked, read};

/// What goes on must be one head that ends where it ends, and whose body ends alike, for every kind of request.
pub fn run(input: &[u8]) {
    for bits in 0..16_u8 {
        let asked = Asked {
            is_head: bits & 1 > 0,
            upgrade: bits & 2 > 0,
            http10: bits & 4 > 0,
            keep_alive: bits & 8 > 0,
            extra: "X-Extra: 1\r\n",
        };
        let mut out = b"before".to_vec();
        let Ok(Some(head)) = read(input, &asked, &mut out) else {
            assert_eq!(out, b"before", "something was written of no head");
            continue;
        };
        assert!(head.length <= input.len() && (100..1_000).contains(&head.status));
        assert!(!matches!(read(&input[..head.length - 1], &asked, &mut Vec::new()), Ok(Some(_))));
        let Ok(Some(second)) = read(&out[6..], &asked, &mut Vec::new()) else {
            // With the lines of ours there may be more than are read.
            assert!(input.split(|byte| *byte == b'\n').count() > 91);
            continue;
        };
        assert_eq!((second.length, second.status), (out.len() - 6, head.status));
        // The client of chunks' content reads until the end.
        let framing = if head.unchunk { Framing::UntilClose } else { head.framing };
        let bodiless = head.framing.is_done();
        assert!(bodiless || second.framing == framing, "{framing:?} became {:?}", second.framing);
    }
}
