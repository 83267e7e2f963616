//! Servers that are not what they should be: former primaries that come back, replicas that follow the wrong server.
//!
//! A former primary that wrote something nobody else has is fenced, relieved of it ([`super::salvage`]) and only then made a replica. That
//! can take a second or two, so it happens beside the loop, which goes on watching the present primary.

use futures_util::future::join_all;
use holdfast_psync::Endpoint;
use holdfast_telemetry::errors::Chain;

use super::RedisController;
use super::commands::{ORDER_LIMIT, brisk, demote, fence, keep_roles, primary_at, repoint};
use super::hooks::HookRun;
use super::salvage::{FOLDER, Origin, SalvageError, Salvaged, Store, salvage};
use super::sync::Looked;
use crate::cluster::Address;
use crate::judge::redis::Fenced;
use crate::observe::redis::{Answers, Watch, command};
use crate::plan::failover::{Diverged, Repair};
use crate::record::{Draft, Homecoming, Kind, Reason, Salvage, Severity};

/// What happened beside the loop.
pub(super) enum Aside {
    /// The fence that was queued for a primary was run, at this replication id and offset if it was a primary still.
    Fenced { server: Address, at: Option<(String, u64)> },
    /// The fence of a server beside us was set or taken away, or not.
    LocalFence { server: Address, fence: Option<Fenced>, done: Result<bool, String> },
    /// It will never be run: the process died or the path broke. The next one at this address is dealt with when it is seen.
    NeverFenced,
    /// A former primary was brought home, or not.
    Returned(Box<Returned>),
    /// Whether a primary keeps its data on disk was asked; `None`: it does not say.
    Persistence { server: Address, persists: Option<bool> },
    /// A hook has ended.
    Hook(Box<HookRun>),
    /// An operator was answered.
    Answered,
    /// A replay of this salvage has ended, well or not.
    Replayed(String),
    /// The primary was asked and told how many replicas to demand.
    Demanded(Looked),
    /// What restarts this server has done its part, or could not.
    Restarted(Address, Result<(), String>),
}

/// A former primary that was to become a replica.
pub(super) struct Returned {
    server: Address,
    to: Address,
    reason: String,
    /// Its replication id and offset at the end, if it was a primary until then; or what went wrong.
    demoted: Result<Option<(String, u64)>, String>,
    salvaged: Option<Result<Salvaged, SalvageError>>,
}

impl RedisController {
    pub(super) async fn repair(&mut self, repairs: &[Repair]) {
        let Some(primary) = self.planner.primary().cloned() else { return };
        let mut stragglers = Vec::new();
        for repair in repairs {
            if repair.demote {
                self.bring_home(&repair.server, repair.diverged.clone(), &repair.reason);
            } else if let Some(watch) = self.watch(&repair.server).cloned() {
                stragglers.push((repair, watch));
            }
        }
        let pointed = join_all(stragglers.iter().map(|(_, watch)| repoint(watch, &primary))).await;
        for ((repair, watch), result) in stragglers.iter().zip(pointed) {
            match result {
                Ok(()) => {
                    let message = format!("{} was pointed at {primary}", repair.server);
                    let draft = self.draft(Kind::ActionTaken, Severity::Info, message);
                    (self.sink)(draft.because(repair.reason.clone()));
                    keep_roles(std::slice::from_ref(watch));
                }
                Err(error) => {
                    let text = Chain(&error).to_string();
                    self.record_failed_repair(&repair.server, &repair.reason, text);
                }
            }
        }
    }

    /// Makes a former primary a replica of the present one, after what only it has was saved.
    pub(super) fn bring_home(
        &mut self,
        server: &Address,
        diverged: Option<Diverged>,
        reason: &str,
    ) {
        let (Some(to), Some(watch)) =
            (self.planner.primary().cloned(), self.watch(server).cloned())
        else {
            return;
        };
        if !self.returning.insert(server.clone()) {
            return;
        }
        let endpoint = brisk(self.config.endpoint(server));
        let store = self.salvage_store();
        let origin = Origin {
            redis: self.config.name.clone(),
            epoch: self.planner.epoch(),
            server: server.clone(),
        };
        let (server, reason) = (server.clone(), reason.to_owned());
        self.asides.spawn(async move {
            let salvaged = match diverged.filter(|diverged| diverged.bytes > 0) {
                Some(diverged) => Some(relieve(&watch, &endpoint, &diverged, &store, origin).await),
                None => None,
            };
            let demoted = demote(&watch, &to).await.map_err(|error| Chain(&error).to_string());
            Aside::Returned(Box::new(Returned { server, to, reason, demoted, salvaged }))
        });
    }

