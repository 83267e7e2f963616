//! Parts of a date in UTC, from seconds since the Unix epoch.
//!
//! Days become dates by the era arithmetic of Howard Hinnant's `civil_from_days` ("chrono-Compatible Low-Level Date Algorithms").

const DAY_SECONDS: i64 = 86_400;

struct Date {
    year: i64,
    month: i64,
    day: i64,
}

/// Whole seconds; what is no number is the epoch.
#[expect(clippy::cast_possible_truncation, reason = "saturates, as far from any date as it gets")]
fn seconds(value: f64) -> i64 {
    value as i64
}

fn days(value: f64) -> i64 {
    seconds(value).div_euclid(DAY_SECONDS)
}

fn date(value: f64) -> Date {
    let days = days(value) + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    Date {
        year: year_of_era + era * 400 + i64::from(month <= 2),
        month,
        day: day_of_year - (153 * shifted_month + 2) / 5 + 1,
    }
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn month_days(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if is_leap(year) => 29,
        2 => 28,
        _ => 31,
    }
}

pub(super) fn minute(value: f64) -> f64 {
    (seconds(value).rem_euclid(3_600) / 60) as f64
}

pub(super) fn hour(value: f64) -> f64 {
    (seconds(value).rem_euclid(DAY_SECONDS) / 3_600) as f64
}

/// Sunday is 0; the epoch was a Thursday.
pub(super) fn day_of_week(value: f64) -> f64 {
    (days(value) + 4).rem_euclid(7) as f64
}

pub(super) fn day_of_month(value: f64) -> f64 {
    date(value).day as f64
}

pub(super) fn day_of_year(value: f64) -> f64 {
    let Date { year, month, day } = date(value);
    ((1..month).map(|month| month_days(year, month)).sum::<i64>() + day) as f64
}

pub(super) fn days_in_month(value: f64) -> f64 {
    let Date { year, month, .. } = date(value);
    month_days(year, month) as f64
}

pub(super) fn month(value: f64) -> f64 {
    date(value).month as f64
}

pub(super) fn year(value: f64) -> f64 {
    date(value).year as f64
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "whole numbers")]
mod tests {
    use super::*;

    #[test]
    fn known_instants_have_their_dates() {
        for (at, expected) in [
            (0.0, [1970.0, 1.0, 1.0, 1.0, 4.0, 31.0, 0.0, 0.0]),
            (951_782_399.0, [2000.0, 2.0, 28.0, 59.0, 1.0, 29.0, 23.0, 59.0]),
            (951_782_400.0, [2000.0, 2.0, 29.0, 60.0, 2.0, 29.0, 0.0, 0.0]),
            (-1.0, [1969.0, 12.0, 31.0, 365.0, 3.0, 31.0, 23.0, 59.0]),
            (1_709_251_200.5, [2024.0, 3.0, 1.0, 61.0, 5.0, 31.0, 0.0, 0.0]),
        ] {
            let found =
                [year, month, day_of_month, day_of_year, day_of_week, days_in_month, hour, minute]
                    .map(|part| part(at));
            assert_eq!(found, expected, "{at}");
        }
    }
}
