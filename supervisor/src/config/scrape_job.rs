//! `[[scrape.job]]`: targets of the operator's own, with the keys of Prometheus' `scrape_config` where they mean the same.

use std::collections::{BTreeMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use holdfast_series::is_label_name;
use holdfast_settings::duration;
use reqwest::{Certificate, Identity};
use serde::Deserialize;

use super::check::Checker;
use super::relabel;
use super::scrape::Scrape;
use crate::observe::relabel::Rule;
use crate::observe::scrape::{Login, Tls};

/// Jobs of the cluster's own parts, whose names are taken.
const TAKEN: [&str; 4] = ["supervisor", "chatnode", "balancer", "redis"];
/// Most jobs; each is a label value of our own metrics.
const JOBS_MAX: usize = 100;
/// Most names of a job; they are asked for one after the other.
const DNS_NAMES_MAX: usize = 20;
/// As in Prometheus; records live longer than that as a rule.
const DNS_REFRESH: Duration = Duration::from_secs(30);
/// A server that others ask too should not be asked more often, and targets are looked at no more often.
const DNS_REFRESH_LEAST: Duration = Duration::from_secs(5);

/// Targets that are scraped the same way.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is a setting of its own")]
pub struct ScrapeJob {
    /// The label `job` of its series.
    pub name: String,
    /// Changes when anything about the job changes.
    pub identity: u64,
    /// Time between two scrapes of a target.
    pub interval: Duration,
    /// A scrape that takes longer has failed; at most `interval`.
    pub timeout: Duration,
    /// A larger exposition is refused.
    pub body_bytes_max: usize,
    /// `http` or `https`.
    pub scheme: String,
    /// Path of the exposition.
    pub path: String,
    /// Query parameters.
    pub params: Vec<(String, String)>,
    /// `host:port` of each.
    pub targets: Vec<String>,
    /// Labels of all its targets.
    pub labels: BTreeMap<String, String>,
    /// Paths or glob patterns, absolute, of files that list targets.
    pub files: Vec<String>,
    /// Names that DNS has targets for.
    pub dns: Vec<DnsLookup>,
    /// TLS.
    pub tls: Tls,
    /// Login.
    pub login: Login,
    /// Labels of the exposition count before those of the target.
    pub honor_labels: bool,
    /// Timestamps of the exposition count.
    pub honor_timestamps: bool,
    /// Asked for in protobuf, which has native histograms.
    pub native_histograms: bool,
    /// Classic buckets are stored beside native ones.
    pub classic_histograms: bool,
    /// Most samples of a scrape.
    pub sample_limit: Option<usize>,
    /// Most labels of a series.
    pub label_limit: Option<usize>,
    /// Applied to targets.
    pub relabel: Vec<Rule>,
    /// Applied to samples.
    pub metric_relabel: Vec<Rule>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "each is a setting of its own")]
pub(super) struct Written {
    name: String,
    #[serde(default, with = "optional_duration")]
    interval: Option<Duration>,
    #[serde(default, with = "optional_duration")]
    timeout: Option<Duration>,
    body_bytes_max: Option<usize>,
    #[serde(default = "http")]
    scheme: String,
    #[serde(default = "metrics_path")]
    path: String,
    #[serde(default)]
    params: BTreeMap<String, String>,
    #[serde(default)]
    targets: Vec<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    file_sd: Vec<String>,
    #[serde(default)]
    dns_sd: Vec<WrittenDns>,
    #[serde(default)]
    tls: WrittenTls,
    username: Option<String>,
    password_file: Option<PathBuf>,
    bearer_token_file: Option<PathBuf>,
    #[serde(default)]
    honor_labels: bool,
    #[serde(default = "yes")]
    honor_timestamps: bool,
    #[serde(default)]
    scrape_native_histograms: bool,
    #[serde(default)]
    always_scrape_classic_histograms: bool,
    sample_limit: Option<usize>,
    label_limit: Option<usize>,
    #[serde(default)]
    relabel_configs: Vec<relabel::Written>,
    #[serde(default)]
    metric_relabel_configs: Vec<relabel::Written>,
}

/// Names to ask DNS for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DnsLookup {
    /// In full.
    pub names: Vec<String>,
    /// Which records.
    pub record: DnsRecord,
    /// The port of targets that come without one.
    pub port: u16,
    /// Who is asked; by default the system's servers.
    pub server: Option<SocketAddr>,
    /// How often.
    pub refresh: Duration,
}

