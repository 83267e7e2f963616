//! `server` and `location`: listeners and routes.

use std::time::Duration;

use super::syntax::Directive;
use super::{Reader, UNIT};
use crate::import::draft::{self, Listener, Route, set};

/// What one `server` block says, before it is known at which listeners it ends up.
#[derive(Default)]
struct Block<'a> {
    listens: Vec<Listen>,
    hosts: Vec<String>,
    /// Whether it serves requests for other hosts as well.
    any_host: bool,
    /// The pool of `location /`, or of a TCP server.
    pool: Option<String>,
    routes: Vec<Route>,
    certificate: Option<String>,
    key: Option<String>,
    trusted: Vec<String>,
    header_timeout: Option<Duration>,
    idle_timeout: Option<Duration>,
    /// Time limits for all of its pools.
    times: Vec<&'a Directive>,
}

struct Listen {
    address: String,
    tls: bool,
    proxy_protocol: bool,
    default: bool,
}

impl Reader {
    pub(super) fn servers(&mut self, directives: &[Directive], tcp: bool) {
        let mut common = Block::default();
        for directive in directives {
            match directive.name() {
                "server" | "upstream" => {}
                _ => self.of_server(&mut common, directive, tcp),
            }
        }
        for directive in directives.iter().filter(|directive| directive.name() == "server") {
            let mut block = Block {
                trusted: common.trusted.clone(),
                header_timeout: common.header_timeout,
                idle_timeout: common.idle_timeout,
                times: common.times.clone(),
                ..Block::default()
            };
            for each in &directive.block {
                self.of_server(&mut block, each, tcp);
            }
            for time in std::mem::take(&mut block.times) {
                let pools = block.routes.iter().map(|route| &route.pool).chain(&block.pool);
                for pool in pools {
                    self.pool_time(pool, time, true);
                }
            }
            self.place(directive, block, tcp);
        }
    }

