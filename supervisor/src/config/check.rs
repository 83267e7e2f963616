//! The one conversion from the file as written to the checked [`Config`]; it reports all faults together.

use std::collections::HashSet;
use std::fmt::Display;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use holdfast_settings::{Faults, Secret, Source};

use super::{
    Backup, Balancer, Canary, Config, DrillSchedule, Drills, Email, Guards, Log, Node, Notify,
    SCENARIOS, Supervisor, Webhook, file,
};

/// People and mail servers take no more; without a bound 0 would tell what fires thousands of times a second.
const REPEAT_INTERVAL_MIN: Duration = Duration::from_mins(1);

/// Nodes one supervisor watches; each costs a scrape per second.
const NODES_MAX: usize = 200;

/// Checks everything and converts.
pub(super) fn check(file: file::File, source: &Source) -> Result<Config, Faults> {
    let mut checker = Checker {
        source,
        faults: Faults::new(&source.file),
        base: source.file.parent().map(Path::to_owned).unwrap_or_default(),
    };
    let config = checker.config(file);
    match config {
        Some(config) => checker.faults.finish(config),
        None => Err(checker.faults),
    }
}

/// The value is missing because of a fault that was added.
pub(super) struct FaultAdded;

/// Collects faults on the way. A method returns `None` only after it added a fault.
pub(super) struct Checker<'a> {
    source: &'a Source,
    faults: Faults,
    base: PathBuf,
}

