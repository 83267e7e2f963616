//! The parser's tree → the plan.

use std::time::{Duration, SystemTime};

use holdfast_series::{METRIC_NAME, MatchKind, Matcher, is_label_name};
use promql_parser::label::{MatchOp, Matchers};
use promql_parser::parser::token;
use promql_parser::parser::{
    self, AggregateExpr, AtModifier, BinaryExpr, Expr, LabelModifier, MatrixSelector, Offset,
    SubqueryExpr, VectorMatchCardinality, VectorSelector,
};
use regex::Regex;

use crate::functions::{Call, LabelJoin, LabelReplace, MathFunction, RangeFunction};
use crate::plan::{
    Aggregate, AggregateOp, At, Binary, BinaryOp, Cardinality, Kind, LabelList, Plan, RangeSource,
    Selector, Shift,
};

pub(crate) fn compile(expr: &Expr) -> Result<Plan, String> {
    Ok(match expr {
        Expr::NumberLiteral(number) => Plan::Number(number.val),
        Expr::StringLiteral(string) => Plan::Text(string.val.clone()),
        Expr::Paren(paren) => compile(&paren.expr)?,
        Expr::VectorSelector(selector) => Plan::Selector(compile_selector(selector)?),
        Expr::MatrixSelector(matrix) => Plan::Matrix(compile_matrix(matrix)?),
        Expr::Subquery(subquery) => Plan::Matrix(compile_subquery(subquery)?),
        Expr::Unary(unary) => match compile(&unary.expr)? {
            Plan::Number(number) => Plan::Number(-number),
            plan => Plan::Negate(Box::new(plan)),
        },
        Expr::Aggregate(aggregate) => Plan::Aggregate(Box::new(compile_aggregate(aggregate)?)),
        Expr::Binary(binary) => Plan::Binary(Box::new(compile_binary(binary)?)),
        Expr::Call(call) => compile_call(call)?,
        Expr::Extension(_) => return Err("extensions are not supported".to_owned()),
    })
}

fn compile_selector(selector: &VectorSelector) -> Result<Selector, String> {
    let mut matchers = Vec::new();
    if let Some(name) = &selector.name {
        matchers.push(Matcher::equal(METRIC_NAME, name));
    }
    let Matchers { matchers: all, or_matchers } = &selector.matchers;
    if !or_matchers.is_empty() {
        return Err("'or' between label matchers is not supported".to_owned());
    }
    for matcher in all {
        let (name, value) = (matcher.name.as_str(), matcher.value.as_str());
        matchers.push(match &matcher.op {
            MatchOp::Equal => Matcher::equal(name, value),
            MatchOp::NotEqual => {
                Matcher::new(MatchKind::NotEqual, name, value).map_err(|e| e.to_string())?
            }
            // The parser also accepts repetitions that only Go's regular expressions know; then its own rewriting is used.
            MatchOp::Re(regex) => Matcher::new(MatchKind::Regex, name, value)
                .unwrap_or_else(|_| Matcher::with_regex(name, value, regex.clone(), false)),
            MatchOp::NotRe(regex) => Matcher::new(MatchKind::NotRegex, name, value)
                .unwrap_or_else(|_| Matcher::with_regex(name, value, regex.clone(), true)),
        });
    }
    let shift = compile_shift(selector.at.as_ref(), selector.offset.as_ref());
    Ok(Selector { matchers: matchers.into(), shift })
}

fn compile_shift(at: Option<&AtModifier>, offset: Option<&Offset>) -> Shift {
    let at = at.map(|at| match at {
        AtModifier::Start => At::Start,
        AtModifier::End => At::End,
        AtModifier::At(time) => At::Time(match time.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(after) => millis(after),
            Err(before) => -millis(before.duration()),
        }),
    });
    let offset_ms = match offset {
        None => 0,
        Some(Offset::Pos(duration)) => millis(*duration),
        Some(Offset::Neg(duration)) => -millis(*duration),
    };
    Shift { at, offset_ms }
}

