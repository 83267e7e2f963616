//! TLS towards servers.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use holdfast_settings::tls::certificates;
use rustls::ClientConfig;
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::sign::CertifiedKey;
use tokio_rustls::TlsConnector;

use super::certificate::Certificate;
use super::{TlsError, provider, roots};

/// What a pool asks of its servers.
#[derive(Clone)]
pub struct ClientTls {
    config: Arc<ClientConfig>,
    authorities: Vec<CertificateDer<'static>>,
    /// The name every server must have; `None` means the host in its address.
    name: Option<ServerName<'static>>,
    identity: Option<Certificate>,
}

impl ClientTls {
    /// Trusts the authorities of the file `authorities`, and shows `identity` (chain and key) if asked who it is.
    ///
    /// # Errors
    /// One of the files cannot be used, or `name` is no name.
    pub fn new(
        authorities: &Path,
        name: Option<&str>,
        identity: Option<(&Path, &Path)>,
    ) -> Result<Self, TlsError> {
        let authorities = certificates(authorities)?;
        let name = name.map(server_name).transpose()?;
        let identity =
            identity.map(|(chain, key)| Certificate::load(chain, key, None)).transpose()?;
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots(&authorities)?);
        let mut config = match &identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                builder.with_client_cert_resolver(Arc::new(Always(identity.certified())))
            }
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { config: Arc::new(config), authorities, name, identity })
    }

    /// The same for servers that speak something else than HTTP, which no protocol is offered.
    #[must_use]
    pub fn without_protocol(mut self) -> Self {
        Arc::make_mut(&mut self.config).alpn_protocols.clear();
        self
    }

    /// Makes handshakes.
    pub fn connector(&self) -> TlsConnector {
        TlsConnector::from(Arc::clone(&self.config))
    }

    /// The name the server at `address` (`host:port`) must have.
    ///
    /// # Errors
    /// The host is no name a certificate can have.
    pub fn name(&self, address: &str) -> Result<ServerName<'static>, TlsError> {
        if let Some(name) = &self.name {
            return Ok(name.clone());
        }
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        server_name(host.trim_start_matches('[').trim_end_matches(']'))
    }
}

fn server_name(text: &str) -> Result<ServerName<'static>, TlsError> {
    ServerName::try_from(text.to_owned()).map_err(|_| TlsError::Name(text.to_owned()))
}

/// Alike if servers see no difference.
impl PartialEq for ClientTls {
    fn eq(&self, other: &Self) -> bool {
        self.authorities == other.authorities
            && self.name == other.name
            && self.identity == other.identity
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Shows one identity to every server that asks.
#[derive(Debug)]
struct Always(Arc<CertifiedKey>);

impl ResolvesClientCert for Always {
    fn resolve(&self, _: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.key.choose_scheme(schemes).map(|_| Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}
