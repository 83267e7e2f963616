//! TLS on the way to a server.

use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Which authorities are believed, who we are, and whose certificate is expected.
#[derive(Clone)]
pub struct Tls {
    client: Arc<ClientConfig>,
    server_name: Option<ServerName<'static>>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

impl Tls {
    /// With `server_name` on the server's certificate; `None`: the host it is connected by.
    pub fn new(client: Arc<ClientConfig>, server_name: Option<ServerName<'static>>) -> Self {
        Self { client, server_name }
    }

    /// Makes a connection to `host` secure. How long that may take is the caller's matter.
    ///
    /// # Errors
    /// The other side does not speak TLS, shows no certificate that we believe, or does not believe ours; or the connection breaks.
    pub async fn connect<S>(&self, host: &str, stream: S) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let name = match &self.server_name {
            Some(name) => name.clone(),
            None => ServerName::try_from(host.to_owned())
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?,
        };
        TlsConnector::from(Arc::clone(&self.client)).connect(name, stream).await
    }
}
