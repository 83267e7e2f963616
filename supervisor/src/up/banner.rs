//! What is printed when a local cluster is ready: where everything is, and what to try.

use std::fmt::Write as _;
use std::io::Write as _;

use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;

use super::Plan;
use super::children::Children;
use super::folder::Run;

/// Prints the table of addresses and, unless a demonstration follows, what to try.
pub(super) fn print(plan: &Plan, run: &Run, children: &Children, demonstration: bool) {
    let mut text = format!("\n{}\n", table(plan, children));
    if !demonstration {
        text += &hints(plan, run, children);
    }
    // Without a terminal there is nobody to tell.
    let _unseen = writeln!(std::io::stdout().lock(), "{text}");
}

fn table(plan: &Plan, children: &Children) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header([
        "program",
        "pid",
        "address",
        "what is there",
    ]);
    let pid = |name: &str| children.pid(name).map(|pid| pid.to_string()).unwrap_or_default();
    let mut row = |name: &str, address: String, what: &str| {
        table.add_row([name, &pid(name), &address, what]);
    };
    let chat = format!("ws://{}/connection/websocket", plan.chat);
    row("balancer", chat, "chat, for every Centrifuge client");
    row("balancer", format!("http://{}", plan.balancer_admin), "its operator API, /metrics");
    row("supervisor", format!("http://{}", plan.supervisor), "status page, operator API, /metrics");
    row("supervisor", plan.sentinel.to_string(), "the Redis primary, as Redis Sentinel tells it");
    for node in &plan.nodes {
        row(&node.name, node.client.to_string(), "chat, for the balancer");
        row(&node.name, format!("http://{}", node.admin), "/metrics, /health/ready");
    }
    for (index, redis) in plan.redis.iter().enumerate() {
        let what =
            if index == 0 { "Redis, at first the primary" } else { "Redis, at first a replica" };
        row(&redis.name, redis.address.to_string(), what);
    }
    row("mail", plan.mail.to_string(), "takes alert mails, into mail/");
    row("webhook", format!("http://{}/hook", plan.webhook), "takes webhooks, into webhook.jsonl");
    table
}

fn hints(plan: &Plan, run: &Run, children: &Children) -> String {
    let pid = |name: &str| children.pid(name).map_or_else(|| "?".to_owned(), |pid| pid.to_string());
    let node = plan.nodes.first().map_or("chatnode-1", |node| node.name.as_str());
    let redis = plan.redis.first().map_or("redis-1", |redis| redis.name.as_str());
    let folder = run.folder().display();
    let mut text = String::new();
    let lines = [
        (format!("http://{}", plan.supervisor), "the status page, in a browser"),
        ("holdfast status".to_owned(), "the same in a terminal"),
        ("holdfast chat --user ann".to_owned(), "chat; in another terminal as bob"),
        (format!("kill -9 {}", pid(node)), "crash a chat node, and watch what happens below"),
        (format!("kill -9 {}", pid(redis)), "crash the Redis primary"),
        (format!("kill -STOP {}", pid(node)), "make a chat node hang; -CONT ends it"),
        (format!("holdfast drain {node}"), "take a node out; `holdfast ready` brings it back"),
        ("holdfast failover".to_owned(), "move the Redis primary without losing a write"),
        ("holdfast backup".to_owned(), "take a backup and prove that it restores"),
        ("holdfast drill run redis-primary-crash".to_owned(), "rehearse a disaster, with a report"),
    ];
    writeln!(text, "What to try, in another terminal in this folder:").expect("a String takes it");
    for (command, what) in lines {
        writeln!(text, "  {command:<42} {what}").expect("a String takes it");
    }
    write!(text, "Everything this run writes is in {folder}\nCtrl-C stops it all.\n")
        .expect("a String takes it");
    text
}
