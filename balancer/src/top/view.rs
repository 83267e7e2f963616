//! What there is to see, line by line: pure, from two sets of figures.

use std::cmp::Reverse;

use crate::admin::stats::size;
use crate::figures::{Counts, Figures, ListenerFigures, PoolFigures, ServerFigures, Times};
use crate::pool::state::{AdminState, Health};

/// What servers are sorted by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Order {
    /// As the pool has them.
    #[default]
    Pool,
    /// Most connections in use first.
    Active,
    /// Most new connections and responses first.
    Rate,
    /// Slowest first byte first.
    Latency,
    /// Most failures first.
    Failures,
}

impl Order {
    const ALL: [Self; 5] = [Self::Pool, Self::Active, Self::Rate, Self::Latency, Self::Failures];

    pub(super) fn next(self) -> Self {
        Self::ALL[(self as usize + 1) % Self::ALL.len()]
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Pool => "pool",
            Self::Active => "active",
            Self::Rate => "rate",
            Self::Latency => "latency",
            Self::Failures => "failures",
        }
    }
}

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    Plain,
    Bold,
    Dim,
    Warn,
    Bad,
}

impl Style {
    /// What a terminal wants before and after it.
    pub(super) fn codes(self) -> (&'static str, &'static str) {
        match self {
            Self::Plain => ("", ""),
            Self::Bold => ("\x1b[1m", "\x1b[0m"),
            Self::Dim => ("\x1b[2m", "\x1b[0m"),
            Self::Warn => ("\x1b[33m", "\x1b[0m"),
            Self::Bad => ("\x1b[31m", "\x1b[0m"),
        }
    }

    pub(super) fn paint(self, text: &str) -> String {
        let (begin, end) = self.codes();
        format!("{begin}{text}{end}")
    }
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) text: String,
    pub(super) style: Style,
}

/// A line that says what is wrong.
pub(super) fn trouble(text: &str, width: usize) -> Line {
    line(text, Style::Bad, width)
}

/// Everything, with rates where there is something before.
pub(super) fn lines(
    before: Option<&Figures>,
    now: &Figures,
    order: Order,
    width: usize,
) -> Vec<Line> {
    // Of another run of the program there is nothing to take the difference from.
    let before = before.filter(|before| before.uptime_seconds < now.uptime_seconds);
    let seconds = before.map_or(0.0, |before| now.uptime_seconds - before.uptime_seconds);
    let rate = Rate { seconds };
    let mut lines = vec![line(
        &format!(
            "holdfast-balancer {}   up {}   {} connections   {}",
            now.version,
            age(now.uptime_seconds),
            now.active_connections,
            now.time
        ),
        Style::Bold,
        width,
    )];
    lines.push(line("", Style::Plain, width));
    lines.push(line(LISTENER_HEAD, Style::Dim, width));
    for listener in &now.listeners {
        let old = before.and_then(|old| old.listeners.iter().find(|l| l.name == listener.name));
        lines.push(line(&listener_text(old, listener, rate), Style::Plain, width));
    }
    for pool in &now.pools {
        let old = before.and_then(|old| old.pools.iter().find(|p| p.name == pool.name));
        add_pool(&mut lines, old, pool, rate, order, width);
    }
    lines
}

const LISTENER_HEAD: &str = "LISTENER          ADDRESS                  OPEN   NEW/S    2XX/S    4XX/S    5XX/S      IN/S     OUT/S  REFUSED/S";
const SERVER_HEAD: &str = "  SERVER          STATE        HEALTH    WEIGHT   IN USE   NEW/S   RESP/S    5XX/S  CONN MS  BYTE MS  FAILED  EJECTED";

fn add_pool(
    lines: &mut Vec<Line>,
    before: Option<&PoolFigures>,
    pool: &PoolFigures,
    rate: Rate,
    order: Order,
    width: usize,
) {
    let errors = total(&pool.errors_total);
    let failing = rate.of(before.map(|before| total(&before.errors_total)), errors);
    let retries = rate.of(before.map(|before| before.retries_total), pool.retries_total);
    let panic = if pool.panic { "   PANIC: every server is used" } else { "" };
    let text = format!(
        "POOL {}   {:?}   {} waiting   {retries} retries/s   {failing} not served/s{panic}",
        pool.name, pool.algorithm, pool.queued
    );
    lines.push(line("", Style::Plain, width));
    lines.push(line(&text, if pool.panic { Style::Bad } else { Style::Bold }, width));
    lines.push(line(SERVER_HEAD, Style::Dim, width));
    let mut servers: Vec<Row<'_>> = pool
        .servers
        .iter()
        .map(|now| {
            let old = before.and_then(|old| old.servers.iter().find(|s| s.name == now.name));
            Row { old, now, rate }
        })
        .collect();
    match order {
        Order::Pool => {}
        Order::Active => servers.sort_by_key(|row| Reverse(row.now.active_connections)),
        Order::Rate => servers.sort_by_key(|row| Reverse(row.since(work))),
        Order::Latency => {
            let mean = |row: &Row<'_>| row.mean(|s| s.first_byte);
            servers.sort_by(|one, other| mean(other).total_cmp(&mean(one)));
        }
        Order::Failures => servers.sort_by_key(|row| Reverse(row.since(failures))),
    }
    lines.extend(servers.iter().map(|row| line(&row.text(), row.style(), width)));
}

