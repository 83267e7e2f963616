//! Fetching an exposition over HTTP, within time and size.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use holdfast_series::protobuf;
use holdfast_series::text::Format;
use holdfast_settings::Secret;
use holdfast_telemetry::errors::Chain;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{ACCEPT, CONTENT_TYPE};

use super::target::{Plan, Source};

/// What is asked for: `OpenMetrics` first, because it brings exemplars.
const ACCEPTED: &str =
    "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
/// Goes before, with the lower rank of the others after it, for those who want native histograms.
const ACCEPTED_NATIVE: &str = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited,\
     application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
const TIMEOUT_HEADER: &str = "X-Prometheus-Scrape-Timeout-Seconds";

/// How to log in at a target.
#[derive(Debug, Clone, Default)]
pub enum Login {
    /// Not at all.
    #[default]
    None,
    /// HTTP basic authentication.
    Basic(String, Secret),
    /// A bearer token.
    Bearer(Secret),
}

/// TLS towards a target.
#[derive(Debug, Clone, Default)]
pub struct Tls {
    /// Certificates of the authorities that are trusted instead of the system's.
    pub authorities: Option<Vec<reqwest::Certificate>>,
    /// Our own certificate and its key.
    pub identity: Option<reqwest::Identity>,
    /// The name the target's certificate must have, if that is not its host.
    pub server_name: Option<String>,
}

/// A client for targets. With a server name it connects to `address`, whatever the URL says.
pub(super) fn client(tls: &Tls, address: &str) -> Result<reqwest::Client, reqwest::Error> {
    let mut builder = reqwest::Client::builder().no_proxy();
    if let Some(authorities) = &tls.authorities {
        builder = builder.tls_certs_only(authorities.clone());
    }
    if let Some(identity) = &tls.identity {
        builder = builder.identity(identity.clone());
    }
    if tls.server_name.is_some() {
        builder = builder.dns_resolver(Arc::new(Fixed(address.to_owned())));
    }
    builder.build()
}

/// Resolves every name to one `host:port`.
struct Fixed(String);

impl Resolve for Fixed {
    fn resolve(&self, _name: Name) -> Resolving {
        let address = self.0.clone();
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host(address).await?.collect();
            if found.is_empty() {
                return Err(io::Error::other("no address for the host").into());
            }
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// An exposition as it came.
#[derive(Debug)]
pub(super) enum Exposition {
    /// Text, and its dialect.
    Text(String, Format),
    /// Messages.
    Protobuf(Vec<u8>),
}

impl Exposition {
    /// Takes it for what its content type says; without one for text.
    fn new(content_type: Option<&str>, body: Vec<u8>) -> Result<Self, String> {
        let content_type = content_type.unwrap_or_default();
        if protobuf::is_protobuf(content_type)? {
            return Ok(Self::Protobuf(body));
        }
        let text = String::from_utf8(body).map_err(|_| "not UTF-8".to_owned())?;
        Ok(Self::Text(text, Format::of_content_type(content_type)))
    }
}

/// Fetches the exposition.
pub(super) async fn fetch(source: &Source, plan: &Plan) -> Result<Exposition, String> {
    let (url, client, login) = match source {
        Source::Read(read) => {
            return read().map(|body| Exposition::Text(body, Format::Prometheus));
        }
        Source::Http { url, client, login } => (url, client, login),
    };
    let fetch = async {
        let mut request = client
            .get(url)
            .header(ACCEPT, if plan.native_histograms { ACCEPTED_NATIVE } else { ACCEPTED })
            .header(TIMEOUT_HEADER, plan.timeout.as_secs_f64().to_string());
        request = match login {
            Login::None => request,
            Login::Basic(user, password) => request.basic_auth(user, Some(password.expose())),
            Login::Bearer(token) => request.bearer_auth(token.expose()),
        };
        let mut response = request.send().await.map_err(describe)?;
        if !response.status().is_success() {
            return Err(format!("server answered {}", response.status()));
        }
        let content_type =
            response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let content_type = content_type.map(str::to_owned);
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(describe)? {
            if body.len() + chunk.len() > plan.body_bytes_max {
                return Err(format!("more than {} bytes", plan.body_bytes_max));
            }
            body.extend_from_slice(&chunk);
        }
        Exposition::new(content_type.as_deref(), body)
    };
    tokio::time::timeout(plan.timeout, fetch)
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {:?}", plan.timeout)))
}

/// An HTTP error in the words that matter: the innermost cause, without the URL (the target is named beside it).
fn describe(error: reqwest::Error) -> String {
    Chain(&error.without_url()).to_string()
}
