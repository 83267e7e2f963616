//! Settings of Redis: each primary, its replicas, and who may follow whom. One is written as `[redis]`, several as `[[redis]]`.

mod manager;

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use holdfast_psync::{Credentials, Endpoint, Tls};
use holdfast_settings::tls::ClientSection;
use holdfast_settings::{Secret, duration};
use serde::Deserialize;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};

use super::check::Checker;
use super::redis_control::{
    Hook, Restart, Synchronous, WrittenHook, WrittenRestart, WrittenSynchronous,
};
use crate::cluster::{Address, Manager};
use crate::observe::redis::Login;
use crate::plan::failover::{self, Standing};

pub use manager::Sentinels;

/// Servers of one primary; each is probed ten times a second.
const SERVERS_MAX: usize = 16;

/// Primaries that one supervisor looks after; each has its own controller and its own connections.
const PRIMARIES_MAX: usize = 32;

/// Longest silence that a running supervisor can be told to bear: whoever wants more pauses it.
const HANG_AFTER_MAX: Duration = Duration::from_hours(1);

/// A Redis primary with its replicas.
#[derive(Debug, Clone)]
pub struct Redis {
    /// Name under which clients ask for the primary.
    pub name: String,
    /// All of them, whichever is the primary now. Never empty.
    pub servers: Vec<RedisServer>,
    /// ACL user; `None`: the default user.
    pub username: Option<String>,
    /// Its password.
    pub password: Option<Secret>,
    /// Who changes roles.
    pub manager: Manager,
    /// The Sentinels, if they do; never empty then.
    pub sentinels: Option<Sentinels>,
    /// How to encrypt; `None`: not at all.
    pub tls: Option<Tls>,
    /// Time between two probes of a server.
    pub probe_interval: Duration,
    /// A probe without an answer for this long has failed.
    pub probe_timeout: Duration,
    /// A primary that is connected but silent this long, with its replicas' offsets frozen, is down.
    pub hang_after: Duration,
    /// No second automatic failover within this time, unless death is proven.
    pub failover_cooldown: Duration,
    /// No automatic failover if it would lose more than this; `None`: whatever it loses.
    pub loss_bytes_max: Option<u64>,
    /// An automatic failover waits for an operator's approval, at most this long; `None`: it does not wait.
    pub approval: Option<Duration>,
    /// Programs that are told or asked.
    pub hooks: Vec<Hook>,
    /// The managed synchronous mode; `None`: `min-replicas-to-write` is left as it is.
    pub synchronous: Option<Synchronous>,
    /// How servers are restarted on order; `None`: not at all.
    pub restart: Option<Restart>,
}

/// What is expected of a limit for silence.
const LONG_ENOUGH: &str = "expected at least probe_timeout and twice probe_interval";

fn is_long_enough(hang_after: Duration, probe_timeout: Duration, probe_interval: Duration) -> bool {
    hang_after >= probe_timeout && hang_after >= 2 * probe_interval
}

impl Redis {
    /// Has silence count after another time.
    ///
    /// # Errors
    /// What is expected of it, as a sentence.
    pub fn set_hang_after(&mut self, to: Duration) -> Result<(), String> {
        if !is_long_enough(to, self.probe_timeout, self.probe_interval) || to > HANG_AFTER_MAX {
            let milliseconds = to.as_millis();
            return Err(format!("{LONG_ENOUGH}, and at most an hour; found {milliseconds} ms"));
        }
        self.hang_after = to;
        Ok(())
    }

    /// How to log in, if that is asked for.
    pub fn login(&self) -> Option<Login> {
        let login = |password| Login { username: self.username.clone(), password };
        self.password.clone().map(login)
    }

    /// A server for a connection of its own, as whom and how the settings say.
    pub fn endpoint(&self, address: &Address) -> Endpoint {
        let credentials = self.password.as_ref().map(|password| Credentials {
            username: self.username.clone(),
            password: password.expose().to_owned(),
        });
        let mut endpoint = Endpoint::new(holdfast_psync::Address::Tcp(address.to_string()));
        endpoint.tls.clone_from(&self.tls);
        endpoint.with_credentials(credentials)
    }
}

/// One Redis server.
#[derive(Debug, Clone)]
pub struct RedisServer {
    /// Where it is.
    pub address: Address,
    /// Its process id is there, if it runs on this host.
    pub pid_file: Option<PathBuf>,
    /// What speaks for and against it as a primary.
    pub standing: Standing,
}

