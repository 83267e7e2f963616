//! A grammar that makes queries from a seed.
//!
//! Some things are left out of the grammar because Prometheus 2.42 answers them against its own documentation: `@` within a subquery that
//! looks into the future (it takes the sample of another time), `timestamp(x @ t offset o)` (it forgets the offset), `predict_linear`
//! of a range with `@` (its window moves with the steps), `atan2` between vectors (it keeps the metric's name), and sums that overflow on
//! the way (NaN where the third version has infinity). Left out as well is what makes a large difference of the last bit, such as the
//! remainder of an average: averages are taken in another order.

use fastrand::Rng;

/// The query of a seed.
pub(crate) fn query(seed: u64) -> String {
    let mut random = Rng::with_seed(seed);
    if random.u8(0..12) == 0 { exact_function(&mut random) } else { vector(&mut random, 3) }
}

fn pick<'t>(random: &mut Rng, from: &[&'t str]) -> &'t str {
    from[random.usize(0..from.len())]
}

fn selector(random: &mut Rng) -> String {
    let name = pick(
        random,
        &["requests_total", "memory_bytes", "load", "info", "latency_bucket", "special", "missing"],
    );
    let matchers = pick(
        random,
        &[
            "",
            "",
            "{job=\"api\"}",
            "{job!=\"api\"}",
            "{instance=~\"api.*\"}",
            "{instance!~\".*1\"}",
            "{zone=\"a\"}",
            "{code=\"500\"}",
            "{kind=~\"one|zero\"}",
        ],
    );
    format!("{name}{matchers}")
}

/// The forms of `@`.
const AT: &[&str] = &[" @ start()", " @ end()", " @ 1700000400.5"];

fn modifier(random: &mut Rng) -> String {
    let offset = pick(random, &["", "", "", " offset 1m", " offset 7m30s", " offset -2m"]);
    let at = if random.bool() { "" } else { pick(random, AT) };
    format!("{at}{offset}")
}

fn range(random: &mut Rng, depth: u32) -> String {
    let range = pick(random, &["20s", "1m", "2m", "5m", "17m", "1h"]);
    let modifier = modifier(random);
    if depth > 0 && random.u8(0..4) == 0 {
        let inner = without_at(&vector(random, depth - 1));
        let step = pick(random, &["", "1m", "30s", "47s"]);
        let range = pick(random, &["2m", "5m", "11m"]);
        return format!("({inner})[{range}:{step}]{modifier}");
    }
    format!("{}[{range}]{modifier}", selector(random))
}

fn without_at(query: &str) -> String {
    let without = |query: String, at: &&str| query.replace(at, "");
    AT.iter().fold(query.to_owned(), without)
}

fn labels(random: &mut Rng) -> String {
    let all = ["job", "instance", "zone", "code", "le", "version", "nothing"];
    let picked: Vec<&str> = all.into_iter().filter(|_| random.u8(0..3) == 0).collect();
    picked.join(", ")
}

fn number(random: &mut Rng) -> String {
    pick(
        random,
        &["0", "1", "2", "0.5", "-1", "1e3", "3", "time()", "scalar(sum(load))", "NaN", "Inf"],
    )
    .to_owned()
}

fn vector(random: &mut Rng, depth: u32) -> String {
    if depth == 0 {
        return selector(random) + &modifier(random);
    }
    match random.u8(0..11) {
        0 => selector(random) + &modifier(random),
        10 => chosen(random, depth),
        1 | 2 => range_function(random, depth),
        3 | 4 => aggregation(random, depth),
        5 => function(random, depth),
        6 => with_number(random, depth),
        7 => set_operation(random, depth),
        8 => arithmetic(random, depth),
        _ => special(random, depth),
    }
}

fn range_function(random: &mut Rng, depth: u32) -> String {
    let name = pick(
        random,
        &[
            "rate",
            "increase",
            "delta",
            "irate",
            "idelta",
            "deriv",
            "resets",
            "changes",
            "avg_over_time",
            "sum_over_time",
            "min_over_time",
            "max_over_time",
            "count_over_time",
            "stddev_over_time",
            "stdvar_over_time",
            "last_over_time",
            "present_over_time",
        ],
    );
    match random.u8(0..9) {
        0 => format!(
            "quantile_over_time({}, {})",
            pick(random, &["0.5", "0.99", "1", "2"]),
            range(random, depth)
        ),
        1 => format!(
            "predict_linear({}[10m] offset 1m, {})",
            selector(random),
            pick(random, &["600", "-60", "0", "0x10"])
        ),
        2 => format!(
            "holt_winters({}[{}], {}, 0.7)",
            selector(random),
            pick(random, &["5m", "17m"]),
            pick(random, &["0.1", "0.99"])
        ),
        _ => format!("{name}({})", range(random, depth)),
    }
}

fn aggregation(random: &mut Rng, depth: u32) -> String {
    let op = pick(random, &["sum", "avg", "min", "max", "count", "group"]);
    let op = match random.u8(0..6) {
        0 => {
            return format!(
                "quantile by ({}) ({}, {})",
                labels(random),
                pick(random, &["0.5", "0.9"]),
                vector(random, depth - 1)
            );
        }
        _ => op,
    };
    let grouping = match random.u8(0..3) {
        0 => String::new(),
        1 => format!(" by ({})", labels(random)),
        _ => format!(" without ({})", labels(random)),
    };
    format!("{op}{grouping} ({})", vector(random, depth - 1))
}

