//! What is kept of a run: `<run>.json` for programs, `<run>.md` for people.
//!
//! A report stands on its own: what was expected and why, what was struck, what was measured, and what the supervisor did meanwhile
//! with its reasons, so that it can be read when the journal has forgotten the day.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;

use super::run::Verdict;
use crate::record::{Event, Reason};

/// Runs kept in the folder: years of weekly drills, and a bound for those who drill by script.
const RUNS_MAX: usize = 1_000;

/// A finished run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Its identifier.
    pub run: String,
    /// Its scenario.
    pub scenario: String,
    /// What was expected to happen.
    pub hypothesis: String,
    /// Who asked for it.
    pub by: String,
    /// How it ended.
    pub verdict: Verdict,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// When it ended.
    pub finished_at: DateTime<Utc>,
    /// What was struck, if anything was.
    pub fault: Option<FaultRecord>,
    /// Longest time without an acknowledged message.
    pub rto_seconds: Option<f64>,
    /// Its bound.
    pub rto_limit_seconds: f64,
    /// Acknowledged messages that were lost.
    pub rpo_messages: Option<u64>,
    /// Their bound.
    pub rpo_limit_messages: u64,
    /// From the fault to the first acknowledgement of a later message.
    pub first_ack_seconds: Option<f64>,
    /// From the fault until the cluster was whole again, and stayed so.
    pub recovery_seconds: Option<f64>,
    /// Its bound.
    pub recovery_limit_seconds: f64,
    /// Share of acknowledged messages among those sent from the fault to the recovery.
    pub availability_ratio: Option<f64>,
    /// Messages sent in that time.
    pub messages_sent: Option<u64>,
    /// Of those: acknowledged.
    pub messages_acked: Option<u64>,
    /// What was expected beside what was measured.
    pub expectations: Vec<Expectation>,
    /// What was not as expected, or why the run was aborted.
    pub failures: Vec<String>,
    /// What the journal says about the time of the run.
    pub timeline: Vec<Moment>,
    /// What ran.
    pub versions: Versions,
}

/// What was struck.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FaultRecord {
    /// When, milliseconds after the beginning.
    pub after_ms: i64,
    /// What was done.
    pub action: String,
    /// The program.
    pub program: String,
    /// What people call it.
    pub target: String,
    /// Its number, if a process was struck.
    pub pid: Option<i32>,
}

/// One bound and how it was kept.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Expectation {
    /// What is bounded.
    pub what: String,
    /// The bound.
    pub expected: String,
    /// The figure; `None` if there is none.
    pub measured: Option<String>,
    /// Whether it was kept; `None` if that is not known.
    pub is_met: Option<bool>,
}

/// One event of the journal.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Moment {
    /// Milliseconds after the beginning.
    pub after_ms: i64,
    /// Its kind.
    pub kind: String,
    /// How much it matters.
    pub severity: String,
    /// What it is about.
    pub subject: String,
    /// In one line.
    pub message: String,
    /// Why, for and against.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<Reason>,
}

impl Moment {
    /// An event of a run that began at `started_at`.
    pub fn new(event: Event, started_at: DateTime<Utc>) -> Self {
        Self {
            after_ms: (event.at - started_at).num_milliseconds(),
            kind: event.kind.name().to_owned(),
            severity: event.severity.name().to_owned(),
            subject: event.subject,
            message: event.message,
            reasons: event.reasons,
        }
    }
}

/// What ran.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Versions {
    /// The supervisor.
    pub holdfast: String,
    /// Redis servers; more than one during an upgrade.
    pub redis: Vec<String>,
}

/// Why a report was not kept.
#[derive(Debug, thiserror::Error)]
#[error("write the drill report {}", path.display())]
pub struct ReportError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl Report {
    /// Writes both files into `dir`, each whole or not at all, the one for programs last: who sees it finds both.
    ///
    /// # Errors
    /// The folder cannot be made or written.
    ///
    /// # Panics
    /// Never: all keys of a report are texts.
    pub fn write(&self, dir: &Path) -> Result<(), ReportError> {
        let json = serde_json::to_vec_pretty(self).expect("a report has only text keys");
        let failed = |path: PathBuf| move |source| ReportError { path, source };
        fs::create_dir_all(dir).map_err(failed(dir.to_owned()))?;
        for (extension, content) in [("md", self.markdown().into_bytes()), ("json", json)] {
            let path = dir.join(format!("{}.{extension}", self.run));
            write_whole(dir, &path, &content).map_err(failed(path))?;
        }
        prune(dir, RUNS_MAX).map_err(failed(dir.to_owned()))
    }

