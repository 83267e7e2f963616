//! Who may ask for what.
//!
//! Somebody is known by a bearer token, by a client certificate, or by the user on the other end of the unix socket; whoever shows a
//! token is judged by it alone. Probes and scrapers (`/metrics`, `/health/*`) carry none and need none.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::connect_info::ConnectInfo;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use subtle::ConstantTimeEq as _;

use super::ApiError;
use crate::config::admin::AdminConfig;
pub(crate) use crate::config::admin::Role;
use crate::control::{Balancer, Who};

/// The way somebody came in.
#[derive(Debug, Clone)]
pub(crate) enum Via {
    /// By TCP, perhaps with a certificate of ours, whose names these are.
    Tcp { peer: SocketAddr, names: Arc<[String]> },
    /// By the unix socket, as this user.
    Unix { user: u32 },
}

impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { peer, .. } => peer.fmt(f),
            Self::Unix { .. } => f.write_str("unix socket"),
        }
    }
}

/// Somebody who was let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Caller {
    name: String,
    role: Role,
    from: String,
}

impl Caller {
    /// As the journal names them.
    pub(super) fn who(&self) -> Who {
        Who { name: self.name.clone(), from: self.from.clone(), epoch: None }
    }
}

/// Lets only those pass who are known, and notes who they are.
pub(super) async fn authenticate(
    State(balancer): State<Arc<Balancer>>,
    ConnectInfo(via): ConnectInfo<Via>,
    mut request: Request,
    next: Next,
) -> Response {
    let authorization = request.headers().get(header::AUTHORIZATION);
    let shown = authorization.map(|value| value.to_str().unwrap_or_default());
    let Some(caller) = recognise(&balancer.admin_config(), &via, shown) else {
        let text = "expected the header Authorization: Bearer TOKEN";
        let error = ApiError::new(StatusCode::UNAUTHORIZED, text);
        return ([(header::WWW_AUTHENTICATE, "Bearer")], error).into_response();
    };
    request.extensions_mut().insert(caller);
    next.run(request).await
}

/// Lets only those pass who may do this.
pub(super) async fn require(role: Role, request: Request, next: Next) -> Response {
    let caller = request.extensions().get::<Caller>();
    if caller.is_some_and(|caller| caller.role >= role) {
        return next.run(request).await;
    }
    let text = format!("this needs the role {:?}", role.as_str());
    ApiError::new(StatusCode::FORBIDDEN, text).into_response()
}

/// Who this is, by what they show in the header `Authorization` and where they come from.
fn recognise(config: &AdminConfig, via: &Via, authorization: Option<&str>) -> Option<Caller> {
    let known = |name: &str, role| Caller { name: name.to_owned(), role, from: via.to_string() };
    if let Some(text) = authorization {
        let (scheme, given) = text.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let given = given.trim().as_bytes();
        // In constant time, so that a token cannot be guessed letter by letter.
        let is_it = |secret: &str| bool::from(secret.as_bytes().ct_eq(given));
        let token = config.tokens.iter().find(|token| is_it(token.secret.expose()))?;
        return Some(known(&token.name, token.role));
    }
    match via {
        Via::Tcp { names, .. } => {
            let clients = &config.tls.as_ref()?.clients;
            let client = clients.iter().find(|client| names.contains(&client.name))?;
            Some(known(&client.name, client.role))
        }
        Via::Unix { user } => Some(known(&format!("user {user}"), config.unix.as_ref()?.role)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::admin::{Token, UnixSocket};

    fn config() -> AdminConfig {
        let token = |name: &str, secret: &str, role| Token {
            name: name.to_owned(),
            secret: holdfast_settings::Secret::new(secret),
            role,
        };
        AdminConfig {
            tokens: vec![token("boss", "one", Role::Operate), token("screen", "two", Role::Read)],
            unix: Some(UnixSocket { path: "s".into(), mode: 0o600, role: Role::Operate }),
            ..AdminConfig::for_tests()
        }
    }

    #[test]
    fn a_token_is_judged_alone() {
        let config = config();
        let tcp = Via::Tcp { peer: ([127, 0, 0, 1], 5).into(), names: Arc::default() };
        let unix = Via::Unix { user: 7 };
        let who = |via: &Via, shown| {
            recognise(&config, via, shown).map(|caller| (caller.name, caller.role, caller.from))
        };
        let from = "127.0.0.1:5".to_owned();
        let boss = ("boss".to_owned(), Role::Operate, from.clone());
        assert_eq!(who(&tcp, Some("Bearer one")), Some(boss));
        assert_eq!(who(&tcp, Some("bearer two")), Some(("screen".to_owned(), Role::Read, from)));
        for wrong in ["Bearer three", "Bearer", "Basic one", "one", ""] {
            assert_eq!(who(&tcp, Some(wrong)), None, "{wrong:?}");
            assert_eq!(who(&unix, Some(wrong)), None, "{wrong:?}");
        }
        assert_eq!(who(&tcp, None), None);
        let user = ("user 7".to_owned(), Role::Operate, "unix socket".to_owned());
        assert_eq!(who(&unix, None), Some(user));
    }
}
