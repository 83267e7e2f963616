//! Numbers for people, to the letter as Prometheus' templates write them.

use chrono::DateTime;

/// The year 5138: beyond it nothing is meant as an instant.
const SECONDS_MAX: f64 = 1e11;
const LARGE: [&str; 8] = ["k", "M", "G", "T", "P", "E", "Z", "Y"];
const SMALL: [&str; 8] = ["m", "u", "n", "p", "f", "a", "z", "y"];

/// As Go prints a float: shortest digits, with an exponent below 1e-4 and from a million on.
pub(super) fn plain(value: f64) -> String {
    if let Some(text) = special(value) {
        return text;
    }
    let text = format!("{value:e}");
    let (mantissa, exponent) = split(&text);
    if (-4..6).contains(&exponent) { value.to_string() } else { with_exponent(mantissa, exponent) }
}

/// As `%.<digits>g`: that many significant digits, trailing zeros left out.
pub(super) fn significant(value: f64, digits: usize) -> String {
    if let Some(text) = special(value) {
        return text;
    }
    let digits = digits.max(1);
    let text = format!("{value:.*e}", digits - 1);
    let (mantissa, exponent) = split(&text);
    let precision = i32::try_from(digits).unwrap_or(i32::MAX);
    if (-4..precision).contains(&exponent) {
        let decimals = usize::try_from(precision - 1 - exponent).unwrap_or(0);
        trim_zeros(&format!("{value:.decimals$}")).to_owned()
    } else {
        with_exponent(trim_zeros(mantissa), exponent)
    }
}

/// As `%.<decimals>e`.
pub(super) fn exponential(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$e}");
    let (mantissa, exponent) = split(&text);
    with_exponent(mantissa, exponent)
}

fn special(value: f64) -> Option<String> {
    match value {
        _ if value.is_nan() => Some("NaN".to_owned()),
        _ if value.is_infinite() => Some(if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned()),
        _ if value == 0.0 => Some(if value.is_sign_negative() { "-0" } else { "0" }.to_owned()),
        _ => None,
    }
}

fn split(text: &str) -> (&str, i32) {
    let (mantissa, exponent) = text.split_once('e').unwrap_or((text, "0"));
    (mantissa, exponent.parse().unwrap_or(0))
}

fn with_exponent(mantissa: &str, exponent: i32) -> String {
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.abs())
}

fn trim_zeros(text: &str) -> &str {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text }
}

/// With a metric prefix: `1234` → `1.234k`.
pub(super) fn humanize(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return significant(value, 4);
    }
    if value.abs() >= 1.0 {
        return scaled_down(value, 1000.0, &LARGE);
    }
    scaled_up(value)
}

fn scaled_down(mut value: f64, base: f64, prefixes: &[&str]) -> String {
    let mut prefix = "";
    for next in prefixes {
        if value.abs() < base {
            break;
        }
        prefix = next;
        value /= base;
    }
    format!("{}{prefix}", significant(value, 4))
}

fn scaled_up(mut value: f64) -> String {
    let mut prefix = "";
    for next in SMALL {
        if value.abs() >= 1.0 {
            break;
        }
        prefix = next;
        value *= 1000.0;
    }
    format!("{}{prefix}", significant(value, 4))
}

/// With a binary prefix: `2048` → `2ki`.
pub(super) fn humanize_1024(value: f64) -> String {
    if value.abs() <= 1.0 || !value.is_finite() {
        return significant(value, 4);
    }
    scaled_down(value, 1024.0, &["ki", "Mi", "Gi", "Ti", "Pi", "Ei", "Zi", "Yi"])
}

