//! Which key a token has to be signed with.
//!
//! Its header only chooses among keys that the operator named: the shared secret for HS*, public keys from files, and public keys from a
//! JSON Web Key Set. A key is used with the algorithms of its own kind and no others, so that a public key can never be taken for a
//! shared secret. A set is public, so secrets in it (`oct`) are passed over.

use std::sync::{Arc, PoisonError, RwLock};

use jsonwebtoken::jwk::{Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, Header};
use serde::Deserialize;

/// Most keys taken from a set. Issuers publish two or three, while one replaces another.
pub const KEYS_MAX: usize = 64;

/// Most keys one token without key id is tried with: each costs a signature check, and anybody may send such a token.
const TRIES_MAX: usize = 4;

/// The keys of a JSON Web Key Set that can be used here.
#[derive(Default)]
pub struct KeySet {
    keys: Vec<SetKey>,
}

struct SetKey {
    id: Option<String>,
    algorithm: Option<Algorithm>,
    key: DecodingKey,
}

/// A document that is no JSON Web Key Set.
#[derive(Debug, thiserror::Error)]
pub enum KeySetError {
    /// Not of the form `{"keys": […]}`.
    #[error("expected a JSON Web Key Set")]
    Form(#[source] serde_json::Error),
    /// More than [`KEYS_MAX`].
    #[error("{0} keys, expected at most {KEYS_MAX}")]
    TooMany(usize),
    /// Nothing in it can be used.
    #[error("no key for RS*, PS*, ES256, ES384 or EdDSA in it")]
    NoKey,
}

impl KeySet {
    /// Reads a set; keys of other kinds and for other uses are passed over.
    ///
    /// # Errors
    /// It is none, or has nothing usable.
    pub fn parse(document: &[u8]) -> Result<Self, KeySetError> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<serde_json::Value>,
        }
        let set: Set = serde_json::from_slice(document).map_err(KeySetError::Form)?;
        if set.keys.len() > KEYS_MAX {
            return Err(KeySetError::TooMany(set.keys.len()));
        }
        let keys: Vec<_> = set.keys.into_iter().filter_map(usable).collect();
        if keys.is_empty() { Err(KeySetError::NoKey) } else { Ok(Self { keys }) }
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}

fn usable(value: serde_json::Value) -> Option<SetKey> {
    let jwk: Jwk = serde_json::from_value(value).ok()?;
    let common = &jwk.common;
    if !matches!(common.public_key_use, None | Some(PublicKeyUse::Signature)) {
        return None;
    }
    let algorithm = match common.key_algorithm {
        None => None,
        Some(algorithm) => Some(algorithm.to_string().parse().ok()?),
    };
    let key = DecodingKey::from_jwk(&jwk).ok()?;
    let public = key.family() != AlgorithmFamily::Hmac;
    public.then(|| SetKey { id: common.key_id.clone(), algorithm, key })
}

/// All keys tokens may be signed with.
#[derive(Default)]
pub struct Keys {
    /// For HS256, HS384 and HS512.
    pub secret: Option<DecodingKey>,
    /// From files.
    pub public: Vec<DecodingKey>,
    /// From a set, if one is configured; what it holds changes.
    pub set: Option<Arc<SharedKeySet>>,
}

/// The newest set that could be had.
#[derive(Default)]
pub struct SharedKeySet(RwLock<Arc<KeySet>>);

impl SharedKeySet {
    /// The set.
    pub fn get(&self) -> Arc<KeySet> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// From now on `set` holds.
    pub fn replace(&self, set: KeySet) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(set);
    }
}

/// What was found for a token.
pub(super) struct Candidates<'a> {
    pub(super) keys: Vec<Candidate<'a>>,
    /// A newer set might have the key.
    pub(super) expects_more: bool,
}

/// A key, borrowed or shared.
pub(super) enum Candidate<'a> {
    Own(&'a DecodingKey),
    OfSet(Arc<KeySet>, usize),
}

impl Candidate<'_> {
    pub(super) fn key(&self) -> &DecodingKey {
        match self {
            Self::Own(key) => key,
            Self::OfSet(set, index) => &set.keys[*index].key,
        }
    }
}

impl Keys {
    /// Reads a public key in PEM form, whatever its kind.
    ///
    /// # Errors
    /// It is none.
    pub fn public_from_pem(pem: &[u8]) -> Result<DecodingKey, jsonwebtoken::errors::Error> {
        DecodingKey::from_rsa_pem(pem)
            .or_else(|_| DecodingKey::from_ec_pem(pem))
            .or_else(|_| DecodingKey::from_ed_pem(pem))
    }

    /// Whether there is any.
    pub fn is_empty(&self) -> bool {
        self.secret.is_none() && self.public.is_empty() && self.set.is_none()
    }

    pub(super) fn candidates(&self, header: &Header) -> Candidates<'_> {
        let family = header.alg.family();
        if family == AlgorithmFamily::Hmac {
            let keys = self.secret.iter().map(Candidate::Own).collect();
            return Candidates { keys, expects_more: false };
        }
        let of_family = self.public.iter().filter(|key| key.family() == family);
        let mut keys: Vec<_> = of_family.map(Candidate::Own).collect();
        let mut expects_more = false;
        if let Some(shared) = &self.set {
            let set = shared.get();
            let fits = |key: &SetKey| {
                key.key.family() == family
                    && key.algorithm.is_none_or(|algorithm| algorithm == header.alg)
                    && (header.kid.is_none() || key.id == header.kid)
            };
            let before = keys.len();
            let fitting = set.keys.iter().enumerate().filter(|(_, key)| fits(key));
            keys.extend(fitting.map(|(index, _)| Candidate::OfSet(Arc::clone(&set), index)));
            expects_more = keys.len() == before && (header.kid.is_some() || set.is_empty());
        }
        keys.truncate(TRIES_MAX);
        Candidates { keys, expects_more }
    }
}