/// The sections as written, each with its key.
#[derive(Debug, Default)]
pub(super) struct Sections(Vec<(String, Written)>);

impl<'de> Deserialize<'de> for Sections {
    // Rejected: an untagged enum, whose errors name neither key nor line.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SectionsVisitor)
    }
}

struct SectionsVisitor;

impl<'de> Visitor<'de> for SectionsVisitor {
    type Value = Sections;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a section [redis], or several [[redis]]")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Sections, A::Error> {
        let only = Written::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Sections(vec![("redis".to_owned(), only)]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Sections, A::Error> {
        let all = Vec::<Written>::deserialize(SeqAccessDeserializer::new(seq))?;
        let keyed = all.into_iter().enumerate();
        Ok(Sections(keyed.map(|(index, one)| (format!("redis[{index}]"), one)).collect()))
    }
}

/// One section as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default = "name")]
    name: String,
    servers: Vec<Address>,
    username: Option<String>,
    password_file: Option<PathBuf>,
    tls: Option<ClientSection>,
    #[serde(default)]
    pid_files: Vec<PathBuf>,
    #[serde(default)]
    manager: Manager,
    #[serde(default)]
    sentinels: Vec<Address>,
    sentinel_username: Option<String>,
    sentinel_password_file: Option<PathBuf>,
    #[serde(default)]
    sentinel_tls: bool,
    #[serde(default = "probe_interval", with = "duration")]
    probe_interval: Duration,
    #[serde(default = "probe_timeout", with = "duration")]
    probe_timeout: Duration,
    #[serde(default = "hang_after", with = "duration")]
    hang_after: Duration,
    #[serde(default = "cooldown", with = "duration")]
    failover_cooldown: Duration,
    loss_bytes_max: Option<u64>,
    #[serde(default)]
    approval: bool,
    #[serde(default = "approval_timeout", with = "duration")]
    approval_timeout: Duration,
    #[serde(default)]
    promotion: Promotion,
    #[serde(default)]
    zones: BTreeMap<Address, String>,
    #[serde(default)]
    hook: Vec<WrittenHook>,
    synchronous: Option<WrittenSynchronous>,
    restart: Option<WrittenRestart>,
}

/// Servers by how gladly they are promoted; those not named are neutral.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Promotion {
    prefer: Vec<Address>,
    prefer_not: Vec<Address>,
    never: Vec<Address>,
}

fn name() -> String {
    "main".to_owned()
}

/// One tenth of `hang_after`: ten chances to see an answer.
fn probe_interval() -> Duration {
    Duration::from_millis(100)
}

/// Above the fork pause of a 4 GB Redis (80-95 ms per GB, measured).
fn probe_timeout() -> Duration {
    Duration::from_millis(500)
}

/// Above every ordinary stall; shorter is safe where a supervisor sees the process.
fn hang_after() -> Duration {
    Duration::from_secs(1)
}

/// Long enough for the replicas to resynchronise after a failover.
fn cooldown() -> Duration {
    Duration::from_secs(30)
}

/// A person on call needs some minutes to a keyboard.
fn approval_timeout() -> Duration {
    Duration::from_mins(15)
}

