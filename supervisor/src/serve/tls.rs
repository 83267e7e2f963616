//! The certificate that a listener shows, read again when its files change.
//!
//! Certificates live for weeks and are replaced by tools that know nothing of us, so the files are looked at every few seconds; a new
//! certificate counts for new connections. Files that cannot be used leave the last good certificate in place, and are told and counted
//! once until they change again. Rejected: waiting for a signal, which every renewal hook would have to send.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use holdfast_settings::tls::{PemError, certificates, private_key};
use holdfast_telemetry::errors::Chain;
use holdfast_telemetry::{IntCounterVec, Registry, metrics};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

/// Time between two looks at the files: renewal comes days before the end.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// A client that has not finished its handshake after this long is cut off.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);

/// Where certificate, key and the authorities of clients are, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFiles {
    /// Our certificate, and those up to the authority.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Clients must show a certificate of one of these; `None`: they need none.
    pub client_authorities: Option<PathBuf>,
}

/// Why files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// One cannot be read, or is not PEM.
    #[error("cannot use {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// It holds no certificate.
    #[error("{} holds no certificate", .0.display())]
    Empty(PathBuf),
    /// Certificate and key do not fit, or are of a kind that is not supported.
    #[error("cannot use the certificate {}", path.display())]
    Certificate {
        /// The certificate's file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: rustls::Error,
    },
    /// The authorities cannot be used.
    #[error("cannot use the authorities {}", path.display())]
    Authorities {
        /// Their file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: rustls::server::VerifierBuilderError,
    },
}

impl From<PemError> for TlsError {
    fn from(error: PemError) -> Self {
        match error {
            PemError::Unreadable { path, cause } => Self::File { path, source: cause },
            PemError::Empty(path) => Self::Empty(path),
        }
    }
}

impl ServerFiles {
    /// Reads them.
    ///
    /// # Errors
    /// Which file cannot be used, and why.
    pub fn load(&self) -> Result<Arc<ServerConfig>, TlsError> {
        let chain = certificates(&self.certificate)?;
        let key = private_key(&self.key)?;
        let unusable = |source| TlsError::Certificate { path: self.certificate.clone(), source };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(unusable)?;
        let builder = match &self.client_authorities {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let mut roots = RootCertStore::empty();
                for authority in certificates(path)? {
                    roots
                        .add(authority)
                        .map_err(|source| TlsError::Certificate { path: path.clone(), source })?;
                }
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                        .build()
                        .map_err(|source| TlsError::Authorities { path: path.clone(), source })?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        Ok(Arc::new(builder.with_single_cert(chain, key).map_err(unusable)?))
    }

    /// What tells one content of the files from another.
    fn print(&self) -> Vec<Option<[u8; 32]>> {
        let files = [Some(&self.certificate), Some(&self.key), self.client_authorities.as_ref()];
        let print =
            |path: &PathBuf| std::fs::read(path).ok().map(|text| Sha256::digest(text).into());
        files.into_iter().flatten().map(print).collect()
    }
}

/// Makes connections to a listener secure, with the newest certificate.
#[derive(Clone)]
pub struct Acceptor {
    present: watch::Receiver<Arc<ServerConfig>>,
}

impl Acceptor {
    /// # Errors
    /// The client does not finish the handshake in time, or we do not agree.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let acceptor = TlsAcceptor::from(Arc::clone(&self.present.borrow()));
        let accepted = timeout(HANDSHAKE_LIMIT, acceptor.accept(stream)).await;
        accepted.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

/// Looks at the files and renews what the [`Acceptor`] shows.
pub struct Renewal {
    files: ServerFiles,
    print: Vec<Option<[u8; 32]>>,
    present: watch::Sender<Arc<ServerConfig>>,
    reloads: IntCounterVec,
    every: Duration,
    is_failing: bool,
}

impl Renewal {
    /// For the listener of `purpose`, such as `sentinel`.
    ///
    /// # Errors
    /// The files cannot be used now.
    pub fn new(files: ServerFiles, registry: &Registry) -> Result<(Self, Acceptor), TlsError> {
        let reloads = metrics::counter_vec(
            registry,
            "supervisor_sentinel_certificate_reloads_total",
            "Attempts to use a changed certificate of the Sentinel-compatible endpoint, by result",
            &["result"],
        );
        for result in ["succeeded", "failed"] {
            reloads.with_label_values(&[result]);
        }
        let print = files.print();
        let (sender, present) = watch::channel(files.load()?);
        let renewal =
            Self { files, print, present: sender, reloads, every: LOOK_EVERY, is_failing: false };
        Ok((renewal, Acceptor { present }))
    }

    /// Looks at the files this often.
    #[must_use]
    pub fn every(mut self, every: Duration) -> Self {
        self.every = every;
        self
    }

    /// Runs until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut tick = interval(self.every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while shutdown.run_until_cancelled(tick.tick()).await.is_some() {
            let (files, before) = (self.files.clone(), self.print.clone());
            let looked = tokio::task::spawn_blocking(move || {
                let print = files.print();
                (print != before).then(|| (files.load(), print))
            });
            let Ok(Some((loaded, print))) = looked.await else { continue };
            let result = match loaded {
                Ok(config) => {
                    (self.print, self.is_failing) = (print, false);
                    self.present.send_replace(config);
                    tracing::info!(file = %self.files.certificate.display(), "certificate renewed");
                    "succeeded"
                }
                Err(error) => {
                    // Looked at again: it may be half written.
                    if !std::mem::replace(&mut self.is_failing, true) {
                        let error = Chain(&error).to_string();
                        tracing::error!(
                            error,
                            "changed certificate is not used, the last one stays"
                        );
                    }
                    "failed"
                }
            };
            self.reloads.with_label_values(&[result]).inc();
        }
    }
}
