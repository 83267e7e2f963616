//! What is read from other programs' settings, in our terms; what is not set is left to our defaults.

use std::time::Duration;

/// Listeners and pools.
#[derive(Debug, Default)]
pub(super) struct Draft {
    pub listeners: Vec<Listener>,
    pub pools: Vec<Pool>,
}

#[derive(Debug, Default)]
pub(super) struct Listener {
    pub name: String,
    pub listen: String,
    pub tcp: bool,
    pub pool: String,
    pub routes: Vec<Route>,
    pub certificates: Vec<(String, String)>,
    pub proxy_protocol: bool,
    pub trusted_proxies: Vec<String>,
    pub connections_max: Option<u32>,
    pub header_timeout: Option<Duration>,
    pub idle_timeout: Option<Duration>,
}

/// What a request has to be like for another pool.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Route {
    pub host: Option<String>,
    pub path: Option<String>,
    pub path_prefix: Option<String>,
    pub header: Option<(String, Option<String>)>,
    pub pool: String,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Pool {
    pub name: String,
    pub algorithm: Option<&'static str>,
    pub hash_key: Option<String>,
    pub sticky_cookie: Option<String>,
    pub connect_timeout: Option<Duration>,
    pub response_timeout: Option<Duration>,
    pub queue_timeout: Option<Duration>,
    pub slow_start: Option<Duration>,
    pub fail_timeout: Option<Duration>,
    pub fails_max: Option<u32>,
    pub servers_tried_max: Option<u32>,
    pub send_proxy: Option<&'static str>,
    pub check: Option<Check>,
    pub agent: Option<Agent>,
    pub servers: Vec<Server>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Check {
    pub path: Option<String>,
    pub host: Option<String>,
    pub status: Vec<String>,
    pub body: Option<String>,
    pub port: Option<u16>,
    pub interval: Option<Duration>,
    pub timeout: Option<Duration>,
    pub rise: Option<u32>,
    pub fall: Option<u32>,
    /// Whether it is over HTTP.
    pub http: bool,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Agent {
    pub interval: Option<Duration>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Server {
    pub name: String,
    pub address: String,
    pub weight: Option<u32>,
    pub connections_max: Option<u32>,
    pub agent_port: Option<u16>,
}

impl Draft {
    pub(super) fn pool(&mut self, name: &str) -> Option<&mut Pool> {
        self.pools.iter_mut().find(|pool| pool.name == name)
    }

    /// Names that are ours: of our characters, and each once.
    pub(super) fn unique_listener(&self, wanted: &str) -> String {
        let wanted = name(wanted);
        let is_free = |name: &str| self.listeners.iter().all(|listener| listener.name != name);
        if is_free(&wanted) {
            return wanted;
        }
        // One more than there are listeners, of which one is free.
        let numbered = (2..=self.listeners.len() + 2).map(|n| format!("{wanted}-{n}"));
        numbered.clone().find(|name| is_free(name)).unwrap_or(wanted)
    }
}

/// `text` in the characters names may have.
pub(super) fn name(text: &str) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() || "-._".contains(c) { c } else { '-' };
    let name: String = text.chars().map(allowed).take(64).collect();
    if name.is_empty() { "unnamed".to_owned() } else { name }
}

/// `value`, unless another was set before; then whether they agree.
pub(super) fn set<T: PartialEq>(slot: &mut Option<T>, value: T) -> bool {
    let agrees = slot.as_ref().is_none_or(|known| *known == value);
    slot.get_or_insert(value);
    agrees
}

/// An address to bind in our form.
pub(super) fn listen(text: &str) -> Option<String> {
    let text = text.strip_prefix("ipv4@").or_else(|| text.strip_prefix("ipv6@")).unwrap_or(text);
    if let Ok(port) = text.parse::<u16>() {
        return Some(format!("0.0.0.0:{port}"));
    }
    let (host, port) = text.rsplit_once(':')?;
    let port: u16 = port.parse().ok()?;
    match host {
        "" | "*" => Some(format!("0.0.0.0:{port}")),
        "::" => Some(format!("[::]:{port}")),
        "localhost" => Some(format!("127.0.0.1:{port}")),
        _ => {
            let text = format!("{host}:{port}");
            text.parse::<std::net::SocketAddr>().is_ok().then_some(text)
        }
    }
}

/// A time as both programs write it; a number without a unit is in `unit`.
pub(super) fn time(text: &str, unit: Duration) -> Option<Duration> {
    if let Ok(count) = text.parse::<u32>() {
        return unit.checked_mul(count);
    }
    holdfast_settings::duration::parse(text).ok()
}
