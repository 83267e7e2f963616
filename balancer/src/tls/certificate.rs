//! A certificate with its key, and the choice among several by the name a client asks for.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use holdfast_settings::tls::{certificates, private_key};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{TlsError, provider};

/// A chain with its key.
#[derive(Clone)]
pub struct Certificate {
    key: Arc<CertifiedKey>,
    /// DNS names it is for, lower case; a wildcard's first label is `*`.
    names: Vec<String>,
    /// When it expires, in seconds since 1970.
    not_after: i64,
}

impl Certificate {
    /// Reads a chain (leaf first) and the leaf's key.
    pub(super) fn load(chain: &Path, key: &Path) -> Result<Self, TlsError> {
        let chain = certificates(chain)?;
        let unreadable = |error: &dyn fmt::Display| TlsError::Certificate(error.to_string());
        let (_, leaf) = X509Certificate::from_der(&chain[0]).map_err(|error| unreadable(&error))?;
        let not_after = leaf.validity().not_after.timestamp();
        let alternatives = leaf.subject_alternative_name().map_err(|error| unreadable(&error))?;
        let names = alternatives.into_iter().flat_map(|extension| &extension.value.general_names);
        let names = names.filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            _ => None,
        });
        let names = names.collect();
        let key = private_key(key)?;
        let key = CertifiedKey::from_der(chain, key, &provider())?;
        Ok(Self { key: Arc::new(key), names, not_after })
    }

    /// When it expires, in seconds since 1970.
    pub fn not_after(&self) -> i64 {
        self.not_after
    }

    /// DNS names it is for, lower case; a wildcard's first label is `*`.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The chain and the key, for a client that identifies itself.
    pub(super) fn certified(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.key)
    }
}

impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        self.key.cert == other.key.cert
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("names", &self.names).finish_non_exhaustive()
    }
}

/// Certificates by name.
#[derive(Debug)]
pub(super) struct ByName {
    named: HashMap<String, Arc<CertifiedKey>>,
    /// For clients that ask for no name, or for one nobody has: they see whose machine this is and decide.
    first: Option<Arc<CertifiedKey>>,
}

impl ByName {
    /// Of two certificates for a name the first is taken.
    pub(super) fn new(certificates: &[Certificate]) -> Self {
        let mut named = HashMap::new();
        for certificate in certificates {
            for name in &certificate.names {
                named.entry(name.clone()).or_insert_with(|| Arc::clone(&certificate.key));
            }
        }
        Self { named, first: certificates.first().map(Certificate::certified) }
    }

    fn find(&self, name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        let named = name.and_then(|name| {
            let name = name.to_ascii_lowercase();
            self.named.get(&name).or_else(|| {
                // A wildcard stands for one label (RFC 6125 6.4.3).
                let (_, parent) = name.split_once('.')?;
                self.named.get(&format!("*.{parent}"))
            })
        });
        named.or(self.first.as_ref()).cloned()
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.find(hello.server_name())
    }
}