/// A kind of DNS records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum DnsRecord {
    /// Hosts and ports.
    #[default]
    Srv,
    /// Hosts by IPv4 address.
    A,
    /// Hosts by IPv6 address.
    Aaaa,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenDns {
    names: Vec<String>,
    #[serde(default, rename = "type")]
    record: DnsRecord,
    port: Option<u16>,
    server: Option<SocketAddr>,
    #[serde(default = "dns_refresh", with = "duration")]
    refresh: Duration,
}

fn dns_refresh() -> Duration {
    DNS_REFRESH
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct WrittenTls {
    ca_file: Option<PathBuf>,
    cert_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
    server_name: Option<String>,
}

/// A duration that may be absent.
mod optional_duration {
    use super::{Deserialize, Duration, duration};

    #[derive(Deserialize)]
    struct Wrapped(#[serde(with = "duration")] Duration);

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        Wrapped::deserialize(deserializer).map(|wrapped| Some(wrapped.0))
    }
}

fn http() -> String {
    "http".to_owned()
}

fn metrics_path() -> String {
    "/metrics".to_owned()
}

fn yes() -> bool {
    true
}

impl Checker<'_> {
    /// Jobs without faults; the faults of the others are added.
    pub(super) fn scrape_jobs(
        &mut self,
        written: Vec<Written>,
        defaults: &Scrape,
    ) -> Vec<Arc<ScrapeJob>> {
        let message = format!("expected at most {JOBS_MAX}, found {}", written.len());
        self.require(written.len() <= JOBS_MAX, "scrape.job", message);
        let mut names = HashSet::new();
        let mut jobs = Vec::new();
        for (index, job) in written.into_iter().enumerate() {
            let key = format!("scrape.job[{index}]");
            self.name(&format!("{key}.name"), &job.name);
            if !names.insert(job.name.clone()) || TAKEN.contains(&job.name.as_str()) {
                self.fault(format!("{key}.name"), format!("the job {:?} exists already", job.name));
            }
            jobs.extend(self.scrape_job(&key, job, defaults).map(Arc::new));
        }
        jobs
    }

    fn scrape_job(&mut self, key: &str, written: Written, defaults: &Scrape) -> Option<ScrapeJob> {
        let key = |name: &str| format!("{key}.{name}");
        let mut identity = DefaultHasher::new();
        format!("{written:?}").hash(&mut identity);
        let interval = written.interval.unwrap_or(defaults.interval);
        let timeout = written.timeout.unwrap_or_else(|| defaults.timeout.min(interval));
        self.require(
            (Duration::from_millis(100)..=Duration::from_hours(1)).contains(&interval),
            &key("interval"),
            "expected 100ms to 1h",
        );
        self.require(
            !timeout.is_zero() && timeout <= interval,
            &key("timeout"),
            "expected more than 0 and at most the interval",
        );
        self.require(
            ["http", "https"].contains(&written.scheme.as_str()),
            &key("scheme"),
            format!("expected http or https, found {:?}", written.scheme),
        );
        self.require(
            written.path.starts_with('/'),
            &key("path"),
            format!("expected a path that starts with /, found {:?}", written.path),
        );
        self.require(
            !written.targets.is_empty()
                || !written.file_sd.is_empty()
                || !written.dns_sd.is_empty(),
            &key("targets"),
            "expected targets, file_sd or dns_sd",
        );
        for name in written.labels.keys() {
            let message = format!("expected a label name, found {name:?}");
            self.require(is_label_name(name), &key("labels"), message);
        }
        for (name, limit) in
            [("sample_limit", written.sample_limit), ("label_limit", written.label_limit)]
        {
            self.require(limit != Some(0), &key(name), "expected a number above 0");
        }
        let mut files = Vec::new();
        for pattern in written.file_sd {
            let absolute = self.path(PathBuf::from(&pattern)).to_string_lossy().into_owned();
            if let Err(error) = glob::Pattern::new(&absolute) {
                self.fault(key("file_sd"), format!("{pattern:?}: {error}"));
            }
            files.push(absolute);
        }
        let dns = self.scrape_dns(&key("dns_sd"), written.dns_sd);
        let relabel = self.relabel(&key("relabel_configs"), written.relabel_configs);
        let metric_relabel =
            self.relabel(&key("metric_relabel_configs"), written.metric_relabel_configs);
        let tls = self.scrape_tls(&key("tls"), written.tls, &mut identity);
        let password = self.optional_secret(&key("password_file"), written.password_file);
        let bearer = self.optional_secret(&key("bearer_token_file"), written.bearer_token_file);
        let login = match (written.username, password.ok()?, bearer.ok()?) {
            (None, None, None) => Login::None,
            (Some(user), Some(password), None) => {
                password.expose().hash(&mut identity);
                Login::Basic(user, password)
            }
            (None, None, Some(token)) => {
                token.expose().hash(&mut identity);
                Login::Bearer(token)
            }
            _ => {
                let expected = "expected username with password_file, or bearer_token_file alone";
                self.fault(key("username"), expected);
                return None;
            }
        };
        Some(ScrapeJob {
            name: written.name,
            identity: identity.finish(),
            interval,
            timeout,
            body_bytes_max: written.body_bytes_max.unwrap_or(defaults.body_bytes_max),
            scheme: written.scheme,
            path: written.path,
            params: written.params.into_iter().collect(),
            targets: written.targets,
            labels: written.labels,
            files,
            dns,
            tls: tls?,
            login,
            honor_labels: written.honor_labels,
            honor_timestamps: written.honor_timestamps,
            native_histograms: written.scrape_native_histograms,
            classic_histograms: written.always_scrape_classic_histograms,
            sample_limit: written.sample_limit,
            label_limit: written.label_limit,
            relabel,
            metric_relabel,
        })
    }

    fn scrape_dns(&mut self, key: &str, written: Vec<WrittenDns>) -> Vec<DnsLookup> {
        let names: usize = written.iter().map(|lookup| lookup.names.len()).sum();
        let message = format!("expected at most {DNS_NAMES_MAX} names, found {names}");
        self.require(names <= DNS_NAMES_MAX, key, message);
        let mut lookups = Vec::new();
        for (index, lookup) in written.into_iter().enumerate() {
            let key = |name: &str| format!("{key}[{index}].{name}");
            self.require(!lookup.names.is_empty(), &key("names"), "expected a name");
            let needs_port = lookup.record != DnsRecord::Srv;
            let message =
                "expected a port with type A or AAAA, and none with SRV, whose records have it";
            self.require(needs_port == lookup.port.is_some(), &key("port"), message);
            self.require(
                lookup.refresh >= DNS_REFRESH_LEAST,
                &key("refresh"),
                format!("expected at least {DNS_REFRESH_LEAST:?}"),
            );
            lookups.push(DnsLookup {
                names: lookup.names,
                record: lookup.record,
                port: lookup.port.unwrap_or_default(),
                server: lookup.server,
                refresh: lookup.refresh,
            });
        }
        lookups
    }

    fn scrape_tls(
        &mut self,
        key: &str,
        written: WrittenTls,
        identity: &mut DefaultHasher,
    ) -> Option<Tls> {
        let mut read = |name: &str, path: &Path| {
            let path = self.path(path.to_owned());
            let bytes = std::fs::read(&path);
            let message = |error| format!("cannot read {}: {error}", path.display());
            let bytes = bytes.map_err(|error| self.fault(format!("{key}.{name}"), message(error)));
            bytes.inspect(|bytes| bytes.hash(identity)).ok()
        };
        let authorities = match &written.ca_file {
            Some(path) => Some(read("ca_file", path)?),
            None => None,
        };
        let own = match (&written.cert_file, &written.key_file) {
            (Some(cert), Some(private)) => {
                let mut pem = read("cert_file", cert)?;
                pem.extend(read("key_file", private)?);
                Some(pem)
            }
            (None, None) => None,
            _ => {
                self.fault(format!("{key}.cert_file"), "expected cert_file and key_file together");
                return None;
            }
        };
        let authorities = authorities.map(|pem| Certificate::from_pem_bundle(&pem)).transpose();
        if let Err(error) = &authorities {
            self.fault(format!("{key}.ca_file"), format!("expected certificates as PEM: {error}"));
        }
        let own = own.map(|pem| Identity::from_pem(&pem)).transpose();
        if let Err(error) = &own {
            let message = format!("expected a certificate and a key as PEM: {error}");
            self.fault(format!("{key}.cert_file"), message);
        }
        let (authorities, identity) = (authorities.ok()?, own.ok()?);
        Some(Tls { authorities, identity, server_name: written.server_name })
    }
}

#[cfg(test)]
impl ScrapeJob {
    /// A job with nothing special about it.
    pub(crate) fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            identity: 0,
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            body_bytes_max: 1 << 20,
            scheme: http(),
            path: metrics_path(),
            params: Vec::new(),
            targets: Vec::new(),
            labels: BTreeMap::new(),
            files: Vec::new(),
            dns: Vec::new(),
            tls: Tls::default(),
            login: Login::None,
            honor_labels: false,
            honor_timestamps: true,
            native_histograms: false,
            classic_histograms: false,
            sample_limit: None,
            label_limit: None,
            relabel: Vec::new(),
            metric_relabel: Vec::new(),
        }
    }
}
