//! Commands that operators give to the running parts, and drills to the parts they exercise.
//!
//! Each part owns the receiving end of one bounded channel and answers every command through its `reply`. The operator API holds a
//! [`Control`]. A full channel is an answer too (`Busy`): nothing waits without a bound.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use crate::cluster::{Address, Appointment, Pause, RestartStatus, ServerState, ServerStatus};

/// Commands waiting for one part; more are refused as `Busy`. Operators and drills give a handful at most.
pub const QUEUE_MAX: usize = 16;

/// Why a command was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// It names something that does not exist.
    #[error("{0}")]
    NotFound(String),
    /// A guard, a switch or the present state forbids it.
    #[error("{0}")]
    Refused(String),
    /// The same part is already doing such a thing, or its queue is full.
    #[error("{0}")]
    Busy(String),
    /// It was tried and did not work.
    #[error("{0}")]
    Failed(String),
}

/// Whether this supervisor leads its group and may act, asked at the moment of acting.
pub type Leads = std::sync::Arc<dyn Fn() -> bool + Send + Sync>;

/// The answer to a command.
pub type Reply<T> = oneshot::Sender<Result<T, ControlError>>;

/// For the server controller.
#[derive(Debug)]
pub struct SetServer {
    /// The server's name.
    pub server: String,
    /// New administrative state; it then stays until an operator sets `ready` again.
    pub state: Option<ServerState>,
    /// New weight, 0 to 256.
    pub weight: Option<u16>,
    /// Skip the guards.
    pub force: bool,
    /// Who asked, for the journal.
    pub by: String,
    /// The server afterwards.
    pub reply: Reply<ServerStatus>,
}

/// A planned switchover, or a failover if the primary is down.
#[derive(Debug)]
pub struct Failover {
    /// The wanted primary; the best candidate if `None`.
    pub target: Option<Address>,
    /// Who asked, for the journal.
    pub by: String,
    /// What was done.
    pub reply: Reply<FailoverReport>,
}

/// For the Redis controller.
#[derive(Debug)]
pub enum RedisCommand {
    /// Replace the primary.
    FailOver(Failover),
    /// Change nothing without being asked, until it ends.
    Pause {
        /// Why, who, how long.
        pause: Pause,
        /// Done.
        reply: Reply<()>,
    },
    /// End the pause.
    Resume {
        /// Who asked, for the journal.
        by: String,
        /// Done.
        reply: Reply<()>,
    },
    /// Agree to the failover that waits.
    Approve {
        /// Who asked, for the journal.
        by: String,
        /// Done; the failover follows.
        reply: Reply<()>,
    },
    /// End the cool-down after the last failover.
    Acknowledge {
        /// Who asked, for the journal.
        by: String,
        /// Done.
        reply: Reply<()>,
    },
    /// Replace the primary later.
    Appoint {
        /// When, to which server, for whom.
        appointment: Appointment,
        /// Noted.
        reply: Reply<()>,
    },
    /// Something about salvages.
    Salvage(SalvageOrder),
    /// Restart all servers one by one.
    Restart {
        /// What.
        order: RestartOrder,
        /// Who asked, for the journal.
        by: String,
        /// How it stands; it goes on by itself.
        reply: Reply<RestartStatus>,
    },
    /// Forget that.
    Cancel {
        /// Who asked, for the journal.
        by: String,
        /// Done.
        reply: Reply<()>,
    },
    /// Silence counts after another time, until the next start.
    SetHangAfter {
        /// That time.
        hang_after: Duration,
        /// Who asked, for the journal.
        by: String,
        /// Done.
        reply: Reply<()>,
    },
}

/// About commands of a former primary that were saved. The answers are those of the operator API.
#[derive(Debug)]
pub enum SalvageOrder {
    /// Which there are.
    List {
        /// Newest first.
        reply: Reply<serde_json::Value>,
    },
    /// What is in one.
    Show {
        /// Which.
        id: String,
        /// The first unit to show.
        from: usize,
        /// Also what users wrote.
        values: bool,
        /// Its beginning.
        reply: Reply<serde_json::Value>,
    },
    /// Carry its commands out on the present primary.
    Replay {
        /// Which.
        id: String,
        /// Only say what that would do.
        dry_run: bool,
        /// Also what was written since.
        force: bool,
        /// Who asked, for the journal.
        by: String,
        /// What was done.
        reply: Reply<serde_json::Value>,
    },
}

/// About a rolling restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartOrder {
    /// Begin one.
    Begin {
        /// Also if too few replicas stay meanwhile.
        force: bool,
    },
    /// Take up what the last one left.
    Resume,
    /// Stop after what cannot be stopped any more.
    Stop,
}

/// What a failover or switchover did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FailoverReport {
    /// The former primary.
    pub from: Option<Address>,
    /// The new primary.
    pub to: Address,
    /// Epoch it was done under.
    pub epoch: u64,
    /// From decision to the promoted primary's first accepted write, seconds.
    pub seconds: f64,
    /// Bytes the old primary had and the new one lacks, where that is known.
    pub lost_bytes: Option<u64>,
}

