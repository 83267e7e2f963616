//! A rolling restart carried out: [`crate::plan::rolling`] says what is next, once in each round; what takes long happens beside the loop.

use std::cmp::Reverse;

use holdfast_telemetry::errors::Chain;
use tokio::time::Instant;

use super::RedisController;
use super::commands::ORDER_LIMIT;
use super::program::{self, Ending};
use super::repair::Aside;
use crate::cluster::{Address, RestartStatus};
use crate::config::RestartBy;
use crate::control::{ControlError, RestartOrder};
use crate::judge::redis::ServerView;
use crate::observe::redis::{AskError, Watch, command};
use crate::plan::failover::RedisEntry;
use crate::plan::rolling::{Next, Rolling, World};
use crate::record::{Kind, Severity};

impl RedisController {
    /// Begins, takes up or stops a rolling restart, and answers.
    pub(super) async fn restart_order(
        &mut self,
        order: RestartOrder,
        by: String,
    ) -> Result<RestartStatus, ControlError> {
        let refuse = |text: String| Err(ControlError::Refused(text));
        self.take_over_rolling();
        let is_going = self.rolling.as_ref().is_some_and(Rolling::is_going);
        match order {
            RestartOrder::Stop => {
                let Some(rolling) = self.rolling.as_mut().filter(|_| is_going) else {
                    return refuse("no rolling restart is going on".to_owned());
                };
                rolling.stop(format!("{by} stopped it"));
            }
            RestartOrder::Begin { .. } | RestartOrder::Resume if is_going => {
                return Err(ControlError::Busy("a rolling restart is going on".to_owned()));
            }
            RestartOrder::Resume => {
                let epoch = self.planner.epoch();
                let Some(rolling) = self.rolling.as_mut().filter(|r| !r.status.left.is_empty())
                else {
                    return refuse("no rolling restart has stopped before its end".to_owned());
                };
                rolling.resume(by.clone(), epoch);
            }
            RestartOrder::Begin { force } => {
                if let Some(why) = self.planner.forbidden() {
                    return refuse(why);
                }
                self.rolling = Some(self.new_rolling(by.clone(), force).await?);
            }
        }
        let Some(plan) = self.rolling.as_ref().map(Rolling::plan) else {
            return refuse("there is none".to_owned());
        };
        let status = plan.status.clone();
        if let Err(error) = self.agree(RedisEntry::Rolling(plan)).await {
            self.rolling = None;
            return Err(ControlError::Failed(Chain(&error).to_string()));
        }
        let words = match &status.problem {
            Some(_) => format!("{by} stopped the rolling restart"),
            None => format!("{by} has {} restarted one by one", list(&status.left)),
        };
        (self.sink)(self.draft(Kind::ActionTaken, Severity::Info, words));
        Ok(status)
    }

    async fn new_rolling(&self, by: String, force: bool) -> Result<Rolling, ControlError> {
        let refuse = |text: String| Err(ControlError::Refused(text));
        let Some(restart) = &self.config.restart else {
            let text =
                "how servers are restarted is not set: `command` or `shutdown` of [redis.restart]";
            return refuse(text.to_owned());
        };
        let Some(primary) = self.planner.primary() else {
            return refuse("the primary is not known".to_owned());
        };
        let mut servers: Vec<_> = self.config.servers.iter().collect();
        servers
            .sort_by_key(|server| (server.address == *primary, Reverse(server.standing.promotion)));
        let needed = if force { 0 } else { self.needed(primary).await?.max(1) };
        let stay = u32::try_from(servers.len()).unwrap_or(u32::MAX).saturating_sub(2);
        if stay < needed {
            return refuse(format!(
                "with one server away only {stay} replicas are left, and {needed} are needed; `--force` does it all the same"
            ));
        }
        let servers = servers.into_iter().map(|server| server.address.clone()).collect();
        Ok(Rolling::new(by, servers, needed, restart.timeout, self.planner.epoch()))
    }

    /// Replicas that writes demand, by the settings or by the primary.
    async fn needed(&self, primary: &Address) -> Result<u32, ControlError> {
        let managed = self.config.synchronous.as_ref().map(|synchronous| synchronous.replicas);
        if let Some(replicas) = managed {
            return Ok(replicas);
        }
        let Some(watch) = self.watch(primary) else { return Ok(0) };
        let order = command(["CONFIG", "GET", "min-replicas-to-write"]);
        let reply = watch.order(order, ORDER_LIMIT).await;
        let reply = reply.map_err(|error| ControlError::Failed(Chain(&error).to_string()))?;
        let holdfast_psync::Reply::Array(Some(pair)) = reply else { return Ok(0) };
        let number = pair.get(1).and_then(holdfast_psync::Reply::text);
        Ok(number.and_then(|text| text.parse().ok()).unwrap_or(0))
    }

    /// How far a rolling restart is: ours, or the one the leader carries out.
    pub(super) fn restart_status(&self) -> Option<RestartStatus> {
        let agreed = || self.planner.register().rolling.as_ref().map(|plan| plan.status.clone());
        self.rolling.as_ref().map(|rolling| rolling.status.clone()).or_else(agreed)
    }

    /// Goes on with one that another supervisor, or an earlier run of this one, has begun.
    fn take_over_rolling(&mut self) {
        let Some(restart) = self.config.restart.as_ref().filter(|_| self.rolling.is_none()) else {
            return;
        };
        let Some(plan) = self.planner.register().rolling.clone() else { return };
        let now = Instant::now().into_std();
        let rolling = Rolling::taken_over(plan, restart.timeout, now);
        if rolling.is_going() {
            let left = list(&rolling.status.left);
            let message = format!("the rolling restart goes on; left are {left}");
            let draft = self.draft(Kind::ActionTaken, Severity::Info, message);
            (self.sink)(draft.because("the supervisor that began it does not lead any more"));
        }
        self.rolling = Some(rolling);
    }