/// A number of seconds: `90` → `1m 30s`.
pub(super) fn humanize_duration(value: f64) -> String {
    if !value.is_finite() {
        return significant(value, 4);
    }
    if value == 0.0 {
        return "0s".to_owned();
    }
    if value.abs() < 1.0 {
        return format!("{}s", scaled_up(value));
    }
    let sign = if value < 0.0 { "-" } else { "" };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "not negative, and nobody waits for the end of the range"
    )]
    let whole = value.abs() as u64;
    let (seconds, minutes) = (whole % 60, whole / 60 % 60);
    let (hours, days) = (whole / 3600 % 24, whole / 86_400);
    if days > 0 {
        format!("{sign}{days}d {hours}h {minutes}m {seconds}s")
    } else if hours > 0 {
        format!("{sign}{hours}h {minutes}m {seconds}s")
    } else if minutes > 0 {
        format!("{sign}{minutes}m {seconds}s")
    } else {
        format!("{sign}{}s", significant(value.abs(), 4))
    }
}

/// An instant: seconds since the Unix epoch, as Go prints a time.
pub(super) fn humanize_timestamp(seconds: f64) -> String {
    #[expect(clippy::cast_possible_truncation, reason = "the range is checked before")]
    let ms = (seconds.abs() < SECONDS_MAX).then(|| (seconds * 1000.0).round() as i64);
    ms.map_or_else(|| significant(seconds, 4), time)
}

/// The instant, milliseconds since the Unix epoch, as Go prints it.
pub(super) fn time(ms: i64) -> String {
    let Some(time) = DateTime::from_timestamp_millis(ms) else { return ms.to_string() };
    let text = time.format("%Y-%m-%d %H:%M:%S").to_string();
    let millis = format!(".{:03}", time.timestamp_subsec_millis());
    let fraction = millis.trim_end_matches('0').trim_end_matches('.');
    format!("{text}{fraction} +0000 UTC")
}

/// A ratio: `0.1234` → `12.34%`.
pub(super) fn humanize_percentage(value: f64) -> String {
    format!("{}%", significant(value * 100.0, 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_in_prometheus() {
        type Function = fn(f64) -> String;
        let significant4: Function = |value| significant(value, 4);
        for (function, value, expected) in [
            (humanize as Function, 0.0, "0"),
            (humanize, 1.0, "1"),
            (humanize, 1234.567, "1.235k"),
            (humanize, 0.0123, "12.3m"),
            (humanize, -12_345_678.0, "-12.35M"),
            (humanize, 999.96, "1000"),
            (humanize, f64::INFINITY, "+Inf"),
            (humanize_1024, 1024.0, "1ki"),
            (humanize_1024, 1_500_000_000.0, "1.397Gi"),
            (humanize_1024, 0.5, "0.5"),
            (humanize_duration, 0.0, "0s"),
            (humanize_duration, 0.0123, "12.3ms"),
            (humanize_duration, 12.345_67, "12.35s"),
            (humanize_duration, 90.5, "1m 30s"),
            (humanize_duration, 3_661.0, "1h 1m 1s"),
            (humanize_duration, -90_061.0, "-1d 1h 1m 1s"),
            (humanize_duration, f64::NAN, "NaN"),
            (humanize_timestamp, 1_435_065_584.128, "2015-06-23 13:19:44.128 +0000 UTC"),
            (humanize_timestamp, 0.0, "1970-01-01 00:00:00 +0000 UTC"),
            (humanize_timestamp, f64::INFINITY, "+Inf"),
            (humanize_percentage, 0.123_456, "12.35%"),
            (humanize_percentage, 1.0, "100%"),
            (humanize_percentage, 123.0, "1.23e+04%"),
            (significant4, 0.000_012_345, "1.234e-05"),
            (significant4, 0.000_123_45, "0.0001234"),
            (plain, 1_234_567.0, "1.234567e+06"),
            (plain, 0.1, "0.1"),
            (plain, 1e6, "1e+06"),
            (plain, 123_456.0, "123456"),
            (plain, 1e-5, "1e-05"),
            (plain, 1e300, "1e+300"),
            (plain, f64::NEG_INFINITY, "-Inf"),
        ] {
            assert_eq!(function(value), expected, "{value}");
        }
    }
}
