//! Asks the operator API of a running balancer, for the commands of this program.
//!
//! Where it is and who we are stand in the balancer's own settings file, so an operator on its host needs nothing else; the unix socket is
//! preferred, as it needs no token. A request is one connection and HTTP/1.0: the answer ends with it, so there is no framing to read.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use holdfast_settings::{Faults, Secret};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::config;
use crate::tls::{ClientTls, TlsError};

/// For one question; the answer is made in memory.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Larger answers than any there is.
const ANSWER_BYTES_MAX: u64 = 16 * 1_024 * 1_024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The settings that say where to ask are wrong.
    #[error("{0}")]
    Settings(Faults),
    /// Its TLS cannot be spoken with what is at hand.
    #[error("set up TLS for the operator API")]
    Tls(#[source] TlsError),
    /// Nobody answers.
    #[error("ask the balancer at {place}")]
    Io {
        /// Where.
        place: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// It has answered no.
    #[error("the balancer at {place} answers {status}: {text}")]
    Status {
        /// Where.
        place: String,
        /// HTTP status.
        status: u16,
        /// What it said.
        text: String,
    },
    /// Its answer has another shape.
    #[error("the balancer at {place} is of another version")]
    Shape {
        /// Where.
        place: String,
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
}

/// Which balancer is asked, on the command line.
#[derive(Debug, clap::Args)]
pub(crate) struct Running {
    /// Settings file of the running balancer, which says where it is.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Authorities (PEM) that verify its certificate, if its operator API speaks TLS.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
}

/// Where a balancer is.
#[derive(Debug)]
enum Place {
    Unix(PathBuf),
    Tcp { address: SocketAddr, tls: Option<Box<ClientTls>> },
}

/// A way to a running balancer.
#[derive(Debug)]
pub(crate) struct Client {
    place: Place,
    token: Option<Secret>,
    upgrade_timeout: Duration,
}

impl Client {
    /// To the one that runs on these settings. Without authorities a certificate vouches for itself.
    pub(crate) fn new(running: &Running) -> Result<Self, ClientError> {
        let config = config::load(&running.config).map_err(ClientError::Settings)?;
        let (config, upgrade_timeout) = (config.admin, config.drain.upgrade_timeout);
        if let Some(unix) = config.unix {
            return Ok(Self { place: Place::Unix(unix.path), token: None, upgrade_timeout });
        }
        let mut address = config.listen;
        if address.ip().is_unspecified() {
            address.set_ip(match address.ip() {
                IpAddr::V4(_) => IpAddr::from([127, 0, 0, 1]),
                IpAddr::V6(_) => IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]),
            });
        }
        let tls = match (config.tls, running.ca.as_deref()) {
            (None, _) => None,
            (Some(tls), authorities) => {
                let file = authorities.unwrap_or(&tls.chain);
                Some(Box::new(
                    ClientTls::new(file, tls.server_name().as_deref(), None)
                        .map_err(ClientError::Tls)?,
                ))
            }
        };
        let token = config.tokens.into_iter().next().map(|token| token.secret);
        Ok(Self { place: Place::Tcp { address, tls }, token, upgrade_timeout })
    }

    /// How long a new process may take there until it serves.
    pub(crate) fn upgrade_timeout(&self) -> Duration {
        self.upgrade_timeout
    }

    /// What stands at `path`.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.call("GET", path, TIMEOUT).await
    }

    /// Does what `path` names, which may take `longer` than a look at something.
    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        longer: Duration,
    ) -> Result<T, ClientError> {
        self.call("POST", path, TIMEOUT.saturating_add(longer)).await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: &str,
        path: &str,
        limit: Duration,
    ) -> Result<T, ClientError> {
        let place = match &self.place {
            Place::Unix(path) => path.display().to_string(),
            Place::Tcp { address, .. } => address.to_string(),
        };
        let answer = match timeout(limit, self.ask(method, path)).await {
            Ok(answer) => answer,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        let answer = match answer.and_then(|answer| parse(&answer)) {
            Ok(answer) => answer,
            Err(source) => return Err(ClientError::Io { place, source }),
        };
        let (status, body) = answer;
        if status != 200 {
            return Err(ClientError::Status { place, status, text: reasons(&body) });
        }
        serde_json::from_slice(&body).map_err(|source| ClientError::Shape { place, source })
    }

    async fn ask(&self, method: &str, path: &str) -> io::Result<Vec<u8>> {
        let authorization = match &self.token {
            Some(token) => format!("Authorization: Bearer {}\r\n", token.expose()),
            None => String::new(),
        };
        let head = format!("{method} {path} HTTP/1.0\r\nHost: balancer\r\nContent-Length: 0\r\n");
        let request = format!("{head}{authorization}\r\n");
        match &self.place {
            Place::Unix(path) => exchange(UnixStream::connect(path).await?, &request).await,
            Place::Tcp { address, tls: None } => {
                exchange(TcpStream::connect(address).await?, &request).await
            }
            Place::Tcp { address, tls: Some(tls) } => {
                let name = tls.name(&address.to_string()).map_err(io::Error::other)?;
                let stream = TcpStream::connect(address).await?;
                exchange(tls.connector().connect(name, stream).await?, &request).await
            }
        }
    }
}

async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    request: &str,
) -> io::Result<Vec<u8>> {
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
    Ok(answer)
}

/// What an answer that says no gives as reasons, one per line; the whole of it if it is none of ours.
fn reasons(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct No {
        error: String,
        #[serde(default)]
        faults: Vec<String>,
    }
    match serde_json::from_slice::<No>(body) {
        Ok(No { error, faults }) => {
            std::iter::once(error).chain(faults).collect::<Vec<_>>().join("\n")
        }
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    }
}

/// Status and body.
fn parse(answer: &[u8]) -> io::Result<(u16, Vec<u8>)> {
    let mut fields = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut fields);
    match response.parse(answer) {
        Ok(httparse::Status::Complete(length)) => {
            Ok((response.code.unwrap_or(0), answer[length..].to_vec()))
        }
        Ok(httparse::Status::Partial) => Err(io::ErrorKind::UnexpectedEof.into()),
        Err(error) => Err(io::Error::other(error)),
    }
}
