//! A primary that Redis Sentinel manages: its word is followed, its weak spots are shown, and it can be asked for a failover.
//!
//! Roles are Sentinel's to change. What it leaves open is watched: a former primary that goes on taking writes after another was promoted
//! loses them (16,000 in a manual failover, measured), so its offset is followed until it is a replica, and compared with the point where
//! the new primary left its history.

mod ask;
mod metrics;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use holdfast_psync::resp::Reply;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::RedisController;
use super::commands::ORDER_LIMIT;
use super::repair::Aside;
use crate::cluster::{Address, Managed, Manager, RedisRole, SentinelStatus};
use crate::judge::redis::ServerView;
use crate::judge::sentinel::{Assessment, Evidence, Risk, assess};
use crate::observe::redis::{Login, Watch, command};
use crate::observe::sentinel::{Access, SentinelWatch};
use crate::record::{Kind, Severity};
pub(super) use metrics::Families;
use metrics::Metrics;

/// Time between two questions about the primary's persistence: people change it by hand, if ever.
const PERSISTENCE_EVERY: Duration = Duration::from_secs(10);

/// A former primary is watched this long: Sentinel demotes it after about 11 s.
const LOOK_BACK: Duration = Duration::from_mins(1);

/// One that answers as a primary this long after another was promoted was not simply caught between two looks.
const AT_ONCE: Duration = Duration::from_millis(500);

/// What is kept about other managers.
pub(super) struct Sentinels {
    watches: Vec<SentinelWatch>,
    metrics: Metrics,
    assessment: Assessment,
    /// Whether this server keeps its data on disk, if it says.
    pub(super) persists: Option<(Address, Option<bool>)>,
    persistence_asked: Option<(Address, Instant)>,
    former: Option<Former>,
    /// Writes were paused for the failover that is going on.
    is_paused: bool,
}

/// A server that was the primary until another manager promoted another.
#[derive(Debug)]
struct Former {
    address: Address,
    successor: Address,
    replid: String,
    offset: u64,
    since: Instant,
    /// It answered as a primary then.
    served_until: Option<Instant>,
    is_paused: bool,
}

impl Sentinels {
    pub(super) fn new(metrics: Metrics) -> Self {
        Self {
            watches: Vec::new(),
            metrics,
            assessment: Assessment::default(),
            persists: None,
            persistence_asked: None,
            former: None,
            is_paused: false,
        }
    }

    pub(super) fn add_empty_restart(&self) {
        self.metrics.empty_restarts.inc();
    }
}

impl RedisController {
    pub(super) fn watch_sentinels(&mut self, tasks: &mut JoinSet<()>, stop: &CancellationToken) {
        let Some(settings) = self.config.sentinels.clone() else { return };
        let login =
            settings.password.map(|password| Login { username: settings.username, password });
        let start = |address| {
            let (name, changed) = (self.config.name.clone(), Arc::clone(&self.changed));
            let access = Access { login: login.as_ref(), tls: settings.tls.as_ref() };
            SentinelWatch::start(address, name, access, changed, tasks, stop)
        };
        self.sentinels.watches = settings.addresses.into_iter().map(start).collect();
    }

    /// Takes over what the Sentinels say, and looks for what would go wrong.
    pub(super) async fn follow_sentinels(&mut self, views: &[ServerView]) {
        self.look_back(views);
        if self.sentinels.watches.is_empty() {
            return;
        }
        let seen: Vec<_> = self.sentinels.watches.iter().map(SentinelWatch::view).collect();
        for view in &seen {
            self.sentinels.metrics.set_up(view);
        }
        let now = Instant::now().into_std();
        let primary = self.planner.primary().cloned();
        let persists = self.sentinels.persists.as_ref();
        let assessment = assess(&Evidence {
            sentinels: &seen,
            servers: views,
            persists: persists
                .filter(|(server, _)| Some(server) == primary.as_ref())
                .and_then(|(_, p)| *p),
            now,
            patience: self.config.probe_timeout,
        });
        self.note_findings(&assessment);
        if let Some(named) = assessment.primary.clone()
            && primary.as_ref() != Some(&named)
        {
            // They may know a server by another address than we do; then its own word has to do.
            let known = self.watch(&named).is_some();
            let found = if known { Some(named) } else { self.planner.heir(now, views) };
            if let Some(found) = found {
                self.adopt(&found, "Redis Sentinel names it", views).await;
            }
        }
        self.sentinels.assessment = assessment;
        self.ask_for_persistence();
    }

    fn note_findings(&mut self, assessment: &Assessment) {
        self.sentinels.metrics.set_assessment(assessment);
        let risks = |assessment: &Assessment| -> HashSet<Risk> {
            assessment.findings.iter().map(|finding| finding.risk).collect()
        };
        let before = risks(&self.sentinels.assessment);
        for finding in assessment.findings.iter().filter(|f| !before.contains(&f.risk)) {
            let draft = self.draft(Kind::RedisVerdict, Severity::Warning, finding.text.clone());
            (self.sink)(draft.detail(serde_json::json!({"risk": finding.risk.name()})));
        }
        let after = risks(assessment);
        for gone in self.sentinels.assessment.findings.iter().filter(|f| !after.contains(&f.risk)) {
            let text = format!("no longer so: {}", gone.text);
            let draft = self.draft(Kind::RedisVerdict, Severity::Info, text);
            (self.sink)(draft.detail(serde_json::json!({"risk": gone.risk.name()})));
        }
    }

