//! What the parser should not be given: texts without bound, and numbers on which it panics.

use std::sync::LazyLock;

use regex::Regex;

/// Longest text accepted. Dashboards send some kilobytes when a variable stands for many servers.
const TEXT_BYTES_MAX: usize = 64 * 1024;

/// How deep the tree may be. Whoever walks it needs the stack for it, and the threads of a runtime have two megabytes.
const DEPTH_MAX: usize = 250;

/// Longest duration: milliseconds of it, and sums of some, stay far from the end of 64 bits. 3,000 years.
const DURATION_SECONDS_MAX: f64 = 1e11;

/// Refuses what the parser should not be given.
pub(crate) fn check(text: &str) -> Result<(), String> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(format!("expression is longer than {TEXT_BYTES_MAX} bytes"));
    }
    if depth(text) > DEPTH_MAX {
        return Err(format!("expression is nested deeper than {DEPTH_MAX} levels"));
    }
    check_durations(&unquoted(text))
}

/// The text with everything in quotes blanked out.
fn unquoted(text: &str) -> String {
    let (mut quote, mut escaped) = (None, false);
    let blank = |c| {
        let Some(open) = quote else {
            quote = matches!(c, '"' | '\'' | '`').then_some(c);
            return c;
        };
        let end = c == open && !escaped;
        escaped = c == '\\' && !escaped && open != '`';
        quote = (!end).then_some(open);
        '_'
    };
    text.chars().map(blank).collect()
}

/// Refuses plain numbers where a duration stands that are no seconds a duration can hold: the parser panics on them.
fn check_durations(text: &str) -> Result<(), String> {
    static OFFSET: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"(?i:\boffset)\s*[+-]?").expect("the expression is a constant")
    });
    for bracket in text.split('[').skip(1) {
        let inner = bracket.split(']').next().unwrap_or_default();
        inner.split(':').try_for_each(check_duration)?;
    }
    OFFSET.find_iter(text).try_for_each(|found| check_duration(&text[found.end()..]))
}

/// Checks the number that `text` begins with.
fn check_duration(text: &str) -> Result<(), String> {
    static NUMBER: LazyLock<Regex> = LazyLock::new(|| {
        let decimal = r"(?:[0-9_]+\.?[0-9_]*|\.[0-9_]+)(?:e[+-]?[0-9_]+)?";
        Regex::new(&format!(r"^(?i:0x[0-9a-f_]+|{decimal}|inf|nan)"))
            .expect("the expression is a constant")
    });
    let Some(number) = NUMBER.find(text.trim_start()) else { return Ok(()) };
    let plain = number.as_str().replace('_', "").to_lowercase();
    let seconds = match plain.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).map_or(f64::INFINITY, |n| n as f64),
        None => plain.parse().unwrap_or(f64::INFINITY),
    };
    if (0.0..=DURATION_SECONDS_MAX).contains(&seconds) {
        Ok(())
    } else {
        Err(format!("duration out of range: {:?}", number.as_str()))
    }
}

/// How deep the tree of `text` is at most: a pair of brackets is a level, and so is each operator of a chain.
fn depth(text: &str) -> usize {
    let mut levels = vec![0_usize];
    let (mut sum, mut deepest, mut quote, mut escaped, mut word_start) = (0, 0, None, false, 0);
    let mut before = ' ';
    for (at, c) in text.char_indices() {
        if let Some(open) = quote {
            let end = c == open && !escaped;
            escaped = c == '\\' && !escaped && open != '`';
            quote = (!end).then_some(open);
            continue;
        }
        let compares = |c| matches!(c, '=' | '!' | '<' | '>' | '~');
        let in_word = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
        if in_word(c) && !in_word(before) {
            word_start = at;
        }
        let word_ends = in_word(before) && !in_word(c);
        let operator = matches!(c, '+' | '-' | '*' | '/' | '%' | '^' | '[' | '@')
            || (compares(c) && !compares(before))
            || (word_ends && matches!(&text[word_start..at], "and" | "or" | "unless" | "atan2"));
        if operator && let Some(level) = levels.last_mut() {
            *level += 1;
            sum += 1;
        }
        match c {
            '"' | '\'' | '`' => quote = Some(c),
            '(' | '{' => {
                levels.push(1);
                sum += 1;
            }
            ')' | '}' if levels.len() > 1 => sum -= levels.pop().unwrap_or(0),
            _ => {}
        }
        deepest = deepest.max(sum);
        before = c;
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Expression;

    #[test]
    fn deep_and_long_texts_are_refused() {
        for text in ["(".repeat(10_000), "-".repeat(10_000) + "1", "1 or ".repeat(3_000) + "1"] {
            let message = Expression::parse(&text).unwrap_err().message;
            assert_eq!(message, "expression is nested deeper than 250 levels");
        }
        let long = format!("up{{a=\"{}\"}}", "x".repeat(TEXT_BYTES_MAX));
        assert!(Expression::parse(&long).unwrap_err().message.contains("longer than"));
        let words = format!("up{{a=~\"{}\"}}", "(word|".repeat(5_000) + &")".repeat(5_000));
        assert_eq!(depth(&words), 2);
        for text in ["(".repeat(249) + "up" + &")".repeat(249), "up + ".repeat(249) + "up"] {
            assert!(Expression::parse(&text).is_ok());
        }
        let wide = "sum(rate(up[5m]) / up) or ".repeat(100) + "up";
        assert_eq!(depth(&wide), 102);
    }

    #[test]
    fn numbers_that_are_no_duration_are_refused() {
        for text in [
            "up[1e300]",
            "up[5m:1e99]",
            "up offset 1e300",
            "up offset -Inf",
            "up[NaN]",
            "x[ 0xfffffffffffffffff ]",
        ] {
            let message = check(text).unwrap_err();
            assert!(message.starts_with("duration out of range"), "{text}: {message}");
        }
        for text in [
            "up[300]",
            "up[5m:30]",
            "up offset 0x10",
            "up{a=\"[1e300]\"}",
            "a:1e300",
            "sum(x)[1h:]",
        ] {
            assert_eq!(check(text), Ok(()), "{text}");
        }
    }
}
