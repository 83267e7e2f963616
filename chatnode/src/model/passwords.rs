//! Passwords: hashed with argon2id, checked at the same cost whether the account exists or not.
//!
//! Hashing is slow on purpose and takes 19 MiB, so only a few run at a time on threads of their own, a few more wait, and the rest is
//! told to come again: logins must not starve the chat of those who are in.

use argon2::Argon2;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _, phc::PasswordHash};
use tokio::sync::Semaphore;

/// Hashes made or checked at once. At about 20 ms each this is 100 logins a second on two cores, of which chat keeps the rest.
const TOGETHER: usize = 2;

/// How many may wait, about half a second's worth.
const WAITING_MAX: usize = 64;

/// Shortest password, as NIST SP 800-63B has it.
pub(super) const PASSWORD_CHARS_MIN: usize = 8;

/// Longest password, in bytes; hashing reads all of it.
pub(super) const PASSWORD_BYTES_MAX: usize = 256;

/// Too many logins at once, or the hash in the record is not one.
#[derive(Debug, thiserror::Error)]
pub(super) enum PasswordError {
    #[error("too many passwords are being checked")]
    Busy,
    #[error("a password could not be hashed or checked")]
    Failed,
}

pub(super) struct Passwords {
    running: Semaphore,
    waiting: Semaphore,
}

impl Passwords {
    pub(super) fn new() -> Self {
        Self { running: Semaphore::new(TOGETHER), waiting: Semaphore::new(WAITING_MAX) }
    }

    /// The hash to keep, in PHC form: algorithm and parameters included, so that they can change.
    pub(super) async fn hash(&self, password: String) -> Result<String, PasswordError> {
        self.work(move || {
            let hash = Argon2::default().hash_password(password.as_bytes());
            hash.map(|hash| hash.to_string()).map_err(|_| PasswordError::Failed)
        })
        .await?
    }

    /// Whether `password` is the one `hash` was made from. Without a hash it costs the same and is not.
    pub(super) async fn matches(
        &self,
        password: String,
        hash: Option<String>,
    ) -> Result<bool, PasswordError> {
        self.work(move || {
            let Some(hash) = hash else {
                // The outcome is of no interest; the time is.
                let _ = Argon2::default().hash_password(password.as_bytes());
                return Ok(false);
            };
            let hash = PasswordHash::new(&hash).map_err(|_| PasswordError::Failed)?;
            Ok(Argon2::default().verify_password(password.as_bytes(), &hash).is_ok())
        })
        .await?
    }

    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, PasswordError> {
        let waiting = self.waiting.try_acquire().map_err(|_| PasswordError::Busy)?;
        let running = self.running.acquire().await.map_err(|_| PasswordError::Busy)?;
        drop(waiting);
        let done = tokio::task::spawn_blocking(work).await;
        drop(running);
        done.map_err(|_| PasswordError::Failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_fits_its_own_hash_only() {
        let passwords = Passwords::new();
        let hash = passwords.hash("correct horse".to_owned()).await.unwrap();
        assert!(hash.starts_with("$argon2id$"), "{hash}");
        for (password, hash, good) in [
            ("correct horse", Some(hash.clone()), true),
            ("correct hors", Some(hash), false),
            ("correct horse", None, false),
        ] {
            assert_eq!(passwords.matches(password.to_owned(), hash).await.unwrap(), good);
        }
        assert!(passwords.matches(String::new(), Some("junk".to_owned())).await.is_err());
    }
}
