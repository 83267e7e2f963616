//! What an evaluation will ask its source for, known beforehand.

use crate::eval::{Grid, reference_ms, subquery_grid};
use crate::plan::{Plan, RangeSource, Shift};
use crate::querier::Selection;
use crate::{Expression, Options};

impl Expression {
    /// The selections an evaluation at the instant `at_ms` makes, for a [`Shared`](crate::Shared) source. Those of `info` are not
    /// among them.
    pub fn selections(&self, at_ms: i64, options: &Options<'_>) -> Vec<Selection> {
        let mut walk = Walk { ends: (at_ms, at_ms), options, found: Vec::new() };
        walk.plan(&self.plan, Grid::instant(at_ms));
        walk.found
    }
}

struct Walk<'a> {
    ends: (i64, i64),
    options: &'a Options<'a>,
    found: Vec<Selection>,
}

impl Walk<'_> {
    fn span(&self, shift: Shift, grid: Grid) -> (i64, i64) {
        let (first_ms, last_ms) = grid.ends();
        (reference_ms(shift, self.ends, first_ms), reference_ms(shift, self.ends, last_ms))
    }

    fn plan(&mut self, plan: &Plan, grid: Grid) {
        match plan {
            Plan::Selector(selector) => {
                let (first_ms, last_ms) = self.span(selector.shift, grid);
                self.found.push(selector.selection(first_ms, last_ms, self.options));
            }
            Plan::Matrix(source) | Plan::AbsentOverTime(source) => self.source(source, grid),
            Plan::Range { source, params, .. } => {
                self.source(source, grid);
                for param in params {
                    self.plan(param, grid);
                }
            }
            plan => {
                for child in plan.children() {
                    self.plan(child, grid);
                }
            }
        }
    }

    fn source(&mut self, source: &RangeSource, grid: Grid) {
        let (first_ms, last_ms) = self.span(source.shift(), grid);
        match source {
            RangeSource::Selector { selector, range_ms } => {
                let found = selector.range_selection(*range_ms, first_ms, last_ms, self.options);
                self.found.push(found);
            }
            RangeSource::Subquery { plan, range_ms, step_ms, .. } => {
                let start_ms = self.options.left_edge(first_ms - range_ms);
                let step_ms = step_ms.unwrap_or(self.options.subquery_step_ms).max(1);
                if let Some(inner) = subquery_grid(start_ms, last_ms, step_ms) {
                    self.plan(plan, inner);
                }
            }
        }
    }
}
