//! Carries out what clients order: through the controller of the primary, which records it.

use std::sync::PoisonError;
use std::time::Duration;

use holdfast_psync::{Connection, Credentials, Endpoint};
use holdfast_telemetry::errors::Chain;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::change::Change;
use super::commands::Client;
use super::value::Value;
use super::{Shared, monitor};
use crate::act::redis::SentinelEvent;
use crate::cluster::{Address, Pause};
use crate::control::{ControlError, Failover, RedisCommand, Reply, ask};
use crate::record::{Draft, Kind, Severity};

/// By this name a supervisor that hands an order on is known, so that it is not handed on again.
pub(super) const FORWARDER: &str = "holdfast-forward";

/// A controller answers an order at once, unless a failover is going on.
const ORDER_LIMIT: Duration = Duration::from_secs(5);

/// The one that leads is near, and was heard a moment ago.
const HAND_ON_LIMIT: Duration = Duration::from_secs(1);

impl Shared {
    /// Does it, or has it done by the one that leads, and says what to answer.
    pub(super) async fn order(&self, change: Change, words: &[String], client: &Client) -> Value {
        let leader = (self.endpoint.sentinels)().leader;
        let leader = leader.filter(|_| client.name.as_deref() != Some(FORWARDER));
        let Some(leader) = leader else { return self.carry_out(change, &client.address).await };
        let (index, is_removed) = match change {
            Change::FailOver(_) | Change::Set { .. } => return self.hand_on(&leader, words).await,
            Change::Reset(all) => return self.reset(&all, &client.address),
            Change::Remove(index) => (index, true),
            Change::Monitor(index) => (index, false),
        };
        let answer = self.hand_on(&leader, words).await;
        // There it may be so already.
        if answer != Value::ok() && answer != monitor::no_such() {
            return answer;
        }
        self.set_removed(index, is_removed);
        Value::ok()
    }

    /// Sends the same command to the supervisor that leads.
    async fn hand_on(&self, leader: &Address, words: &[String]) -> Value {
        if self.endpoint.tls.is_some() && self.endpoint.peer_tls.is_none() {
            return Value::Error(format!(
                "ERR this supervisor follows, ask the one that leads: {leader}"
            ));
        }
        let mut endpoint = Endpoint::new(holdfast_psync::Address::Tcp(leader.to_string()));
        endpoint.connect_timeout = HAND_ON_LIMIT;
        endpoint.command_timeout = ORDER_LIMIT;
        endpoint.tls.clone_from(&self.endpoint.peer_tls);
        let credentials = self.login.as_ref().map(|login| Credentials {
            username: login.username.clone(),
            password: login.password.expose().to_owned(),
        });
        let endpoint = endpoint.with_credentials(credentials);
        let asked = async {
            let mut connection = Connection::open(&endpoint).await?;
            connection.command(&["CLIENT", "SETNAME", FORWARDER]).await?;
            connection.command(words).await
        };
        match asked.await {
            Ok(_) => Value::ok(),
            Err(holdfast_psync::Error::Refused { reply, .. }) => Value::Error(reply),
            Err(error) => Value::Error(format!(
                "ERR this supervisor follows, and its leader cannot be asked: {}",
                Chain(&error)
            )),
        }
    }

    async fn carry_out(&self, change: Change, client: &str) -> Value {
        let done = match change {
            Change::FailOver(index) => self.fail_over(index, client),
            Change::Set { index, hang_after, without_effect } => {
                self.set(index, hang_after, &without_effect, client).await
            }
            Change::Remove(index) => self.remove(index, client).await,
            Change::Monitor(index) => self.monitor(index, client).await,
            Change::Reset(all) => return self.reset(&all, client),
        };
        match done {
            Ok(()) => Value::ok(),
            Err(ControlError::Busy(_)) => Value::error("INPROG Failover already in progress"),
            Err(error) => Value::Error(format!("ERR {error}")),
        }
    }

