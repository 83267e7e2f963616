//! `HAProxy`'s settings: `defaults`, `frontend`, `backend` and `listen`.

mod backend;
mod frontend;

use std::collections::BTreeSet;
use std::time::Duration;

use super::draft::{self, Draft, Listener, Pool};
use super::{Note, Read};

/// A time without a unit is in milliseconds.
const UNIT: Duration = Duration::from_millis(1);

/// What the balancer does anyway, or has no part in: it may be passed over in silence.
const PASSED_OVER: &[&str] = &[
    "daemon",
    "default-server",
    "description",
    "errorfile",
    "group",
    "http-reuse",
    "log",
    "log-format",
    "log-tag",
    "nbthread",
    "pidfile",
    "stats",
    "tune.ssl.default-dh-param",
    "user",
];

/// Options of the same kind.
const OPTIONS_PASSED_OVER: &[&str] = &[
    "clitcpka",
    "dontlognull",
    "forwardfor",
    "http-keep-alive",
    "http-server-close",
    "httplog",
    "log-health-checks",
    "redispatch",
    "splice-auto",
    "srvtcpka",
    "tcp-smart-accept",
    "tcp-smart-connect",
    "tcpka",
    "tcplog",
];

/// Time limits that have a counterpart, wherever they stand.
#[derive(Debug, Clone, Default)]
struct Limits {
    tcp: bool,
    connect: Option<Duration>,
    server: Option<Duration>,
    queue: Option<Duration>,
    check: Option<Duration>,
    http_request: Option<Duration>,
    keep_alive: Option<Duration>,
    connections_max: Option<u32>,
    retries: Option<u32>,
    balance: Option<Vec<String>>,
    http_check: Option<draft::Check>,
}

impl Limits {
    /// Takes in what may stand in every section; whether it was that.
    fn take(&mut self, line: &Line) -> bool {
        let time = draft::time(line.word(2), UNIT);
        match (line.word(0), line.word(1)) {
            ("mode", "tcp") => self.tcp = true,
            ("mode", "http") => self.tcp = false,
            ("timeout", "connect") => self.connect = time,
            ("timeout", "server") => self.server = time,
            ("timeout", "queue") => self.queue = time,
            ("timeout", "check") => self.check = time,
            ("timeout", "http-request") => self.http_request = time,
            ("timeout", "http-keep-alive") => self.keep_alive = time,
            // Long-lived connections have none, and stalled bodies are bound by the idle time.
            ("timeout", "client" | "tunnel" | "client-fin" | "server-fin" | "tarpit") => {}
            ("maxconn", number) => self.connections_max = number.parse().ok(),
            ("retries", number) => self.retries = number.parse().ok(),
            ("balance", _) => self.balance = Some(line.rest(1).to_vec()),
            ("option", "httpchk") => self.http_check = Some(backend::http_check(line)),
            _ => return false,
        }
        true
    }
}

/// A line: its number and its words.
#[derive(Debug, Clone)]
struct Line {
    number: usize,
    words: Vec<String>,
}

impl Line {
    fn word(&self, at: usize) -> &str {
        self.words.get(at).map_or("", String::as_str)
    }

    fn rest(&self, from: usize) -> &[String] {
        self.words.get(from..).unwrap_or_default()
    }
}

/// Reads `text`. There is no text without some form.
pub(super) fn read(text: &str) -> Read {
    let mut reader = Reader::default();
    for (line, kind, name, lines) in sections(text, &mut reader) {
        match kind.as_str() {
            "global" => lines.iter().for_each(|line| reader.of_global(line)),
            "defaults" => {
                let mut limits = Limits::default();
                for line in &lines {
                    reader.of_defaults(&mut limits, line);
                }
                reader.defaults = limits;
            }
            "frontend" => reader.frontend(&name, &lines, false),
            "backend" => reader.backend(&name, &lines),
            "listen" => {
                reader.frontend(&name, &lines, true);
                reader.backend(&name, &lines);
            }
            _ => reader.note(&line, "a section of this kind is not understood, left out"),
        }
    }
    reader.finish()
}

