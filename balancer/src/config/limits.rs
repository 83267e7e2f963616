//! The settings of limits and bans: as written, and checked.

use std::fs;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use holdfast_settings::duration;
use ipnet::IpNet;
use serde::Deserialize;

use super::check::{Checker, read_key};
use super::file::Mode;
use crate::limits::bans::{BanRules, IPV6_PREFIX};
use crate::limits::networks::{self, Networks};
use crate::limits::rate::Rate;
use crate::limits::{LimitRules, TokenRules};

/// Clients with something to remember at a time: those of a large site within a second, in 8 MiB.
const CLIENTS_MAX: usize = 65_536;
/// A shard of the table has to hold a few.
const CLIENTS_MAX_MIN: usize = 1_024;
/// 512 MiB, should all be in use.
const CLIENTS_MAX_MAX: usize = 4_194_304;
/// What a list of networks may have; as many networks as are taken fit.
const LIST_BYTES_MAX: u64 = 16 * 1_024 * 1_024;
/// A broken client that reconnects every few seconds stays below it, a scanner or flood does not.
const OFFENCES: u32 = 20;
const WITHIN: Duration = Duration::from_mins(1);
/// Ends an accident soon.
const FIRST: Duration = Duration::from_mins(1);
/// Addresses change hands within hours.
const LONGEST: Duration = Duration::from_hours(1);
/// A ban beyond this belongs into the `deny` list.
const LONGEST_MAX: Duration = Duration::from_hours(24 * 365);

/// `[listener.limits]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Limits {
    #[serde(default)]
    observe: bool,
    allow: Option<Vec<String>>,
    allow_file: Option<PathBuf>,
    deny: Option<Vec<String>>,
    deny_file: Option<PathBuf>,
    exempt: Option<Vec<String>>,
    exempt_file: Option<PathBuf>,
    #[serde(default = "ipv6_prefix")]
    ipv6_prefix: u8,
    #[serde(default = "clients_max")]
    clients_max: usize,
    connections: Option<u32>,
    connections_per_second: Option<f64>,
    connections_burst: Option<u32>,
    requests_per_second: Option<f64>,
    requests_burst: Option<u32>,
    token: Option<Token>,
    #[serde(default)]
    shared: bool,
}

/// `[listener.limits.token]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Token {
    key: String,
    requests_per_second: f64,
    requests_burst: Option<u32>,
}

/// `[bans]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Bans {
    #[serde(default)]
    observe: bool,
    #[serde(default = "offences")]
    offences: u32,
    #[serde(with = "duration", default = "within")]
    within: Duration,
    #[serde(with = "duration", default = "first")]
    first: Duration,
    #[serde(with = "duration", default = "longest")]
    longest: Duration,
    exempt: Option<Vec<String>>,
    exempt_file: Option<PathBuf>,
    #[serde(default = "ipv6_prefix")]
    ipv6_prefix: u8,
}

