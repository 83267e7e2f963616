//! Facts about the chat nodes from a remote Prometheus, where we do not scrape them ourselves.
//!
//! Two queries a round for all nodes together, whatever their number. A node's series are those with its name as label `server`, which is
//! what circuits go by too, or else those whose `instance` is its address. A remote that does not answer leaves every node unknown, which
//! is no reason to act.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use holdfast_promql::{EvalError, Value};
use holdfast_series::{Labels, Sample};
use holdfast_telemetry::errors::Chain;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::prometheus::Prometheus;
use crate::config::Node;
use crate::observe::scrape::{Facts, NodeFacts};

/// Fresh enough for a page, and bearable for a remote that serves others too.
const EVERY_LEAST: Duration = Duration::from_secs(5);
/// What is asked for; CPU use is a rate and asked for apart.
const NAMES: &str = "up|scrape_duration_seconds|process_resident_memory_bytes|chatnode_connections";

/// Publishes the facts again and again.
#[derive(Debug)]
pub(crate) struct RemoteFacts {
    prometheus: Arc<Prometheus>,
    nodes: Vec<Node>,
    facts: Facts,
    every: Duration,
    answering: Option<bool>,
}

impl RemoteFacts {
    /// Facts about `nodes`, every `interval`, though not too often.
    pub(crate) fn new(
        prometheus: Arc<Prometheus>,
        nodes: Vec<Node>,
        facts: Facts,
        interval: Duration,
    ) -> Self {
        Self { prometheus, nodes, facts, every: interval.max(EVERY_LEAST), answering: None }
    }

    /// Asks until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut tick = tokio::time::interval(self.every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = tick.tick() => {}
            }
            let now_ms = chrono::Utc::now().timestamp_millis();
            tokio::select! {
                () = stop.cancelled() => return,
                asked = self.ask(now_ms) => self.publish(asked),
            }
        }
    }

    async fn ask(&self, now_ms: i64) -> Result<Vec<(Labels, Sample)>, EvalError> {
        let (names, addresses) = alternatives(&self.nodes);
        let both = |selector: &dyn Fn(&str) -> String| {
            let by_name = selector(&format!("server=~\"{names}\""));
            let by_address = selector(&format!("server=\"\",instance=~\"{addresses}\""));
            format!("{by_name} or {by_address}")
        };
        let figures = both(&|which| format!("{{__name__=~\"{NAMES}\",{which}}}"));
        let cpu = both(&|which| format!("rate(process_cpu_seconds_total{{{which}}}[1m])"));
        let mut found = Vec::new();
        for query in [figures, cpu] {
            let Value::Vector(list) = self.prometheus.instant(&query, now_ms).await? else {
                continue;
            };
            found.extend(list.into_iter().map(|series| (series.labels, series.sample)));
        }
        Ok(found)
    }

    fn publish(&mut self, asked: Result<Vec<(Labels, Sample)>, EvalError>) {
        let answering = asked.is_ok();
        let facts = match asked {
            Ok(found) => read(&self.nodes, &found),
            Err(error) => {
                let error = Chain(&error).to_string();
                if self.answering != Some(false) {
                    tracing::warn!(error, "chat nodes are unknown: the remote does not answer");
                }
                let unknown = NodeFacts { error: Some(error), ..NodeFacts::default() };
                self.nodes.iter().map(|node| (node.name.clone(), unknown.clone())).collect()
            }
        };
        if answering && self.answering == Some(false) {
            tracing::info!("the remote answers about the chat nodes again");
        }
        self.answering = Some(answering);
        self.facts.send_replace(facts);
    }
}

/// Names and addresses of all nodes as alternatives of a regular expression within a `PromQL` text.
fn alternatives(nodes: &[Node]) -> (String, String) {
    // Twice: once for the expression, once for the quotes around it.
    let quote = |text: &str| regex::escape(text).replace('\\', "\\\\");
    let join = |texts: Vec<String>| texts.join("|");
    (
        join(nodes.iter().map(|node| quote(&node.name)).collect()),
        join(nodes.iter().map(|node| quote(&node.metrics.to_string())).collect()),
    )
}

/// What was found, node by node.
fn read(nodes: &[Node], found: &[(Labels, Sample)]) -> HashMap<String, NodeFacts> {
    let about = |node: &Node| {
        let address = node.metrics.to_string();
        let own = |labels: &Labels| match labels.get("server") {
            Some(server) => server == node.name,
            None => labels.value("instance") == address,
        };
        let value = |name: &str| {
            let mut series = found.iter().filter(|(labels, _)| own(labels));
            series.find(|(labels, _)| labels.metric_name() == name).map(|(_, at)| at.value)
        };
        let up = value("up").map(|up| up > 0.0);
        let error = match up {
            Some(true) => None,
            Some(false) => Some("the remote cannot scrape it".to_owned()),
            None => Some("the remote knows nothing of it".to_owned()),
        };
        let facts = NodeFacts {
            up,
            error,
            // A rate has no name.
            cpu_cores: value(""),
            memory_bytes: value("process_resident_memory_bytes"),
            connections: value("chatnode_connections"),
            scrape_seconds: value("scrape_duration_seconds"),
            // Seconds old by the time it comes: too old for a judgement made in milliseconds.
            redis: None,
        };
        (node.name.clone(), facts)
    };
    nodes.iter().map(about).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Address;

    fn node(name: &str, port: u16) -> Node {
        Node { name: name.to_owned(), metrics: Address::new("10.0.0.1", port), pid_file: None }
    }

    #[test]
    fn series_belong_to_a_node_by_name_or_address() {
        let nodes = [node("chat.1", 1), node("chat-2", 2), node("chat-3", 3)];
        assert_eq!(
            alternatives(&nodes[..1]),
            ("chat\\\\.1".into(), "10\\\\.0\\\\.0\\\\.1:1".into())
        );
        let series = |labels: &[(&str, &str)], value| {
            (Labels::from_pairs(labels.iter().copied()), Sample { timestamp_ms: 0, value })
        };
        let found = [
            series(&[("__name__", "up"), ("server", "chat.1")], 1.0),
            series(&[("server", "chat.1")], 0.5),
            series(&[("__name__", "chatnode_connections"), ("server", "chat.1")], 7.0),
            series(&[("__name__", "up"), ("instance", "10.0.0.1:2")], 0.0),
            series(&[("__name__", "up"), ("instance", "10.0.0.9:3")], 1.0),
        ];
        let facts = read(&nodes, &found);
        let first = &facts["chat.1"];
        assert_eq!(
            (first.up, first.cpu_cores, first.connections),
            (Some(true), Some(0.5), Some(7.0))
        );
        assert_eq!((first.error.as_deref(), first.memory_bytes), (None, None));
        assert_eq!(facts["chat-2"].up, Some(false));
        assert_eq!(facts["chat-3"].up, None, "nothing is known, and that is not down");
    }
}
