//! What is printed when a local cluster is ready: where everything is, and what to try.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

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
    row("balancer", format!("http://{}", plan.chat), "the demo chat page, in a browser");
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

/// The program as it was called, so that a line can be pasted into another terminal in the same folder.
fn program() -> String {
    std::env::args().next().unwrap_or_else(|| "holdfast".to_owned())
}

/// Whether the command line finds this run by itself from the folder `up` was started in.
fn is_found_from_here(run: &Run) -> bool {
    // `latest` in it is set once this is printed.
    let searched = Path::new(".holdfast").canonicalize();
    searched.is_ok_and(|searched| run.folder().parent() == Some(&searched))
}

fn hints(plan: &Plan, run: &Run, children: &Children) -> String {
    let pid = |name: &str| children.pid(name).map_or_else(|| "?".to_owned(), |pid| pid.to_string());
    let node = plan.nodes.first().map_or("chatnode-1", |node| node.name.as_str());
    let redis = plan.redis.first().map_or("redis-1", |redis| redis.name.as_str());
    let holdfast = program();
    let mut text = String::new();
    writeln!(text, "What to try, in another terminal in this folder:").expect("a String takes it");
    let mut line = |command: String, what: &str| {
        writeln!(text, "  {command:<54} {what}").expect("a String takes it");
    };
    line(
        format!("http://{}", plan.chat),
        "the demo chat page, in a browser; in another as somebody else",
    );
    if is_found_from_here(run) {
        line(format!("{holdfast} chat --user ann"), "chat; in another terminal as bob");
    } else {
        line(format!("export HOLDFAST_SERVER=http://{}", plan.supervisor), "so that it is found");
        let token = run.secret("supervisor.token");
        line(format!("export HOLDFAST_TOKEN_FILE={}", token.display()), "");
    }
    line(format!("http://{}", plan.supervisor), "the status page, in a browser");
    line(format!("{holdfast} status"), "the same in a terminal");
    let settings = if is_found_from_here(run) {
        Path::new(".holdfast/latest/etc/balancer.toml").to_owned()
    } else {
        run.settings("balancer.toml")
    };
    let balancer = Path::new(&holdfast).with_file_name("holdfast-balancer");
    line(
        format!("{} top --config {}", balancer.display(), settings.display()),
        "the balancer's servers and rates, live",
    );
    line(format!("kill -9 {}", pid(node)), "crash a chat node, and watch what happens below");
    line(format!("kill -9 {}", pid(redis)), "crash the Redis primary");
    line(format!("kill -STOP {}", pid(node)), "make a chat node hang; -CONT ends it");
    line(format!("{holdfast} drain {node}"), "take a node out; `ready` brings it back");
    line(format!("{holdfast} backup"), "take a backup and prove that it restores");
    line(format!("{holdfast} drill run redis-primary-crash"), "rehearse a disaster, with a report");
    line(format!("{holdfast} failover"), "move the Redis primary without losing a write");
    write!(
        text,
        "Everything this run writes is in {}\nCtrl-C stops it all.\n",
        run.folder().display()
    )
    .expect("a String takes it");
    text
}
