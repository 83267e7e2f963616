//! Binary operators: which series of the two sides belong together, and what becomes of them.

use std::collections::HashMap;

use holdfast_series::{Labels, METRIC_NAME, stale_marker};

use super::{Column, EvalError, Evaluator, Grid, Node, SAME_LABELS, is_filled, merge};
use crate::plan::{Binary, BinaryOp, Cardinality, LabelList};

/// The result of an operator on two numbers, and whether a comparison holds.
fn apply(op: BinaryOp, lhs: f64, rhs: f64) -> (f64, bool) {
    #[expect(clippy::float_cmp, reason = "the operators of PromQL compare exactly")]
    match op {
        BinaryOp::Add => (lhs + rhs, true),
        BinaryOp::Sub => (lhs - rhs, true),
        BinaryOp::Mul => (lhs * rhs, true),
        BinaryOp::Div => (lhs / rhs, true),
        BinaryOp::Mod => (lhs % rhs, true),
        BinaryOp::Pow => (lhs.powf(rhs), true),
        BinaryOp::Atan2 => (lhs.atan2(rhs), true),
        BinaryOp::Eq => (lhs, lhs == rhs),
        BinaryOp::Ne => (lhs, lhs != rhs),
        BinaryOp::Gt => (lhs, lhs > rhs),
        BinaryOp::Lt => (lhs, lhs < rhs),
        BinaryOp::Ge => (lhs, lhs >= rhs),
        BinaryOp::Le => (lhs, lhs <= rhs),
        // Set operators look at labels only.
        BinaryOp::And | BinaryOp::Or | BinaryOp::Unless => (lhs, true),
    }
}

impl Evaluator<'_> {
    pub(super) fn binary(&self, binary: &Binary, grid: Grid) -> Result<Node, EvalError> {
        let (lhs, rhs) = (self.eval(&binary.lhs, grid)?, self.eval(&binary.rhs, grid)?);
        match (lhs, rhs) {
            (Node::Scalar(lhs), Node::Scalar(rhs)) => {
                let values = lhs.iter().zip(&rhs).map(|(lhs, rhs)| {
                    let (value, holds) = apply(binary.op, *lhs, *rhs);
                    if binary.op.is_comparison() { f64::from(u8::from(holds)) } else { value }
                });
                Ok(Node::Scalar(values.collect()))
            }
            (Node::Vector(columns), Node::Scalar(scalar)) => {
                self.with_scalar(binary, columns, &scalar, false, grid).map(Node::Vector)
            }
            (Node::Scalar(scalar), Node::Vector(columns)) => {
                self.with_scalar(binary, columns, &scalar, true, grid).map(Node::Vector)
            }
            (Node::Vector(lhs), Node::Vector(rhs)) => {
                self.charge((lhs.len() + rhs.len()) * grid.steps)?;
                match binary.op {
                    BinaryOp::And | BinaryOp::Or | BinaryOp::Unless => {
                        set_operation(binary, lhs, rhs, grid)
                    }
                    _ => match_vectors(binary, &lhs, &rhs, grid),
                }
                .map(Node::Vector)
            }
            _ => Err(EvalError::execution("binary expression on a string")),
        }
    }

    /// A vector and a number. A comparison keeps the vector's value on whichever side it stands.
    fn with_scalar(
        &self,
        binary: &Binary,
        mut columns: Vec<Column>,
        scalar: &[f64],
        scalar_left: bool,
        grid: Grid,
    ) -> Result<Vec<Column>, EvalError> {
        self.charge(columns.len() * grid.steps)?;
        let filters = binary.op.is_comparison() && !binary.return_bool;
        for column in &mut columns {
            for (cell, &scalar) in column.values.iter_mut().zip(scalar) {
                let vector = *cell;
                if !is_filled(vector) {
                    continue;
                }
                let (lhs, rhs) = if scalar_left { (scalar, vector) } else { (vector, scalar) };
                let (value, holds) = apply(binary.op, lhs, rhs);
                *cell = match (filters, binary.return_bool) {
                    (true, _) if holds => vector,
                    (true, _) => stale_marker(),
                    (false, true) => f64::from(u8::from(holds)),
                    (false, false) => value,
                };
            }
            if !filters {
                column.labels = column.labels.without_name();
            }
        }
        merge(columns, SAME_LABELS)
    }
}