/// Milliseconds, bounded so that sums of a few of them do not overflow.
fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX).min(i64::MAX / 1024)
}

fn compile_matrix(matrix: &MatrixSelector) -> Result<RangeSource, String> {
    Ok(RangeSource::Selector {
        selector: compile_selector(&matrix.vs)?,
        range_ms: positive(matrix.range)?,
    })
}

fn compile_subquery(subquery: &SubqueryExpr) -> Result<RangeSource, String> {
    Ok(RangeSource::Subquery {
        plan: Box::new(compile(&subquery.expr)?),
        range_ms: positive(subquery.range)?,
        step_ms: subquery.step.map(positive).transpose()?,
        shift: compile_shift(subquery.at.as_ref(), subquery.offset.as_ref()),
    })
}

fn positive(duration: Duration) -> Result<i64, String> {
    match millis(duration) {
        0 => Err("duration must be greater than 0".to_owned()),
        ms => Ok(ms),
    }
}

fn compile_aggregate(aggregate: &AggregateExpr) -> Result<Aggregate, String> {
    let op = match aggregate.op.id() {
        token::T_SUM => AggregateOp::Sum,
        token::T_AVG => AggregateOp::Avg,
        token::T_MIN => AggregateOp::Min,
        token::T_MAX => AggregateOp::Max,
        token::T_COUNT => AggregateOp::Count,
        token::T_GROUP => AggregateOp::Group,
        token::T_STDDEV => AggregateOp::Stddev,
        token::T_STDVAR => AggregateOp::Stdvar,
        token::T_TOPK => AggregateOp::Topk,
        token::T_BOTTOMK => AggregateOp::Bottomk,
        token::T_QUANTILE => AggregateOp::Quantile,
        token::T_COUNT_VALUES => AggregateOp::CountValues,
        token::T_LIMITK => AggregateOp::Limitk,
        token::T_LIMIT_RATIO => AggregateOp::LimitRatio,
        _ => return Err(format!("aggregation '{}' is not supported", aggregate.op)),
    };
    let param = aggregate.param.as_ref().map(|param| compile(param)).transpose()?;
    if let (AggregateOp::CountValues, Some(Plan::Text(label))) = (op, &param)
        && !is_label_name(label)
    {
        return Err(format!("invalid label name {label:?}"));
    }
    let grouping = match &aggregate.modifier {
        None => LabelList::Only(Vec::new()),
        Some(modifier) => label_list(modifier),
    };
    Ok(Aggregate { op, arg: compile(&aggregate.expr)?, param, grouping })
}

fn label_list(modifier: &LabelModifier) -> LabelList {
    match modifier {
        LabelModifier::Include(labels) => LabelList::Only(labels.labels.clone()),
        LabelModifier::Exclude(labels) => LabelList::Except(labels.labels.clone()),
    }
}

fn compile_binary(binary: &BinaryExpr) -> Result<Binary, String> {
    let op = match binary.op.id() {
        token::T_ADD => BinaryOp::Add,
        token::T_SUB => BinaryOp::Sub,
        token::T_MUL => BinaryOp::Mul,
        token::T_DIV => BinaryOp::Div,
        token::T_MOD => BinaryOp::Mod,
        token::T_POW => BinaryOp::Pow,
        token::T_ATAN2 => BinaryOp::Atan2,
        token::T_EQLC => BinaryOp::Eq,
        token::T_NEQ => BinaryOp::Ne,
        token::T_GTR => BinaryOp::Gt,
        token::T_LSS => BinaryOp::Lt,
        token::T_GTE => BinaryOp::Ge,
        token::T_LTE => BinaryOp::Le,
        token::T_LAND => BinaryOp::And,
        token::T_LOR => BinaryOp::Or,
        token::T_LUNLESS => BinaryOp::Unless,
        _ => return Err(format!("operator '{}' is not supported", binary.op)),
    };
    let modifier = binary.modifier.clone().unwrap_or_default();
    if modifier.fill_values.lhs.is_some() || modifier.fill_values.rhs.is_some() {
        return Err("'fill' modifiers are not supported".to_owned());
    }
    let matching =
        modifier.matching.as_ref().map_or_else(|| LabelList::Except(Vec::new()), label_list);
    let cardinality = match modifier.card {
        VectorMatchCardinality::OneToOne | VectorMatchCardinality::ManyToMany => {
            Cardinality::OneToOne
        }
        VectorMatchCardinality::ManyToOne(labels) => Cardinality::ManyToOne(labels.labels),
        VectorMatchCardinality::OneToMany(labels) => Cardinality::OneToMany(labels.labels),
    };
    let (lhs, rhs) = (compile(&binary.lhs)?, compile(&binary.rhs)?);
    Ok(Binary { op, lhs, rhs, return_bool: modifier.return_bool, matching, cardinality })
}

