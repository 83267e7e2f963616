//! Parameters of the query API: from the address and, for a form, from the body; a name may repeat.

use std::time::Duration;

use axum::extract::{FromRequest, RawForm, Request};
use axum::http::Method;
use chrono::DateTime;
use holdfast_promql::parse_duration;

use super::super::Handle;
use super::error::ApiError;

/// Parameters of one request at most; Grafana sends a handful.
const PARAMETERS_MAX: usize = 100;

/// Seconds beyond these overflow milliseconds somewhere; the year 5000 is far enough.
const SECONDS_MAX: f64 = 1e11;

#[derive(Debug)]
pub(super) struct Input(Vec<(String, String)>);

impl FromRequest<Handle> for Input {
    type Rejection = ApiError;

    async fn from_request(request: Request, shared: &Handle) -> Result<Self, ApiError> {
        let mut pairs = decode(request.uri().query().unwrap_or_default().as_bytes());
        if request.method() == Method::POST {
            let body = RawForm::from_request(request, shared).await;
            let RawForm(body) = body.map_err(|error| ApiError::bad(error.body_text()))?;
            // As in Go: the body comes first, so its value of a name wins.
            pairs.splice(0..0, decode(&body));
        }
        if pairs.len() > PARAMETERS_MAX {
            return Err(ApiError::bad(format!("more than {PARAMETERS_MAX} parameters")));
        }
        Ok(Self(pairs))
    }
}

fn decode(text: &[u8]) -> Vec<(String, String)> {
    form_urlencoded::parse(text).into_owned().take(PARAMETERS_MAX + 1).collect()
}

impl Input {
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The first value; an empty one counts as none.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let pair = self.0.iter().find(|(key, _)| key == name)?;
        Some(pair.1.as_str()).filter(|value| !value.is_empty())
    }

    /// Milliseconds since the epoch, given as seconds or as RFC 3339.
    pub(super) fn time(&self, name: &str) -> Result<Option<i64>, ApiError> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let rfc3339 =
            || DateTime::parse_from_rfc3339(text).ok().map(|time| time.timestamp_millis());
        let fail =
            || ApiError::parameter(name, format!("cannot parse {text:?} to a valid timestamp"));
        seconds(text).or_else(rfc3339).map(Some).ok_or_else(fail)
    }

    pub(super) fn required_time(&self, name: &str) -> Result<i64, ApiError> {
        let missing = || ApiError::parameter(name, "cannot parse \"\" to a valid timestamp");
        self.time(name)?.ok_or_else(missing)
    }

    /// Milliseconds, given as seconds or as a duration such as `5m`; above zero.
    pub(super) fn step(&self) -> Result<i64, ApiError> {
        let step = self.duration("step")?;
        let missing = || ApiError::parameter("step", "cannot parse \"\" to a valid duration");
        let step = step.ok_or_else(missing)?;
        if step <= 0 {
            let text = "zero or negative query resolution step widths are not accepted. \
                        Try a positive integer";
            return Err(ApiError::parameter("step", text));
        }
        Ok(step)
    }

    pub(super) fn timeout(&self) -> Result<Option<Duration>, ApiError> {
        let ms = self.duration("timeout")?;
        Ok(ms.map(|ms| Duration::from_millis(ms.unsigned_abs())))
    }

    /// Milliseconds, given as seconds or as a duration.
    pub(super) fn duration(&self, name: &str) -> Result<Option<i64>, ApiError> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let fail =
            || ApiError::parameter(name, format!("cannot parse {text:?} to a valid duration"));
        seconds(text).or_else(|| parse_duration(text).ok()).map(Some).ok_or_else(fail)
    }

    /// `limit`, where 0 and nothing mean as many as allowed.
    pub(super) fn limit(&self, max: usize) -> Result<usize, ApiError> {
        let limit = self.count("limit")?.unwrap_or(0);
        Ok(if limit == 0 { max } else { limit.min(max) })
    }

    /// A whole number that is not negative.
    pub(super) fn count(&self, name: &str) -> Result<Option<usize>, ApiError> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let fail = |_| ApiError::parameter(name, format!("{name} must be non-negative"));
        text.parse().map(Some).map_err(fail)
    }

    /// Yes or no; without it no.
    pub(super) fn flag(&self, name: &str) -> Result<bool, ApiError> {
        match self.get(name) {
            None | Some("false" | "0") => Ok(false),
            Some("true" | "1") => Ok(true),
            Some(other) => Err(ApiError::parameter(name, format!("cannot parse {other:?}"))),
        }
    }
}

/// Seconds as milliseconds.
fn seconds(text: &str) -> Option<i64> {
    let seconds: f64 = text.parse().ok()?;
    #[expect(clippy::cast_possible_truncation, reason = "the range was just checked")]
    (seconds.abs() <= SECONDS_MAX).then(|| (seconds * 1000.0).round() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(text: &str) -> Input {
        Input(decode(text.as_bytes()))
    }

    #[test]
    fn times_are_seconds_or_rfc3339() {
        let input = input("a=1.5&b=2026-01-02T03:04:05.25Z&c=x&d=&e=NaN&f=1e300");
        assert_eq!(input.time("a").unwrap(), Some(1500));
        assert_eq!(input.time("b").unwrap(), Some(1_767_323_045_250));
        assert_eq!(input.time("d").unwrap(), None);
        assert_eq!(input.time("missing").unwrap(), None);
        for name in ["c", "e", "f"] {
            let error = input.time(name).unwrap_err();
            let text = error.text();
            assert!(text.contains("to a valid timestamp"), "{text}");
        }
    }

    #[test]
    fn steps_are_seconds_or_durations_above_zero() {
        for (text, step) in [("step=15", 15_000), ("step=0.5", 500), ("step=1m30s", 90_000)] {
            assert_eq!(input(text).step().unwrap(), step);
        }
        for text in ["", "step=0", "step=-5", "step=soon"] {
            assert!(input(text).step().is_err(), "{text}");
        }
    }

    #[test]
    fn names_may_repeat() {
        let input = input("match%5B%5D=up&match[]=%7Bjob%3D%22a%22%7D&limit=0");
        assert_eq!(input.all("match[]").collect::<Vec<_>>(), ["up", "{job=\"a\"}"]);
        assert_eq!(input.limit(7).unwrap(), 7);
    }
}