/// Members of both sides that agree in the labels that count, by position.
#[derive(Default)]
struct Match {
    many: Vec<usize>,
    one: Vec<usize>,
}

fn matches(matching: &LabelList, many: &[Column], one: &[Column]) -> Vec<Match> {
    let mut index: HashMap<Labels, usize> = HashMap::new();
    let mut matches: Vec<Match> = Vec::new();
    let mut find = |labels: &Labels, matches: &mut Vec<Match>| {
        let position = *index.entry(matching.group_labels(labels)).or_insert(matches.len());
        if position == matches.len() {
            matches.push(Match::default());
        }
        position
    };
    for (member, column) in many.iter().enumerate() {
        let position = find(&column.labels, &mut matches);
        matches[position].many.push(member);
    }
    for (member, column) in one.iter().enumerate() {
        let position = find(&column.labels, &mut matches);
        matches[position].one.push(member);
    }
    matches
}

fn set_operation(
    binary: &Binary,
    mut lhs: Vec<Column>,
    mut rhs: Vec<Column>,
    grid: Grid,
) -> Result<Vec<Column>, EvalError> {
    let any_filled = |columns: &[Column], members: &[usize]| -> Vec<bool> {
        let at =
            |step: usize| members.iter().any(|member| is_filled(columns[*member].values[step]));
        (0..grid.steps).map(at).collect()
    };
    let clear = |columns: &mut [Column], members: &[usize], present: &[bool], when: bool| {
        for member in members {
            for (cell, present) in columns[*member].values.iter_mut().zip(present) {
                if *present == when {
                    *cell = stale_marker();
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

/// Arithmetic and comparison between vectors. One side is the "one" side: for each match it may have one series only.
fn match_vectors(
    binary: &Binary,
    lhs: &[Column],
    rhs: &[Column],
    grid: Grid,
) -> Result<Vec<Column>, EvalError> {
    let swapped = matches!(binary.cardinality, Cardinality::OneToMany(_));
    let (many, one) = if swapped { (rhs, lhs) } else { (lhs, rhs) };
    let one_to_one = matches!(binary.cardinality, Cardinality::OneToOne);
    let many_filled: Vec<bool> = (0..grid.steps)
        .map(|step| many.iter().any(|column| is_filled(column.values[step])))
        .collect();
    let mut results: Vec<(usize, Column)> = Vec::new();
    for group in matches(&binary.matching, many, one) {
        let mut pairs: HashMap<(usize, usize), Column> = HashMap::new();
        for step in (0..grid.steps).filter(|step| many_filled[*step]) {
            let Some(one_member) = only_one(&group, one, step, binary, swapped)? else { continue };
            let right = one[one_member].values[step];
            let mut matched = false;
            for &member in &group.many {
                let left = many[member].values[step];
                if !is_filled(left) {
                    continue;
                }
                let (lhs, rhs) = if swapped { (right, left) } else { (left, right) };
                let (mut value, holds) = apply(binary.op, lhs, rhs);
                if binary.return_bool {
                    value = f64::from(u8::from(holds));
                } else if !holds {
                    continue;
                }
                if one_to_one && std::mem::replace(&mut matched, true) {
                    return Err(EvalError::execution(
                        "multiple matches for labels: many-to-one matching must be explicit (group_left/group_right)",
                    ));
                }
                let column = pairs.entry((member, one_member)).or_insert_with(|| {
                    let labels =
                        result_labels(binary, &many[member].labels, &one[one_member].labels);
                    Column::empty(labels, grid)
                });
                column.values[step] = value;
            }
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

/// The member of the "one" side that has a value at `step`; that there are two is an error.
fn only_one(
    group: &Match,
    one: &[Column],
    step: usize,
    binary: &Binary,
    swapped: bool,
) -> Result<Option<usize>, EvalError> {
    let mut filled = group.one.iter().filter(|member| is_filled(one[**member].values[step]));
    let Some(&first) = filled.next() else { return Ok(None) };
    let Some(&second) = filled.next() else { return Ok(Some(first)) };
    let side = if swapped { "left" } else { "right" };
    let matched = binary.matching.group_labels(&one[first].labels);
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
