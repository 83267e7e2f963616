//! Certificates for tests.

use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::DEADLINE;

/// An authority that signs certificates into a folder.
pub(crate) struct Authority {
    dir: TempDir,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let authority = Self { dir: tempfile::tempdir().unwrap() };
        authority.openssl("ca", &["-x509", "-subj", "/CN=authority"]);
        authority
    }

    /// Signs a certificate for a name, in place of an older one.
    pub(crate) fn sign(&self, name: &str) {
        let (ca, key) = (self.path("ca.pem"), self.path("ca.key"));
        let alternative = format!("subjectAltName=DNS:{name}");
        let subject = format!("/CN={name}");
        self.openssl(
            name,
            &[
                "-CA",
                ca.to_str().unwrap(),
                "-CAkey",
                key.to_str().unwrap(),
                "-subj",
                &subject,
                "-addext",
                &alternative,
                "-addext",
                "basicConstraints=critical,CA:FALSE",
            ],
        );
    }

    fn openssl(&self, name: &str, arguments: &[&str]) {
        let output = Command::new("openssl")
            .args(["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
            .args(["-days", "30"])
            .args(arguments)
            .arg("-keyout")
            .arg(self.path(&format!("{name}.key")))
            .arg("-out")
            .arg(self.path(&format!("{name}.pem")))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    pub(crate) fn leaf(&self, name: &str) -> CertificateDer<'static> {
        certificate(&self.path(&format!("{name}.pem")))
    }

    /// The settings of a listener that shows these certificates.
    pub(crate) fn listener(&self, names: &[&str], more: &str) -> String {
        let mut text = format!("pool = \"p\"\n[listener.tls]\n{more}\n");
        for name in names {
            let (chain, key) =
                (self.path(&format!("{name}.pem")), self.path(&format!("{name}.key")));
            let (chain, key) = (chain.display(), key.display());
            let table = "[[listener.tls.certificate]]";
            writeln!(text, "{table}\nchain = \"{chain}\"\nkey = \"{key}\"").unwrap();
        }
        text
    }

    /// What a client goes by that trusts this authority, and shows its own certificate if it has one.
    pub(crate) fn client(&self, identity: Option<&str>) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(certificate(&self.path("ca.pem"))).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        match identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let key = PrivateKeyDer::from_pem_file(self.path(&format!("{identity}.key")));
                builder.with_client_auth_cert(vec![self.leaf(identity)], key.unwrap()).unwrap()
            }
        }
    }

    /// A connection to `address` by a client that asks for `name`, and shows its own certificate if it has one.
    pub(crate) async fn connect(
        &self,
        address: SocketAddr,
        name: &str,
        identity: Option<&str>,
    ) -> io::Result<TlsStream<TcpStream>> {
        connect(address, name, &Arc::new(self.client(identity))).await
    }
}

/// A connection to `address` by a client that asks for `name`.
pub(crate) async fn connect(
    address: SocketAddr,
    name: &str,
    config: &Arc<ClientConfig>,
) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    timeout(DEADLINE, TlsConnector::from(Arc::clone(config)).connect(name, stream)).await?
}

pub(crate) fn certificate(file: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(file).unwrap()
}
