//! The server controller: once a second, and whenever a rule or an operator asks, it compares what the balancer's servers should be with
//! what they are, and makes the difference.
//!
//! It holds one circuit per server ([`crate::judge::circuits`]), lets [`crate::plan::servers`] decide and [`crate::act::upstreams`] act.
//! A balancer that does not answer stops nothing else: its servers' state is then unknown, nothing is changed, and the next tick tries
//! again. An action withheld, or failed for the same cause, is recorded once, not at every tick; each attempt is counted.

use std::collections::HashMap;
use std::time::Duration;

use holdfast_telemetry::errors::Chain;
use holdfast_telemetry::{IntCounterVec, IntGaugeVec, Registry, metrics};
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::circuits;
use super::rules::Calls;
use crate::act::upstreams::{HoldfastBalancer, UpstreamError};
use crate::cluster::{
    BalancerStatus, CircuitState, NodeStatus, ServerState, ServerStatus, ServersStatus,
};
use crate::config::{Balancer, Config, Guards, Node};
use crate::control::{ControlError, SetServer};
use crate::group::Group;
use crate::judge::circuits::{Circuit, Demand};
use crate::observe::scrape::NodeFacts;
use crate::plan::servers::{Change, Input, OURS, Observed, Override, plan};
use crate::record::{Draft, Kind, Reason, Severity, Sink};

/// Time between two looks at the balancer when nothing else wakes the controller.
const TICK: Duration = Duration::from_secs(1);
/// What the journal calls the balancer.
const SUBJECT: &str = "balancer";
/// Cause under which the journal keeps a balancer that refuses us.
const CAUSE: &str = "balancer-refuses";

/// Figures of the controller.
struct Metrics {
    actions: IntCounterVec,
    looks: IntCounterVec,
    circuits: IntGaugeVec,
}

impl Metrics {
    fn register(registry: &Registry, nodes: &[Node]) -> Self {
        let actions = metrics::counter_vec(
            registry,
            "supervisor_actions_total",
            "Actions on servers by result",
            &["action", "result"],
        );
        for action in ["drain", "weight", "ready"] {
            for result in ["taken", "withheld", "failed"] {
                actions.with_label_values(&[action, result]);
            }
        }
        let looks = metrics::counter_vec(
            registry,
            "supervisor_balancer_looks_total",
            "Times the balancer was asked for its servers, by result",
            &["result"],
        );
        for result in ["succeeded", "refused", "unreachable"] {
            looks.with_label_values(&[result]);
        }
        let circuits = metrics::gauge_vec(
            registry,
            "supervisor_circuit_state",
            "State of a server's circuit, 1 for the state it is in",
            &["server", "state"],
        );
        let metrics = Self { actions, looks, circuits };
        for node in nodes {
            metrics.set_circuit(&node.name, CircuitState::Closed);
        }
        metrics
    }

    fn set_circuit(&self, server: &str, state: CircuitState) {
        for (name, each) in [
            ("closed", CircuitState::Closed),
            ("open", CircuitState::Open),
            ("half_open", CircuitState::HalfOpen),
        ] {
            self.circuits.with_label_values(&[server, name]).set(i64::from(each == state));
        }
    }

    fn count(&self, change: &Change, result: &str) {
        self.actions.with_label_values(&[action_name(change), result]).inc();
    }
}

/// The action a change amounts to, as its name in metrics.
fn action_name(change: &Change) -> &'static str {
    match change.state {
        ServerState::Drain | ServerState::Maintenance => "drain",
        ServerState::Ready if change.summary == "back in full service" => "ready",
        ServerState::Ready => "weight",
    }
}

/// Inputs of the controller.
pub(super) struct Inputs {
    /// What the rules call for.
    pub(super) calls: watch::Receiver<Calls>,
    /// What the scrapes of the nodes say.
    pub(super) facts: watch::Receiver<HashMap<String, NodeFacts>>,
    /// What operators ask for.
    pub(super) commands: mpsc::Receiver<SetServer>,
    /// Only its leader acts; the circuits are kept in its ledger.
    pub(super) group: Group,
}

/// The controller of one pool.
pub(super) struct ServerController {
    nodes: Vec<Node>,
    guards: Guards,
    observe_only: bool,
    balancer: Balancer,
    driver: HoldfastBalancer,
    inputs: Inputs,
    circuits: HashMap<String, Circuit>,
    overrides: HashMap<String, Override>,
    /// Withheld changes already recorded, by server.
    withheld: HashMap<String, Change>,
    /// Failed changes already recorded, by server, with the cause.
    failed: HashMap<String, (Change, String)>,
    /// Whether this member led when that was last looked at.
    has_led: bool,
    /// The pool as last seen; `None` while the balancer does not answer.
    observed: Option<Vec<Observed>>,
    balancer_error: Option<String>,
    metrics: Metrics,
    status: watch::Sender<ServersStatus>,
    sink: Sink,
}

