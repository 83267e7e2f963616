//! The messages of remote read 1.0, and what the store answers to them. Field numbers: Prometheus' `prompb/remote.proto`.
//!
//! Answers are samples, the form every client understands; chunks in Prometheus' encoding are not sent, and a client that would rather
//! have those lists both.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use holdfast_series::{HistogramSample, Labels, MatchKind, Matcher, MatcherError, Sample, Store};
use prost::Message;

use super::wire::{self, TimeSeries, WireError};

/// Queries of one request; Prometheus sends one.
const QUERIES_MAX: usize = 10;
/// Samples and histograms of one answer: some 100 MB.
const SAMPLES_MAX: usize = 5_000_000;
/// The response type that is answered.
const SAMPLES: i32 = 0;

/// A request.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ReadRequest {
    #[prost(message, repeated, tag = "1")]
    pub(crate) queries: Vec<Query>,
    #[prost(int32, repeated, tag = "2")]
    pub(crate) accepted: Vec<i32>,
}

/// Which samples are wanted.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Query {
    #[prost(int64, tag = "1")]
    pub(crate) start_ms: i64,
    #[prost(int64, tag = "2")]
    pub(crate) end_ms: i64,
    #[prost(message, repeated, tag = "3")]
    pub(crate) matchers: Vec<LabelMatcher>,
}

/// A test on a label: `=`, `!=`, `=~`, `!~` by number.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct LabelMatcher {
    #[prost(int32, tag = "1")]
    pub(crate) kind: i32,
    #[prost(string, tag = "2")]
    pub(crate) name: String,
    #[prost(string, tag = "3")]
    pub(crate) value: String,
}

/// The answer: a result for each query.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ReadResponse {
    #[prost(message, repeated, tag = "1")]
    pub(crate) results: Vec<QueryResult>,
}

/// What one query found, series in order of their labels.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct QueryResult {
    #[prost(message, repeated, tag = "1")]
    pub(crate) timeseries: Vec<TimeSeries>,
}

