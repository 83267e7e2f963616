//! Connection tokens: JSON Web Tokens signed with the secret the chat nodes know.

use std::time::Duration;

use holdfast_settings::Secret;
use jsonwebtoken::{EncodingKey, Header};

/// A connection token (HS256) for `user`, valid for `lifetime` from now.
///
/// # Panics
/// Never: signing with a shared secret cannot fail.
pub fn mint(secret: &Secret, user: &str, lifetime: Duration) -> String {
    let expires = chrono::Utc::now()
        .timestamp()
        .saturating_add(i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX));
    let claims = serde_json::json!({ "sub": user, "exp": expires });
    let key = EncodingKey::from_secret(secret.expose().as_bytes());
    jsonwebtoken::encode(&Header::default(), &claims, &key)
        .expect("HS256 signs whatever bytes the secret has")
}
