//! What is evaluated: selectors with their matchers, functions looked up, label lists ready.

use std::sync::Arc;

use holdfast_series::{METRIC_NAME, MatchKind, Matcher};

use crate::functions::{Call, MathFunction, RangeFunction};

/// What a node of the plan evaluates to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Scalar,
    Vector,
    Matrix,
    Text,
}

#[derive(Debug)]
pub(crate) enum Plan {
    Number(f64),
    Text(String),
    Selector(Selector),
    Matrix(RangeSource),
    Negate(Box<Self>),
    Aggregate(Box<Aggregate>),
    Binary(Box<Binary>),
    /// A function of each value; without an argument it is applied to the time.
    Math {
        function: MathFunction,
        arg: Option<Box<Self>>,
    },
    /// A function of the samples in a range.
    Range {
        function: RangeFunction,
        source: RangeSource,
        params: Vec<Self>,
    },
    AbsentOverTime(RangeSource),
    Call {
        call: Call,
        args: Vec<Self>,
    },
}

#[derive(Debug)]
pub(crate) struct Selector {
    pub(crate) matchers: Arc<[Matcher]>,
    pub(crate) shift: Shift,
}

impl Selector {
    /// Whether all series it selects have the same name.
    pub(crate) fn has_one_name(&self) -> bool {
        self.matchers
            .iter()
            .any(|matcher| matcher.name() == METRIC_NAME && matcher.kind() == MatchKind::Equal)
    }
}

/// When a selector or subquery looks, relative to the time of the evaluation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shift {
    pub(crate) at: Option<At>,
    pub(crate) offset_ms: i64,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum At {
    Start,
    End,
    Time(i64),
}

#[derive(Debug)]
pub(crate) enum RangeSource {
    Selector { selector: Selector, range_ms: i64 },
    Subquery { plan: Box<Plan>, range_ms: i64, step_ms: Option<i64>, shift: Shift },
}

impl RangeSource {
    pub(crate) fn range_ms(&self) -> i64 {
        match self {
            Self::Selector { range_ms, .. } | Self::Subquery { range_ms, .. } => *range_ms,
        }
    }

    fn visit<'a>(&'a self, found: &mut dyn FnMut(&'a Selector)) {
        match self {
            Self::Selector { selector, .. } => found(selector),
            Self::Subquery { plan, .. } => plan.visit(found),
        }
    }

    pub(crate) fn shift(&self) -> Shift {
        match self {
            Self::Selector { selector, .. } => selector.shift,
            Self::Subquery { shift, .. } => *shift,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Aggregate {
    pub(crate) op: AggregateOp,
    pub(crate) arg: Plan,
    pub(crate) param: Option<Plan>,
    pub(crate) grouping: LabelList,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AggregateOp {
    Sum,
    Avg,
    Min,
    Max,
    Count,
    Group,
    Stddev,
    Stdvar,
    Topk,
    Bottomk,
    Quantile,
    CountValues,
    Limitk,
    LimitRatio,
}

/// Labels that count (`by`, `on`) or all but these and the name (`without`, `ignoring`).
#[derive(Debug)]
pub(crate) enum LabelList {
    Only(Vec<String>),
    Except(Vec<String>),
}

#[derive(Debug)]
pub(crate) struct Binary {
    pub(crate) op: BinaryOp,
    pub(crate) lhs: Plan,
    pub(crate) rhs: Plan,
    pub(crate) return_bool: bool,
    pub(crate) matching: LabelList,
    pub(crate) cardinality: Cardinality,
}

#[derive(Debug)]
pub(crate) enum Cardinality {
    OneToOne,
    /// `group_left` with the labels taken from the right.
    ManyToOne(Vec<String>),
    /// `group_right` with the labels taken from the left.
    OneToMany(Vec<String>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BinaryOp {
    Add,
    Sub,
    Mul,
    Div,
    Mod,
    Pow,
    Atan2,
    Eq,
    Ne,
    Gt,
    Lt,
    Ge,
    Le,
    And,
    Or,
    Unless,
}

impl BinaryOp {
    pub(crate) fn is_comparison(self) -> bool {
        matches!(self, Self::Eq | Self::Ne | Self::Gt | Self::Lt | Self::Ge | Self::Le)
    }
}

impl Plan {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Number(_) => Kind::Scalar,
            Self::Call { call, .. } if call.is_scalar() => Kind::Scalar,
            Self::Text(_) => Kind::Text,
            Self::Matrix(_) => Kind::Matrix,
            Self::Negate(arg) => arg.kind(),
            Self::Binary(binary) => match (binary.lhs.kind(), binary.rhs.kind()) {
                (Kind::Scalar, Kind::Scalar) => Kind::Scalar,
                _ => Kind::Vector,
            },
            _ => Kind::Vector,
        }
    }

    /// The nodes right below, those of ranges left out.
    pub(crate) fn children(&self) -> Vec<&Self> {
        match self {
            Self::Number(_)
            | Self::Text(_)
            | Self::Selector(_)
            | Self::Matrix(_)
            | Self::AbsentOverTime(_) => Vec::new(),
            Self::Negate(arg) => vec![arg],
            Self::Aggregate(aggregate) => {
                std::iter::once(&aggregate.arg).chain(&aggregate.param).collect()
            }
            Self::Binary(binary) => vec![&binary.lhs, &binary.rhs],
            Self::Math { arg, .. } => arg.iter().map(|arg| &**arg).collect(),
            Self::Range { params: args, .. } | Self::Call { args, .. } => args.iter().collect(),
        }
    }

    /// Shows every selector to `found`.
    pub(crate) fn visit<'a>(&'a self, found: &mut dyn FnMut(&'a Selector)) {
        match self {
            Self::Selector(selector) => found(selector),
            Self::Matrix(range) | Self::AbsentOverTime(range) => range.visit(found),
            Self::Range { source, .. } => source.visit(found),
            _ => {}
        }
        self.children().into_iter().for_each(|child| child.visit(found));
    }
}
