//! Nodes that look at one series at a time: a series goes from the selector through all of them before the next one is read.

use holdfast_series::stale_marker;

use super::{Column, EvalError, Evaluator, Grid, Node, Point, SAME_LABELS, has_twins, merge};
use crate::functions::{Call, go_max, go_min};
use crate::plan::{Binary, Kind, Plan, RangeSource};

/// Takes one series after the other. The column is the sender's; who wants to keep it takes it.
pub(super) type Sink<'s> = dyn FnMut(&mut Column) -> Result<(), EvalError> + 's;

impl Evaluator<'_> {
    /// Evaluates an instant vector and hands on its series one by one.
    pub(super) fn stream(
        &self,
        plan: &Plan,
        grid: Grid,
        sink: &mut Sink<'_>,
    ) -> Result<(), EvalError> {
        if plan.is_row_wise() && (plan.is_unique() || !plan.drops_name()) {
            return self.rows(plan, grid, sink);
        }
        self.vector(plan, grid)?.iter_mut().try_for_each(sink)
    }

    /// Evaluates a node that looks at one series at a time, all series in a list.
    pub(super) fn collect(&self, plan: &Plan, grid: Grid) -> Result<Vec<Column>, EvalError> {
        let mut columns = Vec::new();
        self.rows(plan, grid, &mut |column| {
            self.charge(grid.steps)?;
            columns.push(column.take());
            Ok(())
        })?;
        if plan.is_unique() || !plan.drops_name() {
            return Ok(columns);
        }
        // Of a function of ranges, two series with the same labels may not even take turns.
        if matches!(plan, Plan::Range { .. }) && has_twins(&columns) {
            return Err(EvalError::execution(SAME_LABELS));
        }
        merge(columns, SAME_LABELS)
    }

    fn rows(&self, plan: &Plan, grid: Grid, sink: &mut Sink<'_>) -> Result<(), EvalError> {
        match plan {
            Plan::Selector(selector) => self.each_selected(selector, grid, false, sink),
            Plan::Range { function, source, params } => {
                self.each_range(*function, source, params, grid, sink)
            }
            Plan::Negate(arg) => self.stream(arg, grid, &mut |column| {
                column.drop_name();
                if column.histograms.is_none() {
                    column.map_floats(|_, value| -value);
                } else {
                    column.map(|_, value| Some(negated(value)));
                }
                sink(column)
            }),
            Plan::Math { function, arg: Some(arg) } => self.stream(arg, grid, &mut |column| {
                column.drop_name();
                column.map_floats(|_, value| function.apply(value));
                sink(column)
            }),
            Plan::Binary(binary) => self.with_scalar(binary, grid, sink),
            Plan::Call { call, args } => self.row_call(call, args, grid, sink),
            _ => Err(EvalError::execution("expected an instant vector")),
        }
    }

    /// A vector and a number. A comparison keeps the vector's value on whichever side it stands.
    fn with_scalar(
        &self,
        binary: &Binary,
        grid: Grid,
        sink: &mut Sink<'_>,
    ) -> Result<(), EvalError> {
        let scalar_left = binary.lhs.kind() == Kind::Scalar;
        let (scalar, vector) =
            if scalar_left { (&binary.lhs, &binary.rhs) } else { (&binary.rhs, &binary.lhs) };
        let scalar = self.scalar(scalar, grid)?;
        let filters = binary.filters();
        self.stream(vector, grid, &mut |column| {
            if !filters {
                column.drop_name();
            }
            if column.histograms.is_some() {
                column.map(|step, value| {
                    let number = Point::Float(scalar[step]);
                    let (lhs, rhs) =
                        if scalar_left { (&number, &value) } else { (&value, &number) };
                    let result = self.apply_values(binary, lhs, rhs);
                    // What passes a filter is the vector's value.
                    if filters { result.map(|_| value) } else { result }
                });
                return sink(column);
            }
            column.map_floats(|step, value| {
                let (lhs, rhs) =
                    if scalar_left { (scalar[step], value) } else { (value, scalar[step]) };
                let (result, holds) = binary.op.apply(lhs, rhs);
                match (filters, binary.return_bool) {
                    (true, _) if holds => value,
                    (true, _) => stale_marker(),
                    (false, true) => f64::from(u8::from(holds)),
                    (false, false) => result,
                }
            });
            sink(column)
        })
    }

    fn row_call(
        &self,
        call: &Call,
        args: &[Plan],
        grid: Grid,
        sink: &mut Sink<'_>,
    ) -> Result<(), EvalError> {
        match call {
            Call::Timestamp => self.timestamp(&args[0], grid, sink),
            Call::Round => {
                let to = match args.get(1) {
                    Some(to) => self.scalar(to, grid)?,
                    None => vec![1.0; grid.steps],
                };
                self.map_rows(&args[0], grid, sink, |step, value| {
                    // Divided by the inverse: it is what keeps 0.1 from becoming 0.10000000000000002.
                    let inverse = 1.0 / to[step];
                    (value * inverse + 0.5).floor() / inverse
                })
            }
            Call::Clamp | Call::ClampMax | Call::ClampMin => self.clamp(call, args, grid, sink),
            Call::HistogramPart(part) => self.stream(&args[0], grid, &mut |column| {
                column.drop_name();
                column.map(|_, value| match value {
                    Point::Float(_) => None,
                    Point::Histogram(histogram) => Some(part.of(&histogram).into()),
                });
                sink(column)
            }),
            _ => Err(EvalError::execution("expected an instant vector")),
        }
    }

    /// A function of step and number of each series.
    fn map_rows(
        &self,
        arg: &Plan,
        grid: Grid,
        sink: &mut Sink<'_>,
        function: impl Fn(usize, f64) -> f64,
    ) -> Result<(), EvalError> {
        self.stream(arg, grid, &mut |column| {
            column.drop_name();
            column.map_floats(&function);
            sink(column)
        })
    }

    /// The time of the sample for a selector, of the evaluation for anything else.
    fn timestamp(&self, arg: &Plan, grid: Grid, sink: &mut Sink<'_>) -> Result<(), EvalError> {
        let mut nameless = |column: &mut Column| {
            column.drop_name();
            sink(column)
        };
        if let Plan::Selector(selector) = arg {
            return self.each_selected(selector, grid, true, &mut nameless);
        }
        let times: Vec<f64> = grid.seconds().collect();
        self.stream(arg, grid, &mut |column| {
            column.map(|step, _| Some(times[step].into()));
            nameless(column)
        })
    }

    fn clamp(
        &self,
        call: &Call,
        args: &[Plan],
        grid: Grid,
        sink: &mut Sink<'_>,
    ) -> Result<(), EvalError> {
        let first = self.scalar(&args[1], grid)?;
        let (min, max) = match call {
            Call::ClampMin => (Some(first), None),
            Call::ClampMax => (None, Some(first)),
            _ => (Some(first), Some(self.scalar(&args[2], grid)?)),
        };
        self.map_rows(&args[0], grid, sink, |step, mut value| {
            let bounds = (min.as_ref().map(|v| v[step]), max.as_ref().map(|v| v[step]));
            if let (Some(min), Some(max)) = bounds
                && max < min
            {
                return stale_marker();
            }
            if let Some(max) = bounds.1 {
                value = go_min(max, value);
            }
            if let Some(min) = bounds.0 {
                value = go_max(min, value);
            }
            value
        })
    }

    /// Two numbers as an operator of two scalars sees them.
    pub(super) fn scalars(&self, binary: &Binary, grid: Grid) -> Result<Node, EvalError> {
        let (lhs, rhs) = (self.scalar(&binary.lhs, grid)?, self.scalar(&binary.rhs, grid)?);
        let values = lhs.iter().zip(&rhs).map(|(lhs, rhs)| {
            let (value, holds) = binary.op.apply(*lhs, *rhs);
            if binary.op.is_comparison() { f64::from(u8::from(holds)) } else { value }
        });
        Ok(Node::Scalar(values.collect()))
    }
}

