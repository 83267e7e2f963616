//! Who is at the other end? Certificates of the operator's, or a secret proven over the TLS session.

use std::path::PathBuf;
use std::sync::Arc;

use hmac::{Hmac, Mac as _};
use holdfast_settings::Secret;
use holdfast_settings::tls::{PemError, certificates, private_key};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::version::TLS13;
use rustls::{
    ClientConfig, ConnectionCommon, DigitallySignedStruct, RootCertStore, ServerConfig,
    SignatureScheme,
};
use sha2::Sha256;

/// Names the value both ends derive from the session.
const BINDING: &[u8] = b"EXPORTER-holdfast-group";

/// Certificate, key and authority of the operator's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// This member's certificate with its chain (PEM), for its address.
    pub certificate: PathBuf,
    /// Its key (PEM).
    pub key: PathBuf,
    /// The authority that signed the members' certificates (PEM), and nobody else's.
    pub authority: PathBuf,
}

/// Why credentials cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// A file is no good.
    #[error("{}: {why}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// TLS does not accept them.
    #[error("set up TLS for the group")]
    Tls(#[source] rustls::Error),
    /// A certificate of our own could not be made.
    #[error("make a certificate for the group's connections")]
    Make(#[source] rcgen::Error),
}

/// What a member shows and what it asks of others.
#[derive(Clone)]
pub struct Credentials {
    pub(super) client: Arc<ClientConfig>,
    pub(super) server: Arc<ServerConfig>,
    secret: Option<Secret>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials(<redacted>)")
    }
}

/// Which end proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Client,
    Server,
}

impl Credentials {
    /// From the settings: `files`, a `secret`, or both, and then both must hold.
    ///
    /// # Errors
    /// A file that cannot be used.
    pub fn new(files: Option<&TlsFiles>, secret: Option<Secret>) -> Result<Self, CredentialsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])
            .map_err(CredentialsError::Tls)?;
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])
            .map_err(CredentialsError::Tls)?;
        let (client, server) = if let Some(files) = files {
            let roots = Arc::new(authority(files)?);
            let (chain, key) = own(files)?;
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), provider)
                    .build()
                    .map_err(|error| CredentialsError::File {
                    path: files.authority.clone(),
                    why: error.to_string(),
                })?;
            let client = client
                .with_root_certificates(roots)
                .with_client_auth_cert(chain.clone(), key.clone_key());
            let server = server.with_client_cert_verifier(verifier).with_single_cert(chain, key);
            (client, server)
        } else {
            let made = rcgen::generate_simple_self_signed(["holdfast".to_owned()])
                .map_err(CredentialsError::Make)?;
            let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
            let client = client
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
                .with_no_client_auth();
            let server =
                server.with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key);
            (Ok(client), server)
        };
        Ok(Self {
            client: Arc::new(client.map_err(CredentialsError::Tls)?),
            server: Arc::new(server.map_err(CredentialsError::Tls)?),
            secret,
        })
    }

    /// What one end shows the other; empty if there is no secret.
    pub(super) fn proof<D>(
        &self,
        end: End,
        session: &ConnectionCommon<D>,
    ) -> Result<Vec<u8>, rustls::Error> {
        match self.mac(end, session)? {
            None => Ok(Vec::new()),
            Some(mac) => Ok(mac.finalize().into_bytes().to_vec()),
        }
    }

    /// Whether the other end has shown it; compared in constant time.
    pub(super) fn is_proven<D>(
        &self,
        end: End,
        session: &ConnectionCommon<D>,
        proof: &[u8],
    ) -> Result<bool, rustls::Error> {
        Ok(self.mac(end, session)?.is_none_or(|mac| mac.verify_slice(proof).is_ok()))
    }

    fn mac<D>(
        &self,
        end: End,
        session: &ConnectionCommon<D>,
    ) -> Result<Option<Hmac<Sha256>>, rustls::Error> {
        let Some(secret) = &self.secret else { return Ok(None) };
        let binding = session.export_keying_material([0; 32], BINDING, None)?;
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.expose().as_bytes())
            .expect("a key of any length will do");
        // The two ends' proofs differ, so that nobody can be answered with their own.
        mac.update(match end {
            End::Client => b"client",
            End::Server => b"server",
        });
        mac.update(&binding);
        Ok(Some(mac))
    }
}

fn authority(files: &TlsFiles) -> Result<RootCertStore, CredentialsError> {
    let path = &files.authority;
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| CredentialsError::File {
            path: path.clone(),
            why: error.to_string(),
        })?;
    }
    Ok(roots)
}

type Own = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn own(files: &TlsFiles) -> Result<Own, CredentialsError> {
    Ok((certificates(&files.certificate)?, private_key(&files.key)?))
}

impl From<PemError> for CredentialsError {
    fn from(error: PemError) -> Self {
        let (path, why) = match error {
            PemError::Unreadable { path, cause } => (path, cause.to_string()),
            PemError::Empty(path) => (path, "expected a certificate (PEM), found none".to_owned()),
        };
        Self::File { path, why }
    }
}

/// Takes any certificate: the secret proves who is there, bound to the session.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
