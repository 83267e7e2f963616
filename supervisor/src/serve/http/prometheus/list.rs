//! What series there are, what they are called, and what is said about them.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::Response;
use holdfast_promql::Expression;
use holdfast_series::{Labels, Matcher, is_label_name};
use serde_json::{Map, Value, json};

use super::error::{ApiError, data, listed};
use super::input::Input;
use crate::serve::http::Handle;

/// Series or values listed at most, so that a listing stays a few megabytes.
const LIST_MAX: usize = 10_000;

/// The matchers of a selector, given as the parameter `name`.
pub(super) fn selector(name: &str, text: &str) -> Result<Vec<Matcher>, ApiError> {
    let fail = |text: String| ApiError::parameter(name, text);
    let expression = Expression::parse(text).map_err(|error| fail(error.to_string()))?;
    let matchers = expression.as_matchers();
    matchers.map(<[Matcher]>::to_vec).ok_or_else(|| fail("expected a selector".to_owned()))
}

/// The matchers of each `match[]`.
pub(super) fn selectors(input: &Input) -> Result<Vec<Vec<Matcher>>, ApiError> {
    input.all("match[]").map(|text| selector("match[]", text)).collect()
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
