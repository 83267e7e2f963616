//! Expressions: evaluated at an instant or over a range, laid out, and the exemplars of their series.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use holdfast_promql::{Answer, EvalError, Expression, Interruption, Options, Value, format_value};
use holdfast_series::{Matcher, Store};
use serde_json::json;
use tokio::time::{Instant, timeout_at};

use super::error::{ApiError, TRUNCATED, data, text};
use super::input::Input;
use super::list::label_map;
use super::now_ms;
use crate::serve::http::Handle;

/// Longest a query may take; `timeout` may ask for less. Grafana gives up after 30 s by default.
pub(super) const TIMEOUT_MAX: Duration = Duration::from_secs(20);

pub(super) async fn instant(
    State(shared): State<Handle>,
    input: Input,
) -> Result<Response, ApiError> {
    let expression = expression(&input)?;
    let at = input.time("time")?.unwrap_or_else(now_ms);
    let text = expression.text().to_owned();
    evaluate(&shared, &input, &text, move |store, options| {
        holdfast_promql::instant(store, &expression, at, options)
    })
    .await
}

pub(super) async fn range(
    State(shared): State<Handle>,
    input: Input,
) -> Result<Response, ApiError> {
    let expression = expression(&input)?;
    let start = input.required_time("start")?;
    let end = input.required_time("end")?;
    let step = input.step()?;
    if end < start {
        return Err(ApiError::parameter("end", "end timestamp must not be before start time"));
    }
    let text = expression.text().to_owned();
    evaluate(&shared, &input, &text, move |store, options| {
        holdfast_promql::range(store, &expression, start, end, step, options)
    })
    .await
}

pub(super) async fn format(input: Input) -> Result<Response, ApiError> {
    Ok(data(&json!(expression(&input)?.pretty())))
}

/// The syntax tree, in the form that Prometheus' own pages use.
pub(super) async fn parse(input: Input) -> Result<Response, ApiError> {
    Ok(text(&expression(&input)?.tree(), &[], &[]))
}

/// The exemplars of the series that an expression selects.
pub(super) async fn exemplars(
    State(shared): State<Handle>,
    input: Input,
) -> Result<Response, ApiError> {
    let expression = expression(&input)?;
    let start = input.time("start")?.unwrap_or(0);
    let end = input.time("end")?.unwrap_or_else(now_ms);
    if end < start {
        return Err(ApiError::bad("end timestamp must not be before start timestamp"));
    }
    let selectors: Vec<Vec<Matcher>> =
        expression.selectors().into_iter().map(<[Matcher]>::to_vec).collect();
    let found = shared.api.store.exemplars(&selectors, start, end);
    let list: Vec<_> = found
        .iter()
        .map(|series| {
            let exemplars: Vec<_> = series
                .exemplars
                .iter()
                .map(|exemplar| {
                    json!({
                        "labels": label_map(&exemplar.labels),
                        "value": holdfast_promql::format_number(exemplar.value),
                        "timestamp": exemplar.timestamp_ms as f64 / 1000.0,
                    })
                })
                .collect();
            json!({ "seriesLabels": label_map(&series.labels), "exemplars": exemplars })
        })
        .collect();
    Ok(data(&json!(list)))
}

pub(super) fn expression(input: &Input) -> Result<Expression, ApiError> {
    let text = input.get("query").unwrap_or_default();
    Expression::parse(text).map_err(|error| ApiError::parameter("query", error))
}

/// Runs a query on a blocking thread when it is its turn, against its deadline.
async fn evaluate(
    shared: &Handle,
    input: &Input,
    query: &str,
    run: impl FnOnce(&Store, &Options<'_>) -> Result<Answer, EvalError> + Send + 'static,
) -> Result<Response, ApiError> {
    let begun = Instant::now();
    let patience = input.timeout()?.map_or(TIMEOUT_MAX, |asked| asked.min(TIMEOUT_MAX));
    let lookback_ms = input.duration("lookback_delta")?.filter(|ms| *ms > 0);
    let (limit, stats) = (input.limit(usize::MAX)?, input.get("stats").is_some());
    let deadline = begun + patience;
    let turn = timeout_at(deadline, Arc::clone(&shared.queries).acquire_owned()).await;
    let Ok(Ok(permit)) = turn else { return Err(EvalError::TimedOut.into()) };
    let waited = begun.elapsed();
    let store = Arc::clone(&shared.api.store);
    let task = tokio::task::spawn_blocking(move || {
        let is_late = || (Instant::now() >= deadline).then_some(Interruption::TimedOut);
        let options = Options { interrupted: Some(&is_late), ..Options::default() };
        let options = match lookback_ms {
            Some(lookback_ms) => Options { lookback_ms, ..options },
            None => options,
        };
        let result = run(&store, &options).map(|mut answer| {
            if cut(&mut answer.value, limit) {
                answer.warnings.push(TRUNCATED.to_owned());
            }
            (format_value(&answer.value), answer.warnings, answer.infos)
        });
        drop(permit);
        result
    });
    let result = task.await;
    let outcome = match &result {
        Ok(Ok(_)) => "ok",
        Ok(Err(error)) => error.api_type(),
        Err(_) => "internal",
    };
    shared.figures.count(query, outcome, begun.elapsed(), waited);
    let (mut value, warnings, infos) = match result {
        Ok(result) => result?,
        Err(_) => return Err(ApiError::new("internal", "the query engine failed")),
    };
    if stats && value.pop() == Some('}') {
        let total = begun.elapsed().as_secs_f64();
        let waited = waited.as_secs_f64();
        let timings = json!({
            "evalTotalTime": total - waited,
            "execQueueTime": waited,
            "execTotalTime": total,
        });
        let stats = json!({ "timings": timings }).to_string();
        value.extend([",\"stats\":", &stats, "}"]);
    }
    Ok(text(&value, &warnings, &infos))
}

/// Leaves `limit` series at most; whether some were left out.
fn cut(value: &mut Value, limit: usize) -> bool {
    match value {
        Value::Vector(list) if list.len() > limit => list.truncate(limit),
        Value::Matrix(list) if list.len() > limit => list.truncate(limit),
        _ => return false,
    }
    true
}
