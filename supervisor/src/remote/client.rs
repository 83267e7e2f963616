//! How another server is reached: its URL, who we are to it, how long it may take.

use std::path::PathBuf;
use std::time::Duration;

use holdfast_settings::Secret;
use reqwest::{Certificate, Client, RequestBuilder};

/// Another server.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// Where it is, without a slash at the end.
    pub url: String,
    /// Who we are to it.
    pub credentials: Credentials,
    /// Certificates to trust beside the well-known ones, PEM.
    pub ca_file: Option<PathBuf>,
    /// How long a request may take.
    pub timeout: Duration,
}

/// Who we are to another server.
#[derive(Debug, Clone)]
pub enum Credentials {
    /// Anybody.
    None,
    /// A name and a password.
    Basic(String, Secret),
    /// A token.
    Bearer(Secret),
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The certificates cannot be read.
    #[error("read the certificates in {}", path.display())]
    CaFile {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// They cannot be used.
    #[error("set up a client for {url}")]
    Tls {
        /// For where.
        url: String,
        /// The cause.
        #[source]
        source: reqwest::Error,
    },
}

impl Endpoint {
    /// A client that trusts whom it should.
    ///
    /// # Errors
    /// If the certificates cannot be used.
    pub fn client(&self) -> Result<Client, ClientError> {
        let tls = |source| ClientError::Tls { url: self.shown_url(), source };
        let mut builder = Client::builder().no_proxy().timeout(self.timeout);
        if let Some(path) = &self.ca_file {
            let text = std::fs::read(path)
                .map_err(|source| ClientError::CaFile { path: path.clone(), source })?;
            builder = builder.tls_certs_merge(Certificate::from_pem_bundle(&text).map_err(tls)?);
        }
        builder.build().map_err(tls)
    }

    /// Where it is, for people: without name and password, and without the query, where tokens travel.
    pub fn shown_url(&self) -> String {
        let (place, query) = match self.url.split_once('?') {
            Some((place, _)) => (place, "?<secret>"),
            None => (self.url.as_str(), ""),
        };
        let (scheme, rest) = place.split_once("://").unwrap_or(("http", place));
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        format!("{scheme}://{host}{path}{query}")
    }

    /// Adds who we are.
    pub fn authorize(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.credentials {
            Credentials::None => request,
            Credentials::Basic(name, password) => request.basic_auth(name, Some(password.expose())),
            Credentials::Bearer(token) => request.bearer_auth(token.expose()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_url_may_hide_is_not_shown() {
        for (url, shown) in [
            ("https://long-term.example/api/v1/write", "https://long-term.example/api/v1/write"),
            ("http://ann:hunter2@a:9090/x/y?token=hunter2", "http://a:9090/x/y?<secret>"),
            ("http://ann:hunter2@[::1]:9090", "http://[::1]:9090"),
        ] {
            let endpoint = Endpoint {
                url: url.to_owned(),
                credentials: Credentials::None,
                ca_file: None,
                timeout: Duration::from_secs(1),
            };
            assert_eq!(endpoint.shown_url(), shown);
        }
    }
}
