//! Where the buckets of a histogram are: as sorted lists of index and count, which can be coarsened and merged.

use holdfast_series::{Histogram, Span, indexed};

use super::Mismatch;

/// Index and count of the buckets that are not empty, ascending.
pub(super) type Counts = Vec<(i32, f64)>;

#[derive(Debug, Clone)]
pub(super) struct Layout {
    pub(super) schema: i8,
    pub(super) zero_threshold: f64,
    pub(super) zero_count: f64,
    pub(super) positive: Counts,
    pub(super) negative: Counts,
}

impl Layout {
    pub(super) fn of(histogram: &Histogram) -> Self {
        let filled = |spans, counts| -> Counts {
            indexed(spans, counts).filter(|(_, count)| *count != 0.0).collect()
        };
        Self {
            schema: histogram.schema,
            zero_threshold: histogram.zero_threshold,
            zero_count: histogram.zero_count,
            positive: filled(&histogram.positive_spans, &histogram.positive_counts),
            negative: filled(&histogram.negative_spans, &histogram.negative_counts),
        }
    }

    /// Buckets become those of a coarser resolution.
    fn coarsen(&mut self, schema: i8) {
        let shift = u32::from((self.schema - schema).unsigned_abs());
        for counts in [&mut self.positive, &mut self.negative] {
            for (index, _) in counts.iter_mut() {
                *index = (index.saturating_sub(1) >> shift) + 1;
            }
            counts.dedup_by(|next, kept| {
                let same = next.0 == kept.0;
                if same {
                    kept.1 += next.1;
                }
                same
            });
        }
        self.schema = schema;
    }

    /// The smallest zero bucket from `threshold` on that cuts no bucket in two.
    fn threshold_from(&self, threshold: f64) -> f64 {
        let bounds = bounds_of(self.schema);
        let counts = self.positive.iter().chain(&self.negative);
        let cut = counts
            .map(|(index, _)| bounds(*index))
            .filter(|(lower, upper)| *lower < threshold && threshold < *upper);
        cut.map(|(_, upper)| upper).fold(threshold, f64::max)
    }

    /// Buckets within the zero bucket become part of it.
    fn widen_zero(&mut self, threshold: f64) {
        let bounds = bounds_of(self.schema);
        let mut swallowed = 0.0;
        for counts in [&mut self.positive, &mut self.negative] {
            counts.retain(|(index, count)| {
                let keep = bounds(*index).0 >= threshold;
                if !keep {
                    swallowed += count;
                }
                keep
            });
        }
        self.zero_count += swallowed;
        self.zero_threshold = threshold;
    }

    /// As a histogram with the bounds of `like`; count and sum are left to the caller.
    pub(super) fn into_histogram(self, like: &Histogram) -> Histogram {
        let (positive_spans, positive_counts) = spans(&self.positive);
        let (negative_spans, negative_counts) = spans(&self.negative);
        Histogram {
            schema: self.schema,
            zero_threshold: self.zero_threshold,
            zero_count: self.zero_count,
            positive_spans,
            positive_counts,
            negative_spans,
            negative_counts,
            custom_bounds: like.custom_bounds.clone(),
            ..Histogram::default()
        }
    }
}

fn bounds_of(schema: i8) -> impl Fn(i32) -> (f64, f64) {
    let empty = Histogram { schema, ..Histogram::default() };
    move |index| empty.bounds(index)
}

/// Both in the same layout.
pub(super) fn common(a: &Histogram, b: &Histogram) -> Result<(Layout, Layout), Mismatch> {
    match (a.has_custom_bounds(), b.has_custom_bounds()) {
        (true, true) if a.custom_bounds == b.custom_bounds => {
            return Ok((Layout::of(a), Layout::of(b)));
        }
        (true, true) => return Err(Mismatch::Bounds),
        (false, false) => {}
        _ => return Err(Mismatch::Kinds),
    }
    let (mut left, mut right) = (Layout::of(a), Layout::of(b));
    // Widening for one may cut a bucket of the other, which widens again; each round takes in at least one bucket more.
    while left.zero_threshold.to_bits() != right.zero_threshold.to_bits() {
        let threshold = left.zero_threshold.max(right.zero_threshold);
        let threshold = left.threshold_from(threshold).max(right.threshold_from(threshold));
        for layout in [&mut left, &mut right] {
            let threshold = layout.threshold_from(threshold);
            layout.widen_zero(threshold);
        }
    }
    let schema = left.schema.min(right.schema);
    left.coarsen(schema);
    right.coarsen(schema);
    Ok((left, right))
}

fn spans(counts: &Counts) -> (Vec<Span>, Vec<f64>) {
    let mut spans: Vec<Span> = Vec::new();
    let mut next = 0;
    let mut values = Vec::with_capacity(counts.len());
    for &(index, count) in counts.iter().filter(|(_, count)| *count != 0.0) {
        match spans.last_mut() {
            Some(span) if index == next => span.length += 1,
            _ => spans.push(Span { offset: index.saturating_sub(next), length: 1 }),
        }
        next = index.saturating_add(1);
        values.push(count);
    }
    (spans, values)
}
