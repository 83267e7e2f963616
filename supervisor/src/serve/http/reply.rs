//! How requests are checked and errors answered, the same way by every handler: `{"error": "<sentence>"}` with the fitting status.

use std::net::SocketAddr;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{ConnectInfo, FromRequest, FromRequestParts, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde_json::json;
use subtle::ConstantTimeEq;

use super::Handle;
use crate::control::ControlError;

/// Why a request is not answered as hoped.
#[derive(Debug)]
pub(super) struct Failure {
    status: StatusCode,
    text: String,
}

impl Failure {
    pub(super) fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into() }
    }

    pub(super) fn not_found(text: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, text)
    }

    /// The request makes sense to a parser but not to us.
    pub(super) fn unprocessable(text: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, text)
    }
}

impl From<ControlError> for Failure {
    fn from(error: ControlError) -> Self {
        let status = match error {
            ControlError::NotFound(_) => StatusCode::NOT_FOUND,
            ControlError::Refused(_) => StatusCode::CONFLICT,
            ControlError::Busy(_) => StatusCode::SERVICE_UNAVAILABLE,
            ControlError::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.to_string())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(json!({ "error": self.text }))).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            let scheme = header::HeaderValue::from_static("Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
        }
        response
    }
}

pub(super) async fn no_such_path(uri: Uri) -> Failure {
    Failure::not_found(format!("there is nothing at {}", uri.path()))
}

pub(super) async fn no_such_method(method: Method, uri: Uri) -> Failure {
    let text = format!("{} does not answer {method}", uri.path());
    Failure::new(StatusCode::METHOD_NOT_ALLOWED, text)
}

/// Whoever sent the bearer token. Comes before the body in a handler's arguments, so that nobody else's body is read.
pub(super) struct Operator {
    /// For the journal: who it was, as far as we know.
    pub(super) by: String,
}

impl FromRequestParts<Handle> for Operator {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, shared: &Handle) -> Result<Self, Failure> {
        let Some(token) = bearer(&parts.headers) else {
            let text = "this needs the header `Authorization: Bearer <token>`";
            return Err(Failure::new(StatusCode::UNAUTHORIZED, text));
        };
        if !bool::from(token.as_bytes().ct_eq(shared.api.token.expose().as_bytes())) {
            return Err(Failure::new(StatusCode::UNAUTHORIZED, "the token is wrong"));
        }
        let by = match parts.extensions.get::<ConnectInfo<SocketAddr>>() {
            Some(ConnectInfo(peer)) => format!("operator at {}", peer.ip()),
            None => "operator".to_owned(),
        };
        Ok(Self { by })
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// A JSON body, whatever its content type says; an empty one counts as `{}`. Types refuse unknown keys, and the answer names them.
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<Handle> for Body<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, shared: &Handle) -> Result<Self, Failure> {
        let bytes = Bytes::from_request(request, shared)
            .await
            .map_err(|error| Failure::new(error.status(), error.body_text()))?;
        let bytes = if bytes.trim_ascii().is_empty() { b"{}" } else { &*bytes };
        serde_json::from_slice(bytes).map(Self).map_err(|error| {
            if error.is_data() {
                Failure::unprocessable(error.to_string())
            } else {
                let text = format!("the body is not JSON: {error}");
                Failure::new(StatusCode::BAD_REQUEST, text)
            }
        })
    }
}

/// Query parameters; unknown ones are refused by name.
pub(super) struct Params<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequestParts<Handle> for Params<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, shared: &Handle) -> Result<Self, Failure> {
        let parsed: Result<Query<T>, QueryRejection> =
            Query::from_request_parts(parts, shared).await;
        match parsed {
            Ok(Query(params)) => Ok(Self(params)),
            Err(error) => Err(Failure::new(StatusCode::BAD_REQUEST, error.body_text())),
        }
    }
}
