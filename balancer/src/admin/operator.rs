//! Who makes a change, and under which conditions.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};

use super::ApiError;
use super::access::Caller;
use crate::control::{Balancer, Change, Conditions, Who};

/// Header by which a supervisor that has been replaced is refused.
pub(super) const EPOCH: &str = "X-Holdfast-Epoch";

/// The one who asks for a change.
#[derive(Debug)]
pub(super) struct Operator {
    who: Who,
    conditions: Conditions,
}

impl Operator {
    /// Begins the change; nobody else makes one while the result lives.
    ///
    /// # Errors
    /// What the operator has seen is not what there is.
    pub(super) fn enter<'b>(&self, balancer: &'b Balancer) -> Result<Change<'b>, ApiError> {
        Ok(balancer.enter(&self.who, &self.conditions)?)
    }

    /// What has to hold.
    pub(super) fn conditions(&self) -> &Conditions {
        &self.conditions
    }

    /// As the journal will name them.
    pub(super) fn who(&self) -> &Who {
        &self.who
    }
}

impl<S: Sync> FromRequestParts<S> for Operator {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        let caller = parts.extensions.get::<Caller>();
        let caller = caller.expect("whoever comes here was let in by name");
        let epoch = epoch(&parts.headers)?;
        let who = Who { epoch, ..caller.who() };
        Ok(Self { who, conditions: Conditions { epoch, versions: versions(&parts.headers)? } })
    }
}

/// The epoch a change is made under, if it names one.
fn epoch(headers: &HeaderMap) -> Result<Option<u64>, ApiError> {
    let Some(value) = headers.get(EPOCH) else { return Ok(None) };
    let number = value.to_str().ok().and_then(|text| text.parse().ok());
    number.map(Some).ok_or_else(|| {
        ApiError::new(StatusCode::BAD_REQUEST, format!("expected a number in the header {EPOCH}"))
    })
}

/// The versions a change is meant for; `None` if for any.
fn versions(headers: &HeaderMap) -> Result<Option<Vec<String>>, ApiError> {
    let mut tags = Vec::new();
    for value in headers.get_all(header::IF_MATCH) {
        let text = value.to_str().map_err(|_| {
            ApiError::new(StatusCode::BAD_REQUEST, "expected text in the header If-Match")
        })?;
        tags.extend(text.split(',').map(|tag| tag.trim().to_owned()));
    }
    // Weak tags never match (RFC 9110 13.1.1); ours hold no comma.
    let any = tags.is_empty() || tags.iter().any(|tag| tag == "*");
    Ok((!any).then_some(tags))
}
