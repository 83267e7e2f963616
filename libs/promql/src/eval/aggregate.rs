//! Aggregations: many series become one per group, or the few that stand out.

use super::{Column, EvalError, Evaluator, Grid};
use crate::plan::{Aggregate, AggregateOp, Plan};

impl Aggregate {
    pub(super) fn param(&self) -> Result<&Plan, EvalError> {
        self.param.as_ref().ok_or_else(|| EvalError::execution("expected a parameter"))
    }
}

impl Evaluator<'_> {
    pub(super) fn aggregate(
        &self,
        aggregate: &Aggregate,
        grid: Grid,
    ) -> Result<Vec<Column>, EvalError> {
        match aggregate.op {
            AggregateOp::Quantile => self.aggregate_quantile(aggregate, grid),
            AggregateOp::Topk | AggregateOp::Bottomk => self.outstanding(aggregate, grid),
            AggregateOp::Limitk => self.limit(aggregate, grid),
            AggregateOp::LimitRatio => self.limit_ratio(aggregate, grid),
            AggregateOp::CountValues => self.count_values(aggregate, grid),
            _ => self.fold(aggregate, grid),
        }
    }
}