fn work(server: &ServerFigures) -> u64 {
    server.connections_total + total(&server.responses_total)
}

fn failures(server: &ServerFigures) -> u64 {
    server.connect_failures_total + count(&server.responses_total, "5xx")
}

/// A server now and before.
struct Row<'a> {
    old: Option<&'a ServerFigures>,
    now: &'a ServerFigures,
    rate: Rate,
}

impl Row<'_> {
    /// What a counter has gained; all of it if there is nothing before.
    fn since(&self, of: impl Fn(&ServerFigures) -> u64) -> u64 {
        of(self.now).saturating_sub(self.old.map_or(0, of))
    }

    fn per_second(&self, of: impl Fn(&ServerFigures) -> u64) -> String {
        self.rate.of(self.old.map(&of), of(self.now))
    }

    /// Mean time in seconds since before, or since the start.
    fn mean(&self, of: impl Fn(&ServerFigures) -> Times) -> f64 {
        let (old, now) = (self.old.map(&of).unwrap_or_default(), of(self.now));
        let count = now.count.saturating_sub(old.count);
        if count == 0 { 0.0 } else { (now.sum_seconds - old.sum_seconds).max(0.0) / count as f64 }
    }

    fn text(&self) -> String {
        let now = self.now;
        let state = match (now.state, now.usable) {
            (AdminState::Ready, true) => "ready",
            (AdminState::Ready, false) => "not used",
            (AdminState::Drain, _) => "drain",
            (AdminState::Maintenance, _) => "maintenance",
        };
        let health = match now.health {
            Health::Up => "up",
            Health::Down => "down",
            Health::Unknown => "unknown",
        };
        let weight = format!("{:.0}/{}", now.effective_weight, now.weight);
        format!(
            "  {:<15} {state:<12} {health:<8} {weight:>7} {:>8} {:>7} {:>8} {:>8} {:>8} {:>8} {:>7} {:>8}",
            cut(&now.name, 15),
            now.active_connections,
            self.per_second(|s| s.connections_total),
            self.per_second(|s| total(&s.responses_total)),
            self.per_second(|s| count(&s.responses_total, "5xx")),
            millis(self.mean(|s| s.connect)),
            millis(self.mean(|s| s.first_byte)),
            now.connect_failures_total,
            now.ejections_total,
        )
    }

    fn style(&self) -> Style {
        match (self.now.state, self.now.usable) {
            (AdminState::Ready, true) => Style::Plain,
            (AdminState::Ready, false) => Style::Bad,
            _ => Style::Warn,
        }
    }
}

fn listener_text(before: Option<&ListenerFigures>, now: &ListenerFigures, rate: Rate) -> String {
    let per = |of: &dyn Fn(&ListenerFigures) -> u64| rate.of(before.map(of), of(now));
    let bytes = |of: &dyn Fn(&ListenerFigures) -> u64| match rate.number(before.map(of), of(now)) {
        Some(bytes) => size(bytes),
        None => UNKNOWN.to_owned(),
    };
    format!(
        "{:<17} {:<22} {:>6} {:>7} {:>8} {:>8} {:>8} {:>9} {:>9} {:>10}",
        cut(&now.name, 17),
        cut(&now.address, 22),
        now.active_connections,
        per(&|l| l.connections_total),
        per(&|l| count(&l.requests_total, "2xx")),
        per(&|l| count(&l.requests_total, "4xx")),
        per(&|l| count(&l.requests_total, "5xx")),
        bytes(&|l| l.received_bytes_total),
        bytes(&|l| l.sent_bytes_total),
        per(&|l| total(&l.rejected_total)),
    )
}

/// What stands where there is nothing before.
const UNKNOWN: &str = "-";

/// Turns two counts into one per second.
#[derive(Debug, Clone, Copy)]
struct Rate {
    seconds: f64,
}

impl Rate {
    fn number(self, before: Option<u64>, now: u64) -> Option<f64> {
        let before = before.filter(|_| self.seconds > 0.0)?;
        Some(now.saturating_sub(before) as f64 / self.seconds)
    }

