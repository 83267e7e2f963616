//! Bodies in chunks, as the balancer measures them.

use holdfast_balancer::message::chunked::Chunked;

/// The content, how many bytes were of the body, and whether it has ended; `None` if it breaks the rules.
fn measure<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Option<(Vec<u8>, usize, bool)> {
    let (mut chunked, mut content, mut used) = (Chunked::default(), Vec::new(), 0);
    for piece in pieces {
        let count =
            chunked.advance(piece, |range| content.extend_from_slice(&piece[range])).ok()?;
        used += count;
        if count < piece.len() {
            break;
        }
    }
    Some((content, used, chunked.is_done()))
}

/// However the bytes arrive, they must be read alike.
pub fn run(input: &[u8]) {
    let whole = measure(std::iter::once(input));
    assert_eq!(measure(input.chunks(1)), whole);
    assert_eq!(measure(input.chunks(7)), whole);
    if let Some((content, used, _)) = whole {
        assert!(used <= input.len() && content.len() <= used);
    }
}
