//! Figures as people read them.

use chrono::{DateTime, TimeDelta, Utc};

/// `850 ms`, `12 s`, `3 min 20 s`, `2 h 5 min`, `4 d 3 h`: two units at most.
pub(super) fn span(span: TimeDelta) -> String {
    let millis = span.num_milliseconds().max(0);
    let seconds = millis / 1000;
    let two = |big: i64, unit: &str, small: i64, small_unit: &str| {
        if small == 0 {
            format!("{big} {unit}")
        } else {
            format!("{big} {unit} {small} {small_unit}")
        }
    };
    match seconds {
        0 => format!("{millis} ms"),
        1..60 => format!("{seconds} s"),
        60..3_600 => two(seconds / 60, "min", seconds % 60, "s"),
        3_600..86_400 => two(seconds / 3_600, "h", seconds % 3_600 / 60, "min"),
        _ => two(seconds / 86_400, "d", seconds % 86_400 / 3_600, "h"),
    }
}

/// How long ago, or in how long. One unit is enough for a glance.
pub(super) fn relative(at: DateTime<Utc>, now: DateTime<Utc>) -> String {
    let ahead = (at - now).num_seconds();
    let seconds = ahead.abs();
    let text = match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min", seconds / 60),
        3_600..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    };
    if ahead > 0 { format!("in {text}") } else { format!("{text} ago") }
}

/// `812 B`, `4.2 MiB`.
pub(super) fn bytes(bytes: f64) -> String {
    let mut value = bytes;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value.abs() < 1024.0 {
            return if unit == "B" {
                format!("{value:.0} B")
            } else {
                format!("{value:.1} {unit}")
            };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

/// A duration given in seconds: `0.42 ms`, `3.1 ms`, `1.25 s`.
pub(super) fn seconds(seconds: f64) -> String {
    if seconds < 0.001 {
        format!("{:.2} ms", seconds * 1000.0)
    } else if seconds < 1.0 {
        format!("{:.1} ms", seconds * 1000.0)
    } else {
        format!("{seconds:.2} s")
    }
}

/// A share as a percentage. Only what is whole is printed as 100 %: three nines must not look like all.
pub(super) fn percent(share: f64) -> String {
    if share >= 1.0 {
        return "100 %".to_owned();
    }
    let hundredths = (share * 10_000.0).floor() / 100.0;
    format!("{hundredths:.2} %")
}

/// An instant for a tooltip.
pub(super) fn instant(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%S UTC").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_well() {
        let spans = [0, 850, 12_000, 60_000, 200_000, 7_500_000, 356_400_000];
        let texts = spans.map(|ms| span(TimeDelta::milliseconds(ms)));
        assert_eq!(
            texts,
            ["0 ms", "850 ms", "12 s", "1 min", "3 min 20 s", "2 h 5 min", "4 d 3 h"]
        );
        assert_eq!([0.0, 1023.0, 1536.0, 5e9].map(bytes), ["0 B", "1023 B", "1.5 KiB", "4.7 GiB"]);
        assert_eq!([0.0004, 0.0031, 1.254].map(seconds), ["0.40 ms", "3.1 ms", "1.25 s"]);
        assert_eq!([1.0, 0.99999, 0.5].map(percent), ["100 %", "99.99 %", "50.00 %"]);
        let now = DateTime::UNIX_EPOCH;
        let texts = [-5, 90, -7_200, -400_000].map(|s| relative(now + TimeDelta::seconds(s), now));
        assert_eq!(texts, ["5 s ago", "in 1 min", "2 h ago", "4 d ago"]);
    }
}
