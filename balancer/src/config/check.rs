//! From the file as written to the settings the program runs on; every fault is named, not only the first.

use std::collections::HashSet;
use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use holdfast_settings::{Faults, Source};
use ipnet::IpNet;

use super::file::{self, Algorithm, Mode};
use crate::message::choice::Key;
use crate::message::is_token;
use crate::tls::{ClientCertificate, ClientTls, ServerTls};

use super::{
    Address, CheckPlace, Config, EXPECTED_NAME, ListenerConfig, PoolConfig, PoolRules,
    ServerConfig, Weight, is_name, routes,
};

/// Threads beyond this number only add wake-ups.
const WORKERS_MAX: usize = 256;
/// hyper's smallest read buffer; a smaller limit could not be kept.
const HEADER_BYTES_MIN: usize = 8_192;
const HEADER_BYTES_MAX: usize = 1_048_576;
/// Each may hold a head and a task; a client with more to do opens another connection.
const HTTP2_STREAMS_MAX: u32 = 10_000;
/// Servers in a pool: the choice looks at each of them for every connection.
const SERVERS_MAX: usize = 256;

/// Collects faults on the way down the file.
pub(super) struct Checker<'a> {
    source: &'a Source,
    faults: Faults,
}

/// Converts `file`, whose text is `source`.
pub(super) fn convert(file: file::File, source: &Source) -> Result<Config, Faults> {
    let mut checker = Checker { source, faults: Faults::new(&source.file) };
    let admin = checker.admin(file.admin);
    let access_log = file.access_log.map(|log| checker.access_log(log));
    let traces = file.traces.map(|traces| checker.traces(traces));
    if let Some(count) = file.workers.count {
        checker.require("workers.count", (1..=WORKERS_MAX).contains(&count), || {
            format!("expected 1 to {WORKERS_MAX}, found {count}")
        });
    }
    let pools: Vec<_> =
        file.pool.into_iter().enumerate().map(|(i, pool)| checker.pool(i, pool)).collect();
    checker.unique("pool", pools.iter().map(|pool| &pool.name));
    if file.listener.is_empty() {
        checker.fault("listener", "expected at least one [[listener]]");
    }
    let listeners: Vec<_> = file
        .listener
        .iter()
        .enumerate()
        .map(|(i, listener)| checker.listener(i, listener, &pools))
        .collect();
    checker.unique("listener", listeners.iter().map(|listener| &listener.name));
    checker.addresses(admin.listen, &listeners);
    let faults = checker.injection(&file.faults);
    let redis = file.redis.as_ref().and_then(|redis| checker.redis(redis)).map(Arc::new);
    checker.sharing(&pools, file.redis.is_some());
    for (i, listener) in listeners.iter().enumerate() {
        let shared = listener.limits.as_ref().is_some_and(|limits| limits.shared);
        checker.require(
            format!("listener[{i}].limits.shared"),
            !shared || file.redis.is_some(),
            || "needs [redis]".to_owned(),
        );
    }
    let bans = file.bans.as_ref().map(|bans| checker.bans(bans));
    let config = Config {
        file: source.file.clone(),
        text: source.text().into(),
        admin,
        log_level: file.log.level,
        log_format: file.log.format,
        access_log,
        traces,
        drain: checker.drain(&file.drain),
        workers: file.workers.count,
        faults,
        listeners,
        pools,
        bans,
        redis,
    };
    checker.faults.finish(config)
}