#[derive(Default)]
struct Reader {
    draft: Draft,
    notes: BTreeSet<Note>,
    defaults: Limits,
}

type Section = (Line, String, String, Vec<Line>);

/// The sections in their order, with what stands before the first noted.
fn sections(text: &str, reader: &mut Reader) -> Vec<Section> {
    let mut sections: Vec<Section> = Vec::new();
    for (index, raw) in text.lines().enumerate() {
        let words = words(raw);
        let line = Line { number: index + 1, words };
        let Some(first) = line.words.first().cloned() else { continue };
        // A section begins at the margin, what belongs to it usually does not; the words decide.
        let is_section = [
            "global",
            "defaults",
            "frontend",
            "backend",
            "listen",
            "peers",
            "resolvers",
            "userlist",
            "mailers",
            "cache",
            "program",
            "http-errors",
            "ring",
        ]
        .contains(&&*first)
            && !raw.starts_with([' ', '\t']);
        if is_section {
            let name = line.word(1).to_owned();
            sections.push((line, first, name, Vec::new()));
        } else if let Some((_, _, _, lines)) = sections.last_mut() {
            lines.push(line);
        } else {
            reader.note(&line, "stands outside of every section, left out");
        }
    }
    sections
}

/// The words of a line: parted by blanks, with quotations, backslashes and remarks.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '#' => break,
            c if c.is_whitespace() => words.extend(word.take()),
            '\\' => word.get_or_insert_default().extend(chars.next()),
            quote @ ('"' | '\'') => {
                let word = word.get_or_insert_default();
                word.extend(chars.by_ref().take_while(|c| *c != quote));
            }
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

impl Reader {
    fn note(&mut self, line: &Line, what: &str) {
        let text = format!("{}: {what}", line.words.join(" "));
        self.notes.insert(Note { line: line.number, text });
    }

    /// Names a line nobody here knows, unless it may be passed over.
    fn pass(&mut self, line: &Line) {
        let first = line.word(0);
        let option = first == "option" && OPTIONS_PASSED_OVER.contains(&line.word(1));
        if !option && !PASSED_OVER.contains(&first) {
            self.note(line, "not understood, left out");
        }
    }

    fn of_global(&mut self, line: &Line) {
        // The limit of the whole process is that of its file descriptors here.
        if line.word(0) != "maxconn" && !line.word(0).starts_with("ssl-default-") {
            self.pass(line);
        }
    }

    fn of_defaults(&mut self, limits: &mut Limits, line: &Line) {
        if !limits.take(line) {
            self.pass(line);
        }
    }

    fn finish(mut self) -> Read {
        let names: Vec<_> = self.draft.pools.iter().map(|pool| pool.name.clone()).collect();
        let mut lost = Vec::new();
        for listener in &mut self.draft.listeners {
            listener.routes.retain(|route| names.contains(&route.pool));
            if !names.contains(&listener.pool) {
                // Requests no rule is for had nowhere to go; here they have to go somewhere.
                match listener.routes.last() {
                    Some(route) => listener.pool = route.pool.clone(),
                    None => lost.push(listener.name.clone()),
                }
            }
        }
        for name in lost {
            let text = format!("{name} leads to no backend: nothing is passed on there");
            self.notes.insert(Note { line: 1, text });
            self.draft.listeners.retain(|listener: &Listener| listener.name != name);
        }
        self.draft.pools.retain(|pool: &Pool| !pool.name.is_empty());
        (self.draft, self.notes)
    }
}

#[cfg(test)]
mod tests {
    use super::words;

    #[test]
    fn a_line_is_words_with_quotations_and_remarks() {
        assert_eq!(
            words("  server a 1.2.3.4:5 check # it's"),
            ["server", "a", "1.2.3.4:5", "check"]
        );
        assert_eq!(words(r#"x "a b" c\ d 'e"f'g"#), ["x", "a b", "c d", "e\"fg"]);
        assert_eq!(words("   # nothing"), Vec::<String>::new());
    }
}
