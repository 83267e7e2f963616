use std::path::Path as File;

use super::super::{Config, check, file};
use super::*;
use holdfast_settings::Faults;

fn load(routes: &str) -> Result<Config, Faults> {
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, "secret").unwrap();
    let pools: String =
        ["p", "a", "b"].map(|name| format!("[[pool]]\nname = \"{name}\"\n")).concat();
    let text = format!(
        "[admin]\nlisten = \"127.0.0.1:0\"\ntoken_file = \"{}\"\n[[listener]]\nname = \"l\"\n\
         listen = \"127.0.0.1:0\"\npool = \"p\"\n{routes}{pools}",
        token.display()
    );
    let (file, source) = holdfast_settings::parse::<file::File>(File::new("b.toml"), text)?;
    check::convert(file, &source)
}

fn route(lines: &str) -> String {
    format!("[[listener.route]]\n{}\n", lines.replace("; ", "\n"))
}

/// The pool that a request to `host` for `target` with these fields goes to.
fn pool_of(config: &Config, host: &str, target: &str, fields: &[(&str, &str)]) -> String {
    let fields: Vec<_> = fields
        .iter()
        .map(|(name, value)| httparse::Header { name, value: value.as_bytes() })
        .collect();
    let seen = Seen::new(host, target, &fields);
    let listener = &config.listeners[0];
    let route = listener.routes.iter().find(|route| route.matches(&seen));
    route.map_or(&listener.pool, |route| &route.pool).to_string()
}

#[test]
fn a_host_is_matched_whole_or_by_what_it_ends_in() {
    let exact = load(&route("host = \"Chat.Example\"; pool = \"a\"")).unwrap();
    let suffix = load(&route("host = \"*.chat.example\"; pool = \"a\"")).unwrap();
    for (host, in_exact, in_suffix) in [
        ("chat.example", "a", "p"),
        ("CHAT.example:8443", "a", "p"),
        ("x.chat.example", "p", "a"),
        ("y.x.Chat.Example:80", "p", "a"),
        ("xchat.example", "p", "p"),
        (".chat.example", "p", "p"),
        ("", "p", "p"),
    ] {
        assert_eq!(pool_of(&exact, host, "/", &[]), in_exact, "{host}");
        assert_eq!(pool_of(&suffix, host, "/", &[]), in_suffix, "{host}");
    }
}

#[test]
fn a_path_is_matched_whole_or_by_its_first_segments() {
    let exact = load(&route("path = \"/api\"; pool = \"a\"")).unwrap();
    let prefix = load(&route("path_prefix = \"/api\"; pool = \"a\"")).unwrap();
    let slash = load(&route("path_prefix = \"/api/\"; pool = \"a\"")).unwrap();
    for (target, in_exact, in_prefix, in_slash) in [
        ("/api", "a", "a", "p"),
        ("/api?x=/api/", "a", "a", "p"),
        ("/api/", "p", "a", "a"),
        ("/api/v1?x", "p", "a", "a"),
        ("/apix", "p", "p", "p"),
        ("/API", "p", "p", "p"),
        ("*", "p", "p", "p"),
    ] {
        assert_eq!(pool_of(&exact, "h", target, &[]), in_exact, "{target}");
        assert_eq!(pool_of(&prefix, "h", target, &[]), in_prefix, "{target}");
        assert_eq!(pool_of(&slash, "h", target, &[]), in_slash, "{target}");
    }
}

#[test]
fn a_header_is_there_or_has_a_value() {
    let there = load(&route("header = \"X-Canary\"; pool = \"a\"")).unwrap();
    let equal =
        load(&route("header = \"X-Canary\"; header_value = \"yes\"; pool = \"a\"")).unwrap();
    for (fields, in_there, in_equal) in [
        (&[][..], "p", "p"),
        (&[("x-canary", "no")], "a", "p"),
        (&[("x-canary", "no"), ("X-CANARY", "yes ")], "a", "a"),
        (&[("x-canaries", "yes")], "p", "p"),
    ] {
        assert_eq!(pool_of(&there, "h", "/", fields), in_there, "{fields:?}");
        assert_eq!(pool_of(&equal, "h", "/", fields), in_equal, "{fields:?}");
    }
}

