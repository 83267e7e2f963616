//! Tokens: who a client is, what it may subscribe to, and until when.
//!
//! Checked without any back end, so that a reconnect storm costs CPU only. Time is an argument: whether a token has expired is
//! decided here and not by the JWT library, because an expired token (the client fetches another) and an invalid one (the client is
//! turned away) are different answers. A third one is [`TokenError::UnknownKey`]: the key may be so new that the node has to fetch the
//! key set again before it can tell.
//!
//! ES512 is not offered: the library has no P-521.

mod claims;
pub mod jwks;
mod keys;

use holdfast_settings::Secret;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{DecodingKey, Validation};

use claims::{Claims, seconds};
pub use claims::{
    ConnectionToken, NotBase64, Overrides, SubscriptionToken, Terms, WrittenTerms, either,
};
pub use keys::{KEYS_MAX, KeySet, KeySetError, Keys, SharedKeySet};

/// Checks tokens against keys.
#[derive(Default)]
pub struct Verifier {
    /// Keys tokens are signed with.
    pub keys: Keys,
    /// What `aud` must contain.
    pub audience: Option<String>,
    /// What `iss` must be.
    pub issuer: Option<String>,
    /// Expired tokens are good too: the node runs in insecure mode.
    pub ignore_expiry: bool,
}

/// Why a token is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It was good once.
    #[error("the token has expired")]
    Expired,
    /// Wrong form, wrong signature, not valid yet, or not a token of this kind.
    #[error("the token is not valid")]
    Invalid,
    /// Signed with a key that the key set does not have, or not yet.
    #[error("the token's key is not known yet")]
    UnknownKey,
}

impl Verifier {
    /// Accepts tokens signed with `secret` by HS256, HS384 or HS512.
    pub fn hmac(secret: &Secret) -> Self {
        let secret = DecodingKey::from_secret(secret.expose().as_bytes());
        Self { keys: Keys { secret: Some(secret), ..Keys::default() }, ..Self::default() }
    }

    /// What the connection token `token` says at `now` (seconds since 1970).
    ///
    /// # Errors
    /// The token is not to be accepted.
    pub fn connection(&self, token: &str, now: u64) -> Result<ConnectionToken, TokenError> {
        let mut claimed = self.claims(token, now)?.into_connection()?;
        if self.ignore_expiry {
            claimed.ends_at = None;
        }
        Ok(claimed)
    }

    /// What the subscription token `token` says at `now` (seconds since 1970).
    ///
    /// # Errors
    /// The token is not to be accepted.
    pub fn subscription(&self, token: &str, now: u64) -> Result<SubscriptionToken, TokenError> {
        let mut claimed = self.claims(token, now)?.into_subscription()?;
        if self.ignore_expiry {
            claimed.ends_at = None;
        }
        Ok(claimed)
    }

    fn claims(&self, token: &str, now: u64) -> Result<Claims, TokenError> {
        let claims = self.signed(token)?;
        if !claims.is_for(self.audience.as_deref(), self.issuer.as_deref())
            || claims.nbf.is_some_and(|nbf| seconds(nbf) > now)
        {
            return Err(TokenError::Invalid);
        }
        if !self.ignore_expiry && claims.exp.is_some_and(|exp| seconds(exp) <= now) {
            return Err(TokenError::Expired);
        }
        Ok(claims)
    }

