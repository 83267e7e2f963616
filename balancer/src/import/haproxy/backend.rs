//! `backend`, and the part of `listen` that is one: pools.

use std::time::Duration;

use super::{Limits, Line, Reader, UNIT};
use crate::import::draft::{self, Check, Pool, Server, set};
use crate::pool::ATTEMPTS_MAX;

/// Weights beyond ours.
const WEIGHT_MAX: u32 = 256;
/// `HAProxy`'s own, where ours differ: whoever moves finds what they had.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);
const CHECK_RISE: u32 = 2;
const CHECK_FALL: u32 = 3;

/// What `option httpchk` asks for: nothing, a path, or a method and a path.
pub(super) fn http_check(line: &Line) -> Check {
    let path = match (line.word(2), line.word(3)) {
        ("", _) => "/",
        (path, "") | (_, path) => path,
    };
    Check { http: true, path: Some(path.to_owned()), ..Check::default() }
}

impl Reader {
    pub(super) fn backend(&mut self, name: &str, lines: &[Line]) {
        let mut limits = self.defaults.clone();
        let mut pool = Pool { name: draft::name(name), ..Pool::default() };
        let mut base = Vec::new();
        let mut checked = false;
        for line in lines {
            match line.word(0) {
                // Of its other half.
                "bind" | "acl" | "use_backend" | "default_backend" => {}
                "default-server" => base = line.rest(1).to_vec(),
                "server" => checked |= self.server(&mut pool, line, &base),
                "cookie" => pool.sticky_cookie = Some(line.word(1).to_owned()),
                "hash-type" => {
                    if line.word(1) != "consistent" {
                        self.note(line, "hashing moves as few keys as can be here");
                    }
                }
                "http-check" => self.http_check_line(&mut limits, line),
                "option" if line.word(1) == "tcp-check" => limits.http_check = None,
                "option" if line.word(1) == "httpchk" && line.words.len() > 4 => {
                    limits.http_check = Some(http_check(line));
                    if !line.word(4).starts_with("HTTP/1.") || line.words.len() > 5 {
                        self.note(line, "of this only the path is read");
                    }
                }
                _ if limits.take(line) => {}
                _ => self.pass(line),
            }
        }
        if pool.agent.is_some() {
            let silent = |line: &&Line| {
                line.word(0) == "server"
                    && !base.iter().chain(&line.words).any(|w| w == "agent-check")
            };
            for line in lines.iter().filter(silent) {
                self.note(line, "the agents of all servers of a pool are asked, or none");
            }
        }
        if let Some(line) = lines.iter().find(|line| line.word(0) == "balance") {
            self.balance(&mut pool, line);
        } else {
            let words = limits.balance.clone().unwrap_or_else(|| vec!["roundrobin".to_owned()]);
            let words = [&["balance".to_owned()][..], &words].concat();
            self.balance(&mut pool, &Line { number: 1, words });
        }
        (pool.connect_timeout, pool.response_timeout) = (limits.connect, limits.server);
        pool.queue_timeout = limits.queue;
        pool.servers_tried_max = limits
            .retries
            .map(|retries| retries.saturating_add(1).min(u32::try_from(ATTEMPTS_MAX).unwrap_or(1)));
        // Nothing takes a server out there but its checks, unless it is observed.
        set(&mut pool.fails_max, 0);
        if checked {
            pool.check = Some(full_check(&pool.check.take().unwrap_or_default(), &limits));
        }
        if pool.servers.iter().any(|server| server.weight.is_some()) {
            for server in &mut pool.servers {
                server.weight.get_or_insert(1);
            }
        }
        self.draft.pools.push(pool);
    }

    fn balance(&mut self, pool: &mut Pool, line: &Line) {
        let argument = line.word(1);
        pool.algorithm = Some(match argument {
            "roundrobin" | "static-rr" => "weighted_round_robin",
            "leastconn" => "least_connections",
            "source" => "source_hash",
            "random" => "random_two",
            _ if argument.starts_with("random(") => "random_two",
            "uri" => {
                pool.hash_key = Some("uri".to_owned());
                "hash"
            }
            _ => {
                let header = argument.strip_prefix("hdr(").and_then(|name| name.strip_suffix(')'));
                if let Some(header) = header {
                    pool.hash_key = Some(format!("header:{header}"));
                    "hash"
                } else {
                    self.note(line, "not understood; least_connections it is");
                    "least_connections"
                }
            }
        });
    }