    /// Sets a failover going. Like Sentinel we do not wait for its end.
    fn fail_over(&self, index: usize, client: &str) -> Result<(), ControlError> {
        // The outcome is in the journal; the answer has nowhere to go.
        let (reply, _) = oneshot::channel();
        let by = format!("SENTINEL FAILOVER from {client}");
        let order = RedisCommand::FailOver(Failover { target: None, by, reply });
        let sent = self.endpoint.primaries[index].orders.try_send(order);
        sent.map_err(|_| ControlError::Busy(String::new()))
    }

    async fn set(
        &self,
        index: usize,
        hang_after: Option<Duration>,
        without_effect: &[String],
        client: &str,
    ) -> Result<(), ControlError> {
        if let Some(hang_after) = hang_after {
            let by = format!("SENTINEL SET from {client}");
            self.ask(index, |reply| RedisCommand::SetHangAfter { hang_after, by, reply }).await?;
            let milliseconds = hang_after.as_millis();
            self.tell(index, "+set", &format!(" down-after-milliseconds {milliseconds}"));
        }
        if !without_effect.is_empty() {
            let options = without_effect.join(", ");
            let text = format!("SENTINEL SET from {client} was accepted without effect: {options}");
            self.note(index, text);
        }
        Ok(())
    }

    /// Stops telling of a primary; nothing is changed about it by ourselves until it is monitored again, whatever happens to us.
    async fn remove(&self, index: usize, client: &str) -> Result<(), ControlError> {
        let pause = Pause {
            reason: "taken off monitoring".to_owned(),
            by: format!("SENTINEL REMOVE from {client}"),
            until: None,
        };
        self.ask(index, |reply| RedisCommand::Pause { pause, reply }).await?;
        self.set_removed(index, true);
        Ok(())
    }

    async fn monitor(&self, index: usize, client: &str) -> Result<(), ControlError> {
        let by = format!("SENTINEL MONITOR from {client}");
        match self.ask(index, |reply| RedisCommand::Resume { by, reply }).await {
            // Somebody has resumed it already.
            Ok(()) | Err(ControlError::Refused(_)) => {}
            Err(error) => return Err(error),
        }
        self.set_removed(index, false);
        Ok(())
    }

    fn set_removed(&self, index: usize, is_removed: bool) {
        let mut removed = self.removed.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = if is_removed { removed.insert(index) } else { removed.remove(&index) };
        if changed {
            self.tell(index, if is_removed { "-monitor" } else { "+monitor" }, "");
        }
    }

    /// There is nothing to be forgotten: servers are in the settings, and everything else is looked at all the time.
    fn reset(&self, all: &[usize], client: &str) -> Value {
        for index in all {
            self.tell(*index, "+reset-master", "");
            self.note(*index, format!("SENTINEL RESET from {client}: nothing had to be forgotten"));
        }
        Value::Integer(i64::try_from(all.len()).unwrap_or(i64::MAX))
    }

    async fn ask(
        &self,
        index: usize,
        order: impl FnOnce(Reply<()>) -> RedisCommand,
    ) -> Result<(), ControlError> {
        let answer = ask("Redis", Some(&self.endpoint.primaries[index].orders), order);
        let late = || {
            let seconds = ORDER_LIMIT.as_secs();
            ControlError::Failed(format!("no answer within {seconds} s; it may still be done"))
        };
        timeout(ORDER_LIMIT, answer).await.unwrap_or_else(|_| Err(late()))
    }

    fn tell(&self, index: usize, channel: &'static str, more: &str) {
        let status = self.endpoint.primaries[index].topology.borrow().status.clone();
        let Some(primary) = status.primary else { return };
        let (name, host, port) = (status.name, primary.host(), primary.port());
        let payload = format!("master {name} {host} {port}{more}");
        // Nobody may be subscribed.
        let _ = self.events.send(SentinelEvent { channel, payload });
    }

    fn note(&self, index: usize, text: String) {
        let name = self.endpoint.primaries[index].topology.borrow().status.name.clone();
        let subject = format!("redis/{name}");
        (self.endpoint.sink)(Draft::new(Kind::ActionTaken, Severity::Info, subject, text));
    }
}