/// A request that is not answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// It cannot be read.
    #[error("the request cannot be read")]
    Wire(#[from] WireError),
    /// It has too many queries.
    #[error("more than {QUERIES_MAX} queries in one request")]
    Queries,
    /// It accepts only what is not sent.
    #[error("only samples are sent, which the request does not accept")]
    ResponseType,
    /// A matcher has an unknown kind.
    #[error("matcher kind {0} is not known")]
    Kind(i32),
    /// A matcher's regular expression is none.
    #[error("matcher cannot be used")]
    Matcher(#[from] MatcherError),
    /// There would be too much to send.
    #[error("exceeded sample limit ({SAMPLES_MAX})")]
    Samples,
}

impl ReadRequest {
    /// Reads a body.
    ///
    /// # Errors
    /// If it is none, or asks for what is not sent.
    pub(crate) fn from_body(body: &[u8]) -> Result<Self, ReadError> {
        let request = Self::decode(wire::unpack(body)?.as_slice()).map_err(WireError::Message)?;
        if request.queries.len() > QUERIES_MAX {
            return Err(ReadError::Queries);
        }
        if !request.accepted.is_empty() && !request.accepted.contains(&SAMPLES) {
            return Err(ReadError::ResponseType);
        }
        Ok(request)
    }

    /// What `store` has of it. Every series gets those of the `external` labels that it has not, and matchers see it with them: the
    /// reader knows our series under the names they have outside.
    ///
    /// # Errors
    /// If a matcher cannot be used, or there is too much.
    pub(crate) fn answer(
        &self,
        store: &Store,
        external: &Labels,
    ) -> Result<ReadResponse, ReadError> {
        let mut left = SAMPLES_MAX;
        let answer = |query: &Query| query.answer(store, external, &mut left);
        Ok(ReadResponse { results: self.queries.iter().map(answer).collect::<Result<_, _>>()? })
    }
}

impl Query {
    fn answer(
        &self,
        store: &Store,
        external: &Labels,
        left: &mut usize,
    ) -> Result<QueryResult, ReadError> {
        let (mut matchers, mut outside) = (Vec::new(), Vec::new());
        for matcher in &self.matchers {
            let kind = match matcher.kind {
                0 => MatchKind::Equal,
                1 => MatchKind::NotEqual,
                2 => MatchKind::Regex,
                3 => MatchKind::NotRegex,
                other => return Err(ReadError::Kind(other)),
            };
            let own = Matcher::new(kind, &matcher.name, &matcher.value)?;
            let is_outside = external.get(&matcher.name).is_some();
            if is_outside { outside.push(own) } else { matchers.push(own) }
        }
        let mut found: BTreeMap<Labels, TimeSeries> = BTreeMap::new();
        let mut full = false;
        let mut add = |labels: &Labels, samples: &[Sample], native: &[HistogramSample]| {
            let missing = external.iter().filter(|(name, _)| labels.get(name).is_none());
            let labels = missing.fold(labels.clone(), |all, (name, value)| all.with(name, value));
            if !outside.iter().all(|matcher| matcher.matches(labels.value(matcher.name()))) {
                return ControlFlow::Continue(());
            }
            let count = samples.len() + native.len();
            if count > *left {
                full = true;
                return ControlFlow::Break(());
            }
            *left -= count;
            let series = TimeSeries {
                labels: wire::from_labels(&labels),
                samples: samples.iter().map(|sample| (*sample).into()).collect(),
                exemplars: Vec::new(),
                histograms: native.iter().map(Into::into).collect(),
            };
            found.insert(labels, series);
            ControlFlow::Continue(())
        };
        store.visit(&matchers, self.start_ms, self.end_ms, false, &mut add);
        if full {
            return Err(ReadError::Samples);
        }
        Ok(QueryResult { timeseries: found.into_values().collect() })
    }
}

#[cfg(test)]
mod tests {
    use holdfast_series::StoreConfig;

    use super::*;

    fn request(matchers: &[(i32, &str, &str)]) -> ReadRequest {
        let matcher = |(kind, name, value): &(i32, &str, &str)| LabelMatcher {
            kind: *kind,
            name: (*name).to_owned(),
            value: (*value).to_owned(),
        };
        let matchers = matchers.iter().map(matcher).collect();
        let query = Query { start_ms: 1000, end_ms: 2000, matchers };
        ReadRequest { queries: vec![query], accepted: Vec::new() }
    }

    fn names(store: &Store, matchers: &[(i32, &str, &str)]) -> Vec<String> {
        let external = Labels::from_pairs([("cluster", "eu")]);
        let response = request(matchers).answer(store, &external).unwrap();
        let series = &response.results[0].timeseries;
        series.iter().map(|series| wire::to_labels(&series.labels).to_string()).collect()
    }

    #[test]
    fn series_are_known_by_their_labels_outside() {
        let store = Store::new(StoreConfig::default());
        for (name, at) in [("b", 1000), ("a", 2000), ("late", 2001)] {
            store.append(&Labels::from_pairs([("__name__", name)]), at, 1.0).unwrap();
        }
        let (a, b) = (r#"{__name__="a", cluster="eu"}"#, r#"{__name__="b", cluster="eu"}"#);
        assert_eq!(names(&store, &[(0, "cluster", "eu")]), [a, b]);
        assert_eq!(names(&store, &[(0, "cluster", "us")]), [""; 0]);
        assert_eq!(names(&store, &[(3, "cluster", "e.*")]), [""; 0]);
        assert_eq!(names(&store, &[(2, "__name__", "a|late")]), [a]);
        assert_eq!(names(&store, &[(1, "__name__", "a")]), [b]);
        assert_eq!(names(&store, &[(3, "__name__", "b.*")]), [a]);
    }

    #[test]
    fn what_cannot_be_answered_is_refused() {
        let store = Store::new(StoreConfig::default());
        let fails = |matchers: &[_]| request(matchers).answer(&store, &Labels::empty());
        assert!(matches!(fails(&[(9, "a", "b")]), Err(ReadError::Kind(9))));
        assert!(matches!(fails(&[(2, "a", "(")]), Err(ReadError::Matcher(_))));
        let packed = |request: &ReadRequest| wire::pack(&request.encode_to_vec());
        let chunks = ReadRequest { accepted: vec![1], ..request(&[]) };
        let refused = ReadRequest::from_body(&packed(&chunks));
        assert!(matches!(refused, Err(ReadError::ResponseType)));
        let both = ReadRequest { accepted: vec![1, 0], ..request(&[]) };
        assert_eq!(ReadRequest::from_body(&packed(&both)).unwrap(), both);
        assert!(matches!(ReadRequest::from_body(b"x"), Err(ReadError::Wire(_))));
    }
}