/// For the backup scheduler: take one now.
#[derive(Debug)]
pub struct TakeBackup {
    /// Who asked, for the journal.
    pub by: String,
    /// Progress, as it comes; slow readers miss steps, not the result.
    pub progress: Option<mpsc::Sender<BackupProgress>>,
    /// The backup.
    pub reply: Reply<BackupReport>,
}

/// How far a backup is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupProgress {
    /// `connect`, `snapshot`, `verify`.
    pub phase: String,
    /// Bytes done in this phase.
    pub done_bytes: u64,
    /// Bytes in all, where known.
    pub total_bytes: Option<u64>,
}

/// A finished backup.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BackupReport {
    /// Its identifier.
    pub id: String,
    /// The server it came from.
    pub source: Address,
    /// Replication offset it stands at.
    pub offset: u64,
    /// Keys in it.
    pub keys: u64,
    /// Size of the snapshot, bytes.
    pub raw_bytes: u64,
    /// Size as stored, bytes.
    pub stored_bytes: u64,
    /// Whether it was restored into a scratch server and compared.
    pub verified: bool,
    /// How long it took, seconds.
    pub seconds: f64,
}

/// For the drill runner: start a scenario.
#[derive(Debug)]
pub struct StartDrill {
    /// Its name.
    pub scenario: String,
    /// Who asked, for the journal.
    pub by: String,
    /// The run's identifier; the run goes on by itself.
    pub reply: Reply<String>,
}

/// For the drill runner.
#[derive(Debug)]
pub enum DrillCommand {
    /// Start a scenario.
    Start(StartDrill),
    /// Stop the run that is going on and undo its faults.
    Abort {
        /// Who asked, for the journal.
        by: String,
        /// Done.
        reply: Reply<()>,
    },
}

/// For the daemon: read the settings' rule files again.
#[derive(Debug)]
pub struct Reload {
    /// What changed, one line each.
    pub reply: Reply<Vec<String>>,
}

/// The sending ends, one for each part that runs.
#[derive(Debug, Clone, Default)]
pub struct Control {
    /// The server controller.
    pub servers: Option<mpsc::Sender<SetServer>>,
    /// The Redis controllers by the name of what each looks after.
    pub redis: BTreeMap<String, mpsc::Sender<RedisCommand>>,
    /// The backup scheduler.
    pub backup: Option<mpsc::Sender<TakeBackup>>,
    /// The drill runner.
    pub drills: Option<mpsc::Sender<DrillCommand>>,
    /// The daemon itself.
    pub reload: Option<mpsc::Sender<Reload>>,
}

impl Control {
    /// The controller of the Redis called `name`; without a name, of the only one.
    ///
    /// # Errors
    /// There is none of that name, or several and no name; both say which there are.
    pub fn redis_named(
        &self,
        name: Option<&str>,
    ) -> Result<&mpsc::Sender<RedisCommand>, ControlError> {
        let names = || self.redis.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        let mut all = self.redis.values();
        match (name, all.next(), all.next()) {
            (_, None, _) => {
                Err(ControlError::NotFound("Redis is not configured on this supervisor".to_owned()))
            }
            (None, Some(only), None) => Ok(only),
            (None, ..) => Err(ControlError::Refused(format!(
                "there are several Redis, say by name which is meant: {}",
                names()
            ))),
            (Some(name), ..) => self.redis.get(name).ok_or_else(|| {
                ControlError::NotFound(format!("there is no Redis {name:?}; there are {}", names()))
            }),
        }
    }
}

/// Sends a command built around a reply channel to a part and waits for the answer.
///
/// # Errors
/// The part is not configured (`NotFound`, named by `part`), its queue is full, it stopped, or what it answered.
pub async fn ask<C, T>(
    part: &str,
    sender: Option<&mpsc::Sender<C>>,
    command: impl FnOnce(Reply<T>) -> C,
) -> Result<T, ControlError> {
    let Some(sender) = sender else {
        return Err(ControlError::NotFound(format!("{part} is not configured on this supervisor")));
    };
    let (reply, answer) = oneshot::channel();
    sender.try_send(command(reply)).map_err(|error| match error {
        mpsc::error::TrySendError::Full(_) => {
            ControlError::Busy(format!("{part} has {QUEUE_MAX} commands waiting already"))
        }
        mpsc::error::TrySendError::Closed(_) => ControlError::Failed(format!("{part} has stopped")),
    })?;
    answer.await.unwrap_or_else(|_| Err(ControlError::Failed(format!("{part} has stopped"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control(names: &[&str]) -> Control {
        let redis = names.iter().map(|name| ((*name).to_owned(), mpsc::channel(1).0)).collect();
        Control { redis, ..Control::default() }
    }

    #[test]
    fn a_redis_is_named_where_there_are_several() {
        let error =
            |names: &[&str], name| control(names).redis_named(name).unwrap_err().to_string();
        assert_eq!(error(&[], None), "Redis is not configured on this supervisor");
        assert!(control(&["main"]).redis_named(None).is_ok());
        assert!(control(&["main", "cache"]).redis_named(Some("cache")).is_ok());
        assert_eq!(
            error(&["main", "cache"], None),
            "there are several Redis, say by name which is meant: cache, main"
        );
        assert_eq!(
            error(&["main", "cache"], Some("queue")),
            "there is no Redis \"queue\"; there are cache, main"
        );
    }
}
