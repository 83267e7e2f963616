//! W3C trace context: the field by which requests of one origin are found together at every hop.

/// Bytes of a `traceparent` of version 00.
const LENGTH: usize = 55;

/// Whether a `traceparent` can be passed on (W3C Trace Context 3.2.2): any other one begins no trace that others would go on with.
pub(super) fn is_valid(value: &[u8]) -> bool {
    let is_hex = |text: &[u8]| text.iter().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(b));
    let is_some = |text: &[u8]| is_hex(text) && text.iter().any(|byte| *byte != b'0');
    if value.len() < LENGTH || !is_hex(&value[..2]) || !is_hex(&value[53..55]) {
        return false;
    }
    let ends = match &value[..2] {
        b"ff" => false,
        b"00" => value.len() == LENGTH,
        // Later versions may say more.
        _ => value.len() == LENGTH || value[LENGTH] == b'-',
    };
    let dashes = [2, 35, 52].iter().all(|at| value[*at] == b'-');
    ends && dashes && is_some(&value[3..35]) && is_some(&value[36..52])
}

/// A `traceparent` for a request that has none. Marked as sampled: it is the servers' choice what they record, and one that goes by its
/// parent's mark would record nothing otherwise.
pub(super) fn new(trace: u128, parent: u64) -> String {
    format!("00-{:032x}-{:016x}-01", trace.max(1), parent.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_would_not_go_on_with_is_told_from_what_they_would() {
        for (text, valid) in [
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", true),
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00", true),
            ("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more", true),
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more", false),
            ("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01.more", false),
            ("ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", false),
            ("00-00000000000000000000000000000000-b7ad6b7169203331-01", false),
            ("00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01", false),
            ("00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01", false),
            ("00-0af7651916cd43dd8448eb211c80319c_b7ad6b7169203331-01", false),
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331", false),
            ("", false),
        ] {
            assert_eq!(is_valid(text.as_bytes()), valid, "{text}");
        }
        assert!(is_valid(new(0, 0).as_bytes()) && is_valid(new(u128::MAX, u64::MAX).as_bytes()));
    }
}