    /// Has the group know how far it is before anything is done, so that whoever leads next does not do it again.
    async fn keep_rolling(&mut self) -> bool {
        let Some(plan) = self.rolling.as_ref().map(Rolling::plan) else { return true };
        self.planner.register().rolling.as_ref() == Some(&plan)
            || self.agree_or_tell(RedisEntry::Rolling(plan)).await
    }

    /// Does what is next of a rolling restart.
    pub(super) async fn roll(&mut self, views: &[ServerView]) {
        self.take_over_rolling();
        let before = self.rolling.clone();
        let (Some(rolling), Some(primary)) =
            (self.rolling.as_mut(), self.planner.primary().cloned())
        else {
            return;
        };
        let world = World {
            now: Instant::now().into_std(),
            views,
            primary: &primary,
            epoch: self.planner.epoch(),
            found: self.planner.register().found,
            patience: self.config.probe_timeout,
        };
        let next = rolling.next(&world);
        if !self.keep_rolling().await {
            // The next round comes to the same.
            self.rolling = before;
            return;
        }
        match next {
            Next::Wait => {}
            Next::GoesOn => {
                let left = self.rolling.as_ref().map(|rolling| list(&rolling.status.left));
                let left = left.unwrap_or_default();
                let message = format!("the rolling restart goes on; left are {left}");
                let draft = self.draft(Kind::ActionTaken, Severity::Info, message);
                (self.sink)(draft.because(format!("{primary} has become the primary meanwhile")));
            }
            Next::Restart(server) => self.restart_server(&server),
            Next::SwitchOver => {
                let by = self.rolling.as_ref().map(|rolling| rolling.status.by.clone());
                let by = format!("the rolling restart of {}", by.unwrap_or_default());
                let moved = self.asked_for(None, &by).await;
                let moved = moved.map(|report| report.epoch).map_err(|error| error.to_string());
                let failed = moved.clone().err();
                if let Some(rolling) = self.rolling.as_mut() {
                    rolling.switched(moved);
                }
                if let Some(why) = failed {
                    self.note_stop(&why);
                }
            }
            Next::Finished => {
                let done = self.rolling.as_ref().map(|rolling| list(&rolling.status.done));
                let message = format!("{} were restarted one by one", done.unwrap_or_default());
                (self.sink)(self.draft(Kind::ActionTaken, Severity::Info, message));
            }
            Next::Stopped(why) => self.note_stop(&why),
        }
    }

    fn restart_server(&mut self, server: &Address) {
        let (Some(restart), Some(watch)) =
            (self.config.restart.clone(), self.watch(server).cloned())
        else {
            return;
        };
        (self.sink)(self.draft(
            Kind::ActionTaken,
            Severity::Info,
            format!("{server} is restarted"),
        ));
        let (server, name) = (server.clone(), self.config.name.clone());
        self.asides.spawn(async move {
            let result = match restart.by {
                RestartBy::Shutdown => shut_down(&watch).await,
                RestartBy::Command(words) => {
                    let words = filled_in(&words, &server);
                    let environment = [
                        ("HOLDFAST_REDIS_NAME", name),
                        ("HOLDFAST_REDIS_SERVER", server.to_string()),
                    ];
                    let ended = program::run(&words, &environment, restart.timeout).await;
                    match ended.ending {
                        Ending::Exited(0) => Ok(()),
                        ending => {
                            let line = ended.output.lines().next().unwrap_or_default();
                            Err(format!("{} {} {line}", words[0], ending.words()))
                        }
                    }
                }
            };
            Aside::Restarted(server, result)
        });
    }

    /// What restarts a server has done its part, or could not.
    pub(super) fn note_restarted(&mut self, server: &Address, result: Result<(), String>) {
        let failed = result.clone().err();
        if let Some(rolling) = self.rolling.as_mut() {
            rolling.restarted(server, result);
        }
        if let Some(why) = failed {
            self.note_stop(&format!("{server} could not be restarted: {why}"));
        }
    }

    fn note_stop(&self, why: &str) {
        let left = self.rolling.as_ref().map(|rolling| list(&rolling.status.left));
        let message =
            format!("the rolling restart has stopped; left are {}", left.unwrap_or_default());
        let draft = self.draft(Kind::ActionFailed, Severity::Warning, message);
        (self.sink)(draft.despite(why));
    }
}

/// Ends a server in order; whatever keeps it running starts it again.
async fn shut_down(watch: &Watch) -> Result<(), String> {
    match watch.order(command(["SHUTDOWN"]), ORDER_LIMIT * 10).await {
        // It says nothing more when it does what it is told.
        Ok(_) | Err(AskError::Lost { .. }) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// The words of a command with those of the server in them.
fn filled_in(words: &[String], server: &Address) -> Vec<String> {
    let port = server.port().to_string();
    let (program, arguments) = words.split_at(1);
    let arguments =
        arguments.iter().map(|word| word.replace("{host}", server.host()).replace("{port}", &port));
    program.iter().cloned().chain(arguments).collect()
}

fn list(servers: &[Address]) -> String {
    servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_about_its_server() {
        let words = ["/bin/restart", "redis@{port}", "{host}:{port}"].map(str::to_owned);
        let filled = filled_in(&words, &"10.0.0.1:7000".parse().unwrap());
        assert_eq!(filled, ["/bin/restart", "redis@7000", "10.0.0.1:7000"]);
    }
}