/// Functions whose last bit depends on the library. They stand alone: `deriv` of one would be all rounding.
fn exact_function(random: &mut Rng) -> String {
    let functions = [
        "acos", "acosh", "asin", "asinh", "atan", "atanh", "cos", "cosh", "deg", "exp", "log10",
        "log2", "rad", "sin", "sinh", "tan", "tanh",
    ];
    let dates = [
        "day_of_month",
        "day_of_week",
        "day_of_year",
        "days_in_month",
        "hour",
        "minute",
        "month",
        "year",
    ];
    let modifier = modifier(random);
    match random.u8(0..3) {
        0 => format!("{}()", pick(random, &dates)),
        // What date NaN is depends on the processor.
        1 => format!("{}(memory_bytes{modifier})", pick(random, &dates)),
        _ => format!("{}({}{modifier})", pick(random, &functions), selector(random)),
    }
}

/// Aggregations and functions that choose among series by their values, of series whose values are all different.
fn chosen(random: &mut Rng, depth: u32) -> String {
    let (name, zone) =
        (pick(random, &["memory_bytes", "load"]), pick(random, &["", "{job=\"api\"}"]));
    let vector = format!("{name}{zone}{}", modifier(random));
    let grouping = pick(random, &["", " by (job)", " without (instance)", " by (zone, nothing)"]);
    match random.u8(0..11) {
        0 => format!(
            "topk{grouping} ({}, {vector})",
            pick(random, &["1", "2", "100", "0", "-1", "1.9"])
        ),
        1 => format!(
            "bottomk{grouping} ({}, {vector})",
            pick(random, &["1", "3", "scalar(vector(2))"])
        ),
        2 => format!("sort_desc({vector})"),
        3 => format!("sort({vector})"),
        4 => format!("clamp_{}({vector}, {})", pick(random, &["min", "max"]), number(random)),
        5 => format!(
            "label_join({vector}, \"{}\", \"-\", \"job\", \"nothing\", \"instance\")",
            pick(random, &["x", "zone"])
        ),
        6 => format!("round({vector}, {})", pick(random, &["0.1", "5", "0", "1e3"])),
        7 => format!(
            "vector(scalar({name}{{instance=\"api-1\"}}) {} 2)",
            pick(random, &["+", "/", "^", "%", "atan2", ">= bool"])
        ),
        _ => format!("absent_over_time({})", range(random, depth)),
    }
}

fn function(random: &mut Rng, depth: u32) -> String {
    let name = pick(random, &["abs", "sqrt", "ln", "sgn", "-", "timestamp", "absent", "sort"]);
    let arg = vector(random, depth - 1);
    if name == "timestamp" {
        // Small numbers, for the variance of large ones is all rounding.
        return format!("(timestamp({}) - 1.7e9)", without_at(&arg));
    }
    format!("{name}({arg})")
}

fn with_number(random: &mut Rng, depth: u32) -> String {
    let op = pick(random, &["+", "-", "*", "/", "^", ">", "<=", "== bool", "!=", "< bool", ">="]);
    let (vector, number) = (vector(random, depth - 1), number(random));
    if random.bool() {
        format!("({vector}) {op} {number}")
    } else {
        format!("{number} {op} ({vector})")
    }
}

fn set_operation(random: &mut Rng, depth: u32) -> String {
    let op = pick(random, &["and", "or", "unless"]);
    let matching = match random.u8(0..3) {
        0 => String::new(),
        1 => format!(" on({})", labels(random)),
        _ => format!(" ignoring({})", labels(random)),
    };
    format!("({}) {op}{matching} ({})", vector(random, depth - 1), vector(random, depth - 1))
}

fn arithmetic(random: &mut Rng, depth: u32) -> String {
    let op = pick(random, &["+", "-", "*", "/", "^", ">", "== bool", "<", "!= bool", ">="]);
    let matching = match random.u8(0..6) {
        4 => " on(instance, zone) group_right".to_owned(),
        5 => " ignoring(le, version) group_left()".to_owned(),
        0 => String::new(),
        1 => " on(instance)".to_owned(),
        2 => " ignoring(zone, code)".to_owned(),
        _ => " on(instance) group_left(version)".to_owned(),
    };
    format!("({}) {op}{matching} ({})", vector(random, depth - 1), vector(random, depth - 1))
}

fn special(random: &mut Rng, depth: u32) -> String {
    match random.u8(0..4) {
        0 => format!(
            "histogram_quantile({}, sum by (le, job) (rate(latency_bucket[{}])))",
            pick(random, &["0.5", "0.9", "0.99"]),
            pick(random, &["1m", "5m"])
        ),
        1 => {
            format!("clamp({}, {}, {})", vector(random, depth - 1), number(random), number(random))
        }
        2 => format!(
            "label_replace({}, \"zone\", \"$1\", \"instance\", \"(.*)-.*\")",
            vector(random, depth - 1)
        ),
        _ => format!("count_values(\"v\", round({}))", selector(random)),
    }
}
