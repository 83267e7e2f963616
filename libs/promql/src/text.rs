//! Numbers and durations as Prometheus writes and reads them.

use std::fmt::Write as _;

/// A number as in label values and templates: shortest text that reads back the same, never an exponent.
pub fn format_number(value: f64) -> String {
    let mut text = String::new();
    write_number(&mut text, value);
    text
}

/// Whole numbers up to here are written as integers, which is several times faster; beyond, not every number has a double.
const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;

pub(crate) fn write_number(out: &mut String, value: f64) {
    if value.is_nan() {
        out.push_str("NaN");
    } else if value.is_infinite() {
        out.push_str(if value > 0.0 { "+Inf" } else { "-Inf" });
    } else if value.abs() < WHOLE_MAX
        && value.fract() == 0.0
        && (value != 0.0 || value.is_sign_positive())
    {
        #[expect(clippy::cast_possible_truncation, reason = "whole and within the range")]
        let whole = value as i64;
        let _infallible = write!(out, "{whole}");
    } else {
        let _infallible = write!(out, "{value}");
    }
}

/// Numbers of which the HTTP API writes those below this, and from [`LARGE`] on, with an exponent.
const SMALL: f64 = 1e-6;
const LARGE: f64 = 1e21;

/// A number as in Prometheus' HTTP API: as [`write_number`], but very small and very large ones with an exponent of two digits.
pub(crate) fn write_api_number(out: &mut String, value: f64) {
    let size = value.abs();
    if size == 0.0 || !size.is_finite() || (SMALL..LARGE).contains(&size) {
        return write_number(out, value);
    }
    let text = format!("{value:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, exponent) =
        exponent.strip_prefix('-').map_or(('+', exponent), |exponent| ('-', exponent));
    let _infallible = write!(out, "{digits}e{sign}{exponent:0>2}");
}

const UNITS: [(&str, i64); 7] = [
    ("y", 365 * 86_400_000),
    ("w", 7 * 86_400_000),
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// A duration as in rule files, such as `5m` or `1h30m`, in milliseconds. Units from large to small, each at most once; `0` is zero.
///
/// # Errors
/// What was found and what was expected.
pub fn parse_duration(text: &str) -> Result<i64, String> {
    let fail =
        || format!("not a valid duration string: {text:?}, expected such as \"30s\", \"5m\"");
    if text == "0" {
        return Ok(0);
    }
    if text.is_empty() {
        return Err("empty duration string".to_owned());
    }
    let (mut rest, mut next_unit, mut total) = (text, 0, 0_i64);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(fail)?;
        let (number, tail) = rest.split_at(digits);
        let unit_end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let position = UNITS[next_unit..].iter().position(|(name, _)| *name == unit);
        let position = next_unit + position.ok_or_else(fail)?;
        let number: i64 = number.parse().map_err(|_| fail())?;
        let part = number.checked_mul(UNITS[position].1);
        total = part.and_then(|part| total.checked_add(part)).ok_or_else(fail)?;
        next_unit = position + 1;
        rest = tail;
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_no_exponent() {
        for (value, text) in [
            (1.0, "1"),
            (-0.0, "-0"),
            (1e21, "1000000000000000000000"),
            (1.5e-7, "0.00000015"),
            (f64::NAN, "NaN"),
            (f64::INFINITY, "+Inf"),
            (f64::NEG_INFINITY, "-Inf"),
        ] {
            assert_eq!(format_number(value), text);
        }
    }

    #[test]
    fn the_api_writes_extremes_with_an_exponent() {
        for (value, text) in [
            (1e-6, "0.000001"),
            (5.45e-7, "5.45e-07"),
            (-1e-300, "-1e-300"),
            (1e20, "100000000000000000000"),
            (1.5e21, "1.5e+21"),
            (f64::INFINITY, "+Inf"),
            (0.0, "0"),
        ] {
            let mut found = String::new();
            write_api_number(&mut found, value);
            assert_eq!(found, text);
        }
    }

    #[test]
    fn durations_are_read_as_prometheus_does() {
        for (text, ms) in [
            ("5m", 300_000),
            ("1h30m", 5_400_000),
            ("0", 0),
            ("0s", 0),
            ("1y2w3d4h5m6s7ms", 33_019_506_007),
        ] {
            assert_eq!(parse_duration(text), Ok(ms), "{text}");
        }
        for text in ["", "5", "m", "1m1h", "1.5h", "-1m", "1x", "99999999999y", "1 m"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}
