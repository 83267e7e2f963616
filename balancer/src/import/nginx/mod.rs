//! nginx's settings: `upstream`, `server` and `location` of `http`, and `server` of `stream`.

mod server;
mod syntax;
mod upstream;

use std::collections::BTreeSet;
use std::time::Duration;

use super::draft::Draft;
use super::{Note, Read};
use syntax::Directive;

/// A time without a unit is in seconds.
const UNIT: Duration = Duration::from_secs(1);

/// What the balancer does anyway, or has no part in: it may be passed over in silence.
const PASSED_OVER: &[&str] = &[
    "access_log",
    "aio",
    "charset",
    "default_type",
    "error_log",
    "events",
    "http2",
    "keepalive",
    "keepalive_requests",
    "log_format",
    "map_hash_bucket_size",
    "pid",
    "proxy_buffering",
    "proxy_cache_bypass",
    "proxy_http_version",
    "proxy_next_upstream",
    "proxy_redirect",
    "proxy_request_buffering",
    "proxy_send_timeout",
    "proxy_socket_keepalive",
    "sendfile",
    "server_names_hash_bucket_size",
    "server_tokens",
    "ssl_ciphers",
    "ssl_ecdh_curve",
    "ssl_prefer_server_ciphers",
    "ssl_protocols",
    "ssl_session_cache",
    "ssl_session_tickets",
    "ssl_session_timeout",
    "tcp_nodelay",
    "tcp_nopush",
    "types",
    "types_hash_max_size",
    "user",
    "worker_cpu_affinity",
    "worker_processes",
    "worker_rlimit_nofile",
    "zone",
];

/// Headers that servers get from the balancer without being asked, or as the client sent them.
const HEADERS_ANYWAY: &[&str] = &[
    "connection",
    "host",
    "upgrade",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-real-ip",
];

/// Reads `text`.
pub(super) fn read(text: &str) -> Result<Read, Note> {
    let directives = syntax::parse(text)?;
    let mut reader = Reader { draft: Draft::default(), notes: BTreeSet::new() };
    reader.top(&directives);
    for listener in &reader.draft.listeners {
        if reader.draft.pools.iter().all(|pool| pool.name != listener.pool) {
            let text =
                format!("listener {} leads to no pool: nothing is passed on there", listener.name);
            reader.notes.insert(Note { line: 1, text });
        }
    }
    let Reader { mut draft, notes } = reader;
    let pools: Vec<_> = draft.pools.iter().map(|pool| pool.name.clone()).collect();
    draft.listeners.retain(|listener| pools.contains(&listener.pool));
    for listener in &mut draft.listeners {
        listener.routes.retain(|route| pools.contains(&route.pool));
    }
    Ok((draft, notes))
}

/// A draft in the making.
struct Reader {
    draft: Draft,
    notes: BTreeSet<Note>,
}

impl Reader {
    fn note(&mut self, directive: &Directive, what: &str) {
        let text = format!("{}: {what}", directive.words.join(" "));
        self.notes.insert(Note { line: directive.line, text });
    }

    /// Names a directive nobody here knows, unless it may be passed over.
    fn pass(&mut self, directive: &Directive) {
        let name = directive.name();
        let known = PASSED_OVER.contains(&name)
            || (name == "proxy_set_header"
                && HEADERS_ANYWAY.contains(&directive.argument().to_ascii_lowercase().as_str()))
            || (name == "map"
                && directive.words.get(2).is_some_and(|to| to == "$connection_upgrade"));
        if !known {
            self.note(directive, "not understood, left out");
        }
    }

    fn top(&mut self, directives: &[Directive]) {
        let is_block = |directive: &&Directive| matches!(directive.name(), "http" | "stream");
        if directives.iter().find(is_block).is_none() {
            // A file of the folder conf.d has no http block around it.
            return self.http(directives, false);
        }
        for directive in directives {
            match directive.name() {
                "http" => self.http(&directive.block, false),
                "stream" => self.http(&directive.block, true),
                _ => self.pass(directive),
            }
        }
    }

    /// Pools first: servers may name them before they come.
    fn http(&mut self, directives: &[Directive], tcp: bool) {
        self.upstreams(directives);
        self.servers(directives, tcp);
    }
}
