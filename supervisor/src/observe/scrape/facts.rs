//! Figures of a chat node for the status page, from the text of its scrape.

use std::collections::HashMap;
use std::time::Instant;

use holdfast_series::text::{self, Format};
use tokio::sync::watch;

/// What the status page shows of a chat node. Unknown is `None`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NodeFacts {
    /// Result of the last scrape.
    pub up: Option<bool>,
    /// Why it failed.
    pub error: Option<String>,
    /// CPU used between the last two scrapes, cores.
    pub cpu_cores: Option<f64>,
    /// Resident memory, bytes.
    pub memory_bytes: Option<f64>,
    /// Client connections.
    pub connections: Option<f64>,
    /// How long the scrape took, seconds.
    pub scrape_seconds: Option<f64>,
    /// What the node said of Redis, and when.
    pub redis: Option<RedisWord>,
}

/// A chat node's own word on Redis: whether its messages come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RedisWord {
    /// `chatnode_redis_up`.
    pub up: bool,
    /// When the scrape that has it ended.
    pub at: Instant,
}

/// Facts by node name, published after every scrape of a node.
pub type Facts = watch::Sender<HashMap<String, NodeFacts>>;

impl NodeFacts {
    /// From the text of a scrape at `now_ms` that took `seconds` and ended at `at`. `cpu` is when the CPU clock was read last and what it
    /// said.
    pub(super) fn read(
        body: &str,
        seconds: f64,
        now_ms: i64,
        at: Instant,
        cpu: &mut Option<(i64, f64)>,
    ) -> Self {
        let before = *cpu;
        let used = value_of(body, "process_cpu_seconds_total");
        *cpu = used.map(|used| (now_ms, used));
        Self {
            up: Some(true),
            error: None,
            cpu_cores: before.zip(*cpu).and_then(cores),
            memory_bytes: value_of(body, "process_resident_memory_bytes"),
            connections: value_of(body, "chatnode_connections"),
            scrape_seconds: Some(seconds),
            redis: value_of(body, "chatnode_redis_up").map(|up| RedisWord { up: up > 0.0, at }),
        }
    }

    /// Of a scrape that failed.
    pub(super) fn failed(error: &str, seconds: f64) -> Self {
        let (error, scrape_seconds) = (Some(error.to_owned()), Some(seconds));
        Self { up: Some(false), error, scrape_seconds, ..Self::default() }
    }
}

/// CPU use in cores between two readings of the CPU clock; `None` after a restart of the process.
fn cores((before, after): ((i64, f64), (i64, f64))) -> Option<f64> {
    let seconds = (after.0 - before.0) as f64 / 1e3;
    (seconds > 0.0 && after.1 >= before.1).then(|| (after.1 - before.1) / seconds)
}

/// The value of a metric without labels.
fn value_of(body: &str, name: &str) -> Option<f64> {
    let line = body
        .lines()
        .find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '\t'])))?;
    text::parse(line, Format::Prometheus).next()?.ok().map(|sample| sample.value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_read_from_the_exposition() {
        let body = "# HELP x y\nprocess_cpu_seconds_total 1.5\nprocess_cpu_seconds_total_x 9\n";
        assert_eq!(value_of(body, "process_cpu_seconds_total"), Some(1.5));
        assert_eq!(value_of(body, "chatnode_connections"), None);
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn a_node_that_says_nothing_of_redis_has_no_word() {
        let at = Instant::now();
        let word = |body: &str| NodeFacts::read(body, 0.1, 0, at, &mut None).redis;
        assert_eq!(word("chatnode_redis_up 0\n"), Some(RedisWord { up: false, at }));
        assert_eq!(word("chatnode_redis_up 1\n"), Some(RedisWord { up: true, at }));
        assert_eq!(word("chatnode_connections 1\n"), None);
    }

    #[test]
    fn cpu_use_needs_two_readings_of_one_process() {
        assert_eq!(cores(((1_000, 1.0), (3_000, 2.0))), Some(0.5));
        assert_eq!(cores(((1_000, 1.0), (3_000, 0.2))), None, "restarted");
        assert_eq!(cores(((1_000, 1.0), (1_000, 1.0))), None);
    }
}
