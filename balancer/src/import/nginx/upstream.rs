//! `upstream`: a pool.

use super::syntax::Directive;
use super::{Reader, UNIT};
use crate::import::draft::{self, Pool, Server, set};

/// nginx's own defaults, where ours differ: whoever moves finds what they had.
const FAIL_TIMEOUT_SECONDS: u64 = 10;
/// Weights beyond ours.
const WEIGHT_MAX: u32 = 256;

impl Reader {
    pub(super) fn upstreams(&mut self, directives: &[Directive]) {
        for directive in directives.iter().filter(|directive| directive.name() == "upstream") {
            self.upstream(directive);
        }
    }

    fn upstream(&mut self, directive: &Directive) {
        let mut pool = Pool {
            name: draft::name(directive.argument()),
            // nginx goes by weight in turn unless told otherwise.
            algorithm: Some("weighted_round_robin"),
            ..Pool::default()
        };
        for each in &directive.block {
            match each.name() {
                "server" => self.upstream_server(&mut pool, each),
                "least_conn" => pool.algorithm = Some("least_connections"),
                "ip_hash" => pool.algorithm = Some("source_hash"),
                "random" => pool.algorithm = Some("random_two"),
                "hash" => self.hash(&mut pool, each),
                "sticky" if each.argument() == "cookie" && each.words.len() > 2 => {
                    pool.sticky_cookie = Some(each.words[2].clone());
                }
                _ => self.pass(each),
            }
        }
        if pool.servers.iter().any(|server| server.weight.is_some()) {
            for server in &mut pool.servers {
                server.weight.get_or_insert(1);
            }
        }
        pool.fail_timeout.get_or_insert(std::time::Duration::from_secs(FAIL_TIMEOUT_SECONDS));
        self.draft.pools.push(pool);
    }

    fn upstream_server(&mut self, pool: &mut Pool, directive: &Directive) {
        let arguments = directive.arguments();
        let Some(address) = arguments.first() else { return self.pass(directive) };
        if address.starts_with("unix:") {
            return self.note(directive, "servers on unix sockets are not spoken to, left out");
        }
        let has_port =
            address.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let address = if has_port { address.clone() } else { format!("{address}:80") };
        let mut server =
            Server { name: draft::name(&address.replace(':', "-")), address, ..Server::default() };
        for argument in &arguments[1..] {
            let (key, text) = argument.split_once('=').unwrap_or((argument, ""));
            let understood = match key {
                "weight" => match text.parse() {
                    Ok(weight) if weight <= WEIGHT_MAX => {
                        server.weight = Some(weight);
                        true
                    }
                    _ => false,
                },
                "max_conns" => text.parse().is_ok_and(|max: u32| {
                    server.connections_max = Some(max).filter(|max| *max > 0);
                    true
                }),
                "max_fails" => text.parse().is_ok_and(|max| set(&mut pool.fails_max, max)),
                "fail_timeout" => {
                    draft::time(text, UNIT).is_some_and(|time| set(&mut pool.fail_timeout, time))
                }
                "slow_start" => {
                    draft::time(text, UNIT).is_some_and(|time| set(&mut pool.slow_start, time))
                }
                "down" => {
                    server.weight = Some(0);
                    true
                }
                "backup" => {
                    server.weight = Some(0);
                    self.note(directive, "there are no spare servers here; it is given weight 0");
                    true
                }
                "resolve" => true,
                _ => false,
            };
            if !understood {
                let what = format!("{argument} is not understood, or not the same for all servers");
                self.note(directive, &what);
            }
        }
        pool.servers.push(server);
    }

    fn hash(&mut self, pool: &mut Pool, directive: &Directive) {
        let key = directive.argument();
        let key = key
            .strip_prefix("${")
            .and_then(|key| key.strip_suffix('}'))
            .map_or_else(|| key.trim_start_matches('$').to_owned(), str::to_owned);
        let (algorithm, hash_key) = match &*key {
            "remote_addr" | "binary_remote_addr" => ("source_hash", None),
            "request_uri" | "uri" => ("hash", Some("uri".to_owned())),
            key => {
                let header = key
                    .strip_prefix("http_")
                    .map(|name| format!("header:{}", name.replace('_', "-")));
                let cookie = || key.strip_prefix("cookie_").map(|name| format!("cookie:{name}"));
                match header.or_else(cookie) {
                    Some(key) => ("hash", Some(key)),
                    None => return self.note(directive, "this key is not understood, left out"),
                }
            }
        };
        (pool.algorithm, pool.hash_key) = (Some(algorithm), hash_key);
    }

    /// The pool a `proxy_pass` leads to, made for it if it names a server; with what is left of the target.
    pub(super) fn target(&mut self, directive: &Directive, tcp: bool) -> Option<String> {
        let target = directive.argument();
        let rest = target.strip_prefix("http://").or_else(|| tcp.then_some(target));
        let Some(rest) = rest else {
            let what = if target.starts_with("https://") {
                "TLS to servers needs [pool.tls] with an authority to trust, left out"
            } else {
                "not understood, left out"
            };
            self.note(directive, what);
            return None;
        };
        let (host, path) =
            rest.split_once('/').map_or((rest, None), |(host, path)| (host, Some(path)));
        if path.is_some_and(|path| !path.is_empty()) {
            self.note(directive, "paths are passed on as they come, not replaced");
        }
        if host.contains('$') {
            self.note(directive, "a target in a variable is not understood, left out");
            return None;
        }
        let name = draft::name(host);
        if self.draft.pool(&name).is_some() {
            return Some(name);
        }
        let name = draft::name(&host.replace(':', "-"));
        if self.draft.pool(&name).is_none() {
            let address = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
            let server = Server {
                name: draft::name(&address.replace(':', "-")),
                address,
                ..Server::default()
            };
            self.draft.pools.push(Pool {
                name: name.clone(),
                servers: vec![server],
                ..Pool::default()
            });
        }
        Some(name)
    }

    /// Time limits of a place that leads to `pool`. Those of an outer place count where there is none of an inner.
    pub(super) fn pool_time(&mut self, pool: &str, directive: &Directive, outer: bool) {
        let time = draft::time(directive.argument(), UNIT);
        let agreed = self.draft.pool(pool).zip(time).map(|(pool, time)| {
            let slot = match directive.name() {
                "proxy_connect_timeout" => &mut pool.connect_timeout,
                _ => &mut pool.response_timeout,
            };
            set(slot, time) || outer
        });
        if agreed != Some(true) {
            self.note(directive, "not understood, or other than elsewhere for the same servers");
        }
    }

    /// Whether servers are told who the client is.
    pub(super) fn pool_proxy(&mut self, pool: &str, directive: &Directive) {
        if let (Some(pool), "on") = (self.draft.pool(pool), directive.argument()) {
            pool.send_proxy = Some("v1");
        }
    }
}
