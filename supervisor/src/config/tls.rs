//! Settings of TLS: whose certificates we believe as a client, and which one we show as a server.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use holdfast_psync::Tls;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde::Deserialize;

use super::check::Checker;
use crate::serve::tls::ServerFiles;

/// For connections that we make.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenClient {
    ca_file: PathBuf,
    certificate_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
    server_name: Option<String>,
}

/// For connections that are made to us.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_field_names, reason = "the names are those of the keys")]
pub(super) struct WrittenServer {
    certificate_file: PathBuf,
    key_file: PathBuf,
    client_ca_file: Option<PathBuf>,
}

impl Checker<'_> {
    /// `None` after a fault at or below `section`.
    pub(super) fn client_tls(&mut self, section: &str, written: WrittenClient) -> Option<Tls> {
        let key = |name: &str| format!("{section}.{name}");
        let mut roots = RootCertStore::empty();
        for authority in self.certificates(&key("ca_file"), &self.path(written.ca_file))? {
            if let Err(error) = roots.add(authority) {
                self.fault(key("ca_file"), error);
                return None;
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| self.fault(section, error))
            .ok()?
            .with_root_certificates(roots);
        let client = match (written.certificate_file, written.key_file) {
            (None, None) => builder.with_no_client_auth(),
            (Some(certificate), Some(private)) => {
                let certificate = self.path(certificate);
                let chain = self.certificates(&key("certificate_file"), &certificate)?;
                let private = self.path(private);
                let private = PrivateKeyDer::from_pem_file(&private)
                    .map_err(|error| self.fault(key("key_file"), unreadable(&private, &error)))
                    .ok()?;
                builder
                    .with_client_auth_cert(chain, private)
                    .map_err(|error| self.fault(key("certificate_file"), error))
                    .ok()?
            }
            _ => {
                self.fault(section, "expected certificate_file and key_file, or neither");
                return None;
            }
        };
        let server_name = written.server_name.map(ServerName::try_from).transpose();
        let server_name =
            server_name.map_err(|error| self.fault(key("server_name"), error)).ok()?;
        Some(Tls::new(Arc::new(client), server_name))
    }

    /// `None` after a fault at or below `section`.
    pub(super) fn server_tls(
        &mut self,
        section: &str,
        written: WrittenServer,
    ) -> Option<ServerFiles> {
        let files = ServerFiles {
            certificate: self.path(written.certificate_file),
            key: self.path(written.key_file),
            client_authorities: written.client_ca_file.map(|path| self.path(path)),
        };
        match files.load() {
            Ok(_) => Some(files),
            Err(error) => {
                self.fault(section, holdfast_telemetry::errors::Chain(&error));
                None
            }
        }
    }

    fn certificates(&mut self, key: &str, path: &Path) -> Option<Vec<CertificateDer<'static>>> {
        let read =
            CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        match read {
            Ok(certificates) if !certificates.is_empty() => Some(certificates),
            Ok(_) => {
                self.fault(key, format!("expected certificates in PEM in {}", path.display()));
                None
            }
            Err(error) => {
                self.fault(key, unreadable(path, &error));
                None
            }
        }
    }
}

fn unreadable(path: &Path, error: &rustls::pki_types::pem::Error) -> String {
    format!("cannot read {}: {error}", path.display())
}
