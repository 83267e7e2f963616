//! What is asked of servers and of their agents: as written, and as the checks use it.

use std::num::NonZeroU16;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use holdfast_settings::duration;
use serde::Deserialize;

use super::check::Checker;

/// Checks more frequent than this cost more than they tell.
const INTERVAL_MIN: Duration = Duration::from_millis(10);
/// A second of outage at most with the default `fall`.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);
/// Less than the interval, so that checks of one server never overlap.
const CHECK_TIMEOUT: Duration = Duration::from_millis(400);
/// Two in a row, so that one lost packet is no outage.
const CHECK_STREAK: u32 = 2;
/// How much earlier or later than the interval a check comes, as a share of it, so that the checks of many balancers drift apart.
const CHECK_JITTER: f64 = 0.1;
/// Beyond half an interval either way, an interval would no longer say much.
const JITTER_MAX: f64 = 0.5;
/// A node changes its mind about its own weight slowly.
const AGENT_INTERVAL: Duration = Duration::from_secs(2);
/// An agent says a word it knows already.
const AGENT_TIMEOUT: Duration = Duration::from_secs(1);
/// Text looked for in an answer; a longer one is a test of the content, not of the server.
const BODY_BYTES_MAX: usize = 256;
/// Statuses that pass unless the file says otherwise.
const STATUS: RangeInclusive<u16> = 200..=399;
/// Ranges of statuses; there are no more classes than these.
const STATUS_RANGES_MAX: usize = 16;

/// What a health check speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum CheckType {
    /// `GET path` answered as expected.
    Http,
    /// A WebSocket that opens at `path`.
    WebSocket,
    /// A connection that is accepted.
    Tcp,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HealthCheck {
    #[serde(rename = "type")]
    pub kind: CheckType,
    pub path: Option<String>,
    pub host: Option<String>,
    #[serde(default)]
    pub expect_status: Vec<String>,
    pub expect_body: Option<String>,
    pub port: Option<NonZeroU16>,
    pub tls: Option<bool>,
    #[serde(with = "duration", default = "check_interval")]
    pub interval: Duration,
    #[serde(with = "duration", default = "check_timeout")]
    pub timeout: Duration,
    #[serde(default = "check_jitter")]
    pub jitter: f64,
    #[serde(default = "check_streak")]
    pub rise: u32,
    #[serde(default = "check_streak")]
    pub fall: u32,
}

/// What an agent speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum AgentType {
    /// A line, after which it closes.
    Tcp,
    /// The body of the answer to `GET path`.
    Http,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AgentCheck {
    #[serde(rename = "type", default = "agent_type")]
    pub kind: AgentType,
    pub port: Option<NonZeroU16>,
    pub path: Option<String>,
    pub tls: Option<bool>,
    #[serde(with = "duration", default = "agent_interval")]
    pub interval: Duration,
    #[serde(with = "duration", default = "agent_timeout")]
    pub timeout: Duration,
}

/// Active health checks.
#[derive(Debug, Clone, PartialEq)]
pub struct CheckRules {
    /// What is asked.
    pub kind: CheckKind,
    /// Where, if not at the server's own port.
    pub port: Option<NonZeroU16>,
    /// Whether the pool's TLS is spoken, if it has any.
    pub tls: bool,
    /// Time between two checks of a server.
    pub interval: Duration,
    /// Time for one check.
    pub timeout: Duration,
    /// How much earlier or later than the interval a check comes, as a share of it.
    pub jitter: f64,
    /// Passes in a row that bring a server up.
    pub rise: u32,
    /// Failures in a row that take it down.
    pub fall: u32,
}

/// What a check asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckKind {
    /// `GET`, and an answer as expected.
    Http(Question, Expected),
    /// A WebSocket that opens.
    WebSocket(Question),
    /// A connection.
    Tcp,
}

/// What is asked for over HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The path, with a query if it has one.
    pub path: Arc<str>,
    /// The `Host`; the server's address if there is none.
    pub host: Option<Arc<str>>,
}

/// What passes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// Its status is in one of these.
    pub status: Box<[RangeInclusive<u16>]>,
    /// And this stands in the first part of its body.
    pub body: Option<Box<str>>,
}

/// Where the node says itself how much it can take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentRules {
    /// The path to ask for over HTTP; `None` for a line over TCP.
    pub path: Option<Arc<str>>,
    /// Where, if not at the server's own port.
    pub port: Option<NonZeroU16>,
    /// Whether the pool's TLS is spoken, if it has any.
    pub tls: bool,
    /// Time between two questions.
    pub interval: Duration,
    /// Time for one.
    pub timeout: Duration,
}

/// What one server has otherwise than its pool.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckPlace {
    /// Port of the health check.
    pub port: Option<NonZeroU16>,
    /// Path of the health check.
    pub path: Option<Arc<str>>,
    /// Port of the agent.
    pub agent_port: Option<NonZeroU16>,
}