fn compile_call(call: &parser::Call) -> Result<Plan, String> {
    let name = call.func.name;
    let mut args = Vec::with_capacity(call.args.len());
    for arg in &call.args.args {
        args.push(compile(arg)?);
    }
    if let Some(function) = MathFunction::by_name(name) {
        return Ok(Plan::Math { function, arg: args.pop().map(Box::new) });
    }
    let range = args.iter().position(|arg| arg.kind() == Kind::Matrix);
    if let Some(position) = range {
        let Plan::Matrix(source) = args.remove(position) else {
            return Err("expected a range vector".to_owned());
        };
        if name == "absent_over_time" {
            return Ok(Plan::AbsentOverTime(source));
        }
        let function = RangeFunction::by_name(name).ok_or_else(|| unsupported(name))?;
        return Ok(Plan::Range { function, source, params: args });
    }
    let (call, args) = match name {
        "label_replace" => compile_label_replace(args)?,
        "label_join" => compile_label_join(args)?,
        _ => (Call::by_name(name).ok_or_else(|| unsupported(name))?, args),
    };
    Ok(Plan::Call { call, args })
}

fn unsupported(name: &str) -> String {
    format!("function '{name}' is not supported")
}

/// Takes the literal strings that follow the first argument.
fn take_texts(args: &mut Vec<Plan>) -> Result<Vec<String>, String> {
    let text = |plan| match plan {
        Plan::Text(text) => Ok(text),
        _ => Err("expected a string literal".to_owned()),
    };
    args.drain(1..).map(text).collect()
}

fn compile_label_replace(mut args: Vec<Plan>) -> Result<(Call, Vec<Plan>), String> {
    let texts: [String; 4] = take_texts(&mut args)?
        .try_into()
        .map_err(|_| "expected five arguments of label_replace".to_owned())?;
    let [destination, replacement, source, pattern] = texts;
    if !is_label_name(&destination) {
        return Err(format!("invalid destination label name in label_replace(): {destination}"));
    }
    let pattern = Regex::new(&format!("^(?s:{pattern})$"))
        .map_err(|_| format!("invalid regular expression in label_replace(): {pattern}"))?;
    let call = LabelReplace { destination, replacement, source, pattern };
    Ok((Call::LabelReplace(Box::new(call)), args))
}

fn compile_label_join(mut args: Vec<Plan>) -> Result<(Call, Vec<Plan>), String> {
    let mut texts = take_texts(&mut args)?.into_iter();
    let (Some(destination), Some(separator)) = (texts.next(), texts.next()) else {
        return Err("expected at least three arguments of label_join".to_owned());
    };
    if !is_label_name(&destination) {
        return Err(format!("invalid destination label name in label_join(): {destination}"));
    }
    let sources: Vec<String> = texts.collect();
    if let Some(bad) = sources.iter().find(|source| !is_label_name(source)) {
        return Err(format!("invalid source label name in label_join(): {bad}"));
    }
    let call = LabelJoin { destination, separator, sources };
    Ok((Call::LabelJoin(Box::new(call)), args))
}
