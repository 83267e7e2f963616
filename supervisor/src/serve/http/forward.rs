//! Whichever member of the group an operator asks, the leader does it.
//!
//! A change that comes to a member that follows is passed on to the leader as it is, token included, and the leader's answer passed
//! back as it comes. Rejected: sending the caller there by a redirect, because most clients then leave the token behind. What concerns
//! a member itself (the group's membership, its own settings) stays. A minority changes nothing and says so.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;
use holdfast_telemetry::errors::Chain;

use super::reply::Failure;
use super::{BODY_BYTES_MAX, Handle};
use crate::group::Seat;

/// Marks what was passed on once: two members that each take the other for the leader must not play ball.
const PASSED_ON: &str = "x-holdfast-forwarded";
/// The leader is a neighbour.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest silence of the leader while it carries a command out; longer than the command's own limit.
const READ_TIMEOUT: Duration = Duration::from_secs(90);
/// Changes that concern the member that is asked.
const OWN: [&str; 1] = ["/operator/v1/group/"];

/// For requests to the leader.
pub(super) fn client() -> reqwest::Result<reqwest::Client> {
    reqwest::Client::builder()
        .no_proxy()
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(READ_TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .build()
}

/// Passes a change on if another member leads.
pub(super) async fn to_leader(
    State(shared): State<Handle>,
    request: Request,
    next: Next,
) -> Response {
    let path = request.uri().path();
    let is_change = request.method() == Method::POST && path.starts_with("/operator/v1/");
    if !is_change
        || OWN.iter().any(|own| path.starts_with(own))
        || request.headers().contains_key(PASSED_ON)
    {
        return next.run(request).await;
    }
    let group = &shared.api.group;
    let seat = group.seat().borrow().clone();
    match seat {
        Seat::Following { leader: Some(leader) } => {
            let members = Arc::clone(&group.members().borrow());
            let Some(member) = members.all.get(&leader) else { return next.run(request).await };
            match pass_on(&shared, &member.url, request).await {
                Ok(response) => response,
                Err(failure) => failure.into_response(),
            }
        }
        Seat::Minority { .. } => {
            let text = "this supervisor hears no majority of its group, so nothing is changed";
            Failure::new(StatusCode::SERVICE_UNAVAILABLE, text).into_response()
        }
        // The handlers say what is wrong with the others.
        _ => next.run(request).await,
    }
}

async fn pass_on(shared: &Handle, base: &str, request: Request) -> Result<Response, Failure> {
    let Some(client) = &shared.forward else {
        let text = "requests cannot be passed on to the leader";
        return Err(Failure::new(StatusCode::INTERNAL_SERVER_ERROR, text));
    };
    let unreachable = |error: reqwest::Error| {
        let text = format!("the leader at {base}: {}", Chain(&error.without_url()));
        Failure::new(StatusCode::BAD_GATEWAY, text)
    };
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, BODY_BYTES_MAX)
        .await
        .map_err(|error| Failure::new(StatusCode::PAYLOAD_TOO_LARGE, error.to_string()))?;
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    let mut onward = client
        .request(parts.method, format!("{}{target}", base.trim_end_matches('/')))
        .header(PASSED_ON, HeaderValue::from_static("1"))
        .body(body);
    for name in [header::AUTHORIZATION, header::CONTENT_TYPE, header::ACCEPT] {
        if let Some(value) = parts.headers.get(&name) {
            onward = onward.header(name, value);
        }
    }
    let answer = onward.send().await.map_err(unreachable)?;
    let mut response = Response::builder().status(answer.status());
    for name in [header::CONTENT_TYPE, header::WWW_AUTHENTICATE] {
        if let Some(value) = answer.headers().get(&name) {
            response = response.header(name, value);
        }
    }
    // As it comes: a backup tells of its progress for minutes.
    let chunks = stream::unfold(Some(answer), async |answer| {
        let mut answer = answer?;
        match answer.chunk().await {
            Ok(chunk) => chunk.map(|chunk| (Ok(chunk), Some(answer))),
            Err(error) => Some((Err(error), None)),
        }
    });
    let response = response.body(Body::from_stream(chunks));
    response.map_err(|error| Failure::new(StatusCode::BAD_GATEWAY, error.to_string()))
}
