//! Which functions, aggregations, operators and modifiers the queries have, and how often: what is never asked is not compared.

use std::collections::BTreeMap;

/// Functions of the Prometheus that is compared with.
const FUNCTIONS: &[&str] = &[
    "abs",
    "absent",
    "absent_over_time",
    "acos",
    "acosh",
    "asin",
    "asinh",
    "atan",
    "atanh",
    "avg_over_time",
    "ceil",
    "changes",
    "clamp",
    "clamp_max",
    "clamp_min",
    "cos",
    "cosh",
    "count_over_time",
    "day_of_month",
    "day_of_week",
    "day_of_year",
    "days_in_month",
    "deg",
    "delta",
    "deriv",
    "exp",
    "floor",
    "histogram_quantile",
    "holt_winters",
    "hour",
    "idelta",
    "increase",
    "irate",
    "label_join",
    "label_replace",
    "last_over_time",
    "ln",
    "log10",
    "log2",
    "max_over_time",
    "min_over_time",
    "minute",
    "month",
    "pi",
    "predict_linear",
    "present_over_time",
    "quantile_over_time",
    "rad",
    "rate",
    "resets",
    "round",
    "scalar",
    "sgn",
    "sin",
    "sinh",
    "sort",
    "sort_desc",
    "sqrt",
    "stddev_over_time",
    "stdvar_over_time",
    "sum_over_time",
    "tan",
    "tanh",
    "time",
    "timestamp",
    "vector",
    "year",
];

/// Functions of its native histograms, compared in tests of the supervisor, where it scrapes some.
const NATIVE: &[&str] = &["histogram_count", "histogram_sum", "histogram_fraction"];

/// Functions that came after it, tested against what is published about them.
const LATER: &[&str] = &[
    "double_exponential_smoothing",
    "end",
    "first_over_time",
    "histogram_avg",
    "histogram_quantiles",
    "histogram_stddev",
    "histogram_stdvar",
    "info",
    "mad_over_time",
    "max_of",
    "min_of",
    "range",
    "sort_by_label",
    "sort_by_label_desc",
    "start",
    "step",
    "ts_of_first_over_time",
    "ts_of_last_over_time",
    "ts_of_max_over_time",
    "ts_of_min_over_time",
];

/// Calls of functions that the parser knows and the engine does not.
const REFUSED: &[&str] = &["integral(up[5m])", "start_timestamp(up)"];

const AGGREGATIONS: &[&str] = &[
    "avg",
    "bottomk",
    "count",
    "count_values",
    "group",
    "max",
    "min",
    "quantile",
    "stddev",
    "stdvar",
    "sum",
    "topk",
];

const WORDS: &[&str] = &[
    "and",
    "atan2",
    "bool",
    "by",
    "group_left",
    "group_right",
    "ignoring",
    "offset",
    "on",
    "or",
    "unless",
    "without",
];

const SIGNS: &[&str] = &[
    " + ", " - ", " * ", " / ", " % ", " ^ ", " == ", " != ", " > ", " < ", " >= ", " <= ", " @ ",
    "start()", "end()", "=~", "!~", "!=", "[", ":]", ":1m]", "offset -",
];

/// How often each of them is in the queries.
#[derive(Debug, Default)]
pub(crate) struct Coverage {
    counts: BTreeMap<&'static str, u64>,
}

/// All there is to cover, kind by kind.
fn kinds() -> [(&'static str, &'static [&'static str]); 4] {
    [("function", FUNCTIONS), ("aggregation", AGGREGATIONS), ("keyword", WORDS), ("sign", SIGNS)]
}

impl Coverage {
    /// Counts what a query has.
    pub(crate) fn note(&mut self, query: &str) {
        let mut words =
            query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').collect::<Vec<_>>();
        words.sort_unstable();
        words.dedup();
        for (kind, all) in kinds() {
            for item in all {
                let found = match kind {
                    "sign" => query.contains(item),
                    _ => words.binary_search(item).is_ok(),
                };
                *self.counts.entry(item).or_default() += u64::from(found);
            }
        }
    }

    /// What no query has.
    pub(crate) fn missing(&self) -> Vec<&'static str> {
        self.counts.iter().filter(|(_, count)| **count == 0).map(|(item, _)| *item).collect()
    }

    /// One line for each, for people.
    pub(crate) fn table(&self) -> String {
        let line = |kind: &str, item: &str| {
            format!("{kind:<12} {item:<24} {}\n", self.counts.get(item).copied().unwrap_or(0))
        };
        kinds().iter().flat_map(|(kind, all)| all.iter().map(|item| line(kind, item))).collect()
    }
}

/// Whether the function of a call is known here: the call is parsed, or refused for another reason than its name.
fn is_known(call: &str) -> bool {
    let text = match holdfast_promql::Expression::parse(call) {
        Ok(_) => return true,
        Err(error) => error.to_string(),
    };
    !text.contains("unknown function") && !text.contains("is not supported")
}

#[test]
fn every_function_is_known_here() {
    let all = FUNCTIONS.iter().chain(NATIVE).chain(LATER);
    let unknown: Vec<_> = all.filter(|name| !is_known(&format!("{name}()"))).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    assert!(!REFUSED.iter().any(|call| is_known(call)), "say so where it is documented");
}