impl Checker<'_> {
    /// The limits under `key`.
    pub(super) fn limits(&mut self, key: &str, written: &Limits, mode: Mode) -> Arc<LimitRules> {
        let at = |name: &str| format!("{key}.{name}");
        let (inline, file) = (written.allow.as_deref(), written.allow_file.as_deref());
        let allow = self.networks(key, "allow", inline, file);
        let deny =
            self.networks(key, "deny", written.deny.as_deref(), written.deny_file.as_deref());
        let (inline, file) = (written.exempt.as_deref(), written.exempt_file.as_deref());
        let exempt = self.networks(key, "exempt", inline, file);
        self.prefix(at("ipv6_prefix"), written.ipv6_prefix);
        let clients = written.clients_max;
        self.require(
            at("clients_max"),
            (CLIENTS_MAX_MIN..=CLIENTS_MAX_MAX).contains(&clients),
            || format!("expected {CLIENTS_MAX_MIN} to {CLIENTS_MAX_MAX}, found {clients}"),
        );
        self.require(at("connections"), written.connections != Some(0), || {
            "expected at least 1, found 0".to_owned()
        });
        let connection_rate = self.limit_rate(
            key,
            "connections",
            written.connections_per_second,
            written.connections_burst,
        );
        let request_rate =
            self.limit_rate(key, "requests", written.requests_per_second, written.requests_burst);
        let of_requests = written.requests_per_second.is_some() || written.token.is_some();
        if mode == Mode::Tcp && of_requests {
            self.fault(at("requests_per_second"), "has no meaning with mode = \"tcp\"");
        }
        let token = written.token.as_ref().and_then(|token| {
            let key = at("token");
            let (per_second, burst) = (Some(token.requests_per_second), token.requests_burst);
            let rate = self.limit_rate(&key, "requests", per_second, burst);
            let part = read_key(&token.key);
            if part.is_none() {
                let expected = "expected \"header:NAME\", \"cookie:NAME\" or \"query:NAME\"";
                self.fault(format!("{key}.key"), format!("{expected}, found {:?}", token.key));
            }
            Some(TokenRules { key: part?, rate: rate? })
        });
        Arc::new(LimitRules {
            observe: written.observe,
            allow,
            deny: deny.unwrap_or_default(),
            exempt: exempt.unwrap_or_default(),
            ipv6_prefix: written.ipv6_prefix,
            clients_max: clients,
            connections: written.connections.and_then(NonZeroU32::new),
            connection_rate,
            request_rate,
            token,
            shared: written.shared,
        })
    }

    /// The rules of bans.
    pub(super) fn bans(&mut self, written: &Bans) -> BanRules {
        let (inline, file) = (written.exempt.as_deref(), written.exempt_file.as_deref());
        let exempt = self.networks("bans", "exempt", inline, file);
        self.prefix("bans.ipv6_prefix".to_owned(), written.ipv6_prefix);
        let offences = written.offences;
        self.require("bans.offences", (1..=Rate::BURST_MAX).contains(&offences), || {
            format!("expected 1 to {}, found {offences}", Rate::BURST_MAX)
        });
        self.positive("bans.within".to_owned(), written.within);
        self.positive("bans.first".to_owned(), written.first);
        let (first, longest) = (written.first, written.longest);
        self.require("bans.longest", (first..=LONGEST_MAX).contains(&longest), || {
            format!(
                "expected {} (bans.first) to {}, found {}",
                duration::format(first),
                duration::format(LONGEST_MAX),
                duration::format(longest)
            )
        });
        BanRules {
            observe: written.observe,
            offences: Rate::within(offences, written.within),
            first,
            longest,
            exempt: exempt.unwrap_or_default(),
            ipv6_prefix: written.ipv6_prefix,
        }
    }

    fn prefix(&mut self, key: String, prefix: u8) {
        self.require(key, (32..=128).contains(&prefix), || {
            format!("expected 32 to 128, found {prefix}")
        });
    }

    /// A rate named `what`, if there is one.
    fn limit_rate(
        &mut self,
        key: &str,
        what: &str,
        per_second: Option<f64>,
        burst: Option<u32>,
    ) -> Option<Rate> {
        let Some(per_second) = per_second else {
            self.require(format!("{key}.{what}_burst"), burst.is_none(), || {
                format!("needs {what}_per_second")
            });
            return None;
        };
        let known = (Rate::PER_SECOND_MIN..=Rate::PER_SECOND_MAX).contains(&per_second);
        self.require(format!("{key}.{what}_per_second"), known, || {
            let (min, max) = (Rate::PER_SECOND_MIN, Rate::PER_SECOND_MAX);
            format!("expected {min} to {max}, found {per_second}")
        });
        let burst = burst.unwrap_or_else(|| second(per_second));
        self.require(format!("{key}.{what}_burst"), (1..=Rate::BURST_MAX).contains(&burst), || {
            format!("expected 1 to {}, found {burst}", Rate::BURST_MAX)
        });
        Rate::try_new(per_second, burst)
    }

    /// The networks of a list and of a file; `None` if there is neither.
    fn networks(
        &mut self,
        key: &str,
        what: &str,
        inline: Option<&[String]>,
        file: Option<&Path>,
    ) -> Option<Networks> {
        if inline.is_none() && file.is_none() {
            return None;
        }
        let mut all: Vec<IpNet> = Vec::new();
        for (n, text) in inline.unwrap_or_default().iter().enumerate() {
            if let Some(net) = networks::parse(text) {
                all.push(net);
            } else {
                let expected = "expected an address or network such as \"10.0.0.0/8\"";
                self.fault(format!("{key}.{what}[{n}]"), format!("{expected}, found {text:?}"));
            }
        }
        if let Some(file) = file {
            match read_list(file) {
                Ok(networks) => all.extend(networks),
                Err(message) => self.fault(format!("{key}.{what}_file"), message),
            }
        }
        Some(all.into_iter().collect())
    }
}

fn read_list(file: &Path) -> Result<Vec<IpNet>, String> {
    let shown = file.display();
    let failed = |error| format!("{shown}: {error}");
    let bytes = fs::metadata(file).map_err(failed)?.len();
    if bytes > LIST_BYTES_MAX {
        return Err(format!("{shown}: expected at most {LIST_BYTES_MAX} bytes, found {bytes}"));
    }
    let text = fs::read_to_string(file).map_err(failed)?;
    networks::parse_list(&text).map_err(|(line, message)| format!("{shown}:{line}: {message}"))
}

/// What comes in a second, at least one.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the cast saturates, and what is too large is a fault"
)]
fn second(per_second: f64) -> u32 {
    per_second.ceil().max(1.0) as u32
}

/// What a household gets.
fn ipv6_prefix() -> u8 {
    IPV6_PREFIX
}
fn clients_max() -> usize {
    CLIENTS_MAX
}
fn offences() -> u32 {
    OFFENCES
}
fn within() -> Duration {
    WITHIN
}
fn first() -> Duration {
    FIRST
}
fn longest() -> Duration {
    LONGEST
}
