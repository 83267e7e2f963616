//! What happens before there is a connection: `/chat/register`, `/chat/login`, `/chat/refresh`, `/chat/logout`.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, Json, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde_json::json;

use super::Chat;
use super::accounts::{AccountError, Credentials, Login};

/// Largest request: a name and a password.
const BODY_BYTES_MAX: usize = 4096;

/// The routes.
pub fn router(chat: Arc<Chat>) -> Router {
    Router::new()
        .route("/chat/register", post(register))
        .route("/chat/login", post(login))
        .route("/chat/refresh", post(refresh))
        .route("/chat/logout", post(logout))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(chat)
}

type Body = Result<Json<Credentials>, JsonRejection>;

fn credentials(body: Body) -> Result<Credentials, AccountError> {
    // The library's own text would quote the body.
    let Json(credentials) = body.map_err(|rejection| {
        AccountError::Bad(match rejection {
            JsonRejection::MissingJsonContentType(_) => {
                "expected the header Content-Type: application/json"
            }
            _ => "expected {\"user\": …, \"password\": …}",
        })
    })?;
    Ok(credentials)
}

async fn register(State(chat): State<Arc<Chat>>, body: Body) -> Response {
    let done = match credentials(body) {
        Ok(credentials) => chat.register(credentials).await,
        Err(error) => Err(error),
    };
    respond(StatusCode::CREATED, done)
}

async fn login(State(chat): State<Arc<Chat>>, body: Body) -> Response {
    let done = match credentials(body) {
        Ok(credentials) => chat.login(credentials).await,
        Err(error) => Err(error),
    };
    respond(StatusCode::OK, done)
}

async fn refresh(State(chat): State<Arc<Chat>>, headers: HeaderMap) -> Response {
    respond(StatusCode::OK, chat.refresh(bearer(&headers)).await)
}

async fn logout(State(chat): State<Arc<Chat>>, headers: HeaderMap) -> Response {
    match chat.logout(bearer(&headers)).await {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => error.into_response(),
    }
}

fn bearer(headers: &HeaderMap) -> &str {
    let value = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    value.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default()
}

fn respond(status: StatusCode, done: Result<Login, AccountError>) -> Response {
    match done {
        Ok(login) => {
            // A token must not stay in a cache.
            (status, [(header::CACHE_CONTROL, "no-store")], Json(login)).into_response()
        }
        Err(error) => error.into_response(),
    }
}

impl IntoResponse for AccountError {
    fn into_response(self) -> Response {
        let (status, code) = match &self {
            Self::Bad(_) => (StatusCode::BAD_REQUEST, 107),
            Self::Taken => (StatusCode::CONFLICT, 409),
            Self::Closed => (StatusCode::FORBIDDEN, 103),
            Self::Wrong | Self::Ended => (StatusCode::UNAUTHORIZED, 101),
            Self::TooMany { .. } => (StatusCode::TOO_MANY_REQUESTS, 111),
            Self::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, 100),
        };
        let retry = match &self {
            Self::TooMany { retry_after } => {
                Some(retry_after.max(&Duration::from_secs(1)).as_secs_f64().ceil().to_string())
            }
            Self::Unavailable => Some("1".to_owned()),
            _ => None,
        };
        let body = Json(json!({"error": {"code": code, "message": self.to_string()}}));
        (status, retry.map(|seconds| [(header::RETRY_AFTER, seconds)]), body).into_response()
    }
}
