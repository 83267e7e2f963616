//! Results in the JSON of Prometheus' HTTP API, written as text: there is nothing in it that a serializer would make safer, and a
//! range query for a dashboard is mostly numbers.

use std::fmt::Write as _;

use holdfast_series::{Histogram, Labels, Sample};

use crate::Value;
use crate::histogram::buckets_shown;
use crate::text::write_api_number;

/// `{"resultType":…,"result":…}`, what stands under `data` in an answer to a query.
pub fn format_value(value: &Value) -> String {
    let mut out = format!("{{\"resultType\":\"{}\",\"result\":", value.type_name());
    match value {
        Value::Scalar(sample) => push_sample(&mut out, *sample),
        Value::String { timestamp_ms, text } => {
            out.push('[');
            push_timestamp(&mut out, *timestamp_ms);
            out.push(',');
            push_string(&mut out, text);
            out.push(']');
        }
        Value::Vector(samples) => push_list(&mut out, samples, |out, series| {
            push_metric(out, &series.labels);
            if let Some(histogram) = &series.histogram {
                out.push_str(",\"histogram\":");
                push_histogram(out, series.sample.timestamp_ms, histogram);
            } else {
                out.push_str(",\"value\":");
                push_sample(out, series.sample);
            }
            out.push('}');
        }),
        Value::Matrix(list) => push_list(&mut out, list, |out, series| {
            push_metric(out, &series.labels);
            if !series.samples.is_empty() || series.histograms.is_empty() {
                out.push_str(",\"values\":");
                push_list(out, &series.samples, |out, sample| push_sample(out, *sample));
            }
            if !series.histograms.is_empty() {
                out.push_str(",\"histograms\":");
                push_list(out, &series.histograms, |out, sample| {
                    push_histogram(out, sample.timestamp_ms, &sample.histogram);
                });
            }
            out.push('}');
        }),
    }
    out.push('}');
    out
}

fn push_list<T>(out: &mut String, items: &[T], mut push: impl FnMut(&mut String, &T)) {
    out.push('[');
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        push(out, item);
    }
    out.push(']');
}

fn push_metric(out: &mut String, labels: &Labels) {
    out.push_str("{\"metric\":{");
    for (index, (name, value)) in labels.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        push_string(out, name);
        out.push(':');
        push_string(out, value);
    }
    out.push('}');
}

fn push_sample(out: &mut String, sample: Sample) {
    out.push('[');
    push_timestamp(out, sample.timestamp_ms);
    out.push(',');
    push_number(out, sample.value);
    out.push(']');
}

/// Timestamp, count, sum, and the buckets that hold something with the kind of their bounds.
fn push_histogram(out: &mut String, timestamp_ms: i64, histogram: &Histogram) {
    out.push('[');
    push_timestamp(out, timestamp_ms);
    out.push_str(",{\"count\":");
    push_number(out, histogram.count);
    out.push_str(",\"sum\":");
    push_number(out, histogram.sum);
    let buckets = buckets_shown(histogram);
    if !buckets.is_empty() {
        out.push_str(",\"buckets\":");
        push_list(out, &buckets, |out, &(boundaries, lower, upper, count)| {
            let _infallible = write!(out, "[{boundaries}");
            for number in [lower, upper, count] {
                out.push(',');
                push_number(out, number);
            }
            out.push(']');
        });
    }
    out.push_str("}]");
}

fn push_number(out: &mut String, value: f64) {
    out.push('"');
    write_api_number(out, value);
    out.push('"');
}

/// Seconds, with three digits after the point unless they are all zero.
fn push_timestamp(out: &mut String, timestamp_ms: i64) {
    if timestamp_ms < 0 {
        out.push('-');
    }
    let ms = timestamp_ms.unsigned_abs();
    let _infallible = write!(out, "{}", ms / 1000);
    if !ms.is_multiple_of(1000) {
        let _infallible = write!(out, ".{:03}", ms % 1000);
    }
}

fn push_string(out: &mut String, text: &str) {
    out.push('"');
    if text.bytes().all(|byte| byte >= b' ' && byte != b'"' && byte != b'\\') {
        out.push_str(text);
        out.push('"');
        return;
    }
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            c if c < ' ' => {
                let _infallible = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Series, VectorSample};

    #[test]
    fn each_kind_of_value_has_its_shape() {
        let sample = |timestamp_ms, value| Sample { timestamp_ms, value };
        let labels = Labels::from_pairs([("__name__", "up"), ("a", "x\"\\\n\u{1}ü")]);
        for (value, expected) in [
            (
                Value::Scalar(sample(1500, f64::NAN)),
                r#"{"resultType":"scalar","result":[1.500,"NaN"]}"#,
            ),
            (
                Value::String { timestamp_ms: 7, text: "a\"b".to_owned() },
                r#"{"resultType":"string","result":[0.007,"a\"b"]}"#,
            ),
            (
                Value::Vector(vec![VectorSample {
                    labels,
                    sample: sample(2000, 1e6),
                    histogram: None,
                }]),
                r#"{"resultType":"vector","result":[{"metric":{"__name__":"up","a":"x\"\\\n\u0001ü"},"value":[2,"1000000"]}]}"#,
            ),
            (
                Value::Matrix(vec![Series {
                    labels: Labels::empty(),
                    samples: vec![sample(-1, 1.5), sample(0, f64::INFINITY)],
                    histograms: Vec::new(),
                }]),
                r#"{"resultType":"matrix","result":[{"metric":{},"values":[[-0.001,"1.5"],[0,"+Inf"]]}]}"#,
            ),
            (Value::Vector(vec![]), r#"{"resultType":"vector","result":[]}"#),
        ] {
            let text = format_value(&value);
            assert_eq!(text, expected);
            assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok());
        }
    }
}
