//! Routes: which pool serves a request, by host, path and header.
//!
//! The first route of a listener whose every condition holds is taken; without one the listener's own pool serves. Order decides, as in
//! the file, because whoever reads the file can follow it with a finger; rejected was a ranking by how exact a route is, which nobody can.
//! A path counts as the client wrote it: nothing is decoded or put in order, for a server might do that in another way than we.

use std::sync::Arc;

use serde::Deserialize;

use super::PoolConfig;
use super::check::{Checker, is_field_name};
use crate::message::choice::Seen;

/// They are tried in turn for each request.
const ROUTES_MAX: usize = 256;

/// As written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Route {
    pub host: Option<String>,
    pub path: Option<String>,
    pub path_prefix: Option<String>,
    pub header: Option<String>,
    pub header_value: Option<String>,
    pub pool: String,
}

/// A pool, and what a request has to be like to be served by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteConfig {
    host: Option<Host>,
    path: Option<Path>,
    header: Option<Header>,
    /// Pool that serves it.
    pub pool: Arc<str>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Host {
    Exact(Box<str>),
    /// Begins with a dot: whatever has at least one more label in front.
    Suffix(Box<str>),
}

impl Host {
    fn matches(&self, host: &str) -> bool {
        match self {
            Self::Exact(name) => name.eq_ignore_ascii_case(host),
            Self::Suffix(suffix) => {
                let (host, suffix) = (host.as_bytes(), suffix.as_bytes());
                host.len() > suffix.len()
                    && host[host.len() - suffix.len()..].eq_ignore_ascii_case(suffix)
            }
        }
    }

    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (_, Self::Exact(name)) => self.matches(name),
            (Self::Suffix(suffix), Self::Suffix(other)) => suffix == other || self.matches(other),
            (Self::Exact(_), Self::Suffix(_)) => false,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Path {
    Exact(Box<str>),
    /// Whole segments: `/api` is a prefix of `/api` and `/api/x`, not of `/apix`.
    Prefix(Box<str>),
}

impl Path {
    fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => **exact == *path,
            Self::Prefix(prefix) => path.strip_prefix(&**prefix).is_some_and(|rest| {
                rest.is_empty() || prefix.ends_with('/') || rest.starts_with('/')
            }),
        }
    }

    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (_, Self::Exact(path)) | (Self::Prefix(_), Self::Prefix(path)) => self.matches(path),
            (Self::Exact(_), Self::Prefix(_)) => false,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Header {
    name: Box<str>,
    /// `None`: it has to be there.
    value: Option<Box<str>>,
}

impl Header {
    fn matches(&self, seen: &Seen<'_>) -> bool {
        seen.values(&self.name).any(|value| {
            self.value.as_ref().is_none_or(|wanted| wanted.as_bytes() == value.trim_ascii())
        })
    }

    fn covers(&self, other: &Self) -> bool {
        self.name.eq_ignore_ascii_case(&other.name)
            && (self.value.is_none() || self.value == other.value)
    }
}

impl RouteConfig {
    /// Whether a request goes this way, if none of the routes before has taken it.
    pub fn matches(&self, seen: &Seen<'_>) -> bool {
        self.host.as_ref().is_none_or(|host| host.matches(seen.host()))
            && self.path.as_ref().is_none_or(|path| path.matches(seen.path()))
            && self.header.as_ref().is_none_or(|header| header.matches(seen))
    }

    /// Whether it takes whatever `other` would take.
    fn covers(&self, other: &Self) -> bool {
        fn wider<T>(mine: Option<&T>, theirs: Option<&T>, covers: fn(&T, &T) -> bool) -> bool {
            match (mine, theirs) {
                (None, _) => true,
                (Some(mine), Some(theirs)) => covers(mine, theirs),
                (Some(_), None) => false,
            }
        }
        wider(self.host.as_ref(), other.host.as_ref(), Host::covers)
            && wider(self.path.as_ref(), other.path.as_ref(), Path::covers)
            && wider(self.header.as_ref(), other.header.as_ref(), Header::covers)
    }
}

