//! What happens to the servers of a pool by itself (checks, agents, traffic, time): taken in, judged, published, counted and logged.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use chrono::Utc;
use http::StatusCode;

use super::outliers::{self, Sight};
use super::server::Server;
use super::state::{Cause, Change, CheckResult, ServerState};
use super::{Pool, agent, lock, now};
use crate::config::PoolRules;

impl Pool {
    /// Takes in the result of an active check.
    pub fn handle_check(&self, server: &Server, result: CheckResult) -> Option<Change> {
        let counter = match result {
            CheckResult::Pass => &server.metrics.checks_passed,
            CheckResult::Fail | CheckResult::Silent => &server.metrics.checks_failed,
        };
        counter.inc();
        self.update(server, |state, rules, now| {
            state.handle_check(now, result, rules.check.as_ref()?)
        })
    }

    /// Takes in what a server's agent says.
    pub fn handle_agent(&self, server: &Server, word: &agent::Word) {
        if self.update(server, |state, _, now| state.handle_agent(now, word)).is_some() {
            self.room.note_change();
        }
    }

    /// Takes in a connection that could not be made or a request without a response.
    pub fn handle_failure(&self, server: &Server) {
        if self.detects.load(Ordering::Relaxed) {
            server.tally.note_failure();
        }
        self.update(server, |state, rules, now| state.handle_failure(now, rules));
        server.check_now.notify_one();
    }

    /// Takes in a response, with the time to it.
    pub fn handle_response(&self, server: &Server, status: StatusCode, latency: Duration) {
        if self.detects.load(Ordering::Relaxed) {
            let row = server.tally.note(status.is_server_error(), latency);
            if row > 0 {
                self.judge_row(server, row);
            }
        }
        self.note_success(server, latency);
    }

    /// Takes in a TCP connection that was made, with the time it took.
    pub fn handle_connected(&self, server: &Server, latency: Duration) {
        if self.detects.load(Ordering::Relaxed) {
            server.tally.note(false, latency);
        }
        self.note_success(server, latency);
    }

    /// Takes in the `row`-th error in a row.
    fn judge_row(&self, server: &Server, row: u32) {
        let limit = self.rules().outliers.as_ref().and_then(|rules| rules.errors_in_row);
        if limit.is_some_and(|limit| row >= limit.get()) {
            server.tally.forget_row();
            self.eject(server.id(), Cause::Errors);
        }
    }

    /// Compares the servers by what was seen of them, when it is time.
    fn compare(&self, rules: &PoolRules) {
        let Some(outliers) = &rules.outliers else { return };
        let now = now();
        let found = {
            let mut comparison = lock(&self.detector);
            let due = *comparison.due.get_or_insert(now + outliers.interval);
            if now < due {
                return;
            }
            comparison.due = Some(now + outliers.interval);
            let members = self.members();
            let sights: Vec<_> = members
                .iter()
                .filter(|server| server.may_be_tried())
                .map(|server| Sight {
                    server: server.id(),
                    out: server.record().state.ejection().is_some(),
                    seen: server.tally.take(),
                })
                .collect();
            comparison.detector.sweep(outliers, &sights)
        };
        for (server, cause) in found {
            self.eject(server, cause);
        }
    }

    /// Ejects a server unless too many are out already.
    fn eject(&self, server: u64, cause: Cause) {
        let members = self.members();
        let wanted = || members.iter().filter(|server| server.may_be_tried());
        let out = wanted().filter(|server| server.record().state.ejection().is_some()).count();
        let Some(server) = members.iter().find(|member| member.id() == server) else { return };
        self.update(server, |state, rules, now| {
            let outliers = rules.outliers.as_ref()?;
            // One that is out already takes no other's place.
            let held = state.ejection().is_none()
                && outliers::places(outliers, wanted().count(), out) == 0;
            if held { None } else { state.eject(now, cause, rules) }
        });
    }

    /// Takes in traffic that worked.
    fn note_success(&self, server: &Server, latency: Duration) {
        if self.judges_latency.load(Ordering::Relaxed) {
            server.observe_latency(self.age(), latency);
        }
        if server.is_failing() {
            self.update(server, |state, _, _| {
                state.handle_success();
                None
            });
        }
    }

    /// Lets time have its effect: ejections end, ramps rise, servers that left are forgotten once they are empty.
    pub fn tick(&self) {
        for server in self.members().iter() {
            let waiting = {
                let rules = self.rules();
                server.record().state.is_waiting(now(), rules.slow_start)
            };
            if waiting {
                self.update(server, |state, _, now| state.tick(now));
            }
            self.admit(server);
        }
        self.note_ended(&self.faults.tick(now()));
        if self.detects.load(Ordering::Relaxed) {
            self.compare(&self.rules());
        }
        if let Some(table) = self.stick_table() {
            table.show(table.time(now()));
        }
        let mut leaving = lock(&self.leaving);
        leaving.retain(|server| {
            let stays = server.active() > 0;
            if !stays && self.member(server.name()).is_none() {
                self.families.servers.forget(&self.name, server.name());
            }
            stays
        });
    }

    /// Wakes as many of those who wait as a server may be given by now.
    fn admit(&self, server: &Server) {
        if server.admission().is_limited() && self.room.is_awaited() {
            for _ in 0..server.admission().tokens(self.age()) {
                self.room.note_free();
            }
        }
    }

    fn update(
        &self,
        server: &Server,
        change: impl FnOnce(&mut ServerState, &PoolRules, Instant) -> Option<Change>,
    ) -> Option<Change> {
        let rules = self.rules();
        let change = {
            let mut record = server.record();
            let now = now();
            let change = change(&mut record.state, &rules, now);
            if change.is_some() {
                record.last_change = Utc::now();
            }
            server.publish(&record, &rules, now);
            change
        };
        if let Some(change) = change {
            if let Change::Ejected(cause) = change {
                server.metrics.ejections[cause as usize].inc();
            }
            tracing::info!(pool = %self.name, server = %server.name(), address = %server.address(),
                change = %change, usable = server.is_usable(), "server changed");
            self.refresh_panic();
        }
        change
    }
}