impl Checker<'_> {
    pub(super) fn health_check(
        &mut self,
        at: &str,
        written: &HealthCheck,
        pool_has_tls: bool,
    ) -> CheckRules {
        let key = |key: &str| format!("{at}.{key}");
        if written.kind != CheckType::Http {
            let named = [
                ("expect_status", !written.expect_status.is_empty()),
                ("expect_body", written.expect_body.is_some()),
            ];
            for (name, _) in named.into_iter().filter(|(_, given)| *given) {
                self.fault(key(name), "has a meaning only with type = \"http\"");
            }
        }
        let kind = match written.kind {
            CheckType::Http => {
                CheckKind::Http(self.question(at, written), self.expected(at, written))
            }
            CheckType::WebSocket => CheckKind::WebSocket(self.question(at, written)),
            CheckType::Tcp => {
                let named = [("path", written.path.is_some()), ("host", written.host.is_some())];
                for (name, _) in named.into_iter().filter(|(_, given)| *given) {
                    self.fault(key(name), "has no meaning with type = \"tcp\"");
                }
                CheckKind::Tcp
            }
        };
        self.times(at, written.interval, written.timeout);
        self.require(key("jitter"), (0.0..=JITTER_MAX).contains(&written.jitter), || {
            format!("expected 0 to {JITTER_MAX}, found {}", written.jitter)
        });
        for (name, value) in [("rise", written.rise), ("fall", written.fall)] {
            self.require(key(name), value > 0, || "expected at least 1, found 0".to_owned());
        }
        self.require(key("tls"), written.tls != Some(true) || pool_has_tls, || {
            "needs [pool.tls]: whom to trust".to_owned()
        });
        CheckRules {
            kind,
            port: written.port,
            tls: written.tls.unwrap_or(true),
            interval: written.interval,
            timeout: written.timeout,
            jitter: written.jitter,
            rise: written.rise,
            fall: written.fall,
        }
    }

    pub(super) fn agent_check(
        &mut self,
        at: &str,
        written: &AgentCheck,
        pool_has_tls: bool,
    ) -> AgentRules {
        self.times(at, written.interval, written.timeout);
        self.require(format!("{at}.tls"), written.tls != Some(true) || pool_has_tls, || {
            "needs [pool.tls]: whom to trust".to_owned()
        });
        let path = match (written.kind, &written.path) {
            (AgentType::Http, path) => Some(self.path(format!("{at}.path"), path.as_deref())),
            (AgentType::Tcp, None) => None,
            (AgentType::Tcp, Some(_)) => {
                self.fault(format!("{at}.path"), "has no meaning with type = \"tcp\"");
                None
            }
        };
        let AgentCheck { port, interval, timeout, .. } = *written;
        AgentRules { path, port, tls: written.tls.unwrap_or(true), interval, timeout }
    }

    /// A path a server is asked for; the root without one.
    pub(super) fn path(&mut self, key: String, path: Option<&str>) -> Arc<str> {
        let path = path.unwrap_or("/");
        let valid = path.starts_with('/') && path.bytes().all(|b| b.is_ascii_graphic());
        self.require(key, valid, || {
            format!("expected a path that begins with '/', found {path:?}")
        });
        path.into()
    }

    fn times(&mut self, at: &str, interval: Duration, timeout: Duration) {
        self.require(format!("{at}.interval"), interval >= INTERVAL_MIN, || {
            "expected at least \"10ms\"".to_owned()
        });
        self.positive(format!("{at}.timeout"), timeout);
    }

    fn question(&mut self, at: &str, written: &HealthCheck) -> Question {
        let path = self.path(format!("{at}.path"), written.path.as_deref());
        if let Some(host) = &written.host {
            let valid = !host.is_empty() && host.bytes().all(|b| b.is_ascii_graphic());
            self.require(format!("{at}.host"), valid, || {
                format!("expected a host with or without a port, found {host:?}")
            });
        }
        Question { path, host: written.host.as_deref().map(Arc::from) }
    }

    fn expected(&mut self, at: &str, written: &HealthCheck) -> Expected {
        let mut status = Vec::with_capacity(written.expect_status.len());
        for (n, text) in written.expect_status.iter().enumerate() {
            match statuses(text) {
                Some(range) => status.push(range),
                None => self.fault(
                    format!("{at}.expect_status[{n}]"),
                    format!("expected a status or a range such as \"200-299\", found {text:?}"),
                ),
            }
        }
        self.require(format!("{at}.expect_status"), status.len() <= STATUS_RANGES_MAX, || {
            format!("expected at most {STATUS_RANGES_MAX} ranges, found {}", status.len())
        });
        if status.is_empty() {
            status.push(STATUS);
        }
        if let Some(body) = &written.expect_body {
            let length = body.len();
            self.require(
                format!("{at}.expect_body"),
                (1..=BODY_BYTES_MAX).contains(&length),
                || format!("expected 1 to {BODY_BYTES_MAX} bytes, found {length}"),
            );
        }
        let body = written.expect_body.as_deref().map(Box::from);
        Expected { status: status.into(), body }
    }
}

/// `"204"` or `"200-299"`.
fn statuses(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let number = |text: &str| {
        let status: u16 = text.trim().parse().ok()?;
        (100..=599).contains(&status).then_some(status)
    };
    let (first, last) = (number(first)?, number(last)?);
    (first <= last).then_some(first..=last)
}

fn check_interval() -> Duration {
    CHECK_INTERVAL
}
fn check_timeout() -> Duration {
    CHECK_TIMEOUT
}
fn check_jitter() -> f64 {
    CHECK_JITTER
}
fn check_streak() -> u32 {
    CHECK_STREAK
}
/// What HAProxy's agents speak.
fn agent_type() -> AgentType {
    AgentType::Tcp
}
fn agent_interval() -> Duration {
    AGENT_INTERVAL
}
fn agent_timeout() -> Duration {
    AGENT_TIMEOUT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_a_number_or_a_range() {
        for (text, expected) in [
            ("204", Some(204..=204)),
            ("200-299", Some(200..=299)),
            ("200 - 204", Some(200..=204)),
            ("299-200", None),
            ("2xx", None),
            ("99", None),
            ("600", None),
            ("-200", None),
            ("", None),
        ] {
            assert_eq!(statuses(text), expected, "{text}");
        }
    }
}
