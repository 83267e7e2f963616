//! Quantiles and fractions of histograms: classic ones, a series per bucket, and native ones, a histogram per series.

use std::collections::HashMap;

use holdfast_series::{Histogram, Labels, METRIC_NAME};

use super::{Column, EvalError, Evaluator, Grid, SAME_LABELS, is_filled, merge};
use crate::functions::{Bucket, bucket_fraction, bucket_quantile, parse_bound};
use crate::histogram;
use crate::notes::Note;
use crate::plan::Plan;

/// The label that holds the upper bound of a bucket.
const BUCKET_BOUND: &str = "le";

/// What is asked of each histogram.
enum Question<'q> {
    Quantile(&'q [f64]),
    Fraction(&'q [f64], &'q [f64]),
}

/// One histogram over the steps: its native form, its buckets as series of their own, or one of both at different steps.
struct Source<'c> {
    labels: Labels,
    metric: &'c str,
    buckets: Vec<(f64, &'c Column)>,
    native: Option<&'c Column>,
}

impl Evaluator<'_> {
    pub(super) fn histogram_quantile(
        &self,
        args: &[Plan],
        grid: Grid,
    ) -> Result<Vec<Column>, EvalError> {
        let q = self.scalar(&args[0], grid)?;
        self.notes.check_quantiles(&q);
        let columns = self.vector(&args[1], grid)?;
        merge(self.histograms(&columns, &Question::Quantile(&q), grid)?, SAME_LABELS)
    }

    pub(super) fn histogram_fraction(
        &self,
        args: &[Plan],
        grid: Grid,
    ) -> Result<Vec<Column>, EvalError> {
        let (lower, upper) = (self.scalar(&args[0], grid)?, self.scalar(&args[1], grid)?);
        let columns = self.vector(&args[2], grid)?;
        merge(self.histograms(&columns, &Question::Fraction(&lower, &upper), grid)?, SAME_LABELS)
    }

    /// Several quantiles at once, each with its number in a label.
    pub(super) fn histogram_quantiles(
        &self,
        args: &[Plan],
        grid: Grid,
    ) -> Result<Vec<Column>, EvalError> {
        let columns = self.vector(&args[0], grid)?;
        let Some(Plan::Text(label)) = args.get(1) else {
            return Err(EvalError::execution("expected a label name"));
        };
        let mut all = Vec::new();
        for arg in &args[2..] {
            let q = self.scalar(arg, grid)?;
            self.notes.check_quantiles(&q);
            let text = crate::format_number(q[0]);
            for mut column in self.histograms(&columns, &Question::Quantile(&q), grid)? {
                column.labels = column.labels.with(label, &text);
                all.push(column);
            }
        }
        merge(all, SAME_LABELS)
    }

    fn histograms(
        &self,
        columns: &[Column],
        question: &Question<'_>,
        grid: Grid,
    ) -> Result<Vec<Column>, EvalError> {
        self.charge(columns.len() * grid.steps)?;
        let mut index: HashMap<Labels, usize> = HashMap::new();
        let mut sources: Vec<Source<'_>> = Vec::new();
        let mut place = |labels: Labels, bound: Option<f64>, column| {
            let position = *index.entry(labels.clone()).or_insert(sources.len());
            if position == sources.len() {
                sources.push(Source { labels, metric: "", buckets: Vec::new(), native: None });
            }
            let source = &mut sources[position];
            source.metric = Column::label(column, METRIC_NAME);
            match bound {
                Some(bound) => source.buckets.push((bound, column)),
                None => source.native = Some(column),
            }
        };
        for column in columns {
            let labels = column.labels.without_name();
            if column.histograms.is_some() {
                place(labels.clone(), None, column);
            }
            if column.values.iter().all(|value| !is_filled(*value)) {
                continue;
            }
            let text = column.labels.value(BUCKET_BOUND);
            if let Some(bound) = parse_bound(text) {
                place(labels.with(BUCKET_BOUND, ""), Some(bound), column);
            } else {
                let metric = column.labels.metric_name().to_owned();
                self.notes.add(Note::BadBucketLabel { metric, label: text.to_owned() });
            }
        }
        Ok(sources.into_iter().map(|source| self.ask(source, question, grid)).collect())
    }

    fn ask(&self, source: Source<'_>, question: &Question<'_>, grid: Grid) -> Column {
        let mut result = Column::empty(source.labels, grid);
        let mut buckets = Vec::with_capacity(source.buckets.len());
        for (step, cell) in result.values.iter_mut().enumerate() {
            buckets.clear();
            let filled = source.buckets.iter().filter_map(|(bound, column)| {
                Some(Bucket { bound: *bound, count: column.float(step)? })
            });
            buckets.extend(filled);
            let native = source.native.and_then(|column| column.histogram(step));
            match (native, buckets.is_empty()) {
                (Some(_), false) => {
                    self.notes.add(Note::MixedClassicAndNative(source.metric.to_owned()));
                }
                (Some(native), true) => {
                    *cell = self.ask_native(native, source.metric, question, step);
                }
                (None, false) => {
                    *cell = self.ask_classic(&mut buckets, source.metric, question, step);
                }
                (None, true) => {}
            }
        }
        result
    }

    fn ask_native(
        &self,
        native: &Histogram,
        metric: &str,
        question: &Question<'_>,
        step: usize,
    ) -> f64 {
        let not_numbers = native.sum.is_nan() && native.count > 0.0;
        match question {
            Question::Quantile(q) => {
                let value = histogram::quantile(q[step], native);
                if not_numbers && (0.0..=1.0).contains(&q[step]) {
                    let metric = metric.to_owned();
                    self.notes.add(Note::QuantileOfNan { metric, skewed: !value.is_nan() });
                }
                value
            }
            Question::Fraction(lower, upper) => {
                if not_numbers {
                    self.notes.add(Note::FractionOfNan(metric.to_owned()));
                }
                histogram::fraction(lower[step], upper[step], native)
            }
        }
    }

    fn ask_classic(
        &self,
        buckets: &mut Vec<Bucket>,
        metric: &str,
        question: &Question<'_>,
        step: usize,
    ) -> f64 {
        match question {
            Question::Quantile(q) => {
                let (value, forced) = bucket_quantile(q[step], buckets);
                if forced {
                    self.notes.add(Note::ForcedMonotonicity(metric.to_owned()));
                }
                value
            }
            Question::Fraction(lower, upper) => bucket_fraction(lower[step], upper[step], buckets),
        }
    }
}
