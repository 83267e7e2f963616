//! A draft as a settings file.

use std::fmt::Write as _;
use std::time::Duration;

use super::draft::{Agent, Check, Draft, Listener, Pool, Route, Server};

/// Writes what writing to a `String` cannot refuse.
macro_rules! line {
    ($out:expr, $($arguments:tt)*) => {
        writeln!($out, $($arguments)*).expect("a string takes everything")
    };
}

pub(super) fn toml(draft: &Draft) -> String {
    let mut out = String::new();
    line!(out, "[admin]");
    line!(out, "listen = \"127.0.0.1:9801\"");
    line!(out, "# A file with one line: the bearer token of the operator API.");
    line!(out, "token_file = \"/etc/holdfast/balancer.token\"");
    for each in &draft.listeners {
        listener(&mut out, each);
    }
    for each in &draft.pools {
        pool(&mut out, each);
    }
    out
}

fn listener(out: &mut String, listener: &Listener) {
    line!(out, "\n[[listener]]");
    text(out, "name", &listener.name);
    text(out, "listen", &listener.listen);
    if listener.tcp {
        text(out, "mode", "tcp");
    }
    text(out, "pool", &listener.pool);
    if !listener.trusted_proxies.is_empty() {
        list(out, "trusted_proxies", &listener.trusted_proxies);
    }
    if listener.proxy_protocol {
        line!(out, "proxy_protocol = true");
    }
    number(out, "max_connections", listener.connections_max);
    time(out, "header_timeout", listener.header_timeout);
    time(out, "idle_timeout", listener.idle_timeout);
    for each in &listener.routes {
        route(out, each);
    }
    for (chain, key) in &listener.certificates {
        line!(out, "[[listener.tls.certificate]]");
        text(out, "chain", chain);
        text(out, "key", key);
    }
}

fn route(out: &mut String, route: &Route) {
    line!(out, "[[listener.route]]");
    optional(out, "host", route.host.as_deref());
    optional(out, "path", route.path.as_deref());
    optional(out, "path_prefix", route.path_prefix.as_deref());
    if let Some((header, value)) = &route.header {
        text(out, "header", header);
        optional(out, "header_value", value.as_deref());
    }
    text(out, "pool", &route.pool);
}

fn pool(out: &mut String, pool: &Pool) {
    line!(out, "\n[[pool]]");
    text(out, "name", &pool.name);
    optional(out, "algorithm", pool.algorithm);
    optional(out, "hash_key", pool.hash_key.as_deref());
    optional(out, "sticky_cookie", pool.sticky_cookie.as_deref());
    optional(out, "send_proxy_protocol", pool.send_proxy);
    time(out, "connect_timeout", pool.connect_timeout);
    time(out, "response_timeout", pool.response_timeout);
    time(out, "queue_timeout", pool.queue_timeout);
    number(out, "max_fails", pool.fails_max);
    time(out, "fail_timeout", pool.fail_timeout);
    time(out, "slow_start", pool.slow_start);
    if let Some(max) = pool.servers_tried_max {
        line!(out, "[pool.retries]");
        line!(out, "max_servers = {max}");
    }
    if let Some(each) = &pool.check {
        check(out, each);
    }
    if let Some(Agent { interval }) = &pool.agent {
        line!(out, "[pool.agent_check]");
        time(out, "interval", *interval);
    }
    for each in &pool.servers {
        server(out, each);
    }
}

fn check(out: &mut String, check: &Check) {
    line!(out, "[pool.health_check]");
    text(out, "type", if check.http { "http" } else { "tcp" });
    optional(out, "path", check.path.as_deref());
    optional(out, "host", check.host.as_deref());
    if !check.status.is_empty() {
        list(out, "expect_status", &check.status);
    }
    optional(out, "expect_body", check.body.as_deref());
    number(out, "port", check.port.map(u32::from));
    time(out, "interval", check.interval);
    time(out, "timeout", check.timeout);
    number(out, "rise", check.rise);
    number(out, "fall", check.fall);
}

fn server(out: &mut String, server: &Server) {
    line!(out, "[[pool.server]]");
    text(out, "name", &server.name);
    text(out, "address", &server.address);
    number(out, "weight", server.weight);
    number(out, "max_connections", server.connections_max);
    number(out, "agent_port", server.agent_port.map(u32::from));
}

/// TOML's basic strings are escaped as Rust's debug form does for what can stand in these settings; the rest is given by its code.
fn quoted(value: &str) -> String {
    let mut out = String::from("\"");
    for c in value.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => {
                write!(out, "\\u{:04X}", u32::from(c)).expect("a string takes everything");
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn text(out: &mut String, key: &str, value: &str) {
    line!(out, "{key} = {}", quoted(value));
}

fn optional(out: &mut String, key: &str, value: Option<&str>) {
    if let Some(value) = value {
        text(out, key, value);
    }
}

fn list(out: &mut String, key: &str, values: &[String]) {
    let values: Vec<_> = values.iter().map(|value| quoted(value)).collect();
    line!(out, "{key} = [{}]", values.join(", "));
}

fn number(out: &mut String, key: &str, value: Option<u32>) {
    if let Some(value) = value {
        line!(out, "{key} = {value}");
    }
}

fn time(out: &mut String, key: &str, value: Option<Duration>) {
    if let Some(value) = value {
        text(out, key, &holdfast_settings::duration::format(value));
    }
}