impl ServerController {
    /// A controller for the nodes and the balancer of `config`, and where it publishes what it knows.
    pub(super) fn new(
        config: &Config,
        balancer: Balancer,
        driver: HoldfastBalancer,
        inputs: Inputs,
        registry: &Registry,
        sink: Sink,
    ) -> (Self, watch::Receiver<ServersStatus>) {
        let (status, receiver) = watch::channel(ServersStatus::default());
        let controller = Self {
            nodes: config.nodes.clone(),
            guards: config.guards.clone(),
            observe_only: config.supervisor.observe_only,
            balancer,
            driver,
            inputs,
            circuits: HashMap::new(),
            overrides: HashMap::new(),
            withheld: HashMap::new(),
            failed: HashMap::new(),
            has_led: false,
            observed: None,
            balancer_error: None,
            metrics: Metrics::register(registry, &config.nodes),
            status,
            sink,
        };
        controller.publish();
        (controller, receiver)
    }

    /// Runs until `shutdown`. The servers stay as they are then: the balancer works on without us.
    pub(super) async fn run(mut self, shutdown: CancellationToken) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut seat = self.inputs.group.seat();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = tick.tick() => self.step().await,
                // Whoever becomes the leader acts at once.
                Ok(()) = seat.changed() => {
                    self.inherit();
                    self.act().await;
                }
                Ok(()) = self.inputs.calls.changed() => {
                    self.observe_circuits();
                    self.act().await;
                }
                Some(command) = self.inputs.commands.recv() => self.command(command).await,
            }
            self.publish();
        }
    }

    /// One full round: look, judge, plan, act.
    async fn step(&mut self) {
        match self.driver.list().await {
            Ok(observed) => {
                self.metrics.looks.with_label_values(&["succeeded"]).inc();
                if self.balancer_error.take().is_some() {
                    tracing::info!(balancer = %self.balancer.admin, "balancer answers again");
                    (self.sink)(
                        Draft::new(
                            Kind::ActionTaken,
                            Severity::Info,
                            SUBJECT,
                            "can be controlled again",
                        )
                        .closes(CAUSE),
                    );
                }
                self.resume(&observed);
                self.observed = Some(observed);
            }
            Err(error) => self.lost_sight(&error),
        }
        self.inherit();
        self.observe_circuits();
        self.act().await;
        let (group, guards) = (&self.inputs.group, &self.guards);
        circuits::keep(group, &self.circuits, guards).await;
    }

    fn lost_sight(&mut self, error: &UpstreamError) {
        let (refused, result) = match error {
            UpstreamError::Refused { .. } => (true, "refused"),
            UpstreamError::Unreachable { .. } => (false, "unreachable"),
        };
        self.metrics.looks.with_label_values(&[result]).inc();
        let text = Chain(error).to_string();
        if self.balancer_error.as_ref() != Some(&text) {
            tracing::warn!(balancer = %self.balancer.admin, error = text, "balancer cannot be controlled");
            // One that does not answer is what the scrapes are for; one that refuses us is seen by nobody else.
            if refused {
                let message = "cannot be controlled: it refuses to show its servers";
                let draft = Draft::new(Kind::ActionFailed, Severity::Warning, SUBJECT, message);
                (self.sink)(draft.because(text.clone()).opens(CAUSE));
            }
        }
        self.balancer_error = Some(text);
        self.observed = None;
    }

    /// Takes up what an earlier run of ours left: an operator's setting stands, and what a circuit changed begins with an open
    /// circuit, so that it comes back step by step.
    fn resume(&mut self, observed: &[Observed]) {
        for server in observed {
            let name = &server.status.name;
            if self.circuits.contains_key(name) {
                continue;
            }
            let circuit = match (server.operator(), &server.reason) {
                _ if server.is_untouched() => Circuit::default(),
                (Some(by), _) => {
                    let (state, weight) = (server.status.state, Some(server.status.weight));
                    let wish = Override { state, weight, by: by.to_owned(), force: false };
                    self.overrides.entry(name.clone()).or_insert(wish);
                    Circuit::default()
                }
                (None, Some(reason)) if server.is_ours() => {
                    Circuit::resumed(server.as_action(), reason.trim_start_matches(OURS))
                }
                (None, _) => Circuit::default(),
            };
            self.metrics.set_circuit(name, circuit.state());
            self.circuits.insert(name.clone(), circuit);
        }
        self.circuits.retain(|name, _| observed.iter().any(|server| server.status.name == *name));
    }

    /// Whoever comes to lead goes on with the circuits of the one before.
    fn inherit(&mut self) {
        let leads = self.inputs.group.leading().is_some();
        if std::mem::replace(&mut self.has_led, leads) || !leads {
            return;
        }
        for (server, record) in circuits::inherit(&self.inputs.group, &mut self.circuits) {
            let message = "circuit stays open, as the former leader had it";
            let draft = Draft::new(Kind::Circuit, Severity::Info, &server, message);
            (self.sink)(draft.because(record.reason).opens("circuit"));
            self.metrics.set_circuit(&server, CircuitState::Open);
        }
    }

    fn observe_circuits(&mut self) {
        let now = chrono::Utc::now();
        let calls = self.inputs.calls.borrow_and_update().clone();
        for (server, circuit) in &mut self.circuits {
            let called =
                calls.known.then(|| calls.by_server.get(server).map_or(&[][..], Vec::as_slice));
            let Some(change) = circuit.observe(now, called, &self.guards) else { continue };
            let (severity, verb) = match change.to {
                CircuitState::Open => (Severity::Warning, "opened"),
                CircuitState::HalfOpen => (Severity::Info, "half-open"),
                CircuitState::Closed => (Severity::Info, "closed"),
            };
            tracing::info!(server, state = verb, reason = change.reason, "circuit changed");
            let draft = Draft::new(Kind::Circuit, severity, server, format!("circuit {verb}"))
                .because(change.reason);
            (self.sink)(match change.to {
                CircuitState::Open => draft.opens("circuit"),
                CircuitState::Closed => draft.closes("circuit"),
                CircuitState::HalfOpen => draft,
            });
            self.metrics.set_circuit(server, change.to);
        }
    }

    /// Plans on what was last seen and carries the plan out, if this supervisor leads.
    async fn act(&mut self) {
        let Some(observed) = self.observed.clone() else { return };
        if self.inputs.group.leading().is_none() {
            return;
        }
        let inputs: Vec<_> = observed
            .iter()
            .map(|server| {
                let circuit = self.circuits.get(&server.status.name);
                Input {
                    observed: server,
                    demand: circuit.map_or(Demand::Full, |circuit| circuit.demand(&self.guards)),
                    circuit_reason: circuit.and_then(Circuit::reason),
                    operator: self.overrides.get(&server.status.name),
                }
            })
            .collect();
        let plan = plan(&inputs, &self.guards, self.observe_only);
        self.withheld
            .retain(|server, _| plan.withheld.iter().any(|change| change.server == *server));
        self.failed.retain(|server, _| plan.changes.iter().any(|change| change.server == *server));
        for change in plan.withheld {
            if self.withheld.get(&change.server) != Some(&change) {
                self.metrics.count(&change, "withheld");
                self.record(&change, Kind::ActionWithheld, "withheld", None);
                self.withheld.insert(change.server.clone(), change);
            }
        }
        for change in plan.changes {
            // Asked before each: the one before may have taken its time.
            let Some(term) = self.inputs.group.leading() else { return };
            match self.driver.set(&change, term).await {
                Ok(server) => {
                    self.failed.remove(&change.server);
                    self.metrics.count(&change, "taken");
                    self.record(&change, Kind::ActionTaken, "taken", None);
                    self.replace(server);
                }
                Err(error) => {
                    let text = Chain(&error).to_string();
                    self.metrics.count(&change, "failed");
                    let failure = (change, text);
                    if self.failed.get(&failure.0.server) != Some(&failure) {
                        let (change, text) = &failure;
                        self.record(change, Kind::ActionFailed, "failed", Some(text.clone()));
                        self.failed.insert(failure.0.server.clone(), failure);
                    }
                }
            }
        }
    }

    fn replace(&mut self, server: Observed) {
        let seen = self.observed.iter_mut().flatten().find(|s| s.status.name == server.status.name);
        if let Some(seen) = seen {
            *seen = server;
        }
    }

    fn record(&self, change: &Change, kind: Kind, result: &str, error: Option<String>) {
        let Change { server, state, weight, summary, reasons } = change;
        let severity = match kind {
            Kind::ActionTaken => Severity::Info,
            _ => Severity::Warning,
        };
        tracing::info!(server, %state, weight, result, error, "server action");
        let message = format!("{result}: {state}, weight {weight} ({summary})");
        let against = error.map(|text| Reason { favours: false, text });
        (self.sink)(
            Draft::new(kind, severity, server, message)
                .reasons(reasons.iter().cloned().chain(against))
                .detail(serde_json::json!({"state": state, "weight": weight, "action": action_name(change)})),
        );
    }

    /// Takes an operator's wish in, acts on it at once and answers with what came of it.
    async fn command(&mut self, command: SetServer) {
        let SetServer { server, state, weight, force, by, reply } = command;
        if self.inputs.group.leading().is_none() {
            let why = "this supervisor does not lead the group now, so it changes nothing";
            // The asker may have gone.
            let _ = reply.send(Err(ControlError::Refused(why.to_owned())));
            return;
        }
        // A stale view would let the guard count wrongly.
        self.step().await;
        let answer = match self.observed.iter().flatten().find(|s| s.status.name == server) {
            None => Err(match &self.balancer_error {
                Some(error) => ControlError::Failed(error.clone()),
                None => ControlError::NotFound(format!(
                    "no server {server:?} in pool {:?}",
                    self.balancer.pool
                )),
            }),
            Some(observed) => {
                let before = self.overrides.get(&server).cloned();
                let state = state.unwrap_or(observed.status.state);
                let wish = Override { state, weight, by, force };
                self.wish(&server, wish, before).await
            }
        };
        // The asker may have gone; what was done stays done.
        let _ = reply.send(answer);
    }

    async fn wish(
        &mut self,
        server: &str,
        wish: Override,
        before: Option<Override>,
    ) -> Result<ServerStatus, ControlError> {
        self.overrides.insert(server.to_owned(), wish.clone());
        self.act().await;
        let now = self.observed.iter().flatten().find(|s| s.status.name == server).cloned();
        let now = now.ok_or_else(|| ControlError::Failed(format!("{server} is gone")))?;
        let weight = wish.weight.unwrap_or(now.configured_weight);
        if now.status.state == wish.state && now.status.weight == weight {
            // "ready" at the configured weight hands the server back to its circuit.
            if wish.state == ServerState::Ready && weight == now.configured_weight {
                self.overrides.remove(server);
            }
            return Ok(now.status);
        }
        // Not done: the wish is not kept, or it would come true some time later, unexpected.
        match before {
            Some(before) => self.overrides.insert(server.to_owned(), before),
            None => self.overrides.remove(server),
        };
        Err(match self.withheld.remove(server) {
            Some(change) => {
                let reasons = change.reasons.into_iter().filter(|reason| !reason.favours);
                let texts: Vec<_> = reasons.map(|reason| reason.text).collect();
                ControlError::Refused(format!("withheld: {}", texts.join("; ")))
            }
            None => ControlError::Failed(format!(
                "the balancer did not take it; see `holdfast events list --subject {server}`"
            )),
        })
    }

    fn publish(&self) {
        let facts = self.inputs.facts.borrow().clone();
        let leader = circuits::of_leader(&self.inputs.group);
        let nodes = self.nodes.iter().map(|node| {
            let facts = facts.get(&node.name).cloned().unwrap_or_default();
            let observed = self.observed.iter().flatten().find(|s| s.status.name == node.name);
            let own = self.circuits.get(&node.name);
            let (circuit, circuit_reason) = match &leader {
                None => (
                    own.map_or(CircuitState::Closed, Circuit::state),
                    own.and_then(Circuit::reason).map(str::to_owned),
                ),
                Some(ledger) => ledger
                    .circuits
                    .get(&node.name)
                    .map_or((CircuitState::Closed, None), |it| (it.state, Some(it.reason.clone()))),
            };
            NodeStatus {
                name: node.name.clone(),
                metrics: node.metrics.clone(),
                up: facts.up,
                error: facts.error,
                cpu_cores: facts.cpu_cores,
                memory_bytes: facts.memory_bytes,
                connections: facts.connections,
                scrape_seconds: facts.scrape_seconds,
                server: observed.map(|server| server.status.clone()),
                circuit,
                circuit_reason,
            }
        });
        let status = ServersStatus {
            nodes: nodes.collect(),
            balancer: Some(BalancerStatus {
                admin: self.balancer.admin.clone(),
                up: if self.balancer_error.is_some() {
                    Some(false)
                } else {
                    self.observed.as_ref().map(|_| true)
                },
                error: self.balancer_error.clone(),
                pool: self.balancer.pool.clone(),
            }),
        };
        self.status.send_replace(status);
    }
}
