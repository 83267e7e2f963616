//! Binary operators between two vectors, and what an operator does to two values.

use std::collections::HashMap;
use std::sync::Arc;

use holdfast_series::{Labels, METRIC_NAME};

use super::matching::{Match, matches};
use super::{Column, EvalError, Evaluator, Grid, Node, Point, SAME_LABELS, merge};
use crate::histogram;
use crate::notes::Note;
use crate::plan::{Binary, BinaryOp, Cardinality, Kind, LabelList};

impl BinaryOp {
    /// The result for two numbers, and whether a comparison holds.
    pub(super) fn apply(self, lhs: f64, rhs: f64) -> (f64, bool) {
        #[expect(clippy::float_cmp, reason = "the operators of PromQL compare exactly")]
        match self {
            Self::Add => (lhs + rhs, true),
            Self::Sub => (lhs - rhs, true),
            Self::Mul => (lhs * rhs, true),
            Self::Div => (lhs / rhs, true),
            Self::Mod => (lhs % rhs, true),
            Self::Pow => (lhs.powf(rhs), true),
            Self::Atan2 => (lhs.atan2(rhs), true),
            Self::Eq => (lhs, lhs == rhs),
            Self::Ne => (lhs, lhs != rhs),
            Self::Gt => (lhs, lhs > rhs),
            Self::Lt => (lhs, lhs < rhs),
            Self::Ge => (lhs, lhs >= rhs),
            Self::Le => (lhs, lhs <= rhs),
            // Set operators look at labels only.
            Self::And | Self::Or | Self::Unless => (lhs, true),
        }
    }

    fn symbol(self) -> &'static str {
        match self {
            Self::Add => "+",
            Self::Sub => "-",
            Self::Mul => "*",
            Self::Div => "/",
            Self::Mod => "%",
            Self::Pow => "^",
            Self::Atan2 => "atan2",
            Self::Eq => "==",
            Self::Ne => "!=",
            Self::Gt => ">",
            Self::Lt => "<",
            Self::Ge => ">=",
            Self::Le => "<=",
            Self::And => "and",
            Self::Or => "or",
            Self::Unless => "unless",
        }
    }
}

impl Binary {
    /// Whether it is a comparison that lets values through or not.
    pub(super) fn filters(&self) -> bool {
        self.op.is_comparison() && !self.return_bool
    }

    pub(super) fn has_one_vector(&self) -> bool {
        let kinds = (self.lhs.kind(), self.rhs.kind());
        matches!(kinds, (Kind::Vector, Kind::Scalar) | (Kind::Scalar, Kind::Vector))
    }
}

impl Evaluator<'_> {
    pub(super) fn binary(&self, binary: &Binary, grid: Grid) -> Result<Node, EvalError> {
        if (binary.lhs.kind(), binary.rhs.kind()) == (Kind::Scalar, Kind::Scalar) {
            return self.scalars(binary, grid);
        }
        let (lhs, rhs) = (self.vector(&binary.lhs, grid)?, self.vector(&binary.rhs, grid)?);
        self.charge((lhs.len() + rhs.len()) * grid.steps)?;
        match binary.op {
            BinaryOp::And | BinaryOp::Or | BinaryOp::Unless => {
                set_operation(binary, lhs, rhs, grid)
            }
            _ => self.match_vectors(binary, &lhs, &rhs, grid),
        }
        .map(Node::Vector)
    }

    /// The result for two values of any kind; nothing where a comparison does not hold or the operator says nothing about them.
    pub(super) fn apply_values(&self, binary: &Binary, lhs: &Point, rhs: &Point) -> Option<Point> {
        let verdict = |holds: bool| f64::from(u8::from(holds)).into();
        match (lhs, rhs) {
            (Point::Float(left), Point::Float(right)) => {
                let (value, holds) = binary.op.apply(*left, *right);
                if binary.return_bool {
                    Some(verdict(holds))
                } else {
                    holds.then_some(value.into())
                }
            }
            (Point::Histogram(left), Point::Histogram(right)) => match binary.op {
                BinaryOp::Add | BinaryOp::Sub => {
                    let factor = if binary.op == BinaryOp::Add { 1.0 } else { -1.0 };
                    let combined = histogram::combined(left, right, factor);
                    if combined.is_err() {
                        self.notes.add(Note::IncompatibleBucketLayout(binary.op.symbol()));
                    }
                    combined.ok().map(Point::from)
                }
                BinaryOp::Eq | BinaryOp::Ne => {
                    let holds = histogram::equal(left, right) == (binary.op == BinaryOp::Eq);
                    if binary.return_bool {
                        Some(verdict(holds))
                    } else {
                        holds.then(|| Point::Histogram(Arc::clone(left)))
                    }
                }
                op => self.incompatible("histogram", op, "histogram"),
            },
            (Point::Histogram(left), Point::Float(right)) => match binary.op {
                BinaryOp::Mul => Some(histogram::scaled(left, *right).into()),
                BinaryOp::Div => Some(histogram::divided(left, *right).into()),
                op => self.incompatible("histogram", op, "float"),
            },
            (Point::Float(left), Point::Histogram(right)) => match binary.op {
                BinaryOp::Mul => Some(histogram::scaled(right, *left).into()),
                op => self.incompatible("float", op, "histogram"),
            },
        }
    }

    fn incompatible(&self, lhs: &'static str, op: BinaryOp, rhs: &'static str) -> Option<Point> {
        self.notes.add(Note::IncompatibleTypes { lhs, op: op.symbol(), rhs });
        None
    }

    /// Arithmetic and comparison between vectors. One side is the "one" side: for each match it may have one series only.
    fn match_vectors(
        &self,
        binary: &Binary,
        lhs: &[Column],
        rhs: &[Column],
        grid: Grid,
    ) -> Result<Vec<Column>, EvalError> {
        let swapped = matches!(binary.cardinality, Cardinality::OneToMany(_));
        let (many, one) = if swapped { (rhs, lhs) } else { (lhs, rhs) };
        let many_present: Vec<bool> =
            (0..grid.steps).map(|step| many.iter().any(|column| column.is_present(step))).collect();
        let mut results: Vec<(usize, Column)> = Vec::new();
        for group in matches(&binary.matching, many, one) {
            let mut pairs: HashMap<(usize, usize), Column> = HashMap::new();
            for step in (0..grid.steps).filter(|step| many_present[*step]) {
                let Some(one_member) = only_one(&group, one, step, binary, swapped)? else {
                    continue;
                };
                self.match_step(binary, &group, (many, one), (step, one_member), &mut pairs, grid)?;
            }
            // In the order of the many side; the order of a hash map would change from run to run.
            let mut pairs: Vec<_> = pairs.into_iter().collect();
            pairs.sort_by_key(|(pair, _)| *pair);
            let first = pairs.first().map_or(0, |((member, _), _)| *member);
            let columns = pairs.into_iter().map(|(_, column)| column).collect();
            let merged = merge(
                columns,
                "multiple matches for labels: grouping labels must ensure unique matches",
            )?;
            results.extend(merged.into_iter().map(|column| (first, column)));
        }
        results.sort_by_key(|(first, _)| *first);
        merge(results.into_iter().map(|(_, column)| column).collect(), SAME_LABELS)
    }

    /// One step of a group: each member of the many side with the member of the one side.
    fn match_step(
        &self,
        binary: &Binary,
        group: &Match,
        (many, one): (&[Column], &[Column]),
        (step, one_member): (usize, usize),
        pairs: &mut HashMap<(usize, usize), Column>,
        grid: Grid,
    ) -> Result<(), EvalError> {
        let swapped = matches!(binary.cardinality, Cardinality::OneToMany(_));
        let one_to_one = matches!(binary.cardinality, Cardinality::OneToOne);
        let Some(right) = one[one_member].value(step) else { return Ok(()) };
        let mut matched = false;
        for &member in &group.many {
            let Some(left) = many[member].value(step) else { continue };
            let (lhs, rhs) = if swapped { (&right, &left) } else { (&left, &right) };
            let Some(value) = self.apply_values(binary, lhs, rhs) else { continue };
            if one_to_one && std::mem::replace(&mut matched, true) {
                return Err(EvalError::execution(
                    "multiple matches for labels: many-to-one matching must be explicit (group_left/group_right)",
                ));
            }
            let column = pairs.entry((member, one_member)).or_insert_with(|| {
                let labels = result_labels(binary, &many[member].labels, &one[one_member].labels);
                Column::empty(labels, grid)
            });
            column.set(step, Some(value));
        }
        Ok(())
    }
}