impl Checker<'_> {
    pub(super) fn fault(&mut self, key: impl Into<String>, message: impl Display) {
        self.faults.add(self.source, key, message);
    }

    pub(super) fn require(&mut self, holds: bool, key: &str, message: impl Display) {
        if !holds {
            self.fault(key, message);
        }
    }

    pub(super) fn path(&self, path: PathBuf) -> PathBuf {
        // Joining an absolute path replaces the base.
        self.base.join(path)
    }

    pub(super) fn secret(&mut self, key: &str, path: PathBuf) -> Option<Secret> {
        let path = self.path(path);
        Secret::from_file(&path).map_err(|error| self.fault(key, error)).ok()
    }

    /// A secret that may be absent.
    pub(super) fn optional_secret(
        &mut self,
        key: &str,
        path: Option<PathBuf>,
    ) -> Result<Option<Secret>, FaultAdded> {
        path.map(|path| self.secret(key, path).ok_or(FaultAdded)).transpose()
    }

    pub(super) fn listen(&mut self, key: &str, text: &str) -> Option<SocketAddr> {
        let parsed = SocketAddr::from_str(text);
        if parsed.is_err() {
            self.fault(key, format!("expected ip:port to listen on, found {text:?}"));
        }
        parsed.ok()
    }

    pub(super) fn name(&mut self, key: &str, name: &str) {
        let valid = !name.is_empty()
            && name.len() <= 64
            && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        self.require(valid, key, format!("expected 1-64 of a-z A-Z 0-9 - _ ., found {name:?}"));
    }

    pub(super) fn url(&mut self, key: &str, url: &str, schemes: &[&str]) {
        let valid = reqwest::Url::parse(url)
            .is_ok_and(|url| schemes.contains(&url.scheme()) && url.has_host());
        self.require(valid, key, format!("expected a URL ({}), found {url:?}", schemes.join(", ")));
    }

    fn cron(&mut self, key: &str, expression: &str) {
        if let Err(error) = croner::Cron::from_str(expression) {
            self.fault(key, format!("{expression:?} is not a cron expression: {error}"));
        }
    }

    fn config(&mut self, file: file::File) -> Option<Config> {
        let supervisor = self.supervisor(file.supervisor);
        let scrape = self.scrape(file.scrape);
        let metrics = self.metrics(file.metrics);
        self.require(
            scrape.enabled || metrics.as_ref().is_none_or(|metrics| metrics.remote.is_some()),
            "scrape.enabled",
            "expected true, or metrics.backend = \"prometheus\": the embedded store would stay empty",
        );
        let rules = self.rules(&file.rules);
        let nodes = self.nodes(file.node);
        let balancer = file.balancer.map(|balancer| self.balancer(balancer));
        if balancer.is_none() && !nodes.is_empty() {
            self.fault("balancer", "expected a [balancer] section for the nodes to be served by");
        }
        let redis = self.all_redis(file.redis);
        let names: Vec<_> = redis.iter().flatten().map(|redis| redis.name.clone()).collect();
        let no_redis = redis.as_ref().is_some_and(Vec::is_empty);
        let sentinel = file.sentinel.map(|sentinel| self.sentinel(sentinel));
        if sentinel.is_some() && no_redis {
            self.fault("sentinel", "expected a [redis] section whose primary it can tell");
        }
        let group = file.group.map(|group| self.group(group));
        let guards = self.guards(file.guards);
        let canary = file.canary.filter(|c| c.enabled).map(|canary| self.canary(canary));
        if file.backup.is_some() && no_redis {
            self.fault("backup", "expected a [redis] section to back up");
        }
        let backup = file.backup.map(|backup| self.backup(backup, &names));
        let notify = self.notify(file.notify);
        let otlp_endpoint = Some(file.traces.otlp_endpoint).filter(|url| !url.is_empty());
        if let Some(url) = &otlp_endpoint {
            self.url("traces.otlp_endpoint", url, &["http", "https"]);
        }
        let supervisor = supervisor?;
        let drills = self.drills(file.drills, &supervisor.state_dir);
        Some(Config {
            file: self.source.file.clone(),
            log: Log { level: file.log.level, format: file.log.format },
            otlp_endpoint,
            supervisor,
            scrape,
            metrics: metrics?,
            rules,
            nodes,
            // `transpose`-like: an inner `None` has added its fault already.
            balancer: balancer.map_or(Some(None), |inner| inner.map(Some))?,
            redis: redis?,
            sentinel: sentinel.map_or(Some(None), |inner| inner.map(Some))?,
            group: group.map_or(Some(None), |inner| inner.map(Some))?,
            guards,
            canary: canary.map_or(Some(None), |inner| inner.map(Some))?,
            backup,
            notify: notify?,
            drills,
        })
    }

    fn supervisor(&mut self, written: file::Supervisor) -> Option<Supervisor> {
        self.name("supervisor.name", &written.name);
        if let Some(url) = &written.external_url {
            self.url("supervisor.external_url", url, &["http", "https"]);
        }
        let listen = self.listen("supervisor.listen", &written.listen);
        let token = self.secret("supervisor.token_file", written.token_file);
        Some(Supervisor {
            name: written.name,
            listen: listen?,
            external_url: written.external_url.map(|url| url.trim_end_matches('/').to_owned()),
            token: token?,
            state_dir: self.path(written.state_dir),
            observe_only: written.observe_only,
        })
    }

    fn nodes(&mut self, written: Vec<file::Node>) -> Vec<Node> {
        self.require(
            written.len() <= NODES_MAX,
            "node",
            format!("expected at most {NODES_MAX}, found {}", written.len()),
        );
        let mut names = HashSet::new();
        let mut nodes = Vec::new();
        for (index, node) in written.into_iter().enumerate() {
            let key = format!("node[{index}].name");
            self.name(&key, &node.name);
            if !names.insert(node.name.clone()) {
                self.fault(&key, format!("{:?} is the name of another node already", node.name));
            }
            let pid_file = node.pid_file.map(|path| self.path(path));
            nodes.push(Node { name: node.name, metrics: node.metrics, pid_file });
        }
        nodes
    }

    fn balancer(&mut self, written: file::Balancer) -> Option<Balancer> {
        self.name("balancer.pool", &written.pool);
        let token = self.secret("balancer.token_file", written.token_file)?;
        Some(Balancer { admin: written.admin, token, pool: written.pool })
    }

    fn guards(&mut self, written: file::Guards) -> Guards {
        self.require(
            (0.0..=1.0).contains(&written.max_out_share),
            "guards.max_out_share",
            format!("expected 0 to 1, found {}", written.max_out_share),
        );
        let steps = &written.return_steps;
        let rising = steps.windows(2).all(|pair| pair[0] < pair[1]);
        let valid = rising
            && steps.first().is_some_and(|first| *first > 0.0)
            && steps.last().is_some_and(|last| (*last - 1.0).abs() < f64::EPSILON);
        self.require(
            valid,
            "guards.return_steps",
            format!("expected shares above 0 that rise to 1.0, found {steps:?}"),
        );
        Guards {
            max_out_share: written.max_out_share,
            open_after: written.open_after,
            close_after: written.close_after,
            return_steps: written.return_steps,
            return_step_every: written.return_step_every,
        }
    }

    fn canary(&mut self, written: file::Canary) -> Option<Canary> {
        self.url("canary.url", &written.url, &["ws"]);
        self.require(
            written.interval.as_millis() >= 10,
            "canary.interval",
            "expected at least 10ms",
        );
        self.require(!written.timeout.is_zero(), "canary.timeout", "expected more than 0");
        self.require(!written.channel.is_empty(), "canary.channel", "expected a channel name");
        let hmac_secret = self.secret("canary.hmac_secret_file", written.hmac_secret_file)?;
        Some(Canary {
            url: written.url,
            hmac_secret,
            channel: written.channel,
            interval: written.interval,
            timeout: written.timeout,
        })
    }

    /// `names` are those of every Redis.
    fn backup(&mut self, written: file::Backup, names: &[String]) -> Backup {
        let redis = written.redis.or_else(|| names.first().filter(|_| names.len() == 1).cloned());
        if !names.is_empty() && !redis.as_ref().is_some_and(|name| names.contains(name)) {
            let found =
                redis.as_ref().map_or_else(|| "nothing".to_owned(), |name| format!("{name:?}"));
            self.fault(
                "backup.redis",
                format!("expected one of {}, found {found}", names.join(", ")),
            );
        }
        let schedule = Some(written.schedule).filter(|cron| !cron.is_empty());
        if let Some(cron) = &schedule {
            self.cron("backup.schedule", cron);
        }
        self.require(written.keep >= 1, "backup.keep", "expected at least 1");
        self.require(
            (1..=19).contains(&written.compression_level),
            "backup.compression_level",
            format!("expected 1 to 19, found {}", written.compression_level),
        );
        Backup {
            redis: redis.unwrap_or_default(),
            dir: self.path(written.dir),
            schedule,
            keep: written.keep,
            compression_level: written.compression_level,
            verify: written.verify,
            redis_server: written.redis_server,
        }
    }

    fn notify(&mut self, written: file::Notify) -> Option<Notify> {
        let email = written.email.map(|email| self.email(email));
        let mut webhooks = Vec::new();
        for (index, webhook) in written.webhook.into_iter().enumerate() {
            let key = |name: &str| format!("notify.webhook[{index}].{name}");
            self.url(&key("url"), &webhook.url, &["http", "https"]);
            self.require(!webhook.timeout.is_zero(), &key("timeout"), "expected more than 0");
            self.require(webhook.retries_max <= 20, &key("retries_max"), "expected at most 20");
            let token = self.optional_secret(&key("bearer_token_file"), webhook.bearer_token_file);
            webhooks.push(token.map(|bearer_token| Webhook {
                url: webhook.url,
                bearer_token,
                timeout: webhook.timeout,
                retries_max: webhook.retries_max,
            }));
        }
        self.require(
            written.repeat_interval >= REPEAT_INTERVAL_MIN,
            "notify.repeat_interval",
            "expected at least 1m; whatever fires is told again that often",
        );
        Some(Notify {
            group_wait: written.group_wait,
            repeat_interval: written.repeat_interval,
            email: email.map_or(Some(None), |inner| inner.map(Some))?,
            webhooks: webhooks.into_iter().collect::<Result<_, _>>().ok()?,
        })
    }

    fn email(&mut self, written: file::Email) -> Option<Email> {
        self.mailbox("notify.email.from", &written.from);
        self.require(!written.to.is_empty(), "notify.email.to", "expected at least one receiver");
        for (index, receiver) in written.to.iter().enumerate() {
            self.mailbox(&format!("notify.email.to[{index}]"), receiver);
        }
        if written.username.is_some() != written.password_file.is_some() {
            self.fault("notify.email.username", "expected username and password_file together");
        }
        let password =
            self.optional_secret("notify.email.password_file", written.password_file).ok()?;
        Some(Email {
            smtp: written.smtp,
            tls: written.tls,
            from: written.from,
            to: written.to,
            login: written.username.zip(password),
        })
    }

    fn mailbox(&mut self, key: &str, text: &str) {
        if text.parse::<lettre::message::Mailbox>().is_err() {
            self.fault(key, format!("expected a mail address, found {text:?}"));
        }
    }

    fn drills(&mut self, written: file::Drills, state_dir: &Path) -> Drills {
        let mut schedule = Vec::new();
        for (index, line) in written.schedule.into_iter().enumerate() {
            if !SCENARIOS.contains(&line.scenario.as_str()) {
                self.fault(
                    format!("drills.schedule[{index}].scenario"),
                    format!("expected one of {}, found {:?}", SCENARIOS.join(", "), line.scenario),
                );
            }
            self.cron(&format!("drills.schedule[{index}].cron"), &line.cron);
            if line.enabled {
                schedule.push(DrillSchedule { scenario: line.scenario, cron: line.cron });
            }
        }
        let report_dir =
            written.report_dir.map_or_else(|| state_dir.join("drills"), |path| self.path(path));
        Drills { report_dir, schedule }
    }
}

#[cfg(test)]
mod tests;