    fn of_server<'a>(&mut self, block: &mut Block<'a>, directive: &'a Directive, tcp: bool) {
        let time = || draft::time(directive.argument(), UNIT);
        match directive.name() {
            "listen" => self.listen(block, directive),
            "server_name" => self.server_name(block, directive),
            "ssl_certificate" => block.certificate = Some(directive.argument().to_owned()),
            "ssl_certificate_key" => block.key = Some(directive.argument().to_owned()),
            "set_real_ip_from" => block.trusted.push(directive.argument().to_owned()),
            "real_ip_header" | "real_ip_recursive" => {}
            "client_header_timeout" => block.header_timeout = time(),
            "keepalive_timeout" => block.idle_timeout = time(),
            "location" if !tcp => self.location(block, directive),
            "proxy_pass" if tcp => {
                block.pool = self.target(directive, true);
            }
            "proxy_connect_timeout" | "proxy_read_timeout" => block.times.push(directive),
            "proxy_protocol" if tcp => match &block.pool {
                Some(pool) => self.pool_proxy(pool, directive),
                None => self.note(directive, "is understood after proxy_pass only, left out"),
            },
            _ => self.pass(directive),
        }
    }

    fn listen(&mut self, block: &mut Block<'_>, directive: &Directive) {
        let Some(address) = draft::listen(directive.argument()) else {
            return self.note(directive, "not an address that can be bound here, left out");
        };
        let has = |word: &str| directive.arguments().iter().any(|argument| argument == word);
        block.listens.push(Listen {
            address,
            tls: has("ssl"),
            proxy_protocol: has("proxy_protocol"),
            default: has("default_server") || has("default"),
        });
    }

    fn server_name(&mut self, block: &mut Block<'_>, directive: &Directive) {
        for name in directive.arguments() {
            let wildcard = name.strip_prefix("*.").or_else(|| name.strip_prefix('.'));
            if name == "_" || name.is_empty() {
                block.any_host = true;
            } else if name.starts_with('~') || wildcard.unwrap_or(name).contains('*') {
                self.note(directive, "a host in this form is not understood, left out");
            } else if let Some(rest) = wildcard {
                block.hosts.push(format!("*.{rest}"));
                if name.starts_with('.') {
                    block.hosts.push(rest.to_owned());
                }
            } else {
                block.hosts.push(name.clone());
            }
        }
    }

    fn location(&mut self, block: &mut Block<'_>, directive: &Directive) {
        let arguments = directive.arguments();
        let (kind, path) = match arguments {
            [path] => ("", path.as_str()),
            [kind, path] => (kind.as_str(), path.as_str()),
            _ => return self.pass(directive),
        };
        if kind.starts_with('~') || path.starts_with('@') {
            return self.note(directive, "this kind of location is not understood, left out");
        }
        let mut pool = None;
        if let Some(pass) = directive.block.iter().find(|each| each.name() == "proxy_pass") {
            pool = self.target(pass, false);
        }
        for each in &directive.block {
            match each.name() {
                "proxy_pass" => {}
                "proxy_connect_timeout" | "proxy_read_timeout" => {
                    if let Some(pool) = &pool {
                        self.pool_time(pool, each, false);
                    }
                }
                _ => self.pass(each),
            }
        }
        let Some(pool) = pool else {
            return self.note(directive, "passes nothing on, left out");
        };
        match (kind, path) {
            ("" | "^~", "/") => {
                if !set(&mut block.pool, pool) {
                    self.note(directive, "there are two of it");
                }
            }
            ("=", path) => {
                block.routes.push(Route { path: Some(path.to_owned()), pool, ..Route::default() });
            }
            (_, path) => {
                if !path.ends_with('/') {
                    self.note(
                        directive,
                        "paths are matched by whole segments: /api and /api/x, not /apix",
                    );
                }
                let path_prefix = Some(path.to_owned());
                block.routes.push(Route { path_prefix, pool, ..Route::default() });
            }
        }
    }

    /// Puts what a block says to the listeners it names.
    fn place(&mut self, directive: &Directive, mut block: Block<'_>, tcp: bool) {
        if block.listens.is_empty() {
            let address = "0.0.0.0:80".to_owned();
            let default = false;
            block.listens.push(Listen { address, tls: false, proxy_protocol: false, default });
        }
        // nginx takes the exact one, then the longest; ours are tried in turn.
        block.routes.sort_by_key(|route| {
            let length = route.path_prefix.as_ref().map_or(usize::MAX, String::len);
            std::cmp::Reverse(length)
        });
        let tls = block.certificate.clone().zip(block.key.clone());
        for listen in std::mem::take(&mut block.listens) {
            if listen.tls && tls.is_none() {
                self.note(directive, "TLS without a certificate and key in this block, left out");
                continue;
            }
            let place =
                self.draft.listeners.iter().position(|known| known.listen == listen.address);
            let at = place.unwrap_or_else(|| {
                let name =
                    block.hosts.first().map_or("listener", |host| host.trim_start_matches("*."));
                let port = listen.address.rsplit_once(':').map_or("", |(_, port)| port);
                let name = self.draft.unique_listener(&format!("{name}-{port}"));
                self.draft.listeners.push(Listener {
                    name,
                    listen: listen.address.clone(),
                    tcp,
                    ..Listener::default()
                });
                self.draft.listeners.len() - 1
            });
            let listener = &mut self.draft.listeners[at];
            listener.proxy_protocol |= listen.proxy_protocol;
            for trusted in &block.trusted {
                if !listener.trusted_proxies.contains(trusted) {
                    listener.trusted_proxies.push(trusted.clone());
                }
            }
            listener.header_timeout = listener.header_timeout.or(block.header_timeout);
            listener.idle_timeout = listener.idle_timeout.or(block.idle_timeout);
            if let Some(pair) =
                tls.clone().filter(|pair| listen.tls && !listener.certificates.contains(pair))
            {
                listener.certificates.push(pair);
            }
            let lacks_trust = listener.proxy_protocol && listener.trusted_proxies.is_empty();
            if lacks_trust {
                listener.proxy_protocol = false;
            }
            enter(listener, &block, listen.default);
            if lacks_trust {
                self.note(
                    directive,
                    "proxy_protocol needs set_real_ip_from: who may say who the client is",
                );
            }
        }
    }
}

/// Enters a block's routes; the first or default block of a listener serves hosts nobody else does.
fn enter(listener: &mut Listener, block: &Block<'_>, default: bool) {
    let serves_others = listener.pool.is_empty() || default || block.any_host;
    let pool = block.pool.clone().or_else(|| block.routes.last().map(|route| route.pool.clone()));
    let mut hosts: Vec<_> = block.hosts.iter().cloned().map(Some).collect();
    if serves_others && let Some(pool) = pool {
        listener.pool = pool;
        listener.routes.retain(|route| route.host.is_some());
        hosts.push(None);
    }
    for host in hosts {
        for route in &block.routes {
            listener.routes.push(Route { host: host.clone(), ..route.clone() });
        }
        if let (Some(pool), Some(_)) = (&block.pool, &host) {
            listener.routes.push(Route { host, pool: pool.clone(), ..Route::default() });
        }
    }
    // Those for every host come last, or they would hide the others.
    listener.routes.sort_by_key(|route| route.host.is_none());
}
