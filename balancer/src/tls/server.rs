//! TLS towards clients.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use holdfast_settings::tls::certificates as certificates_of;
use rustls::ServerConfig;
use rustls::crypto::ring::Ticketer;
use rustls::pki_types::CertificateDer;
use rustls::server::WebPkiClientVerifier;
use serde::Deserialize;
use tokio_rustls::TlsAcceptor;

use super::certificate::{ByName, Certificate};
use super::{TlsError, provider, roots};

/// Whether clients have to identify themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientCertificate {
    /// Whoever shows none is turned away.
    Required,
    /// Whoever shows one must show a right one.
    Optional,
}

/// The oldest version spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum MinVersion {
    /// TLS 1.2.
    #[serde(rename = "1.2")]
    Tls12,
    /// TLS 1.3.
    #[serde(rename = "1.3")]
    Tls13,
}

/// What a listener speaks.
#[derive(Clone)]
pub struct ServerTls {
    config: Arc<ServerConfig>,
    certificates: Vec<Certificate>,
    /// Authorities of clients' certificates.
    clients: Option<(Vec<CertificateDer<'static>>, ClientCertificate)>,
    min_version: MinVersion,
    http2: bool,
}

impl ServerTls {
    /// Reads a certificate with its key, and the answer of its authority that it was not revoked (OCSP), if there is one to show.
    ///
    /// # Errors
    /// One of the files cannot be used.
    pub fn certificate(
        chain: &Path,
        key: &Path,
        ocsp: Option<&Path>,
    ) -> Result<Certificate, TlsError> {
        Certificate::load(chain, key, ocsp)
    }

    /// Shows one of `certificates`; asks for clients' certificates if `clients` names their authorities, and
    /// offers HTTP/2 before HTTP/1.1 if it is spoken.
    ///
    /// # Errors
    /// The authorities cannot be used.
    pub fn new(
        certificates: Vec<Certificate>,
        clients: Option<(&Path, ClientCertificate)>,
        min_version: MinVersion,
        http2: bool,
    ) -> Result<Self, TlsError> {
        let versions: &[_] = match min_version {
            MinVersion::Tls12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
            MinVersion::Tls13 => &[&rustls::version::TLS13],
        };
        let builder =
            ServerConfig::builder_with_provider(provider()).with_protocol_versions(versions)?;
        let mut known = None;
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some((file, policy)) => {
                let authorities = certificates_of(file)?;
                let roots = Arc::new(roots(&authorities)?);
                known = Some((authorities, policy));
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider());
                let verifier = match policy {
                    ClientCertificate::Required => verifier,
                    ClientCertificate::Optional => verifier.allow_unauthenticated(),
                };
                builder.with_client_cert_verifier(verifier.build()?)
            }
        };
        let mut config = builder.with_cert_resolver(Arc::new(ByName::new(&certificates)));
        // A client that comes back after a node has died, with thousands of others, is recognised without a full handshake and without
        // memory here.
        config.ticketer = Ticketer::new()?;
        let protocols: &[&[u8]] = if http2 { &[b"h2", b"http/1.1"] } else { &[b"http/1.1"] };
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        Ok(Self { config: Arc::new(config), certificates, clients: known, min_version, http2 })
    }

    /// Takes handshakes.
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.config))
    }

    /// The certificates it shows, in the order of the settings.
    pub fn certificates(&self) -> &[Certificate] {
        &self.certificates
    }
}

/// Alike if clients see no difference.
impl PartialEq for ServerTls {
    fn eq(&self, other: &Self) -> bool {
        self.certificates == other.certificates
            && self.clients == other.clients
            && self.min_version == other.min_version
            && self.http2 == other.http2
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls")
            .field("certificates", &self.certificates)
            .finish_non_exhaustive()
    }
}
