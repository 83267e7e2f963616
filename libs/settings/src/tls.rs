//! Certificates and keys that settings name, the same way in all three programs.
//!
//! [`certificates`] and [`private_key`] read PEM files. [`ClientSection`] is the section of a TLS client as it is written; it becomes
//! what rustls works with, or a fault that names the key it belongs to. What a listener shows is each program's own affair: they differ
//! in how many certificates they have and in when they look at the files again.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde::Deserialize;

/// Why a PEM file is of no use.
#[derive(Debug, thiserror::Error)]
pub enum PemError {
    /// It cannot be read, or is not PEM.
    #[error("cannot read {}: {cause}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: pem::Error,
    },
    /// It holds no certificate.
    #[error("expected certificates in PEM in {}", .0.display())]
    Empty(PathBuf),
}

/// The certificates of a file, at least one.
///
/// # Errors
/// It cannot be read, or holds none.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let found = read.map_err(|cause| PemError::Unreadable { path: path.to_owned(), cause })?;
    if found.is_empty() { Err(PemError::Empty(path.to_owned())) } else { Ok(found) }
}

/// The first private key of a file.
///
/// # Errors
/// It cannot be read, or holds none.
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, PemError> {
    PrivateKeyDer::from_pem_file(path)
        .map_err(|cause| PemError::Unreadable { path: path.to_owned(), cause })
}

/// How to make connections secure, as it is written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientSection {
    ca_file: PathBuf,
    certificate_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
    server_name: Option<String>,
}

/// What is wrong in a section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SectionFault {
    /// The key it belongs to; `None`: the section as a whole.
    pub key: Option<&'static str>,
    /// What is wrong.
    pub message: String,
}

/// What [`ClientSection::load`] makes: whom to believe and what to show, and the name that servers must have if it is not their address.
pub type Client = (ClientConfig, Option<ServerName<'static>>);

impl ClientSection {
    /// What a section with these keys would hold.
    pub fn new(
        ca_file: PathBuf,
        certificate_file: Option<PathBuf>,
        key_file: Option<PathBuf>,
        server_name: Option<String>,
    ) -> Self {
        Self { ca_file, certificate_file, key_file, server_name }
    }

    /// Reads the files; `path` tells where a path of the settings leads.
    ///
    /// # Errors
    /// The first fault.
    pub fn load(self, path: impl Fn(PathBuf) -> PathBuf) -> Result<Client, SectionFault> {
        let mut roots = RootCertStore::empty();
        for authority in certificates(&path(self.ca_file)).map_err(at("ca_file"))? {
            roots.add(authority).map_err(at("ca_file"))?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| SectionFault { key: None, message: error.to_string() })?
            .with_root_certificates(roots);
        let client = match (self.certificate_file, self.key_file) {
            (None, None) => builder.with_no_client_auth(),
            (Some(certificate), Some(key)) => {
                let chain = certificates(&path(certificate)).map_err(at("certificate_file"))?;
                let key = private_key(&path(key)).map_err(at("key_file"))?;
                builder.with_client_auth_cert(chain, key).map_err(at("certificate_file"))?
            }
            _ => {
                let message = "expected certificate_file and key_file, or neither".to_owned();
                return Err(SectionFault { key: None, message });
            }
        };
        let name = self.server_name.map(ServerName::try_from).transpose();
        Ok((client, name.map_err(at("server_name"))?))
    }
}

fn at<E: std::error::Error>(key: &'static str) -> impl Fn(E) -> SectionFault {
    move |error| SectionFault { key: Some(key), message: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(text: &str, folder: &Path) -> SectionFault {
        let section: ClientSection = toml::from_str(text).unwrap();
        section.load(|path| folder.join(path)).unwrap_err()
    }

    #[test]
    fn each_fault_names_its_key() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("empty.pem"), "nothing").unwrap();
        let missing = fault("ca_file = \"none.pem\"", folder.path());
        assert_eq!(missing.key, Some("ca_file"));
        assert!(missing.message.starts_with("cannot read "), "{missing:?}");
        let empty = fault("ca_file = \"empty.pem\"", folder.path());
        assert_eq!(empty.key, Some("ca_file"));
        assert!(empty.message.starts_with("expected certificates in PEM in "), "{empty:?}");
    }

    #[test]
    fn keys_nobody_knows_are_refused() {
        let error = toml::from_str::<ClientSection>("ca_file = \"a\"\nca = \"b\"").unwrap_err();
        assert!(error.to_string().contains("unknown field `ca`"), "{error}");
    }
}
