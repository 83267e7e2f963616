//! Text for people: tables, amounts, ages, events.

use chrono::{Local, TimeDelta};
use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;

use crate::record::{Event, Severity};

/// Appends formatted text to a `String`, which cannot fail.
macro_rules! append {
    ($text:expr, $($arguments:tt)*) => {{
        use std::fmt::Write as _;
        write!($text, $($arguments)*).expect("a String takes whatever is written")
    }};
}
pub(crate) use append;

/// An empty table with a header.
pub(crate) fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(header);
    table
}

/// An amount of memory or storage: `14.2 MiB`.
pub(crate) fn bytes(count: f64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{value:.0} B") } else { format!("{value:.1} {}", units[unit]) }
}

/// A short time, given in seconds: `2.1 ms`, `3.4 s`.
pub(crate) fn millis(seconds: f64) -> String {
    if seconds < 1.0 { format!("{:.1} ms", seconds * 1e3) } else { format!("{seconds:.1} s") }
}

/// A long time, in its two largest units: `3 m 20 s`.
pub(crate) fn age(time: TimeDelta) -> String {
    let seconds = time.num_seconds().max(0);
    let parts = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    let first = parts.iter().position(|(size, _)| seconds >= *size).unwrap_or(3);
    let mut text = format!("{} {}", seconds / parts[first].0, parts[first].1);
    if let Some((size, unit)) = parts.get(first + 1) {
        let rest = seconds % parts[first].0 / size;
        if rest > 0 {
            append!(text, " {rest} {unit}");
        }
    }
    text
}

/// An event in one line, without its time: severity, subject, message.
pub(crate) fn event_text(event: &Event, colored: bool) -> String {
    let severity = severity(event.severity, colored);
    format!("{severity} {:<14} {}", event.subject, event.message)
}

/// An event in one line, with its number and local time.
pub(super) fn event_line(event: &Event, colored: bool) -> String {
    let time = event.at.with_timezone(&Local).format("%m-%d %H:%M:%S%.3f");
    format!("{:>6} {time} {}", event.id, event_text(event, colored))
}

/// A severity in eight characters.
fn severity(severity: Severity, colored: bool) -> String {
    let name = format!("{:<8}", severity.name());
    if !colored {
        return name;
    }
    let code = match severity {
        Severity::Info => "2",
        Severity::Warning => "33",
        Severity::Critical => "1;31",
    };
    format!("\x1b[{code}m{name}\x1b[0m")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_and_times_are_short() {
        assert_eq!([0.0, 1023.0, 1536.0, 3e9].map(bytes), ["0 B", "1023 B", "1.5 KiB", "2.8 GiB"]);
        assert_eq!([0.0021, 0.5, 3.44].map(millis), ["2.1 ms", "500.0 ms", "3.4 s"]);
        let ages = [-5, 0, 59, 60, 200, 7_260, 90_000].map(|s| age(TimeDelta::seconds(s)));
        assert_eq!(ages, ["0 s", "0 s", "59 s", "1 m", "3 m 20 s", "2 h 1 m", "1 d 1 h"]);
    }
}
