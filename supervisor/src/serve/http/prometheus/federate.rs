//! Federation: the newest sample of what is asked for, as one exposition for another Prometheus to scrape.
//!
//! Text, or protobuf for those who ask for that first: only protobuf has native histograms, so text leaves them out, as in Prometheus.

use std::fmt::Write as _;

use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use holdfast_promql::format_number;
use holdfast_series::protobuf::{self, Point};
use holdfast_series::{HistogramSample, Labels, MetricKind, Sample, SeriesData, Store, is_stale};

use super::error::ApiError;
use super::input::Input;
use super::list::selectors;
use super::now_ms;
use crate::serve::http::Handle;

/// How old the sample of a series may be for it to be in a federation, as for any instant.
const LOOKBACK_MS: i64 = 5 * 60 * 1000;
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8; escaping=values";

/// The newest there is of a series.
enum Newest {
    Sample(Sample),
    Histogram(HistogramSample),
}

pub(super) async fn federate(
    State(shared): State<Handle>,
    headers: HeaderMap,
    input: Input,
) -> Result<Response, ApiError> {
    let store = &shared.api.store;
    let end = now_ms();
    let mut found: Vec<(Labels, Newest)> = selectors(&input)?
        .iter()
        .flat_map(|matchers| store.select_latest(matchers, end - LOOKBACK_MS, end))
        .filter_map(|series| Some((series.labels.clone(), newest(&series)?)))
        .collect();
    found.sort_by(|(a, _), (b, _)| (a.metric_name(), a).cmp(&(b.metric_name(), b)));
    found.dedup_by(|(a, _), (b, _)| a == b);
    let accepted = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let first = accepted.and_then(|accepted| accepted.split(',').next()).unwrap_or_default();
    if protobuf::is_protobuf(first) == Ok(true) {
        let kind = [(header::CONTENT_TYPE, protobuf::CONTENT_TYPE)];
        return Ok((kind, messages(store, &found)).into_response());
    }
    Ok(([(header::CONTENT_TYPE, TEXT)], text(store, &found)).into_response())
}

fn newest(series: &SeriesData) -> Option<Newest> {
    let sample = series.samples.last();
    let histogram = series.histograms.last();
    match (sample, histogram) {
        (Some(sample), Some(histogram)) if histogram.timestamp_ms > sample.timestamp_ms => {
            Some(Newest::Histogram(histogram.clone()))
        }
        (Some(sample), _) => (!is_stale(sample.value)).then_some(Newest::Sample(*sample)),
        (None, histogram) => histogram.cloned().map(Newest::Histogram),
    }
}

/// The type of the family of this name, as far as single samples of it have one.
fn kind_of(store: &Store, name: &str) -> MetricKind {
    let kind = store.metadata_of(name).first().map(|entry| entry.kind);
    kind.filter(|kind| matches!(kind, MetricKind::Counter | MetricKind::Gauge)).unwrap_or_default()
}

fn messages(store: &Store, found: &[(Labels, Newest)]) -> Vec<u8> {
    let mut body = Vec::new();
    let is_sample = |newest: &Newest| matches!(newest, Newest::Sample(_));
    let same = |a: &(Labels, Newest), b: &(Labels, Newest)| {
        a.0.metric_name() == b.0.metric_name() && is_sample(&a.1) == is_sample(&b.1)
    };
    for family in found.chunk_by(same) {
        let name = family[0].0.metric_name();
        let points = family.iter().map(|(labels, newest)| {
            let point = match newest {
                Newest::Sample(sample) => Point::Sample(*sample),
                Newest::Histogram(histogram) => Point::Histogram(histogram),
            };
            (labels, point)
        });
        protobuf::write_family(&mut body, name, kind_of(store, name), points);
    }
    body
}

fn text(store: &Store, found: &[(Labels, Newest)]) -> String {
    let mut out = String::new();
    let mut last = "";
    for (labels, newest) in found {
        let Newest::Sample(sample) = newest else { continue };
        let name = labels.metric_name();
        if name != last {
            let kind = match kind_of(store, name) {
                MetricKind::Unknown => "untyped",
                kind => kind.name(),
            };
            writeln!(out, "# TYPE {name} {kind}").expect("writing to a string cannot fail");
            last = name;
        }
        let pairs: Vec<String> =
            labels.iter().filter(|(name, _)| *name != "__name__").map(pair).collect();
        let (value, time) = (format_number(sample.value), sample.timestamp_ms);
        writeln!(out, "{name}{{{}}} {value} {time}", pairs.join(","))
            .expect("writing to a string cannot fail");
    }
    out
}

fn pair((name, value): (&str, &str)) -> String {
    let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("{name}=\"{value}\"")
}