    /// `CONFIG GET` is the only way to learn of it; where it is not allowed, nothing is claimed.
    fn ask_for_persistence(&mut self) {
        let Some(primary) = self.planner.primary().cloned() else { return };
        let asked = self.sentinels.persistence_asked.as_ref();
        if asked.is_some_and(|(of, at)| *of == primary && at.elapsed() < PERSISTENCE_EVERY) {
            return;
        }
        let Some(watch) = self.watch(&primary).cloned() else { return };
        self.sentinels.persistence_asked = Some((primary.clone(), Instant::now()));
        self.asides.spawn(async move {
            Aside::Persistence { server: primary, persists: persists(&watch).await }
        });
    }

    /// Another manager has changed the primary.
    pub(super) fn remember_former(&mut self, from: &Address, to: &Address) {
        self.last_failover = Some(chrono::Utc::now());
        let view = self.watch(from).map(Watch::view);
        self.sentinels.former = view.and_then(|view| view.sample).map(|sample| Former {
            address: from.clone(),
            successor: to.clone(),
            replid: sample.replid,
            offset: sample.offset,
            since: Instant::now(),
            served_until: None,
            is_paused: self.sentinels.is_paused,
        });
    }

    /// Follows a former primary until it is a replica, and says what it wrote in vain.
    fn look_back(&mut self, views: &[ServerView]) {
        let Some(former) = &mut self.sentinels.former else { return };
        let now = Instant::now();
        let view = views.iter().find(|view| view.address == former.address);
        let sample = view.and_then(|view| view.present(now.into_std(), self.config.probe_timeout));
        match sample {
            Some(sample) if sample.role == RedisRole::Primary && sample.replid == former.replid => {
                former.offset = former.offset.max(sample.offset);
                former.served_until = Some(now);
            }
            Some(sample) if sample.role == RedisRole::Replica => return self.judge_former(),
            _ => {}
        }
        if self.sentinels.former.as_ref().is_some_and(|former| former.since.elapsed() > LOOK_BACK) {
            self.judge_former();
        }
    }

    fn judge_former(&mut self) {
        let Some(former) = self.sentinels.former.take() else { return };
        let served = former.served_until.map_or(Duration::ZERO, |until| until - former.since);
        if served < AT_ONCE || former.is_paused {
            return;
        }
        let Former { address, successor, .. } = &former;
        self.sentinels.metrics.unsafe_switches.inc();
        let message = format!("{address} went on as a primary after {successor} was promoted");
        let text =
            format!("it took writes for {:.1} s more, and they are lost", served.as_secs_f64());
        let mut draft = self.draft(Kind::RedisVerdict, Severity::Critical, message).because(text);
        if let Some(fork) = self.fork_of(successor, &former.replid) {
            let bytes = former.offset.saturating_sub(fork);
            self.metrics.add_diverged(bytes);
            draft = draft
                .because(format!("{bytes} bytes of its history never reached {successor}"))
                .detail(
                    serde_json::json!({"diverged_bytes": bytes, "from": address, "to": successor}),
                );
        }
        (self.sink)(draft);
    }

    /// The offset at which a promoted server left the history `replid`.
    fn fork_of(&self, successor: &Address, replid: &str) -> Option<u64> {
        let info = self.watch(successor)?.samples().info;
        let left = info.get("master_replid2").is_some_and(|id| id == replid);
        // It counts from the first byte that is its own.
        info.get("second_repl_offset").filter(|_| left)?.parse::<u64>().ok()?.checked_sub(1)
    }

    /// Who changes roles, for the status.
    pub(super) fn managed(&self) -> Managed {
        let sentinels = self.sentinels.watches.iter().map(SentinelWatch::view).map(|view| {
            let seen = view.present();
            SentinelStatus {
                primary: seen.map(|seen| seen.primary.clone()),
                has_quorum: seen.map(|seen| seen.no_quorum.is_none()),
                address: view.address.clone(),
                error: view.fault.clone(),
            }
        });
        Managed {
            by: self.config.manager,
            sentinels: sentinels.collect(),
            risks: self.sentinels.assessment.findings.iter().map(|f| f.text.clone()).collect(),
        }
    }

    /// Whether Sentinel, and not we, is asked.
    pub(super) fn is_sentinels(&self) -> bool {
        self.config.manager == Manager::Sentinel
    }
}

/// Whether a server keeps its data on disk; `None` if it does not say.
async fn persists(watch: &Watch) -> Option<bool> {
    let mut values = Vec::new();
    for setting in ["save", "appendonly"] {
        let reply = watch.order(command(["CONFIG", "GET", setting]), ORDER_LIMIT).await.ok()?;
        let Reply::Array(Some(pair)) = reply else { return None };
        values.push(pair.get(1)?.text()?);
    }
    Some(!values[0].is_empty() || values[1] == "yes")
}