fn negated(value: Point) -> Point {
    match value {
        Point::Float(value) => Point::Float(-value),
        Point::Histogram(histogram) => {
            Point::Histogram(crate::histogram::scaled(&histogram, -1.0).into())
        }
    }
}

impl Plan {
    /// Whether it looks at one series at a time.
    pub(super) fn is_row_wise(&self) -> bool {
        match self {
            Self::Selector(_) | Self::Range { .. } | Self::Math { arg: Some(_), .. } => true,
            Self::Negate(arg) => arg.kind() == Kind::Vector,
            Self::Binary(binary) => binary.has_one_vector(),
            Self::Call { call, .. } => matches!(
                call,
                Call::Timestamp
                    | Call::Round
                    | Call::Clamp
                    | Call::ClampMax
                    | Call::ClampMin
                    | Call::HistogramPart(_)
            ),
            _ => false,
        }
    }

    /// Whether a node that looks at one series at a time drops the metric's name.
    pub(super) fn drops_name(&self) -> bool {
        match self {
            Self::Selector(_) => false,
            Self::Range { function, .. } => !function.keeps_name,
            Self::Binary(binary) => !binary.filters(),
            _ => true,
        }
    }

    /// Whether no two series of the result can differ in nothing but the metric's name.
    pub(super) fn is_unique(&self) -> bool {
        match self {
            Self::Selector(selector) => selector.has_one_name(),
            Self::Range { source: RangeSource::Selector { selector, .. }, .. } => {
                selector.has_one_name()
            }
            Self::Range { source: RangeSource::Subquery { plan, .. }, .. } => plan.is_unique(),
            Self::Negate(arg) | Self::Math { arg: Some(arg), .. } => arg.is_unique(),
            Self::Binary(binary) if binary.has_one_vector() => match binary.lhs.kind() {
                Kind::Scalar => binary.rhs.is_unique(),
                _ => binary.lhs.is_unique(),
            },
            Self::Call { args, .. } if self.is_row_wise() => args[0].is_unique(),
            _ => false,
        }
    }
}