impl Checker<'_> {
    pub(super) fn fault(&mut self, key: impl Into<String>, message: impl Display) {
        self.faults.add(self.source, key, message);
    }

    pub(super) fn require(
        &mut self,
        key: impl Into<String>,
        holds: bool,
        message: impl FnOnce() -> String,
    ) {
        if !holds {
            self.fault(key, message());
        }
    }

    fn name(&mut self, key: String, name: &str) -> Arc<str> {
        self.require(key, is_name(name), || format!("{EXPECTED_NAME} {name:?}"));
        name.into()
    }

    pub(super) fn positive(&mut self, key: String, duration: Duration) {
        self.require(key, !duration.is_zero(), || {
            "expected a duration above 0, found \"0s\"".to_owned()
        });
    }

    /// An address to bind; on a fault a stand-in that is never used.
    pub(super) fn listen(&mut self, key: &str, text: &str) -> SocketAddr {
        text.parse().unwrap_or_else(|_| {
            let message = format!("expected an IP address and port to bind, found {text:?}");
            self.fault(key, message);
            SocketAddr::from(([127, 0, 0, 1], 0))
        })
    }

    fn unique<'n>(&mut self, table: &str, names: impl Iterator<Item = &'n Arc<str>>) {
        let mut seen = HashSet::new();
        for (i, name) in names.enumerate() {
            if !seen.insert(name) {
                self.fault(format!("{table}[{i}].name"), format!("{name:?} is used twice"));
            }
        }
    }

    /// No address is bound twice; port 0 is a new port each time.
    fn addresses(&mut self, admin: SocketAddr, listeners: &[ListenerConfig]) {
        let mut seen = HashSet::from([admin]);
        for (i, listener) in listeners.iter().enumerate() {
            if listener.listen.port() != 0 && !seen.insert(listener.listen) {
                let message = format!("{} is used twice", listener.listen);
                self.fault(format!("listener[{i}].listen"), message);
            }
        }
    }

    fn listener(
        &mut self,
        i: usize,
        written: &file::Listener,
        pools: &[PoolConfig],
    ) -> ListenerConfig {
        let at = |key: &str| format!("listener[{i}].{key}");
        let name = self.name(at("name"), &written.name);
        let listen = self.listen(&at("listen"), &written.listen);
        self.require(at("pool"), pools.iter().any(|pool| *pool.name == *written.pool), || {
            format!("there is no pool named {:?}", written.pool)
        });
        let mut trusted_proxies = Vec::with_capacity(written.trusted_proxies.len());
        for (n, text) in written.trusted_proxies.iter().enumerate() {
            let net = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
            match net {
                Ok(net) => trusted_proxies.push(net),
                Err(_) => self.fault(
                    at(&format!("trusted_proxies[{n}]")),
                    format!(
                        "expected an address or network such as \"10.0.0.0/8\", found {text:?}"
                    ),
                ),
            }
        }
        self.require(at("max_connections"), written.max_connections > 0, || {
            "expected at least 1, found 0".to_owned()
        });
        self.positive(at("header_timeout"), written.header_timeout);
        self.positive(at("idle_timeout"), written.idle_timeout);
        let bytes = written.max_header_bytes;
        self.require(
            at("max_header_bytes"),
            (HEADER_BYTES_MIN..=HEADER_BYTES_MAX).contains(&bytes),
            || format!("expected {HEADER_BYTES_MIN} to {HEADER_BYTES_MAX}, found {bytes}"),
        );
        if written.mode == Mode::Tcp && !written.proxy_protocol && !trusted_proxies.is_empty() {
            let message = "has no meaning with mode = \"tcp\" but for proxy_protocol";
            self.fault(at("trusted_proxies"), message);
        }
        self.require(
            at("proxy_protocol"),
            !written.proxy_protocol || !trusted_proxies.is_empty(),
            || "needs trusted_proxies: whoever may say who the client is".to_owned(),
        );
        let routes = routes::convert(self, &format!("listener[{i}]"), &written.route, pools);
        self.require(at("route"), written.mode == Mode::Http || routes.is_empty(), || {
            "has a meaning only with mode = \"http\"".to_owned()
        });
        self.require(at("http2"), written.mode == Mode::Http || !written.http2, || {
            "has a meaning only with mode = \"http\"".to_owned()
        });
        let streams = written.http2_max_streams;
        self.require(at("http2_max_streams"), (1..=HTTP2_STREAMS_MAX).contains(&streams), || {
            format!("expected 1 to {HTTP2_STREAMS_MAX}, found {streams}")
        });
        let tls = written.tls.as_ref();
        let tls = tls.and_then(|tls| self.listener_tls(&at("tls"), tls, written.http2));
        let limits = written.limits.as_ref();
        let limits = limits.map(|limits| self.limits(&at("limits"), limits, written.mode));
        ListenerConfig {
            name,
            listen,
            mode: written.mode,
            pool: written.pool.as_str().into(),
            routes,
            trusted_proxies,
            proxy_protocol: written.proxy_protocol,
            forwarded: written.forwarded,
            request_id: written.request_id,
            trace: written.trace,
            tls,
            http2: written.http2,
            http2_streams_max: streams,
            connections_max: written.max_connections,
            header_timeout: written.header_timeout,
            idle_timeout: written.idle_timeout,
            header_bytes_max: bytes,
            tcp: self.tcp(&at("tcp"), &written.tcp),
            body_bytes_max: written.max_body_bytes,
            frame_bytes_max: written.max_frame_bytes,
            client_rate_min: NonZeroU32::new(written.min_client_rate),
            limits,
        }
    }

    fn pool(&mut self, i: usize, written: file::Pool) -> PoolConfig {
        let at = |key: &str| format!("pool[{i}].{key}");
        let name = self.name(at("name"), &written.name);
        self.positive(at("connect_timeout"), written.connect_timeout);
        self.positive(at("response_timeout"), written.response_timeout);
        self.positive(at("fail_timeout"), written.fail_timeout);
        let threshold = written.panic_threshold;
        self.require(at("panic_threshold"), (0.0..=1.0).contains(&threshold), || {
            format!("expected 0 to 1, found {threshold}")
        });
        let tls = written.tls.as_ref().and_then(|tls| self.pool_tls(&at("tls"), tls));
        let check = written
            .health_check
            .map(|check| self.health_check(&at("health_check"), &check, written.tls.is_some()));
        let agent = written
            .agent_check
            .map(|check| self.agent_check(&at("agent_check"), &check, written.tls.is_some()));
        let outliers =
            written.outlier_detection.map(|rules| self.outliers(&at("outlier_detection"), &rules));
        let retries = self.retries(&at("retries"), &written.retries);
        let server_rate_max = self.rate(at("server_max_rate"), written.server_max_rate);
        let count = written.server.len();
        self.require(at("server"), count <= SERVERS_MAX, || {
            format!("expected at most {SERVERS_MAX} servers, found {count}")
        });
        let servers: Vec<_> = written
            .server
            .iter()
            .enumerate()
            .map(|(n, server)| self.server(&format!("pool[{i}].server[{n}]"), server))
            .collect();
        self.unique(&at("server"), servers.iter().map(|server| &server.name));
        let key = self.hash_key(at("hash_key"), written.algorithm, written.hash_key.as_deref());
        let sticky_cookie = written.sticky_cookie.map(|name| {
            self.require(at("sticky_cookie"), is_field_name(&name), || {
                format!("expected the name of a cookie, found {name:?}")
            });
            name.into_boxed_str()
        });
        let stick =
            written.stick_table.and_then(|table| self.stick_table(&at("stick_table"), &table));
        let server_connections_max =
            self.connections_max(at("server_max_connections"), written.server_max_connections);
        let rules = PoolRules {
            algorithm: written.algorithm,
            key,
            sticky_cookie,
            stick,
            connect_timeout: written.connect_timeout,
            response_timeout: written.response_timeout,
            fails_max: written.max_fails,
            fail_timeout: written.fail_timeout,
            slow_start: written.slow_start,
            panic_threshold: threshold,
            server_connections_max,
            queue_max: written.queue_max,
            queue_timeout: written.queue_timeout,
            send_proxy: written.send_proxy_protocol,
            tls,
            check,
            agent,
            outliers,
            retries,
            server_rate_max,
            lifetime: self.lifetime(&at("lifetime"), &written.lifetime, written.algorithm),
            tcp: self.tcp(&at("tcp"), &written.tcp),
        };
        PoolConfig { name, rules, servers }
    }

    fn listener_tls(
        &mut self,
        key: &str,
        written: &file::ListenerTls,
        http2: bool,
    ) -> Option<ServerTls> {
        self.require(format!("{key}.certificate"), !written.certificate.is_empty(), || {
            "expected at least one certificate".to_owned()
        });
        let mut certificates = Vec::with_capacity(written.certificate.len());
        for (n, files) in written.certificate.iter().enumerate() {
            match ServerTls::certificate(&files.chain, &files.key, files.ocsp.as_deref()) {
                Ok(certificate) => certificates.push(certificate),
                Err(error) => {
                    let (chain, key_file) = (files.chain.display(), files.key.display());
                    let at = format!("{key}.certificate[{n}]");
                    self.fault(at, format!("{chain} with {key_file}: {error}"));
                }
            }
        }
        let clients = match (&written.client_ca, written.client_certificate) {
            (None, None) => None,
            (Some(file), policy) => {
                Some((file.as_path(), policy.unwrap_or(ClientCertificate::Required)))
            }
            (None, Some(_)) => {
                self.fault(format!("{key}.client_certificate"), "needs client_ca");
                None
            }
        };
        let tls = ServerTls::new(certificates, clients, written.min_version, http2);
        tls.map_err(|error| self.fault(format!("{key}.client_ca"), error)).ok()
    }

    pub(super) fn pool_tls(&mut self, key: &str, written: &file::PoolTls) -> Option<ClientTls> {
        let identity = match (&written.chain, &written.key) {
            (Some(chain), Some(key)) => Some((chain.as_path(), key.as_path())),
            (None, None) => None,
            _ => {
                self.fault(format!("{key}.chain"), "chain and key are needed together");
                None
            }
        };
        let tls = ClientTls::new(&written.ca, written.server_name.as_deref(), identity);
        tls.map_err(|error| self.fault(key, error)).ok()
    }

    /// What `algorithm = "hash"` goes by.
    fn hash_key(&mut self, at: String, algorithm: Algorithm, text: Option<&str>) -> Option<Key> {
        match (algorithm, text) {
            (Algorithm::Hash, None) => {
                self.fault(at, "is needed with algorithm = \"hash\"");
                None
            }
            (Algorithm::Hash, Some(text)) => {
                let key = if text == "uri" { Some(Key::Uri) } else { read_key(text) };
                if key.is_none() {
                    let expected =
                        "expected \"uri\", \"header:NAME\", \"cookie:NAME\" or \"query:NAME\"";
                    self.fault(at, format!("{expected}, found {text:?}"));
                }
                key
            }
            (_, Some(_)) => {
                self.fault(at, "has a meaning only with algorithm = \"hash\"");
                None
            }
            (_, None) => None,
        }
    }

    fn server(&mut self, key: &str, written: &file::Server) -> ServerConfig {
        let name = self.name(format!("{key}.name"), &written.name);
        let address = Address::try_new(&written.address).unwrap_or_else(|| {
            let message = format!("expected host:port, found {:?}", written.address);
            self.fault(format!("{key}.address"), message);
            Address { text: "".into(), socket: None }
        });
        let weight = Weight::try_new(written.weight).unwrap_or_else(|| {
            let message = format!("expected 0 to {}, found {}", Weight::MAX, written.weight);
            self.fault(format!("{key}.weight"), message);
            Weight(0)
        });
        let check = CheckPlace {
            port: written.check_port,
            path: written
                .check_path
                .as_deref()
                .map(|path| self.path(format!("{key}.check_path"), Some(path))),
            agent_port: written.agent_port,
        };
        let connections_max =
            self.connections_max(format!("{key}.max_connections"), written.max_connections);
        ServerConfig { name, address, weight, connections_max, check }
    }

    fn connections_max(&mut self, key: String, max: Option<u32>) -> Option<NonZeroU32> {
        self.require(key, max != Some(0), || "expected at least 1, found 0".to_owned());
        max.and_then(NonZeroU32::new)
    }
}

/// A part of a request, by its kind and name.
pub(super) fn read_key(text: &str) -> Option<Key> {
    let (kind, name) = text.split_once(':')?;
    match kind {
        _ if !is_field_name(name) => None,
        "header" => Some(Key::Header(name.into())),
        "cookie" => Some(Key::Cookie(name.into())),
        "query" => Some(Key::Query(name.into())),
        _ => None,
    }
}

/// Whether it can name a header field or a cookie (RFC 9110 5.6.2, RFC 6265 4.1.1).
pub(super) fn is_field_name(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(is_token)
}

#[cfg(test)]
mod tests;
