//! Durations as people write them: `"250ms"`, `"1.5s"`, `"1h30m"`.
//!
//! Use as `#[serde(with = "holdfast_settings::duration")]`. Units are `ms s m h d`, each at most once and from large to small. A bare
//! number is refused: nobody should have to guess its unit.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serializer};

const UNITS: [(&str, f64); 5] =
    [("d", 86_400.0), ("h", 3_600.0), ("m", 60.0), ("s", 1.0), ("ms", 0.001)];

/// What was expected of a duration, for error messages.
const EXPECTED: &str = "expected a duration such as \"250ms\", \"10s\" or \"1h30m\"";

/// The longest duration accepted, 100 years; beyond it arithmetic on instants may overflow.
const SECONDS_MAX: f64 = 100.0 * 365.0 * 86_400.0;

/// Parses a duration.
///
/// # Errors
/// A text that names what was found and what was expected.
pub fn parse(text: &str) -> Result<Duration, String> {
    let fail = || format!("{text:?} is not a duration, {EXPECTED}");
    let mut rest = text.trim();
    let mut seconds = 0.0;
    let mut next_unit = 0;
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(fail());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(fail)?;
        let (number, tail) = rest.split_at(digits);
        let unit_end = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let number: f64 = number.parse().map_err(|_| fail())?;
        let position = UNITS[next_unit..].iter().position(|(name, _)| *name == unit);
        let position = next_unit + position.ok_or_else(fail)?;
        seconds += number * UNITS[position].1;
        next_unit = position + 1;
        rest = tail;
    }
    if seconds > SECONDS_MAX {
        return Err(format!("{text:?} is longer than 100 years"));
    }
    // Whole milliseconds: a binary fraction of a second would print as 249.999999 ms.
    Ok(Duration::from_secs_f64((seconds * 1e3).round() / 1e3))
}

/// Prints a duration in the form [`parse`] reads, to the millisecond.
pub fn format(duration: Duration) -> String {
    let mut millis = duration.as_millis();
    if millis == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    for (unit, size) in
        [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)]
    {
        if millis >= size {
            text.extend([(millis / size).to_string().as_str(), unit]);
            millis %= size;
        }
    }
    text
}

/// For `#[serde(with = "…")]`.
///
/// # Errors
/// As [`parse`].
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
}

/// For `#[serde(with = "…")]`.
///
/// # Errors
/// Only those of the serializer.
pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format(*duration))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        for (text, millis) in [
            ("250ms", 250),
            ("1.5s", 1_500),
            ("10s", 10_000),
            ("2m", 120_000),
            ("1h30m", 5_400_000),
            ("1d", 86_400_000),
            ("0s", 0),
            ("0", 0),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn what_is_printed_is_read_back() {
        for millis in [0, 1, 999, 1_000, 61_001, 90_061_001] {
            let duration = Duration::from_millis(millis);
            assert_eq!(parse(&format(duration)), Ok(duration));
        }
    }

    #[test]
    fn anything_else_is_refused_with_what_was_expected() {
        for text in ["", "5", "s", "-1s", "1x", "1s1h", "1s1s", "1.2.3s", "1e3s", "99999999d"] {
            let error = parse(text).unwrap_err();
            assert!(error.contains("duration") || error.contains("100 years"), "{text}: {error}");
        }
    }
}
