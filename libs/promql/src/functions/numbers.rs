//! Arithmetic that has to come out as it does in Prometheus: compensated sums, Go's minimum and maximum, quantiles.

/// A sum with Neumaier's compensation: the rounding error of each addition is kept beside the sum.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct KahanSum {
    pub(crate) sum: f64,
    pub(crate) rest: f64,
}

impl KahanSum {
    pub(crate) fn add(&mut self, value: f64) {
        let total = self.sum + value;
        if total.is_infinite() {
            self.rest = 0.0;
        } else if self.sum.abs() >= value.abs() {
            self.rest += (self.sum - total) + value;
        } else {
            self.rest += (value - total) + self.sum;
        }
        self.sum = total;
    }

    pub(crate) fn value(self) -> f64 {
        self.sum + self.rest
    }
}

pub(crate) fn kahan_sum(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut sum = KahanSum::default();
    values.into_iter().for_each(|value| sum.add(value));
    sum.value()
}

/// The mean by a plain sum, and step by step from where the sum would overflow.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Mean {
    sum: KahanSum,
    count: u32,
    incremental: bool,
}

impl Mean {
    pub(crate) fn add(&mut self, value: f64) {
        self.count += 1;
        let number = f64::from(self.count);
        if !self.incremental {
            let mut next = self.sum;
            next.add(value);
            if self.count == 1 || !next.sum.is_infinite() {
                self.sum = next;
                return;
            }
            self.incremental = true;
            let KahanSum { sum, rest } = self.sum;
            self.sum = KahanSum { sum: sum / (number - 1.0), rest: rest / (number - 1.0) };
        }
        let share = (number - 1.0) / number;
        self.sum = KahanSum { sum: share * self.sum.sum, rest: share * self.sum.rest };
        self.sum.add(value / number);
    }

    /// NaN if nothing was added.
    pub(crate) fn value(self) -> f64 {
        let number = f64::from(self.count);
        if self.incremental {
            self.sum.value()
        } else {
            self.sum.sum / number + self.sum.rest / number
        }
    }

    pub(crate) fn count(self) -> u32 {
        self.count
    }
}

pub(crate) fn kahan_mean(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut mean = Mean::default();
    values.into_iter().for_each(|value| mean.add(value));
    mean.value()
}

/// Population variance by Welford's method.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Variance {
    count: u32,
    mean: KahanSum,
    squares: KahanSum,
}

impl Variance {
    pub(crate) fn add(&mut self, value: f64) {
        self.count += 1;
        let delta = value - self.mean.value();
        self.mean.add(delta / f64::from(self.count));
        self.squares.add(delta * (value - self.mean.value()));
    }

    /// NaN if nothing was added.
    pub(crate) fn value(self) -> f64 {
        self.squares.value() / f64::from(self.count)
    }

    pub(crate) fn count(self) -> u32 {
        self.count
    }
}

pub(crate) fn variance(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut variance = Variance::default();
    values.into_iter().for_each(|value| variance.add(value));
    variance.value()
}

/// The quantile `q` by linear interpolation between the two nearest ranks; out of range it is infinite. NaN values count as smallest.
/// Sorts `values`.
pub(crate) fn quantile(q: f64, values: &mut [f64]) -> f64 {
    if values.is_empty() || q.is_nan() {
        return f64::NAN;
    }
    if !(0.0..=1.0).contains(&q) {
        return if q < 0.0 { f64::NEG_INFINITY } else { f64::INFINITY };
    }
    values.sort_by(|a, b| b.is_nan().cmp(&a.is_nan()).then(a.total_cmp(b)));
    let last = values.len() - 1;
    let rank = q * last as f64;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and the last index"
    )]
    let lower = (rank.floor() as usize).min(last);
    let weight = rank - rank.floor();
    values[lower] * (1.0 - weight) + values[(lower + 1).min(last)] * weight
}

/// Go's `math.Max`: infinity beats NaN, NaN beats numbers.
pub(crate) fn go_max(a: f64, b: f64) -> f64 {
    let infinite = a == f64::INFINITY || b == f64::INFINITY;
    if !infinite && (a.is_nan() || b.is_nan()) { f64::NAN } else { a.max(b) }
}

/// Go's `math.Min`: infinity below zero beats NaN, NaN beats numbers.
pub(crate) fn go_min(a: f64, b: f64) -> f64 {
    let infinite = a == f64::NEG_INFINITY || b == f64::NEG_INFINITY;
    if !infinite && (a.is_nan() || b.is_nan()) { f64::NAN } else { a.min(b) }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "results are exact by construction")]
mod tests {
    use super::*;

    #[test]
    fn sums_keep_what_plain_addition_loses() {
        assert_eq!(kahan_sum([1.0, 1e100, 1.0, -1e100]), 2.0);
        assert_eq!(kahan_mean([1.0, 1e100, 1.0, -1e100]), 0.5);
        assert_eq!(kahan_mean([f64::MAX, f64::MAX]), f64::MAX);
        assert_eq!(kahan_sum([f64::INFINITY, 1.0]), f64::INFINITY);
        assert!(kahan_mean([f64::INFINITY, f64::NEG_INFINITY]).is_nan());
        assert_eq!(kahan_mean([1.0, f64::INFINITY, 1.0]), f64::INFINITY);
        assert_eq!(variance([2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]), 4.0);
    }

    #[test]
    fn quantiles_interpolate_and_leave_the_range() {
        for (q, expected) in
            [(0.0, 1.0), (0.5, 2.5), (1.0, 4.0), (-0.1, f64::NEG_INFINITY), (1.1, f64::INFINITY)]
        {
            assert_eq!(quantile(q, &mut [3.0, 1.0, 4.0, 2.0]), expected, "{q}");
        }
        assert!(quantile(0.0, &mut [1.0, f64::NAN]).is_nan());
        assert!(quantile(f64::NAN, &mut [1.0]).is_nan());
    }
}
