//! TLS by rustls: what listeners show to clients and what pools ask of servers.
//!
//! Everything is read and checked with the settings, so a bad file refuses a start or a reload and never a client; a reload that finds
//! other files puts them in force for new connections, and those that are open keep what they agreed on. Versions and cipher suites are
//! rustls' own choice of sane ones (TLS 1.2 with ECDHE and AEAD, TLS 1.3); there is nothing weaker to switch on.

mod certificate;
mod client;
mod names;
mod server;

use std::path::PathBuf;
use std::sync::Arc;

use holdfast_settings::tls::PemError;
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;

pub use certificate::Certificate;
pub use client::ClientTls;
pub(crate) use names::names_of;
pub use server::{ClientCertificate, MinVersion, ServerTls};

/// Why TLS cannot be spoken with these files; the text names what is wrong with the file at hand.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, is no PEM, or there is nothing in it.
    #[error("{0}")]
    Pem(#[from] PemError),
    /// It is PEM, but no certificate.
    #[error("the certificate cannot be read: {0}")]
    Certificate(String),
    /// Certificate and key do not belong together, or are of a kind that is not supported.
    #[error("{0}")]
    Rustls(#[from] rustls::Error),
    /// The authority's certificates verify nothing.
    #[error("{0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    /// An OCSP response cannot be shown.
    #[error("OCSP response {file}: {error}", file = .file.display())]
    Ocsp {
        /// Where it was looked for.
        file: PathBuf,
        /// What is wrong.
        error: String,
    },
    /// A server's name is neither a DNS name nor an address.
    #[error("expected a DNS name or an IP address, found {0:?}")]
    Name(String),
}

/// The cryptography in use; one, whatever other crates of the process have compiled in.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// What trusts these authorities.
fn roots(authorities: &[CertificateDer<'static>]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in authorities {
        roots.add(certificate.clone())?;
    }
    Ok(roots)
}
