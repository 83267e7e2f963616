//! The same samples and the same queries, here and in the real Prometheus (Debian's, version 2): the answers must be the same.
//!
//! The queries are a list of those that decide whether a rule or dashboard means the same, and some thousands from a seeded grammar over
//! operators, functions and modifiers. Numbers may differ by 1e-12 of their size, for sums are taken in another order.

#![expect(clippy::unwrap_used, reason = "a test that fails shows where")]

mod coverage;
mod data;
mod grammar;
mod list;
mod prometheus;

use std::collections::BTreeMap;

use holdfast_promql::{Dialect, Expression, Options, format_value, instant, range};
use holdfast_series::Store;
use serde_json::Value as Json;

use coverage::Coverage;
use data::{END_MS, START_MS};
use prometheus::Prometheus;

/// How many queries the grammar makes, unless `PROMQL_QUERIES` names another number.
const GENERATED: u64 = 2_000;

#[expect(clippy::disallowed_methods, reason = "a longer run is asked for in the environment")]
fn generated() -> u64 {
    std::env::var("PROMQL_QUERIES").map_or(GENERATED, |text| text.parse().unwrap())
}

/// The largest difference, as a share of the larger number.
const TOLERANCE: f64 = 1e-12;

/// When a query is evaluated, milliseconds.
#[derive(Debug, Clone, Copy)]
enum When {
    At(i64),
    Range { start: i64, end: i64, step: i64 },
}

fn ask_here(store: &Store, query: &str, when: When) -> Result<Json, String> {
    let options = Options { dialect: Dialect::V2, ..Options::default() };
    let expression = Expression::parse(query).map_err(|error| error.to_string())?;
    let value = match when {
        When::At(at) => instant(store, &expression, at, &options),
        When::Range { start, end, step } => range(store, &expression, start, end, step, &options),
    };
    let answer = value.map_err(|error| error.to_string())?;
    Ok(serde_json::from_str(&format_value(&answer.value)).unwrap())
}

/// The points of an answer: those of each series, or of one without labels.
fn points(answer: &Json) -> BTreeMap<String, Vec<(String, String)>> {
    let point = |point: &Json| (point[0].to_string(), point[1].as_str().unwrap().to_owned());
    let result = &answer["result"];
    match answer["resultType"].as_str().unwrap() {
        "scalar" | "string" => BTreeMap::from([(String::new(), vec![point(result)])]),
        _ => {
            let series = result.as_array().unwrap().iter();
            let read = |series: &Json| {
                let points = match series.get("values") {
                    Some(values) => values.as_array().unwrap().iter().map(point).collect(),
                    None => vec![point(&series["value"])],
                };
                (series["metric"].to_string(), points)
            };
            series.map(read).collect()
        }
    }
}

fn same_number(a: &str, b: &str) -> bool {
    let (Ok(x), Ok(y)) = (a.parse::<f64>(), b.parse::<f64>()) else { return a == b };
    a == b || (x.is_nan() && y.is_nan()) || (x - y).abs() <= TOLERANCE * x.abs().max(y.abs())
}

/// What differs between two answers.
fn difference(ours: &Json, theirs: &Json) -> Option<String> {
    if ours["resultType"] != theirs["resultType"] {
        return Some(format!("type {} for {}", ours["resultType"], theirs["resultType"]));
    }
    let (ours, theirs) = (points(ours), points(theirs));
    let keys = |points: &BTreeMap<_, _>| points.keys().cloned().collect::<Vec<String>>();
    if keys(&ours) != keys(&theirs) {
        return Some(format!("series\n  {:?}\nfor\n  {:?}", keys(&ours), keys(&theirs)));
    }
    for (key, ours) in &ours {
        let theirs = &theirs[key];
        let same = ours.len() == theirs.len()
            && ours.iter().zip(theirs).all(|(a, b)| a.0 == b.0 && same_number(&a.1, &b.1));
        if !same {
            let pairs = ours.iter().zip(theirs);
            let first = pairs.clone().find(|(a, b)| a.0 != b.0 || !same_number(&a.1, &b.1));
            return Some(format!(
                "{key}: {} and {} points, first {first:?}",
                ours.len(),
                theirs.len()
            ));
        }
    }
    None
}