    /// Lets a server take writes again.
    pub(super) fn unfence(&self, server: &Address) {
        let order = vec![command(["CLIENT", "UNPAUSE"])];
        if let Some(watch) = self.watch(server)
            && let Err(error) = watch.send(order)
        {
            // It has no connection; the fence ended with the process, or is run after this and noted then.
            tracing::warn!(redis = %server, %error, "CLIENT UNPAUSE not sent");
        }
    }

    pub(super) fn salvage_store(&self) -> Store {
        Store::new(self.state_dir.join(FOLDER))
    }

    pub(super) fn note_aside(&mut self, aside: Aside) {
        match aside {
            Aside::NeverFenced | Aside::Answered => {}
            Aside::LocalFence { server, fence, done } => self.note_fence(&server, fence, done),
            Aside::Hook(run) => self.note_hook(&run),
            Aside::Replayed(id) => {
                self.replaying.remove(&id);
            }
            Aside::Demanded(looked) => self.note_demand(looked),
            Aside::Restarted(server, result) => self.note_restarted(&server, result),
            Aside::Fenced { server, .. } if self.planner.primary() == Some(&server) => {
                // The failover it was fenced for came to nothing.
                self.unfence(&server);
            }
            Aside::Fenced { server, at } => {
                let message = format!("{server} ran the fence that was queued for it");
                (self.sink)(self.draft(Kind::ActionTaken, Severity::Info, message));
                if let Some((replid, offset)) = at.filter(|_| self.agreement.leads()) {
                    let diverged = self.planner.diverged(&replid, offset);
                    let reason = "it was the primary before the failover and runs again";
                    self.bring_home(&server, diverged, reason);
                }
            }
            Aside::Returned(returned) => self.note_returned(*returned),
            Aside::Persistence { server, persists } => {
                self.sentinels.persists = Some((server, persists));
            }
        }
    }

    fn note_returned(&mut self, returned: Returned) {
        let Returned { server, to, reason, demoted, salvaged } = returned;
        self.returning.remove(&server);
        let at = match demoted {
            Ok(at) => at,
            Err(error) => return self.record_failed_repair(&server, &reason, error),
        };
        let lost = at.and_then(|(replid, offset)| self.planner.diverged(&replid, offset));
        let lost = lost.map(|diverged| diverged.bytes);
        let severity = if lost.unwrap_or(0) > 0 { Severity::Warning } else { Severity::Info };
        let message = format!("{server} is a replica of {to}");
        let mut draft = self.draft(Kind::ActionTaken, severity, message).because(reason);
        let mut home = Homecoming {
            server: server.clone(),
            epoch: self.planner.epoch(),
            diverged_bytes: lost,
            salvage: None,
            salvage_error: None,
        };
        if let Some(bytes) = lost {
            self.metrics.add_diverged(bytes);
            draft = draft
                .because(format!("{bytes} bytes it had written never reached the present primary"));
        }
        match salvaged {
            None => {}
            Some(Ok(Salvaged { id, path, commands, bytes })) => {
                self.metrics.add_salvaged(commands);
                draft = draft.because(format!(
                    "{commands} commands ({bytes} bytes) were saved in {} and can be replayed",
                    path.display()
                ));
                home.salvage = Some(Salvage { id, commands, bytes });
            }
            Some(Err(error)) => {
                let text = Chain(&error).to_string();
                draft = draft.despite(format!("they are not saved: {text}"));
                home.salvage_error = Some(text);
            }
        }
        (self.sink)(draft.detail(serde_json::to_value(home).expect("it has string keys")));
        self.tell("+convert-to-slave", self.replica_words(&server));
        keep_roles(self.watch(&server).map(std::slice::from_ref).unwrap_or_default());
    }

    fn record_failed_repair(&self, server: &Address, reason: &str, error: String) {
        let message = format!("{server} could not be brought in line");
        let draft: Draft = self.draft(Kind::ActionFailed, Severity::Warning, message);
        (self.sink)(draft.because(reason).reasons([Reason { favours: false, text: error }]));
    }

    /// Waits in the background for a former primary to run the fence that was written to it.
    pub(super) fn await_fence(&mut self, server: Address, answers: Answers) {
        self.asides.spawn(async move {
            match answers.wait().await {
                Ok(replies) => Aside::Fenced { server, at: primary_at(&replies) },
                Err(_) => Aside::NeverFenced,
            }
        });
    }
}

/// Fences a former primary and saves what only it has.
async fn relieve(
    watch: &Watch,
    endpoint: &Endpoint,
    diverged: &Diverged,
    store: &Store,
    origin: Origin,
) -> Result<Salvaged, SalvageError> {
    // Without the fence it may write on while we read; what it wrote up to now is read all the same.
    let fenced = watch.ask(fence(), ORDER_LIMIT).await;
    let at = fenced.ok().and_then(|replies| primary_at(&replies));
    let end = at.map_or(diverged.fork.offset + diverged.bytes, |(_, offset)| offset);
    salvage(endpoint, &diverged.fork, end, store, origin).await
}
