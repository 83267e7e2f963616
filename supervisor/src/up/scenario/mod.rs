//! Demonstrations: a fault under load, and what became of every message.
//!
//! Clients go through the balancer, each sending numbered messages into one room and reading what the others send. A program is killed with
//! SIGKILL. Afterwards every acknowledged message must be in the room's history exactly once, and every reader must have received
//! every message of the history exactly once.
//!
//! - [`load`]: the clients
//! - [`outcome`]: the account of their messages, pure

mod load;
mod outcome;

use std::time::Duration;

use holdfast_telemetry::errors::Chain;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::folder::Run;
use super::{Plan, UpError, probe, show};
use crate::cli::client::Client;
use crate::rehearse::faults::Fault;
use load::{CLIENTS, Load};

/// Load before the fault.
const WARM_UP: Duration = Duration::from_secs(2);

/// Load after the first acknowledgement that follows the fault, long enough for every client to have come back.
const AFTER: Duration = Duration::from_secs(5);

/// A cluster that has not acknowledged anything for this long after the fault has not healed itself.
const HEAL_WITHIN: Duration = Duration::from_mins(1);

/// What is demonstrated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Scenario {
    /// Kill the Redis primary under load
    #[value(alias = "failover-demo")]
    RedisPrimaryCrash,
    /// Kill a chat node under load
    #[value(alias = "node-crash")]
    ChatnodeCrash,
}

impl Scenario {
    fn name(self) -> &'static str {
        match self {
            Self::RedisPrimaryCrash => "redis-primary-crash",
            Self::ChatnodeCrash => "chatnode-crash",
        }
    }
}

/// Runs a demonstration on a cluster that is ready, and prints its result.
pub(super) async fn run(
    scenario: Scenario,
    plan: &Plan,
    run: &Run,
    client: &Client,
    news: &mpsc::Sender<String>,
) -> Result<(), UpError> {
    let victim = victim(scenario, plan, client).await?;
    let program =
        if scenario == Scenario::RedisPrimaryCrash { "redis-server" } else { "holdfast-chatnode" };
    let failed =
        |error: &dyn std::fmt::Display| UpError::Scenario(format!("{}: {error}", scenario.name()));
    let load = Load::start(plan, run).await.map_err(|error| failed(&error))?;
    show::say(news, format!("{CLIENTS} clients send through the balancer"));
    sleep(WARM_UP).await;
    let fault = Fault::Kill { pid_file: run.pid_file(&victim), program: program.to_owned() };
    let injected = fault.inject().map_err(|error| failed(&Chain(&error)))?;
    let killed = Instant::now();
    let pid = injected.process().pid();
    show::say(news, format!("kill -9 {pid}  ({victim})"));
    let healed = timeout(HEAL_WITHIN, load.acknowledged_after(killed)).await;
    if healed.is_ok() {
        sleep(AFTER).await;
    }
    let result = load.finish(killed).await.map_err(|error| failed(&error))?;
    // The killed program is started again in the meantime; a demonstration ends with the cluster whole.
    let whole = async {
        while probe::cluster(client).await.is_err() {
            sleep(Duration::from_millis(200)).await;
        }
    };
    let whole = timeout(HEAL_WITHIN, whole).await.is_ok();
    let report = json!({
        "scenario": scenario.name(), "killed": victim, "pid": pid, "whole_again": whole,
        "result": result.json(),
    });
    run.write_file("scenario.json", &format!("{report:#}\n"), 0o644)?;
    for line in result.lines(&victim, whole) {
        show::say(news, line);
    }
    match result
        .fault()
        .or_else(|| (!whole).then(|| "the cluster did not become whole again".to_owned()))
    {
        Some(fault) => Err(failed(&fault)),
        None => Ok(()),
    }
}

/// The program to kill.
async fn victim(scenario: Scenario, plan: &Plan, client: &Client) -> Result<String, UpError> {
    let fail = |text: String| UpError::Scenario(format!("{}: {text}", scenario.name()));
    let status = client.status().await.map_err(|error| fail(error.to_string()))?;
    let nothing = || fail("there is nothing to kill".to_owned());
    match scenario {
        Scenario::ChatnodeCrash => {
            // The one with the most clients, so that the fault is felt.
            let nodes = status.servers.nodes.into_iter();
            let count = |node: &crate::cluster::NodeStatus| {
                node.server.as_ref().map_or(0, |server| server.active_connections)
            };
            nodes.max_by_key(count).map(|node| node.name).ok_or_else(nothing)
        }
        Scenario::RedisPrimaryCrash => {
            let redis = status.redis.into_iter().next();
            let primary = redis.and_then(|redis| redis.primary).ok_or_else(nothing)?;
            let is_it = |address: &std::net::SocketAddr| address.to_string() == primary.to_string();
            let redis = plan.redis.iter().find(|redis| is_it(&redis.address));
            redis.map(|redis| redis.name.clone()).ok_or_else(nothing)
        }
    }
}
