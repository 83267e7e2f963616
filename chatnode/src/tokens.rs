//! Connection tokens: who a client is, and until when.
//!
//! Checked without any back end, so that a reconnect storm costs CPU only. Time is an argument: whether a token has expired is
//! decided here and not by the JWT library, because an expired token (the client fetches another) and an invalid one (the client is
//! turned away) are different answers.

use holdfast_settings::Secret;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;
use serde_json::value::RawValue;

/// Checks tokens against one secret.
pub struct Verifier {
    key: DecodingKey,
    validation: Validation,
}

/// What a valid token says.
#[derive(Debug)]
pub struct Identity {
    /// User id, never empty.
    pub user: String,
    /// JSON shown to others as `conn_info`.
    pub info: Option<Box<RawValue>>,
    /// When the connection ends unless refreshed, in seconds since 1970.
    pub ends_at: Option<u64>,
    /// Server-side subscriptions.
    pub channels: Vec<String>,
}

/// Why a token is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It was good once.
    #[error("the token has expired")]
    Expired,
    /// Wrong form, wrong signature, not valid yet, or not a connection token.
    #[error("the token is not valid")]
    Invalid,
    /// It names no user, and anonymous users are not let in.
    #[error("the token names no user")]
    Anonymous,
}

#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    sub: String,
    exp: Option<f64>,
    nbf: Option<f64>,
    expire_at: Option<f64>,
    info: Option<Box<RawValue>>,
    #[serde(default)]
    channels: Vec<String>,
    /// Only subscription tokens have one.
    channel: Option<String>,
}

impl Verifier {
    /// Accepts tokens signed with `secret` by HS256.
    pub fn hmac(secret: &Secret) -> Self {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_aud = false;
        Self { key: DecodingKey::from_secret(secret.expose().as_bytes()), validation }
    }

    /// Who `token` stands for at `now` (seconds since 1970).
    ///
    /// # Errors
    /// The token is not to be accepted.
    pub fn verify(&self, token: &str, now: u64) -> Result<Identity, TokenError> {
        let claims = jsonwebtoken::decode::<Claims>(token, &self.key, &self.validation)
            .map_err(|_| TokenError::Invalid)?
            .claims;
        if claims.channel.is_some() || claims.nbf.is_some_and(|nbf| seconds(nbf) > now) {
            return Err(TokenError::Invalid);
        }
        if claims.exp.is_some_and(|exp| seconds(exp) <= now) {
            return Err(TokenError::Expired);
        }
        if claims.sub.is_empty() {
            return Err(TokenError::Anonymous);
        }
        // `expire_at` replaces `exp` as the connection's end; 0 means that it has none.
        let ends_at = claims.expire_at.or(claims.exp).map(seconds).filter(|end| *end > 0);
        Ok(Identity { user: claims.sub, info: claims.info, ends_at, channels: claims.channels })
    }
}

/// Whole seconds of a numeric date, which may have a fraction and may be nonsense.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the cast saturates: below 1970 is long ago, beyond the range is never"
)]
fn seconds(date: f64) -> u64 {
    date as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use jsonwebtoken::{EncodingKey, Header};
    use serde_json::{Value, json};

    const NOW: u64 = 1_000_000;

    fn sign(secret: &str, algorithm: Algorithm, claims: &Value) -> String {
        let key = EncodingKey::from_secret(secret.as_bytes());
        jsonwebtoken::encode(&Header::new(algorithm), claims, &key).unwrap()
    }

    fn verify(claims: &Value) -> Result<Identity, TokenError> {
        let token = sign("secret", Algorithm::HS256, claims);
        Verifier::hmac(&Secret::new("secret")).verify(&token, NOW)
    }

    #[test]
    fn a_good_token_tells_who_and_until_when() {
        let identity = verify(&json!({
            "sub": "42", "exp": NOW + 60, "info": {"name": "Ada"}, "channels": ["news"], "iat": NOW + 999,
        }))
        .unwrap();
        assert_eq!(identity.user, "42");
        assert_eq!(identity.info.unwrap().get(), r#"{"name":"Ada"}"#);
        assert_eq!(identity.ends_at, Some(NOW + 60));
        assert_eq!(identity.channels, ["news"]);
    }

    #[test]
    fn the_connections_end_is_expire_at_where_given() {
        for (claims, ends_at) in [
            (json!({"sub": "1"}), None),
            (json!({"sub": "1", "exp": NOW + 5}), Some(NOW + 5)),
            (json!({"sub": "1", "exp": NOW + 5, "expire_at": 0}), None),
            (json!({"sub": "1", "exp": NOW + 5, "expire_at": NOW + 9}), Some(NOW + 9)),
        ] {
            assert_eq!(verify(&claims).unwrap().ends_at, ends_at, "{claims}");
        }
    }

    #[test]
    fn bad_tokens_are_told_apart() {
        for (claims, expected) in [
            (json!({"sub": "1", "exp": NOW}), TokenError::Expired),
            (json!({"sub": "1", "exp": -5}), TokenError::Expired),
            (json!({"sub": "1", "nbf": NOW + 1}), TokenError::Invalid),
            (json!({"sub": "1", "channel": "a"}), TokenError::Invalid),
            (json!({"sub": 1}), TokenError::Invalid),
            (json!({"sub": ""}), TokenError::Anonymous),
            (json!({}), TokenError::Anonymous),
        ] {
            assert_eq!(verify(&claims).unwrap_err(), expected, "{claims}");
        }
    }

    #[test]
    fn another_secret_or_algorithm_is_not_accepted() {
        let claims = json!({"sub": "1"});
        let verifier = Verifier::hmac(&Secret::new("secret"));
        for token in [
            sign("other", Algorithm::HS256, &claims),
            sign("secret", Algorithm::HS512, &claims),
            "eyJhbGciOiJub25lIn0.eyJzdWIiOiIxIn0.".to_owned(),
            "a.b.c".to_owned(),
            String::new(),
        ] {
            assert_eq!(verifier.verify(&token, NOW).unwrap_err(), TokenError::Invalid, "{token}");
        }
    }
}
