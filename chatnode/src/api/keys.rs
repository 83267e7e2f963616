//! Keys of the server API, known by their SHA-256.

use holdfast_settings::Secret;
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq as _};

/// The hash of each key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keys(Vec<[u8; 32]>);

/// A text that is no SHA-256.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected the SHA-256 of a key: 64 hexadecimal digits, as `printf %s KEY | sha256sum` prints them"
)]
pub struct NotAHash;

impl Keys {
    /// Adds a key by its hash, in hexadecimal.
    ///
    /// # Errors
    /// The text is no such hash.
    pub fn add_hash(&mut self, text: &str) -> Result<(), NotAHash> {
        let mut hash = [0; 32];
        if text.len() != 64 || !text.is_ascii() {
            return Err(NotAHash);
        }
        for (byte, digits) in hash.iter_mut().zip(text.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(digits).map_err(|_| NotAHash)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| NotAHash)?;
        }
        self.0.push(hash);
        Ok(())
    }

    /// Adds a key itself.
    pub fn add(&mut self, key: &Secret) {
        self.0.push(Sha256::digest(key.expose().as_bytes()).into());
    }

    /// Whether there is none, which switches the API off.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `key` is one of them; takes the same time for every key.
    pub fn have(&self, key: &str) -> bool {
        let hash: [u8; 32] = Sha256::digest(key.as_bytes()).into();
        let found = self.0.iter().fold(Choice::from(0), |found, known| found | hash.ct_eq(known));
        found.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_known_by_its_hash_and_by_itself() {
        let mut keys = Keys::default();
        assert!(!keys.have(""));
        // printf %s secret | sha256sum
        keys.add_hash("2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b").unwrap();
        keys.add(&Secret::new("other"));
        assert!(keys.have("secret") && keys.have("other"));
        assert!(!keys.have("Secret") && !keys.have(""));
        for bad in ["", "2bb8", &"x".repeat(64), &"ä".repeat(32)] {
            assert_eq!(keys.add_hash(bad), Err(NotAHash), "{bad}");
        }
    }
}
