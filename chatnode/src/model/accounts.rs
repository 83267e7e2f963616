//! Accounts: made once, logged in to with a password, known by tokens afterwards.
//!
//! A login is a token whose id (`jti`) stays the same while it is refreshed, so that logging out revokes all of its tokens on every node.
//! Whether an account exists shows where it must, when a name is taken or somebody is written to, and not at login: there a wrong name
//! and a wrong password have the same answer at the same cost.

use std::time::Duration;

use bytes::Bytes;
use jsonwebtoken::Header;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::timeout;

use super::passwords::{PASSWORD_BYTES_MAX, PASSWORD_CHARS_MIN, PasswordError};
use super::{Chat, internal, unix_ms};
use crate::access::{Denial, Revocation};
use crate::broker::{BrokerError, Change, Condition, Key, Rate, Write};
use crate::tokens::TokenError;

/// Names: long enough to be one, short enough to be shown and to fit two into a channel's name.
const NAME_CHARS: std::ops::RangeInclusive<usize> = 2..=32;

/// Longest name to be shown.
const SHOWN_NAME_CHARS_MAX: usize = 64;

/// Attempts to log in to one account: ten at once, then one every six seconds. A password of eight characters outlives that by ages, and
/// who mistypes does not notice.
const LOGINS: Rate = Rate { burst: 10, every: Duration::from_secs(6) };

/// New accounts, all nodes together: a script that makes them gets five a second at most.
const REGISTRATIONS: Rate = Rate { burst: 50, every: Duration::from_millis(200) };

/// A login at work may take this long in all, Redis included.
const LIMIT: Duration = Duration::from_secs(10);

/// Whether `name` can be the name of an account: what a channel's name may contain and nothing that divides it.
pub(super) fn is_name(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
    NAME_CHARS.contains(&name.len())
        && name.bytes().all(allowed)
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
}

/// Why somebody is not logged in.
#[derive(Debug, thiserror::Error)]
pub(super) enum AccountError {
    #[error("{0}")]
    Bad(&'static str),
    #[error("this name is taken")]
    Taken,
    #[error("registration is closed")]
    Closed,
    #[error("wrong name or password")]
    Wrong,
    #[error("the login has ended, log in again")]
    Ended,
    #[error("too many attempts, try again later")]
    TooMany { retry_after: Duration },
    #[error("temporarily not available")]
    Unavailable,
}

impl From<BrokerError> for AccountError {
    fn from(_: BrokerError) -> Self {
        Self::Unavailable
    }
}

impl From<PasswordError> for AccountError {
    fn from(error: PasswordError) -> Self {
        match error {
            PasswordError::Busy => Self::TooMany { retry_after: Duration::from_secs(1) },
            PasswordError::Failed => Self::Unavailable,
        }
    }
}

/// A name and a password, and at registration the name to be shown.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Credentials {
    pub(super) user: String,
    pub(super) password: String,
    #[serde(default)]
    pub(super) name: Option<String>,
}

/// Somebody is logged in.
#[derive(Debug, Serialize)]
pub(super) struct Login {
    pub(super) user: String,
    pub(super) name: String,
    pub(super) token: String,
    /// Seconds since 1970.
    pub(super) expires_at: u64,
}

fn key(user: &str) -> Key<'_> {
    Key { collection: "account", id: user }
}

fn text(value: Option<Bytes>) -> Option<String> {
    String::from_utf8(value?.to_vec()).ok()
}

