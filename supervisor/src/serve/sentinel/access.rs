//! Who may ask, and who may change something.
//!
//! With a password set, a client says it before anything else, as with Redis. Without one, whoever reaches the listener may ask and may
//! have the primary replaced (hooks of charts do, from the Redis hosts); what changes settings is left to this host.

use std::net::IpAddr;

use subtle::ConstantTimeEq as _;

use crate::observe::redis::Login;

/// The user that `AUTH <password>` means.
const DEFAULT_USER: &str = "default";

/// Answer to a wrong name or password.
pub(super) const WRONG: &str = "WRONGPASS invalid username-password pair or user is disabled.";

/// Answer to commands before `AUTH`.
pub(super) const UNKNOWN: &str = "NOAUTH Authentication required.";

/// Answer to a bare `HELLO` before `AUTH`.
pub(super) const UNKNOWN_HELLO: &str = "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> \
     AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the same time";

/// Answer to a change that is not for everybody.
pub(super) const LOCAL_ONLY: &str = "NOPERM settings are changed from this host only, unless the endpoint has a password (sentinel.password_file)";

/// Whether a client may ask. Without a password any is good: clients are often set up before their Sentinels are.
pub(super) fn is_right(login: Option<&Login>, user: Option<&str>, password: &str) -> bool {
    let Some(login) = login else { return true };
    let wanted = login.username.as_deref().unwrap_or(DEFAULT_USER);
    let user = user.unwrap_or(DEFAULT_USER);
    let right = wanted.as_bytes().ct_eq(user.as_bytes())
        & login.password.expose().as_bytes().ct_eq(password.as_bytes());
    right.into()
}

/// Whether a client that may ask may also change settings.
pub(super) fn may_change(login: Option<&Login>, from: Option<IpAddr>) -> bool {
    login.is_some() || from.is_some_and(|ip| ip.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use holdfast_settings::Secret;

    use super::*;

    #[test]
    fn a_password_is_that_of_its_user() {
        let login = |username: Option<&str>| Login {
            username: username.map(str::to_owned),
            password: Secret::new("s3cret"),
        };
        for (of, user, password, right) in [
            (None, None, "s3cret", true),
            (None, Some("default"), "s3cret", true),
            (None, Some("chat"), "s3cret", false),
            (None, None, "s3cre", false),
            (None, None, "", false),
            (Some("chat"), Some("chat"), "s3cret", true),
            (Some("chat"), None, "s3cret", false),
        ] {
            assert_eq!(is_right(Some(&login(of)), user, password), right, "{of:?} {user:?}");
        }
        assert!(is_right(None, Some("anybody"), "anything"));
    }

    #[test]
    fn strangers_change_nothing() {
        let login = Login { username: None, password: Secret::new("s3cret") };
        for (login, from, may) in [
            (None, "127.0.0.1", true),
            (None, "::1", true),
            (None, "::ffff:127.0.0.1", true),
            (None, "10.0.0.7", false),
            (Some(&login), "10.0.0.7", true),
        ] {
            assert_eq!(may_change(login, from.parse().ok()), may, "{from}");
        }
    }
}
