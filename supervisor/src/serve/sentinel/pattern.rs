//! Glob patterns as Redis understands them in `PSUBSCRIBE`.

/// Whether `text` matches `pattern`: `*`, `?`, `[a-z]`, `[^x]`, and `\` before a character that stands for itself.
///
/// Takes time in proportion to the product of the lengths at worst: only the last `*` is ever tried again.
pub(super) fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, t));
            p += 1;
        } else if let Some(length) = one(&pattern[p..], text[t]) {
            p += length;
            t += 1;
        } else if let Some((at, from)) = star {
            star = Some((at, from + 1));
            p = at + 1;
            t = from + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

/// Length of the pattern's first element if it matches `byte`.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern {
        [] => None,
        [b'?', ..] => Some(1),
        [b'\\', escaped, ..] => (*escaped == byte).then_some(2),
        [b'[', rest @ ..] => {
            let (negated, mut rest) = match rest {
                [b'^', rest @ ..] => (true, rest),
                rest => (false, rest),
            };
            let mut found = false;
            let tail = loop {
                match rest {
                    // Not closed: it ends with the pattern.
                    [] => break 0,
                    [b']', tail @ ..] => break tail.len(),
                    [b'\\', escaped, tail @ ..] => {
                        found |= *escaped == byte;
                        rest = tail;
                    }
                    [from, b'-', to, tail @ ..] => {
                        found |= (*from.min(to)..=*from.max(to)).contains(&byte);
                        rest = tail;
                    }
                    [single, tail @ ..] => {
                        found |= *single == byte;
                        rest = tail;
                    }
                }
            };
            (found != negated).then(|| pattern.len() - tail)
        }
        [literal, ..] => (*literal == byte).then_some(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_redis() {
        for (pattern, text, expected) in [
            ("*", "+switch-master", true),
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("[-+]sdown", "+sdown", true),
            ("[-+]sdown", "-sdown", true),
            ("[-+]sdown", "xsdown", false),
            ("[^-]sdown", "+sdown", true),
            ("[^-]sdown", "-sdown", false),
            ("+s*-*r", "+switch-master", true),
            ("+s*-*x", "+switch-master", false),
            ("?slave", "+slave", true),
            ("[a-c]", "b", true),
            ("[c-a]", "b", true),
            ("[a-c", "b", true),
            ("\\*", "*", true),
            ("\\*", "x", false),
            ("[\\]]", "]", true),
            ("**a", "ba", true),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn many_stars_do_not_take_for_ever() {
        let pattern = "*a".repeat(2000);
        assert!(!matches(pattern.as_bytes(), "a".repeat(1999).as_bytes()));
    }
}
