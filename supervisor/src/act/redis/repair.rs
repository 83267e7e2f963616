//! Servers that are not what they should be: former primaries that come back, replicas that follow the wrong server.

use futures_util::future::join_all;
use holdfast_telemetry::errors::Chain;

use super::RedisController;
use super::commands::{demote, demoted_at, keep_roles, repoint};
use crate::cluster::Address;
use crate::observe::redis::Answers;
use crate::plan::failover::Repair;
use crate::record::{Kind, Reason, Severity};

/// The fence that was queued for a hung primary has been run, at this replication id and offset if it was a primary still.
pub(super) struct Fenced {
    server: Address,
    at: Option<(String, u64)>,
}

impl RedisController {
    pub(super) async fn repair(&mut self, repairs: &[Repair]) {
        let Some(primary) = self.planner.primary().cloned() else { return };
        let work = repairs.iter().filter_map(|repair| Some((repair, self.watch(&repair.server)?)));
        let results = join_all(work.map(async |(repair, watch)| {
            let done = if repair.demote {
                demote(watch, &primary).await
            } else {
                repoint(watch, &primary).await.map(|()| None)
            };
            (repair, done.map_err(|error| Chain(&error).to_string()))
        }))
        .await;
        for (repair, result) in results {
            let server = &repair.server;
            let verb = if repair.demote { "is a replica of" } else { "was pointed at" };
            match result {
                Ok(at) => {
                    let diverged =
                        at.and_then(|(id, offset)| self.planner.diverged_bytes(&id, offset));
                    let message = format!("{server} {verb} {primary}");
                    self.record_demotion(Kind::ActionTaken, message, &repair.reason, diverged);
                    if repair.demote {
                        self.tell("+convert-to-slave", self.replica_words(server));
                    }
                    keep_roles(self.watch(server).map(std::slice::from_ref).unwrap_or_default());
                }
                Err(error) => {
                    let draft = self.draft(
                        Kind::ActionFailed,
                        Severity::Warning,
                        format!("{server} could not be brought in line"),
                    );
                    let against = Reason { favours: false, text: error };
                    (self.sink)(draft.because(repair.reason.clone()).reasons([against]));
                }
            }
        }
    }

    fn record_demotion(&self, kind: Kind, message: String, reason: &str, diverged: Option<u64>) {
        let severity = if diverged.unwrap_or(0) > 0 { Severity::Warning } else { Severity::Info };
        let mut draft = self.draft(kind, severity, message).because(reason);
        if let Some(bytes) = diverged {
            self.metrics.add_diverged(bytes);
            draft = draft
                .because(format!("{bytes} bytes it had written never reached the present primary"))
                .detail(serde_json::json!({"diverged_bytes": bytes}));
        }
        (self.sink)(draft);
    }

    pub(super) fn note_fence(&self, fenced: Fenced) {
        let Fenced { server, at } = fenced;
        let diverged = at.and_then(|(replid, offset)| self.planner.diverged_bytes(&replid, offset));
        self.record_demotion(
            Kind::ActionTaken,
            format!("{server} ran the fence that was queued for it and is a replica now"),
            "it was the primary before the failover and runs again",
            diverged,
        );
        self.tell("+convert-to-slave", self.replica_words(&server));
    }

    /// Waits in the background for a former primary to run the fence that was written to it.
    pub(super) fn await_fence(&mut self, server: Address, answers: Answers) {
        self.fences.spawn(async move {
            let replies = answers.wait().await.ok()?;
            Some(Fenced { server, at: demoted_at(&replies) })
        });
    }
}