#[test]
fn the_first_route_whose_every_condition_holds_is_taken() {
    let routes = route("host = \"h\"; path_prefix = \"/x\"; header = \"A\"; pool = \"a\"")
        + &route("host = \"h\"; path_prefix = \"/x\"; pool = \"b\"")
        + &route("path = \"/x\"; pool = \"a\"");
    let config = load(&routes).unwrap();
    assert_eq!(pool_of(&config, "h", "/x", &[("A", "")]), "a");
    assert_eq!(pool_of(&config, "h", "/x", &[]), "b");
    assert_eq!(pool_of(&config, "g", "/x", &[]), "a");
    assert_eq!(pool_of(&config, "g", "/x/y", &[("A", "")]), "p");
}

#[test]
fn what_can_never_be_taken_is_named() {
    for (first, second, covered) in [
        ("host = \"h\"", "host = \"H\"", true),
        ("host = \"*.h\"", "host = \"a.h\"", true),
        ("host = \"*.h\"", "host = \"*.b.h\"", true),
        ("host = \"*.b.h\"", "host = \"*.h\"", false),
        ("host = \"h\"", "path = \"/\"", false),
        ("path_prefix = \"/\"", "host = \"h\"; path = \"/a\"", true),
        ("path_prefix = \"/a/\"", "path_prefix = \"/a\"", false),
        ("path_prefix = \"/a\"", "path_prefix = \"/a/\"", true),
        ("path_prefix = \"/a\"", "path_prefix = \"/ab\"", false),
        ("header = \"X\"", "header = \"x\"; header_value = \"1\"", true),
        ("header = \"X\"; header_value = \"1\"", "header = \"X\"", false),
        ("host = \"h\"; path = \"/a\"", "host = \"h\"", false),
    ] {
        let routes =
            route(&format!("{first}; pool = \"a\"")) + &route(&format!("{second}; pool = \"b\""));
        let fault = load(&routes).err().map(|faults| faults.to_string()).unwrap_or_default();
        let expected = "listener[0].route[1]: is never taken: route[0] takes all it could take";
        assert_eq!(fault.contains(expected), covered, "{first} / {second}: {fault}");
        assert_eq!(fault.is_empty(), !covered, "{first} / {second}: {fault}");
    }
}

#[test]
fn faults_name_key_and_line() {
    for (written, expected) in [
        (
            "host = \"h\"; pool = \"q\"",
            "b.toml:10: listener[0].route[0].pool: there is no pool named",
        ),
        ("pool = \"a\"", "b.toml:9: listener[0].route[0].pool: expected host, path"),
        ("host = \"h:80\"; pool = \"a\"", "b.toml:9: listener[0].route[0].host: expected a host"),
        ("host = \"*h\"; pool = \"a\"", "listener[0].route[0].host: expected a host"),
        ("host = \"a.*.h\"; pool = \"a\"", "listener[0].route[0].host: expected a host"),
        ("path = \"x\"; pool = \"a\"", "listener[0].route[0].path: expected a path"),
        (
            "path_prefix = \"/x?y\"; pool = \"a\"",
            "listener[0].route[0].path_prefix: expected a path",
        ),
        (
            "path = \"/x\"; path_prefix = \"/x\"; pool = \"a\"",
            "expected either path or path_prefix",
        ),
        ("path = \"/\"; header_value = \"x\"; pool = \"a\"", "header_value: needs header"),
        ("header = \"a b\"; pool = \"a\"", "header: expected the name of a header"),
        ("hots = \"h\"; pool = \"a\"", "listener[0].route[0].hots: unknown field"),
    ] {
        let faults = load(&route(written)).unwrap_err().to_string();
        assert!(faults.contains(expected), "{written}: {faults}");
    }
    let tcp = format!("mode = \"tcp\"\n{}", route("host = \"h\"; pool = \"a\""));
    let faults = load(&tcp).unwrap_err().to_string();
    assert!(faults.contains("listener[0].route: has a meaning only with"), "{faults}");
}