impl Chat {
    pub(super) async fn register(&self, credentials: Credentials) -> Result<Login, AccountError> {
        if !self.settings.registration {
            return Err(AccountError::Closed);
        }
        let Credentials { user, password, name } = credentials;
        let user = user.to_ascii_lowercase();
        if !is_name(&user) {
            return Err(AccountError::Bad(
                "expected a name of 2 to 32 characters of a-z, 0-9, '.', '_' and '-'",
            ));
        }
        if password.chars().count() < PASSWORD_CHARS_MIN || password.len() > PASSWORD_BYTES_MAX {
            return Err(AccountError::Bad("expected a password of 8 to 256 characters"));
        }
        let name = name.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty());
        let name = name.unwrap_or_else(|| user.clone());
        if name.chars().count() > SHOWN_NAME_CHARS_MAX || name.chars().any(char::is_control) {
            return Err(AccountError::Bad("expected a shown name of at most 64 characters"));
        }
        let work = async {
            self.allowed("register", REGISTRATIONS).await?;
            let hash = self.passwords.hash(password).await?;
            let changes = vec![
                Change::Set("hash".to_owned(), hash.into()),
                Change::Set("name".to_owned(), name.clone().into()),
                Change::Set("created_ms".to_owned(), unix_ms().to_string().into()),
            ];
            let write = Write { conditions: vec![Condition::Absent], changes, ttl: None };
            if !self.broker.write(key(&user), write).await? {
                return Err(AccountError::Taken);
            }
            self.login_as(user, name, &uuid::Uuid::new_v4().to_string())
        };
        timeout(LIMIT, work).await.map_err(|_| AccountError::Unavailable)?
    }

    pub(super) async fn login(&self, credentials: Credentials) -> Result<Login, AccountError> {
        let user = credentials.user.to_ascii_lowercase();
        let password = credentials.password;
        if !is_name(&user) || password.len() > PASSWORD_BYTES_MAX {
            return Err(AccountError::Wrong);
        }
        let work = async {
            self.allowed(&format!("login {user}"), LOGINS).await?;
            let mut fields = self.broker.fields(key(&user), &["hash", "name"]).await?;
            let name = text(fields.pop().flatten());
            let hash = text(fields.pop().flatten());
            if !self.passwords.matches(password, hash).await? {
                return Err(AccountError::Wrong);
            }
            let name = name.unwrap_or_else(|| user.clone());
            self.login_as(user, name, &uuid::Uuid::new_v4().to_string())
        };
        timeout(LIMIT, work).await.map_err(|_| AccountError::Unavailable)?
    }

    async fn allowed(&self, key: &str, rate: Rate) -> Result<(), AccountError> {
        let allowance = self.broker.take(key, rate, 1).await?;
        if allowance.allowed {
            return Ok(());
        }
        Err(AccountError::TooMany { retry_after: allowance.retry_after })
    }

    /// A fresh token for the same login.
    pub(super) async fn refresh(&self, token: &str) -> Result<Login, AccountError> {
        let (user, id) = self.login_of(token)?;
        let name = text(self.broker.fields(key(&user), &["name"]).await?.pop().flatten());
        // An account that is gone has no logins.
        let name = name.ok_or(AccountError::Ended)?;
        self.login_as(user, name, &id)
    }

    /// Ends a login on all devices that use it.
    pub(super) async fn logout(&self, token: &str) -> Result<(), AccountError> {
        let (_, id) = self.login_of(token)?;
        let now = unix_ms() / 1000;
        // Whatever this login was given last has expired by then.
        let until = now + self.settings.token_ttl.as_secs() + 1;
        let revocation = Revocation::Token(id);
        self.revocations.add(revocation, now, until).await?;
        self.control.revocations_changed().await;
        Ok(())
    }

    /// User and id of the login that `token` belongs to.
    fn login_of(&self, token: &str) -> Result<(String, String), AccountError> {
        let now = unix_ms() / 1000;
        let token = self.verifier.connection(token, now).map_err(|error| match error {
            TokenError::UnknownKey => AccountError::Unavailable,
            _ => AccountError::Ended,
        })?;
        let id = token.id.filter(|_| is_name(&token.user)).ok_or(AccountError::Ended)?;
        if self.revocations.covers(&token.user, Some(&id), token.issued_at, now) {
            return Err(AccountError::Ended);
        }
        Ok((token.user, id))
    }

    fn login_as(&self, user: String, name: String, id: &str) -> Result<Login, AccountError> {
        let now = unix_ms() / 1000;
        let expires_at = now + self.settings.token_ttl.as_secs();
        let claims =
            json!({"sub": user, "iat": now, "exp": expires_at, "jti": id, "info": {"name": name}});
        let token = jsonwebtoken::encode(&Header::default(), &claims, &self.signer);
        let token = token.map_err(|_| AccountError::Unavailable)?;
        Ok(Login { user, name, token, expires_at })
    }

    /// The name an account is shown by; `None` if there is no such account.
    pub(super) async fn shown_name(&self, user: &str) -> Result<Option<String>, Denial> {
        if !is_name(user) {
            return Ok(None);
        }
        let fields = self.broker.fields(key(user), &["name"]).await.map_err(internal)?;
        Ok(text(fields.into_iter().next().flatten()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_can_stand_in_a_channels_name() {
        for good in ["ada", "a1", "ada.lovelace", "x_y-z", &"a".repeat(32)] {
            assert!(is_name(good), "{good}");
        }
        for bad in
            ["", "a", "Ada", "a,b", "a#b", "a:b", "a b", ".ada", "-x", "ädä", &"a".repeat(33)]
        {
            assert!(!is_name(bad), "{bad}");
        }
    }
}