    /// The claims, if one of the keys signed them.
    fn signed(&self, token: &str) -> Result<Claims, TokenError> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| TokenError::Invalid)?;
        let candidates = self.keys.candidates(&header);
        let mut validation = Validation::new(header.alg);
        validation.required_spec_claims.clear();
        (validation.validate_exp, validation.validate_aud) = (false, false);
        for candidate in &candidates.keys {
            match jsonwebtoken::decode::<Claims>(token, candidate.key(), &validation) {
                Ok(data) => return Ok(data.claims),
                Err(error) if *error.kind() == ErrorKind::InvalidSignature => {}
                Err(_) => return Err(TokenError::Invalid),
            }
        }
        Err(if candidates.expects_more { TokenError::UnknownKey } else { TokenError::Invalid })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jsonwebtoken::{Algorithm, EncodingKey, Header};
    use serde_json::{Value, json};

    const NOW: u64 = 1_000_000;

    fn sign(secret: &str, algorithm: Algorithm, claims: &Value) -> String {
        let key = EncodingKey::from_secret(secret.as_bytes());
        jsonwebtoken::encode(&Header::new(algorithm), claims, &key).unwrap()
    }

    fn verifier() -> Verifier {
        Verifier::hmac(&Secret::new("secret"))
    }

    fn connection(claims: &Value) -> Result<ConnectionToken, TokenError> {
        verifier().connection(&sign("secret", Algorithm::HS256, claims), NOW)
    }

    fn subscription(claims: &Value) -> Result<SubscriptionToken, TokenError> {
        verifier().subscription(&sign("secret", Algorithm::HS256, claims), NOW)
    }

    #[test]
    fn a_connection_token_tells_who_and_until_when() {
        let token = connection(&json!({
            "sub": "42", "exp": NOW + 60, "iat": NOW - 5, "jti": "t1", "info": {"name": "Ada"}, "meta": [1],
            "channels": ["news"],
            "subs": {"room": {"b64info": "eyJhIjoxfQ==", "data": {"x":
1}, "override": {"presence": {"value": true}}}},
        }))
        .unwrap();
        assert_eq!((token.user.as_str(), token.id.as_deref()), ("42", Some("t1")));
        assert_eq!((token.ends_at, token.issued_at), (Some(NOW + 60), Some(NOW - 5)));
        assert_eq!(token.info.unwrap(), r#"{"name":"Ada"}"#);
        assert_eq!(token.meta.unwrap(), "[1]");
        let (channels, terms): (Vec<_>, Vec<_>) = token.subscriptions.into_iter().unzip();
        assert_eq!(channels, ["news", "room"]);
        assert_eq!(terms[1].info.as_ref().unwrap(), r#"{"a":1}"#);
        assert_eq!(terms[1].data.as_ref().unwrap(), r#"{"x":1}"#);
        let options = terms[1].overrides.apply(&crate::namespaces::Options::default());
        assert!(options.presence && !options.join_leave);
        assert!(terms[0].overrides.is_empty());
    }

    #[test]
    fn a_subscription_token_tells_for_whom_and_what() {
        let claims = json!({
            "sub": "42", "channel": "$a", "client": "c", "expire_at": NOW + 9, "info": 1,
            "override": {"join_leave": {"value": true}},
        });
        let token = subscription(&claims).unwrap();
        assert_eq!((token.user.as_str(), token.channel.as_str()), ("42", "$a"));
        assert_eq!((token.client.as_deref(), token.ends_at), (Some("c"), Some(NOW + 9)));
        assert_eq!(token.terms.info.unwrap(), "1");
        assert_eq!(connection(&claims).unwrap_err(), TokenError::Invalid);
        assert_eq!(subscription(&json!({"sub": "42"})).unwrap_err(), TokenError::Invalid);
    }

    #[test]
    fn the_end_is_expire_at_where_given() {
        for (claims, ends_at) in [
            (json!({"sub": "1"}), None),
            (json!({"sub": "1", "exp": NOW + 5}), Some(NOW + 5)),
            (json!({"sub": "1", "exp": NOW + 5, "expire_at": 0}), None),
            (json!({"sub": "1", "exp": NOW + 5, "expire_at": NOW + 9}), Some(NOW + 9)),
        ] {
            assert_eq!(connection(&claims).unwrap().ends_at, ends_at, "{claims}");
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
            (json!({"sub": "1", "b64info": "?"}), TokenError::Invalid),
        ] {
            assert_eq!(connection(&claims).unwrap_err(), expected, "{claims}");
        }
    }

    #[test]
    fn audience_and_issuer_must_be_those_configured() {
        let verifier = Verifier {
            audience: Some("chat".to_owned()),
            issuer: Some("us".to_owned()),
            ..verifier()
        };
        for (claims, good) in [
            (json!({"sub": "1", "aud": "chat", "iss": "us"}), true),
            (json!({"sub": "1", "aud": ["mail", "chat"], "iss": "us"}), true),
            (json!({"sub": "1", "aud": "mail", "iss": "us"}), false),
            (json!({"sub": "1", "aud": "chat", "iss": "them"}), false),
            (json!({"sub": "1", "iss": "us"}), false),
            (json!({"sub": "1", "aud": "chat"}), false),
        ] {
            let token = sign("secret", Algorithm::HS256, &claims);
            assert_eq!(verifier.connection(&token, NOW).is_ok(), good, "{claims}");
        }
    }

    #[test]
    fn in_insecure_mode_tokens_are_checked_but_do_not_expire() {
        let verifier = Verifier { ignore_expiry: true, ..verifier() };
        let expired = json!({"sub": "1", "exp": 5});
        let token = verifier.connection(&sign("secret", Algorithm::HS256, &expired), NOW).unwrap();
        assert_eq!(token.ends_at, None);
        let forged = sign("other", Algorithm::HS256, &expired);
        assert_eq!(verifier.connection(&forged, NOW).unwrap_err(), TokenError::Invalid);
    }

    #[test]
    fn all_forms_of_the_shared_secret_are_taken_and_nothing_else() {
        let claims = json!({"sub": "1"});
        for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
            assert!(verifier().connection(&sign("secret", algorithm, &claims), NOW).is_ok());
        }
        for token in [
            sign("other", Algorithm::HS256, &claims),
            "eyJhbGciOiJub25lIn0.eyJzdWIiOiIxIn0.".to_owned(),
            "a.b.c".to_owned(),
            String::new(),
        ] {
            let refused = verifier().connection(&token, NOW).unwrap_err();
            assert_eq!(refused, TokenError::Invalid, "{token}");
        }
    }

    #[test]
    fn a_key_set_is_asked_for_keys_it_may_have_by_now() {
        let shared = std::sync::Arc::new(SharedKeySet::default());
        let keys = Keys { set: Some(shared.clone()), ..Keys::default() };
        let verifier = Verifier { keys, ..Verifier::default() };
        // {"alg":"RS256","kid":"k2"} with some signature.
        let unknown = "eyJhbGciOiJSUzI1NiIsImtpZCI6ImsyIn0.eyJzdWIiOiIxIn0.AAAA";
        assert_eq!(verifier.connection(unknown, NOW).unwrap_err(), TokenError::UnknownKey);
        let secret = sign("secret", Algorithm::HS256, &json!({"sub": "1"}));
        assert_eq!(verifier.connection(&secret, NOW).unwrap_err(), TokenError::Invalid);
        let set = r#"{"keys": [
            {"kty": "OKP", "crv": "Ed25519", "kid": "k2", "alg": "EdDSA", "use": "sig",
             "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"},
            {"kty": "OKP", "crv": "Ed25519", "kid": "k3", "use": "enc",
             "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"},
            {"kty": "oct", "kid": "k4", "k": "c2VjcmV0"},
            {"kty": "future"}]}"#;
        let set = KeySet::parse(set.as_bytes()).unwrap();
        assert_eq!(set.len(), 1, "only the first is for checking signatures, and public");
        shared.replace(set);
        let expected = Err(TokenError::UnknownKey);
        assert_eq!(verifier.connection(unknown, NOW).map(|_| ()), expected, "another kind of key");
        for bad in ["", "{}", r#"{"keys": []}"#, r#"{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}"#] {
            assert!(KeySet::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
