//! What series there are, what they are called, and what is said about them.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use holdfast_promql::{Expression, format_number};
use holdfast_series::{Labels, Matcher, is_label_name, is_stale};
use serde_json::{Map, Value, json};

use super::error::{ApiError, data, listed};
use super::input::Input;
use super::now_ms;
use crate::serve::http::Handle;

/// Series or values listed at most, so that a listing stays a few megabytes.
const LIST_MAX: usize = 10_000;

/// How old the sample of a series may be for it to be in a federation, as for any instant.
const LOOKBACK_MS: i64 = 5 * 60 * 1000;

/// The matchers of each `match[]`.
fn selectors(input: &Input) -> Result<Vec<Vec<Matcher>>, ApiError> {
    let parse = |text: &str| {
        let fail = |text: String| ApiError::parameter("match[]", text);
        let expression = Expression::parse(text).map_err(|error| fail(error.to_string()))?;
        let matchers = expression.as_matchers();
        matchers.map(<[Matcher]>::to_vec).ok_or_else(|| fail("expected a selector".to_owned()))
    };
    input.all("match[]").map(parse).collect()
}

/// `start` and `end`; without them all the time there is.
fn span(input: &Input) -> Result<(i64, i64), ApiError> {
    let start = input.time("start")?.unwrap_or(i64::MIN / 2);
    let end = input.time("end")?.unwrap_or(i64::MAX / 2);
    if end < start {
        return Err(ApiError::bad("end timestamp must not be before start timestamp"));
    }
    Ok((start, end))
}

pub(super) async fn series(
    State(shared): State<Handle>,
    input: Input,
) -> Result<Response, ApiError> {
    let (selectors, (start, end)) = (selectors(&input)?, span(&input)?);
    if selectors.is_empty() {
        return Err(ApiError::bad("no match[] parameter provided"));
    }
    let limit = input.limit(LIST_MAX)?;
    let found: BTreeSet<Labels> = selectors
        .iter()
        .flat_map(|matchers| shared.api.store.series_within(matchers, start, end))
        .collect();
    let list = found.iter().take(limit + 1).map(|labels| Value::Object(label_map(labels)));
    Ok(listed(list.collect(), limit))
}

/// Labels as a JSON object.
pub(super) fn label_map(labels: &Labels) -> Map<String, Value> {
    labels.iter().map(|(name, value)| (name.to_owned(), value.into())).collect()
}

pub(super) async fn labels(
    State(shared): State<Handle>,
    input: Input,
) -> Result<Response, ApiError> {
    let (start, end) = span(&input)?;
    names(&input, |matchers| shared.api.store.label_names_within(matchers, start, end))
}

pub(super) async fn label_values(
    State(shared): State<Handle>,
    Path(name): Path<String>,
    input: Input,
) -> Result<Response, ApiError> {
    if !is_label_name(&name) {
        return Err(ApiError::bad(format!("invalid label name: {name:?}")));
    }
    let (start, end) = span(&input)?;
    names(&input, |matchers| shared.api.store.label_values_within(&name, matchers, start, end))
}

/// What `find` gives for each `match[]`, or for everything, once each and sorted.
fn names(
    input: &Input,
    find: impl Fn(&[Matcher]) -> BTreeSet<Arc<str>>,
) -> Result<Response, ApiError> {
    let selectors = selectors(input)?;
    let found = if selectors.is_empty() {
        find(&[])
    } else {
        selectors.iter().flat_map(|matchers| find(matchers)).collect()
    };
    let limit = input.limit(LIST_MAX)?;
    Ok(listed(found.iter().take(limit + 1).map(|name| json!(name)).collect(), limit))
}

pub(super) async fn metadata(
    State(shared): State<Handle>,
    input: Input,
) -> Result<Response, ApiError> {
    let limit = input.limit(usize::MAX)?;
    let each = input.count("limit_per_metric")?.filter(|count| *count > 0).unwrap_or(usize::MAX);
    let wanted = input.get("metric");
    let all = shared.api.store.metadata();
    let chosen = all.iter().filter(|(name, _)| wanted.is_none_or(|wanted| wanted == &**name));
    let map: Map<String, Value> = chosen
        .take(limit)
        .map(|(name, list)| {
            let entry = |entry: &holdfast_series::Metadata| json!({ "type": entry.kind.name(), "help": entry.help, "unit": entry.unit });
            (name.to_string(), list.iter().take(each).map(entry).collect())
        })
        .collect();
    Ok(data(&Value::Object(map)))
}

/// The newest sample of what each `match[]` selects, in the text format, for another Prometheus to scrape.
pub(super) async fn federate(
    State(shared): State<Handle>,
    input: Input,
) -> Result<Response, ApiError> {
    let selectors = selectors(&input)?;
    let end = now_ms();
    let mut found: Vec<(Labels, holdfast_series::Sample)> = selectors
        .iter()
        .flat_map(|matchers| shared.api.store.select_latest(matchers, end - LOOKBACK_MS, end))
        .filter_map(|series| {
            let sample = *series.samples.last()?;
            (!is_stale(sample.value)).then(|| (series.labels.clone(), sample))
        })
        .collect();
    found.sort_by(|(a, _), (b, _)| (a.metric_name(), a).cmp(&(b.metric_name(), b)));
    found.dedup_by(|(a, _), (b, _)| a == b);
    let mut out = String::new();
    let mut last = String::new();
    for (labels, sample) in &found {
        let name = labels.metric_name();
        if name != last {
            let kind = shared.api.store.metadata_of(name).first().map(|entry| entry.kind.name());
            let kind =
                kind.filter(|kind| matches!(*kind, "counter" | "gauge")).unwrap_or("untyped");
            writeln!(out, "# TYPE {name} {kind}").expect("writing to a string cannot fail");
            name.clone_into(&mut last);
        }
        let pairs: Vec<String> =
            labels.iter().filter(|(name, _)| *name != "__name__").map(pair).collect();
        let (value, time) = (format_number(sample.value), sample.timestamp_ms);
        writeln!(out, "{name}{{{}}} {value} {time}", pairs.join(","))
            .expect("writing to a string cannot fail");
    }
    let kind = "text/plain; version=0.0.4; charset=utf-8; escaping=values";
    Ok(([(header::CONTENT_TYPE, kind)], out).into_response())
}

fn pair((name, value): (&str, &str)) -> String {
    let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("{name}=\"{value}\"")
}
