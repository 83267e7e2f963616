//! Frames of WebSockets, as the balancer follows them.

use holdfast_balancer::message::frames::Frames;

/// However the bytes arrive, the position must be the same, and what is left of a frame must lead to a boundary.
pub fn run(input: &[u8]) {
    for payload_max in [u64::MAX >> 1, 1_000] {
        let follow = |step: usize| {
            let mut frames = Frames::default();
            for piece in input.chunks(step) {
                frames.advance_within(piece, payload_max).ok()?;
            }
            Some(frames)
        };
        let whole = follow(usize::MAX);
        assert_eq!(follow(1), whole);
        assert_eq!(follow(7), whole);
    }
    let (head, tail) = input.split_at(input.len() / 2);
    let mut frames = Frames::default();
    if frames.advance(head).is_err() {
        return;
    }
    let rest = frames.rest(tail);
    assert!(rest <= tail.len() && (rest == 0) >= (frames.at_boundary() || tail.is_empty()));
    if frames.advance(&tail[..rest]).is_ok() && rest < tail.len() {
        assert!(frames.at_boundary());
    }
}