/// Whether an instant answer that has an order has another one.
fn order_difference(query: &str, when: When, ours: &Json, theirs: &Json) -> Option<String> {
    let ordered = ["sort", "topk", "bottomk"].iter().any(|name| query.starts_with(name));
    let order = |answer: &Json| -> Vec<String> {
        let series = answer["result"].as_array().unwrap().iter();
        series.map(|series| series["value"][1].as_str().unwrap().to_owned()).collect()
    };
    let (ours, theirs) = match when {
        When::At(_) if ordered => (order(ours), order(theirs)),
        _ => return None,
    };
    // By value, for equal ones come in any order.
    let same = ours.iter().zip(&theirs).all(|(a, b)| same_number(a, b));
    (!same).then(|| format!("order {ours:?} for {theirs:?}"))
}

fn compare(store: &Store, prometheus: &Prometheus, query: &str, when: When) -> Option<String> {
    let ours = ask_here(store, query, when);
    let theirs = prometheus.ask(query, when);
    let found = match (&ours, &theirs) {
        (Ok(ours), Ok(theirs)) => {
            difference(ours, theirs).or_else(|| order_difference(query, when, ours, theirs))?
        }
        // Parsers word their errors differently; that both refuse is what counts.
        (Err(_), Err(_)) => return None,
        (Ok(ours), Err(theirs)) => format!("answer for their error {theirs:?}: {ours}"),
        (Err(ours), Ok(theirs)) => format!("error {ours:?} for their answer {theirs}"),
    };
    Some(format!("{query}\n  {when:?}\n  {found}"))
}

/// Instants and ranges at which every query is asked: on samples, between them, before the first and after the last.
fn moments() -> [When; 4] {
    [
        When::At(START_MS + 1_800_000),
        When::At(END_MS + 61_234),
        When::Range { start: START_MS - 60_000, end: START_MS + 900_000, step: 47_000 },
        When::Range { start: END_MS - 1_200_000, end: END_MS + 400_000, step: 60_000 },
    ]
}

/// For those who ask for the output of the test.
#[expect(clippy::print_stdout, reason = "the table is what a long run is for")]
fn tell(text: &str) {
    println!("{text}");
}

#[test]
fn answers_are_those_of_prometheus() {
    let samples = data::samples();
    let store = data::store(&samples);
    let prometheus = Prometheus::start(&data::open_metrics(&samples));
    let mut differences = Vec::new();
    let listed = list::LIST.iter().map(|query| (*query).to_owned());
    let generated = (0..generated()).map(grammar::query);
    let (mut asked, mut answered) = (0, 0);
    let mut coverage = Coverage::default();
    for query in listed.chain(generated) {
        coverage.note(&query);
        for when in moments() {
            asked += 1;
            let answer = ask_here(&store, &query, when);
            answered += usize::from(answer.is_ok_and(|answer| !points(&answer).is_empty()));
            differences.extend(compare(&store, &prometheus, &query, when));
        }
    }
    assert!(
        differences.is_empty(),
        "{} of {asked} answers differ, such as:\n{}",
        differences.len(),
        differences.iter().take(20).cloned().collect::<Vec<_>>().join("\n\n")
    );
    tell(&format!("{asked} answers compared, queries with each of:\n{}", coverage.table()));
    assert_eq!(coverage.missing(), [""; 0], "what is never asked is not compared");
    assert!(answered * 2 > asked, "only {answered} of {asked} answers had anything to compare");
}

#[test]
fn errors_have_the_words_of_prometheus() {
    let samples = data::samples();
    let store = data::store(&samples);
    let prometheus = Prometheus::start(&data::open_metrics(&samples));
    let when = When::At(END_MS);
    // Which of several duplicates an error names is chance on their side.
    let words = |answer: Result<Json, String>| match answer {
        Ok(answer) => format!("answer {answer}"),
        Err(error) => error.split(": [").next().unwrap_or_default().to_owned(),
    };
    let mut differences = Vec::new();
    for query in list::ERRORS {
        let ours = words(ask_here(&store, query, when));
        let theirs = words(prometheus.ask(query, when));
        if ours != theirs || ours.starts_with("answer") {
            differences.push(format!("{query}\n  ours:   {ours}\n  theirs: {theirs}"));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