impl Checker<'_> {
    /// `None` after a fault that leaves nothing to work with.
    pub(super) fn all_redis(&mut self, Sections(sections): Sections) -> Option<Vec<Redis>> {
        let count = sections.len();
        self.require(
            count <= PRIMARIES_MAX,
            "redis",
            format!("expected at most {PRIMARIES_MAX} sections, found {count}"),
        );
        let mut names = HashSet::new();
        let mut addresses = HashSet::new();
        let mut all = Vec::new();
        for (key, section) in sections {
            if !names.insert(section.name.clone()) {
                let name = &section.name;
                self.fault(
                    format!("{key}.name"),
                    format!("{name:?} is the name of another Redis already"),
                );
            }
            for (index, address) in section.servers.iter().enumerate() {
                if !addresses.insert(address.clone()) {
                    self.fault(
                        format!("{key}.servers[{index}]"),
                        format!("{address} is there twice"),
                    );
                }
            }
            all.push(self.redis(&key, section));
        }
        all.into_iter().collect()
    }

    fn redis(&mut self, section: &str, mut written: Written) -> Option<Redis> {
        let key = |name: &str| format!("{section}.{name}");
        self.name(&key("name"), &written.name);
        let count = written.servers.len();
        self.require(
            (1..=SERVERS_MAX).contains(&count),
            &key("servers"),
            format!("expected 1 to {SERVERS_MAX} addresses, found {count}"),
        );
        let pids = written.pid_files.len();
        self.require(
            pids == 0 || pids == count,
            &key("pid_files"),
            format!("expected one for each of the {count} servers (\"\" for none), found {pids}"),
        );
        self.require(
            written.probe_interval.as_millis() >= 10,
            &key("probe_interval"),
            "expected at least 10ms",
        );
        self.require(
            !written.probe_timeout.is_zero(),
            &key("probe_timeout"),
            "expected more than 0",
        );
        self.require(
            is_long_enough(written.hang_after, written.probe_timeout, written.probe_interval),
            &key("hang_after"),
            LONG_ENOUGH,
        );
        if written.username.is_some() && written.password_file.is_none() {
            self.fault(key("username"), "expected password_file beside it");
        }
        self.policy(section, &written);
        let tls = written.tls.take().map(|tls| self.client_tls(&key("tls"), tls));
        let has_tls = tls.is_some();
        let tls = tls.map_or(Some(None), |inner| inner.map(Some));
        let own = tls.clone().flatten();
        let sentinels = self.sentinels(section, &written, own, has_tls).ok()?;
        let password = self.optional_secret(&key("password_file"), written.password_file.clone());
        let standings: Vec<_> =
            written.servers.iter().map(|address| standing(&written, address)).collect();
        let hooks = self.hooks(section, written.hook);
        let synchronous = written.synchronous.map(|s| self.synchronous(section, &s, count));
        let restart = written.restart.map(|restart| self.restart(section, restart));
        let password = password.ok()?;
        let mut pid_files = written.pid_files.into_iter();
        let servers = written.servers.into_iter().zip(standings);
        let servers = servers
            .map(|(address, standing)| RedisServer {
                address,
                pid_file: pid_files
                    .next()
                    .filter(|path| !path.as_os_str().is_empty())
                    .map(|path| self.path(path)),
                standing,
            })
            .collect();
        Some(Redis {
            name: written.name,
            servers,
            username: written.username,
            password,
            manager: written.manager,
            sentinels,
            tls: tls?,
            probe_interval: written.probe_interval,
            probe_timeout: written.probe_timeout,
            hang_after: written.hang_after,
            failover_cooldown: written.failover_cooldown,
            loss_bytes_max: written.loss_bytes_max,
            approval: written.approval.then_some(written.approval_timeout),
            hooks,
            synchronous,
            // An inner `None` has added its fault already.
            restart: restart.map_or(Some(None), |inner| inner.map(Some))?,
        })
    }

    /// Promotion rules and zones speak of servers that exist, each rule of others.
    fn policy(&mut self, section: &str, written: &Written) {
        let rules = &written.promotion;
        let lists =
            [("prefer", &rules.prefer), ("prefer_not", &rules.prefer_not), ("never", &rules.never)];
        let mut named = HashSet::new();
        for (rule, list) in lists {
            for (index, address) in list.iter().enumerate() {
                let key = format!("{section}.promotion.{rule}[{index}]");
                if !written.servers.contains(address) {
                    self.fault(key, format!("{address} is none of {section}.servers"));
                } else if !named.insert(address) {
                    self.fault(key, format!("{address} has a promotion rule already"));
                }
            }
        }
        self.require(
            written.servers.is_empty() || rules.never.len() < written.servers.len(),
            &format!("{section}.promotion.never"),
            "expected at least one server that may be the primary",
        );
        for (address, zone) in &written.zones {
            let zones = format!("{section}.zones");
            if !written.servers.contains(address) {
                self.fault(zones, format!("{address} is none of {section}.servers"));
            } else if zone.is_empty() {
                self.fault(format!("{zones}.\"{address}\""), "expected the name of a zone");
            }
        }
        self.require(
            !written.approval || !written.approval_timeout.is_zero(),
            &format!("{section}.approval_timeout"),
            "expected more than 0s",
        );
    }
}

fn standing(written: &Written, address: &Address) -> Standing {
    let rules = &written.promotion;
    let promotion = if rules.never.contains(address) {
        failover::Promotion::Never
    } else if rules.prefer_not.contains(address) {
        failover::Promotion::PreferNot
    } else if rules.prefer.contains(address) {
        failover::Promotion::Prefer
    } else {
        failover::Promotion::Neutral
    };
    Standing { promotion, zone: written.zones.get(address).cloned() }
}
