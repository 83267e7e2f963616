//! An authority, a certificate of the kind most sites use (ECDSA P-256) for the proxies, and a client that checks it.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;

/// Whom the certificate is for.
pub(crate) const NAME: &str = "chat.example.com";

/// Writes `ca.pem`, `cert.pem` (the leaf), `key.pem` and, for HAProxy, `both.pem`.
pub(crate) fn certify(dir: &Path) -> Result<(), Box<dyn Error>> {
    let path = |file: &str| dir.join(file).to_string_lossy().into_owned();
    let (ca, ca_key) = (path("ca.pem"), path("ca.key"));
    let alternative = format!("subjectAltName=DNS:{NAME}");
    let subject = format!("/CN={NAME}");
    request(&["-x509", "-subj", "/CN=authority", "-keyout", &ca_key, "-out", &ca])?;
    request(&[
        "-CA",
        &ca,
        "-CAkey",
        &ca_key,
        "-subj",
        &subject,
        "-addext",
        &alternative,
        "-addext",
        "basicConstraints=critical,CA:FALSE",
        "-keyout",
        &path("key.pem"),
        "-out",
        &path("cert.pem"),
    ])?;
    let both = [fs::read(path("cert.pem"))?, fs::read(path("key.pem"))?].concat();
    Ok(fs::write(path("both.pem"), both)?)
}

fn request(arguments: &[&str]) -> Result<(), Box<dyn Error>> {
    let made = Command::new("openssl")
        .args(["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
        .args(["-days", "30"])
        .args(arguments)
        .stderr(Stdio::null())
        .status()?;
    if made.success() { Ok(()) } else { Err("openssl makes no certificate".into()) }
}

/// A client that makes a full handshake each time.
pub(crate) fn client(dir: &Path) -> Result<TlsConnector, Box<dyn Error>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(dir.join("ca.pem"))?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(TlsConnector::from(Arc::new(config)))
}