fn set_operation(
    binary: &Binary,
    mut lhs: Vec<Column>,
    mut rhs: Vec<Column>,
    grid: Grid,
) -> Result<Vec<Column>, EvalError> {
    let any_filled = |columns: &[Column], members: &[usize]| -> Vec<bool> {
        let at = |step: usize| members.iter().any(|member| columns[*member].is_present(step));
        (0..grid.steps).map(at).collect()
    };
    let clear = |columns: &mut [Column], members: &[usize], present: &[bool], when: bool| {
        for member in members {
            for (step, present) in present.iter().enumerate() {
                if *present == when {
                    columns[*member].set(step, None);
                }
            }
        }
    };
    for Match { many, one } in matches(&binary.matching, &lhs, &rhs) {
        match binary.op {
            BinaryOp::And => clear(&mut lhs, &many, &any_filled(&rhs, &one), false),
            BinaryOp::Unless => clear(&mut lhs, &many, &any_filled(&rhs, &one), true),
            _ => clear(&mut rhs, &one, &any_filled(&lhs, &many), true),
        }
    }
    if binary.op == BinaryOp::Or {
        lhs.append(&mut rhs);
    }
    merge(lhs, SAME_LABELS)
}

/// The member of the "one" side that has a value at `step`; that there are two is an error.
fn only_one(
    group: &Match,
    one: &[Column],
    step: usize,
    binary: &Binary,
    swapped: bool,
) -> Result<Option<usize>, EvalError> {
    let mut filled = group.one.iter().filter(|member| one[**member].is_present(step));
    let Some(&first) = filled.next() else { return Ok(None) };
    let Some(&second) = filled.next() else { return Ok(Some(first)) };
    let side = if swapped { "left" } else { "right" };
    let matched = binary.matching.key(&one[first]);
    let (first, second) = (&one[first].labels, &one[second].labels);
    Err(EvalError::execution(format!(
        "found duplicate series for the match group {matched} on the {side} hand-side of the operation: [{second}, {first}];\
         many-to-many matching not allowed: matching labels must be unique on one side"
    )))
}

/// Labels of the result of a match.
fn result_labels(binary: &Binary, many: &Labels, one: &Labels) -> Labels {
    let mut labels = many.clone();
    if !binary.op.is_comparison() || binary.return_bool {
        labels = labels.without_name();
    }
    match &binary.cardinality {
        Cardinality::OneToOne => match &binary.matching {
            LabelList::Only(names) => labels.filtered(|name| names.iter().any(|n| n == name)),
            LabelList::Except(names) => labels.filtered(|name| !names.iter().any(|n| n == name)),
        },
        Cardinality::ManyToOne(include) | Cardinality::OneToMany(include) => {
            for name in include.iter().filter(|name| *name != METRIC_NAME) {
                labels = labels.with(name, one.value(name));
            }
            labels
        }
    }
}
