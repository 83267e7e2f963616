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

/// Responses are under 3 KiB with the certificate of whoever has signed them; each handshake carries one.
const OCSP_BYTES_MAX: u64 = 16_384;

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
    /// Reads a chain (leaf first), the leaf's key, and an OCSP response to staple.
    pub(super) fn load(chain: &Path, key: &Path, ocsp: Option<&Path>) -> Result<Self, TlsError> {
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
        let mut key = CertifiedKey::from_der(chain, key, &provider())?;
        key.ocsp = ocsp.map(staple).transpose()?;
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
        self.key.cert == other.key.cert && self.key.ocsp == other.key.ocsp
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("names", &self.names).finish_non_exhaustive()
    }
}

/// Reads an OCSP response (RFC 6960, DER). Clients check what it says; here only that it is one, and no refusal to give one.
fn staple(file: &Path) -> Result<Vec<u8>, TlsError> {
    let unusable = |error: String| TlsError::Ocsp { file: file.to_owned(), error };
    let size = std::fs::metadata(file).map_err(|error| unusable(error.to_string()))?.len();
    if size > OCSP_BYTES_MAX {
        return Err(unusable(format!("it is larger than {OCSP_BYTES_MAX} bytes")));
    }
    let bytes = std::fs::read(file).map_err(|error| unusable(error.to_string()))?;
    if !is_successful(&bytes) {
        return Err(unusable("it is no successful OCSP response in DER".to_owned()));
    }
    Ok(bytes)
}

/// Whether it is one whole sequence that begins with the status "successful" (RFC 6960 4.2.1).
fn is_successful(response: &[u8]) -> bool {
    let (length, rest) = match response {
        [0x30, short @ ..=0x7f, rest @ ..] => (usize::from(*short), rest),
        [0x30, 0x81, length, rest @ ..] => (usize::from(*length), rest),
        [0x30, 0x82, high, low, rest @ ..] => {
            (usize::from(u16::from_be_bytes([*high, *low])), rest)
        }
        _ => return false,
    };
    length == rest.len() && rest.starts_with(&[0x0a, 1, 0])
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
