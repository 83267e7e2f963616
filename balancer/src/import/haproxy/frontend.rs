//! `frontend`, and the part of `listen` that is one: listeners and routes.

use std::collections::HashMap;

use super::{Line, Reader};
use crate::import::draft::{self, Listener, Route};

/// What a request has to be like, as far as an `acl` or an anonymous condition says it: one of these.
type Conditions = Vec<Route>;

impl Reader {
    /// `with_backend` if the same lines are those of its servers.
    pub(super) fn frontend(&mut self, name: &str, lines: &[Line], with_backend: bool) {
        let mut limits = self.defaults.clone();
        let mut acls: HashMap<String, Option<Conditions>> = HashMap::new();
        let mut pool = with_backend.then(|| draft::name(name));
        let mut routes = Vec::new();
        let mut binds = Vec::new();
        for line in lines {
            match line.word(0) {
                "bind" => binds.push(line),
                "acl" => {
                    let condition = condition(line.rest(2));
                    if condition.is_none() {
                        self.note(line, "this condition is not understood, left out");
                    }
                    acls.insert(line.word(1).to_owned(), condition);
                }
                "default_backend" => pool = Some(draft::name(line.word(1))),
                "use_backend" => match choice(line, &acls) {
                    Some(found) => routes.extend(found),
                    None => self.note(line, "the condition is not understood, left out"),
                },
                _ if limits.take(line) => {}
                // Of the servers, which are read in their turn.
                _ if with_backend => {}
                _ => self.pass(line),
            }
        }
        if limits.tcp && !routes.is_empty() {
            routes.clear();
            if let Some(line) = lines.iter().find(|line| line.word(0) == "use_backend") {
                self.note(line, "bytes have no hosts and paths, left out");
            }
        }
        for line in binds {
            self.bind(name, line, |listener| {
                listener.tcp = limits.tcp;
                listener.pool = pool.clone().unwrap_or_default();
                listener.routes.clone_from(&routes);
                listener.connections_max = limits.connections_max.filter(|max| *max > 0);
                if !limits.tcp {
                    listener.header_timeout = limits.http_request;
                    listener.idle_timeout = limits.keep_alive;
                }
            });
        }
    }

    fn bind(&mut self, name: &str, line: &Line, fill: impl Fn(&mut Listener)) {
        let options = line.rest(2);
        for address in line.word(1).split(',') {
            let Some(listen) = draft::listen(address) else {
                self.note(line, "not an address that can be bound here, left out");
                continue;
            };
            let mut listener =
                Listener { name: self.draft.unique_listener(name), listen, ..Listener::default() };
            let mut words = options.iter();
            let mut tls = false;
            while let Some(word) = words.next() {
                match word.as_str() {
                    "ssl" => tls = true,
                    "crt" => {
                        let chain = words.next().cloned().unwrap_or_default();
                        // One file holds chain and key there.
                        listener.certificates.push((chain.clone(), chain));
                    }
                    "accept-proxy" => {
                        self.note(line, "proxy_protocol needs trusted_proxies: who may say who the client is; left out");
                    }
                    // What is offered is offered by itself.
                    "alpn" | "ciphers" | "ciphersuites" | "ssl-min-ver" | "name" | "maxconn" => {
                        words.next();
                    }
                    "transparent" | "v4v6" | "v6only" | "tfo" | "no-sslv3" | "no-tlsv10"
                    | "no-tlsv11" => {}
                    other => self.note(line, &format!("{other} is not understood, left out")),
                }
            }
            if !tls {
                listener.certificates.clear();
            }
            fill(&mut listener);
            self.draft.listeners.push(listener);
        }
    }
}

/// The routes of a `use_backend` line: `use_backend NAME if CONDITION…`, of which every one has to hold.
fn choice(line: &Line, acls: &HashMap<String, Option<Conditions>>) -> Option<Vec<Route>> {
    let pool = draft::name(line.word(1));
    if line.word(1).contains('%') || line.word(2) != "if" {
        return None;
    }
    let mut routes = vec![Route::default()];
    let mut words = line.rest(3).iter();
    while let Some(word) = words.next() {
        let any = if word == "{" {
            let inner: Vec<_> = words.by_ref().take_while(|word| *word != "}").cloned().collect();
            condition(&inner)?
        } else {
            acls.get(word)?.clone()?
        };
        // Each so far with each of these; two that cannot be joined are not understood.
        let mut joined = Vec::new();
        for route in &routes {
            for other in &any {
                joined.push(join(route, other)?);
            }
        }
        routes = joined;
    }
    (!line.rest(3).is_empty())
        .then(|| routes.into_iter().map(|route| Route { pool: pool.clone(), ..route }).collect())
}

fn join(a: &Route, b: &Route) -> Option<Route> {
    let both = (a.host.is_some() && b.host.is_some())
        || (a.header.is_some() && b.header.is_some())
        || ((a.path.is_some() || a.path_prefix.is_some())
            && (b.path.is_some() || b.path_prefix.is_some()));
    (!both).then(|| Route {
        host: a.host.clone().or_else(|| b.host.clone()),
        path: a.path.clone().or_else(|| b.path.clone()),
        path_prefix: a.path_prefix.clone().or_else(|| b.path_prefix.clone()),
        header: a.header.clone().or_else(|| b.header.clone()),
        pool: String::new(),
    })
}

/// What `words` (a sample, flags, values) ask for; any of the values will do.
fn condition(words: &[String]) -> Option<Conditions> {
    let (sample, rest) = words.split_first()?;
    let values: Vec<_> = rest.iter().filter(|word| !matches!(word.as_str(), "-i" | "--")).collect();
    if values.iter().any(|value| value.starts_with('-')) {
        return None;
    }
    let argument = |name: &str| {
        sample.strip_prefix(name)?.strip_prefix('(')?.strip_suffix(')').map(str::to_owned)
    };
    let each = |make: &dyn Fn(&str) -> Option<Route>| -> Option<Conditions> {
        let routes: Option<Vec<_>> = values.iter().map(|value| make(value)).collect();
        routes.filter(|routes| !routes.is_empty())
    };
    let host = |value: &str| Some(Route { host: Some(value.to_owned()), ..Route::default() });
    match sample.as_str() {
        "path" => each(&|value| Some(Route { path: Some(value.to_owned()), ..Route::default() })),
        "path_beg" => {
            each(&|value| Some(Route { path_prefix: Some(value.to_owned()), ..Route::default() }))
        }
        "hdr(host)" | "req.hdr(host)" | "hdr(Host)" => each(&host),
        "hdr_end(host)" | "hdr_dom(host)" => each(&|value| {
            value
                .starts_with('.')
                .then(|| Route { host: Some(format!("*{value}")), ..Route::default() })
        }),
        _ => {
            let header = argument("hdr").or_else(|| argument("req.hdr"));
            if let Some(header) = header {
                return each(&|value| {
                    let header = Some((header.clone(), Some(value.to_owned())));
                    Some(Route { header, ..Route::default() })
                });
            }
            let header = argument("hdr_cnt").or_else(|| argument("req.hdr_cnt"))?;
            let there = values.is_empty() || values == ["gt", "0"];
            there.then(|| vec![Route { header: Some((header, None)), ..Route::default() }])
        }
    }
}