    fn http_check_line(&mut self, limits: &mut Limits, line: &Line) {
        let mut check = limits.http_check.take().unwrap_or_default();
        check.http = true;
        match (line.word(1), line.word(2)) {
            ("send", _) => {
                let mut words = line.rest(2).iter();
                while let Some(word) = words.next() {
                    match word.as_str() {
                        "uri" => check.path = words.next().cloned(),
                        "hdr" => {
                            let name = words.next().map_or("", String::as_str);
                            let value = words.next().cloned();
                            if name.eq_ignore_ascii_case("host") {
                                check.host = value;
                            } else {
                                self.note(line, "of headers only Host is sent");
                            }
                        }
                        "meth" | "ver" => {
                            if !words.next().is_some_and(|value| {
                                matches!(value.as_str(), "GET" | "HTTP/1.1" | "HTTP/1.0")
                            }) {
                                self.note(line, "checks are GET requests of HTTP/1.1");
                            }
                        }
                        other => self.note(line, &format!("{other} is not understood, left out")),
                    }
                }
            }
            ("expect", "status") => {
                check.status = line.word(3).split(',').map(str::to_owned).collect();
            }
            ("expect", "string") => check.body = Some(line.word(3).to_owned()),
            _ => self.note(line, "not understood, left out"),
        }
        limits.http_check = Some(check);
    }

    /// Takes a server in; whether it is checked.
    fn server(&mut self, pool: &mut Pool, line: &Line, base: &[String]) -> bool {
        let mut server = Server {
            name: draft::name(line.word(1)),
            address: line.word(2).to_owned(),
            ..Server::default()
        };
        if server.address.rsplit_once(':').is_none_or(|(_, port)| port.parse::<u16>().is_err()) {
            self.note(line, "an address without a port, or not over TCP, left out");
            return false;
        }
        let mut checked = false;
        let words: Vec<_> = base.iter().chain(line.rest(3)).cloned().collect();
        let mut words = words.iter();
        let mut check = pool.check.take().unwrap_or_default();
        while let Some(word) = words.next() {
            let mut next = || words.next().map_or("", String::as_str);
            let understood = match word.as_str() {
                "check" => {
                    checked = true;
                    true
                }
                "weight" => next().parse().is_ok_and(|weight| {
                    server.weight = Some(weight);
                    weight <= WEIGHT_MAX
                }),
                "maxconn" => next().parse().is_ok_and(|max: u32| {
                    server.connections_max = Some(max).filter(|max| *max > 0);
                    true
                }),
                "inter" => {
                    draft::time(next(), UNIT).is_some_and(|time| set(&mut check.interval, time))
                }
                "rise" => next().parse().is_ok_and(|rise| set(&mut check.rise, rise)),
                "fall" => next().parse().is_ok_and(|fall| set(&mut check.fall, fall)),
                "port" => next().parse().is_ok_and(|port| set(&mut check.port, port)),
                "slowstart" => {
                    draft::time(next(), UNIT).is_some_and(|time| set(&mut pool.slow_start, time))
                }
                "agent-check" => {
                    pool.agent.get_or_insert_default();
                    true
                }
                "agent-port" => next().parse().is_ok_and(|port| {
                    server.agent_port = Some(port);
                    true
                }),
                "agent-inter" => draft::time(next(), UNIT).is_some_and(|time| {
                    set(&mut pool.agent.get_or_insert_default().interval, time)
                }),
                "send-proxy" => set(&mut pool.send_proxy, "v1"),
                "send-proxy-v2" => set(&mut pool.send_proxy, "v2"),
                "disabled" => {
                    server.weight = Some(0);
                    true
                }
                "backup" => {
                    server.weight = Some(0);
                    self.note(line, "there are no spare servers here; it is given weight 0");
                    true
                }
                // The cookie holds a hash of the server's name here.
                "cookie" => {
                    next();
                    true
                }
                "on-marked-down" => next() == "shutdown-sessions",
                "maxqueue" | "minconn" | "init-addr" | "resolvers" | "resolve-prefer" => {
                    next();
                    false
                }
                "inherit" | "no-check" => true,
                _ => false,
            };
            if !understood {
                let what = format!("{word} is not understood, or not the same for all servers");
                self.note(line, &what);
            }
        }
        pool.check = Some(check);
        pool.servers.push(server);
        checked
    }
}

/// A check as `HAProxy` would make it.
fn full_check(of_servers: &Check, limits: &Limits) -> Check {
    let asked = limits.http_check.clone().unwrap_or_default();
    let interval = of_servers.interval.unwrap_or(CHECK_INTERVAL);
    Check {
        port: of_servers.port,
        interval: Some(interval),
        timeout: Some(limits.check.unwrap_or(interval)),
        rise: Some(of_servers.rise.unwrap_or(CHECK_RISE)),
        fall: Some(of_servers.fall.unwrap_or(CHECK_FALL)),
        ..asked
    }
}
