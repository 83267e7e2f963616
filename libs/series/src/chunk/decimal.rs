//! Values as whole numbers: most of what is measured is counted, or has a few digits behind the point.
//!
//! A power of ten is sought that makes every value whole; then the whole numbers, divided by it again, must be the same floating-point
//! numbers to the bit, or they are not used. Values that no power makes whole (a staleness marker, infinity) are kept apart, as long as
//! they are few.

/// How many exponents there are.
pub(crate) const EXPONENTS: u8 = 16;
/// The powers of ten that are tried. With more digits the whole number soon leaves the 53 bits of a float's mantissa.
const POWERS: [f64; EXPONENTS as usize] =
    [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15];
/// Whole numbers below this are floats exactly: 2^53.
const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;
/// One value in so many may be kept apart: nine bytes each.
const APART_SHARE: usize = 8;

/// Values as whole numbers times a power of ten.
#[derive(Debug)]
pub(crate) struct Decimals {
    /// Which power of ten the values were multiplied by.
    pub(crate) exponent: u8,
    /// A whole number per value; where the value is kept apart, the one before.
    pub(crate) numbers: Vec<i64>,
    /// Places of the values that are kept apart, ascending.
    pub(crate) apart: Vec<usize>,
}

/// The value of a whole number.
#[inline]
pub(crate) fn value(number: i64, exponent: u8) -> f64 {
    // Whole numbers read from a damaged file may be larger than those written, and lose digits.
    let number = number as f64;
    if exponent == 0 { number } else { number / POWERS[usize::from(exponent)] }
}

/// The whole number that `value` is at this exponent, if it is one.
fn whole(value: f64, exponent: usize) -> Option<i64> {
    let scaled = (value * POWERS[exponent]).round();
    if scaled.abs() >= WHOLE_MAX {
        return None;
    }
    #[expect(clippy::cast_possible_truncation, reason = "whole, and below 2^53")]
    let number = scaled as i64;
    let same = (number as f64 / POWERS[exponent]).to_bits() == value.to_bits();
    same.then_some(number)
}

/// `values` as whole numbers; `None` if too many are not.
pub(crate) fn decimals(values: impl ExactSizeIterator<Item = f64> + Clone) -> Option<Decimals> {
    let apart_max = values.len() / APART_SHARE + 1;
    let (mut exponent, mut apart) = (0, 0);
    for value in values.clone() {
        if whole(value, exponent).is_some() {
            continue;
        }
        let fits = |exponent: &usize| whole(value, *exponent).is_some();
        match (exponent + 1..POWERS.len()).find(fits).filter(|_| value.is_finite()) {
            Some(more) => exponent = more,
            None => apart += 1,
        }
        if apart > apart_max {
            return None;
        }
    }
    let mut numbers = Vec::with_capacity(values.len());
    let mut apart = Vec::new();
    for (at, value) in values.enumerate() {
        let before = numbers.last().copied().unwrap_or_default();
        numbers.push(whole(value, exponent).unwrap_or_else(|| {
            apart.push(at);
            before
        }));
    }
    // A value that was whole at a smaller exponent may be too large for this one.
    (apart.len() <= apart_max).then(|| Decimals {
        exponent: u8::try_from(exponent).unwrap_or_default(),
        numbers,
        apart,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(values: &[f64]) -> Option<(u8, usize)> {
        let found = decimals(values.iter().copied())?;
        for (at, &expected) in values.iter().enumerate() {
            if !found.apart.contains(&at) {
                let read = value(found.numbers[at], found.exponent);
                assert_eq!(read.to_bits(), expected.to_bits());
            }
        }
        Some((found.exponent, found.apart.len()))
    }

    #[test]
    fn the_smallest_exponent_is_found() {
        assert_eq!(found(&[1.0, 0.0, -7.0, 1e15]), Some((0, 0)));
        assert_eq!(found(&[0.5, 0.25, 100.0]), Some((2, 0)));
        assert_eq!(found(&[0.000_001, 0.000_732]), Some((6, 0)));
        assert_eq!(found(&[1e-15]), Some((15, 0)));
    }

    #[test]
    fn what_is_not_a_decimal_is_kept_apart_or_refused() {
        let mut values = vec![1.5; 40];
        values[3] = f64::NAN;
        values[4] = f64::INFINITY;
        values[5] = -0.0;
        values[39] = crate::stale_marker();
        assert_eq!(found(&values), Some((1, 4)));
        assert_eq!(found(&[1.0 / 3.0; 20]), None);
        let mut mixed = vec![1e-12; 40];
        mixed[..20].fill(1e9);
        assert_eq!(found(&mixed), None, "no exponent fits both");
    }
}