    /// For people.
    ///
    /// # Panics
    /// Never: a `String` takes everything.
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        self.markdown_to(&mut text).expect("writing to a String never fails");
        text
    }

    fn markdown_to(&self, text: &mut String) -> std::fmt::Result {
        let time = |at: DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::Secs, true);
        writeln!(text, "# Drill {}: {}\n", self.scenario, self.verdict.name())?;
        writeln!(text, "{}.\n", self.hypothesis)?;
        writeln!(text, "- run: `{}`, asked for by {}", self.run, self.by)?;
        writeln!(text, "- from {} to {}", time(self.started_at), time(self.finished_at))?;
        match &self.fault {
            Some(FaultRecord { after_ms, action, program, target, pid }) => {
                let process = pid.map(|pid| format!(" (process {pid})")).unwrap_or_default();
                writeln!(text, "- fault: {action} {program} {target}{process} at +{after_ms} ms")?;
            }
            None => writeln!(text, "- fault: none, nothing was struck")?,
        }
        if let (Some(sent), Some(acked)) = (self.messages_sent, self.messages_acked) {
            let share = self.availability_ratio.unwrap_or_default() * 100.0;
            writeln!(
                text,
                "- canary from the fault to the recovery: {acked} of {sent} messages acknowledged ({share:.2} %)"
            )?;
        }
        if let Some(first) = self.first_ack_seconds {
            writeln!(text, "- first message after the fault acknowledged after {first:.3} s")?;
        }
        let redis = self.versions.redis.join(", ");
        let redis = if redis.is_empty() { "unknown" } else { redis.as_str() };
        writeln!(text, "- versions: Holdfast {}, Redis {redis}", self.versions.holdfast)?;

        writeln!(
            text,
            "\n## Expectations\n\n| expectation | limit | measured | met |\n|---|---|---|---|"
        )?;
        for Expectation { what, expected, measured, is_met } in &self.expectations {
            let measured = measured.as_deref().unwrap_or("-");
            let met = is_met.map_or("-", |is_met| if is_met { "yes" } else { "**no**" });
            writeln!(text, "| {what} | {expected} | {measured} | {met} |")?;
        }
        if !self.failures.is_empty() {
            let title =
                if self.verdict == Verdict::Aborted { "Why it was aborted" } else { "Failures" };
            writeln!(text, "\n## {title}\n")?;
            for failure in &self.failures {
                writeln!(text, "- {}", plain(failure))?;
            }
        }
        writeln!(text, "\n## Timeline\n")?;
        for moment in &self.timeline {
            let Moment { after_ms, kind, subject, message, .. } = moment;
            writeln!(text, "- `+{after_ms} ms` {subject}: {} ({kind})", plain(message))?;
            for reason in &moment.reasons {
                let mark = if reason.favours { "because" } else { "despite" };
                writeln!(text, "  - {mark}: {}", plain(&reason.text))?;
            }
        }
        Ok(())
    }
}

/// On one line and without markup: error texts come from other programs.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '*' | '_' | '`' | '[' | ']' | '<' | '\\' => plain.extend(['\\', c]),
            c if c.is_control() => plain.push(' '),
            c => plain.push(c),
        }
    }
    plain
}

fn write_whole(dir: &Path, path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = tempfile::Builder::new().prefix(".report-").tempfile_in(dir)?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    fs::File::open(dir)?.sync_all()
}

/// Removes the oldest runs. Identifiers begin with their time, so their order is that of time; other files are left alone.
fn prune(dir: &Path, runs_max: usize) -> io::Result<()> {
    let mut runs = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let is_run = name.starts_with(|c: char| c.is_ascii_digit());
        runs.extend(name.strip_suffix(".json").filter(|_| is_run).map(str::to_owned));
    }
    runs.sort_unstable();
    let excess = runs.len().saturating_sub(runs_max);
    for run in &runs[..excess] {
        for extension in ["md", "json"] {
            match fs::remove_file(dir.join(format!("{run}.{extension}"))) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