    fn of(self, before: Option<u64>, now: u64) -> String {
        match self.number(before, now) {
            None => UNKNOWN.to_owned(),
            Some(rate) if rate > 0.0 && rate < 10.0 => format!("{rate:.1}"),
            Some(rate) => format!("{rate:.0}"),
        }
    }
}

fn count(counts: &Counts, label: &str) -> u64 {
    counts.get(label).copied().unwrap_or(0)
}

fn total(counts: &Counts) -> u64 {
    counts.values().sum()
}

fn millis(seconds: f64) -> String {
    if seconds > 0.0 { format!("{:.1}", seconds * 1e3) } else { UNKNOWN.to_owned() }
}

fn age(seconds: f64) -> String {
    let whole = std::time::Duration::from_secs_f64(seconds.max(0.0).floor());
    holdfast_settings::duration::format(whole)
}

fn cut(text: &str, width: usize) -> String {
    text.chars().take(width).collect()
}

fn line(text: &str, style: Style, width: usize) -> Line {
    // Names come from settings, but a terminal obeys what it is shown.
    let clean = text.chars().map(|c| if c.is_control() { '?' } else { c });
    Line { text: clean.take(width).collect(), style }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Algorithm, Mode};
    use crate::pool::state::Passive;

    fn counts(pairs: &[(&str, u64)]) -> Counts {
        pairs.iter().map(|(label, count)| ((*label).to_owned(), *count)).collect()
    }

    fn server(name: &str, active: u64, responses: u64) -> ServerFigures {
        ServerFigures {
            name: name.to_owned(),
            state: AdminState::Ready,
            health: Health::Up,
            passive: Passive::Closed,
            usable: true,
            weight: 100,
            effective_weight: 50.0,
            active_connections: active,
            connections_total: 10,
            connect_failures_total: 0,
            responses_total: counts(&[("2xx", responses), ("5xx", 0)]),
            ejections_total: 0,
            connect: Times::default(),
            first_byte: Times { count: responses, sum_seconds: 0.002 * responses as f64 },
        }
    }

    fn figures(uptime: f64, responses: u64) -> Figures {
        Figures {
            version: "1".to_owned(),
            time: "now".to_owned(),
            uptime_seconds: uptime,
            active_connections: 7,
            listeners: vec![ListenerFigures {
                name: "chat".to_owned(),
                address: "[::]:80".to_owned(),
                mode: Mode::Http,
                active_connections: 7,
                connections_total: responses,
                requests_total: counts(&[("2xx", responses)]),
                received_bytes_total: responses * 1_024,
                sent_bytes_total: 0,
                rejected_total: Counts::new(),
                closed_total: Counts::new(),
            }],
            pools: vec![PoolFigures {
                name: "p".to_owned(),
                algorithm: Algorithm::RoundRobin,
                queued: 0,
                panic: false,
                retries_total: 0,
                errors_total: Counts::new(),
                servers: vec![server("a", 1, responses), server("b", 6, 1)],
            }],
        }
    }

    #[test]
    fn what_changed_is_shown_as_rates() {
        let shown = lines(Some(&figures(10.0, 100)), &figures(12.0, 300), Order::Pool, 200);
        let text: Vec<_> = shown.iter().map(|line| line.text.as_str()).collect();
        let listener: Vec<_> = text[3].split_whitespace().collect();
        assert_eq!(listener[..5], ["chat", "[::]:80", "7", "100", "100"], "{text:#?}");
        assert_eq!(listener[7..9], ["100", "KiB"], "{text:#?}");
        let a: Vec<_> = text[7].split_whitespace().collect();
        assert_eq!(a[..5], ["a", "ready", "up", "50/100", "1"], "{text:#?}");
        assert_eq!((a[6], a[9]), ("100", "2.0"), "{text:#?}");
    }

    #[test]
    fn there_are_no_rates_after_a_restart() {
        let shown = lines(Some(&figures(100.0, 100)), &figures(1.0, 300), Order::Pool, 200);
        let listener: Vec<_> = shown[3].text.split_whitespace().collect();
        assert_eq!(listener[3], UNKNOWN);
    }

    #[test]
    fn servers_are_sorted_and_lines_cut() {
        let shown = lines(None, &figures(1.0, 5), Order::Active, 40);
        assert!(shown[7].text.trim_start().starts_with('b'), "{shown:#?}");
        assert!(shown.iter().all(|line| line.text.chars().count() <= 40));
        let mut order = Order::Pool;
        for _ in Order::ALL {
            order = order.next();
        }
        assert_eq!(order, Order::Pool);
    }
}