/// Checks the routes of the listener at `key`.
pub(super) fn convert(
    checker: &mut Checker<'_>,
    key: &str,
    written: &[Route],
    pools: &[PoolConfig],
) -> Vec<RouteConfig> {
    checker.require(format!("{key}.route"), written.len() <= ROUTES_MAX, || {
        format!("expected at most {ROUTES_MAX}, found {}", written.len())
    });
    let mut routes: Vec<RouteConfig> = Vec::with_capacity(written.len());
    for (n, route) in written.iter().enumerate() {
        let at = |name: &str| format!("{key}.route[{n}].{name}");
        checker.require(at("pool"), pools.iter().any(|pool| *pool.name == *route.pool), || {
            format!("there is no pool named {:?}", route.pool)
        });
        let new = RouteConfig {
            host: route.host.as_ref().map(|text| host(checker, at("host"), text)),
            path: path(checker, &at, route),
            header: header(checker, &at, route),
            pool: route.pool.as_str().into(),
        };
        if new.host.is_none() && new.path.is_none() && new.header.is_none() {
            let message = "expected host, path, path_prefix or header; the listener's own pool \
                           serves what no route takes";
            checker.fault(at("pool"), message);
        } else if let Some(earlier) = routes.iter().position(|route| route.covers(&new)) {
            let message = format!("is never taken: route[{earlier}] takes all it could take");
            checker.fault(format!("{key}.route[{n}]"), message);
        }
        routes.push(new);
    }
    routes
}

fn host(checker: &mut Checker<'_>, at: String, text: &str) -> Host {
    let name = text.strip_prefix('*').unwrap_or(text);
    let labels = name.strip_prefix('.').filter(|_| name.len() < text.len()).unwrap_or(name);
    let is_address = labels.starts_with('[') && labels.ends_with(']') && labels == text;
    let is_valid = is_address
        || (!labels.is_empty()
            && !labels.starts_with('.')
            && labels.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)));
    let is_valid = is_valid && (name.len() == text.len() || name.starts_with('.'));
    checker.require(at, is_valid, || {
        format!(
            "expected a host without port such as \"a.example\" or \"*.a.example\", found {text:?}"
        )
    });
    if name.len() < text.len() { Host::Suffix(name.into()) } else { Host::Exact(name.into()) }
}

fn path(checker: &mut Checker<'_>, at: &impl Fn(&str) -> String, route: &Route) -> Option<Path> {
    let (key, text, is_prefix) = match (&route.path, &route.path_prefix) {
        (None, None) => return None,
        (Some(_), Some(_)) => {
            checker.fault(at("path_prefix"), "expected either path or path_prefix");
            return None;
        }
        (Some(path), None) => ("path", path, false),
        (None, Some(prefix)) => ("path_prefix", prefix, true),
    };
    let is_valid = text.starts_with('/')
        && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'?' && byte != b'#');
    checker.require(at(key), is_valid, || {
        format!("expected a path that begins with '/' and has no query, found {text:?}")
    });
    let text = text.as_str().into();
    Some(if is_prefix { Path::Prefix(text) } else { Path::Exact(text) })
}

fn header(
    checker: &mut Checker<'_>,
    at: &impl Fn(&str) -> String,
    route: &Route,
) -> Option<Header> {
    let Some(name) = &route.header else {
        checker.require(at("header_value"), route.header_value.is_none(), || {
            "needs header".to_owned()
        });
        return None;
    };
    checker.require(at("header"), is_field_name(name), || {
        format!("expected the name of a header, found {name:?}")
    });
    Some(Header {
        name: name.as_str().into(),
        value: route.header_value.as_deref().map(Into::into),
    })
}

#[cfg(test)]
mod tests;
