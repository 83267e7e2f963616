//! Settings of nginx and `HAProxy` as ours: a first draft for whoever moves, and a list of what they have to look at.
//!
//! What spreads and checks traffic is read: listeners, certificates, hosts and paths that choose a pool, servers, weights, limits, checks,
//! stickiness, time limits. What the balancer does anyway (keep-alive, `X-Forwarded-For`, upgrades) is passed over; everything else is
//! named with its line, so that nothing is lost in silence. Two steps: a reader per program fills a `draft::Draft`, which is written as
//! TOML; rejected was a translation line by line, because both programs spread over many lines what is one table here.

mod draft;
mod haproxy;
mod nginx;
mod write;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::PathBuf;
use std::{fmt, fs, io};

use draft::Draft;

/// Whose settings they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// `nginx.conf`.
    Nginx,
    /// `haproxy.cfg`.
    Haproxy,
}

impl Format {
    /// What `text` looks like: nginx has braces, `HAProxy` has sections.
    pub fn guess(text: &str) -> Option<Self> {
        const SECTIONS: [&str; 5] = ["global", "defaults", "frontend", "backend", "listen"];
        let mut lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
        let section = |line: &str| {
            let first = line.split_whitespace().next().unwrap_or_default();
            SECTIONS.contains(&first) && !line.ends_with([';', '{'])
        };
        if lines.clone().any(|line| line.ends_with('{') || line.ends_with(';')) {
            return Some(Self::Nginx);
        }
        lines.any(section).then_some(Self::Haproxy)
    }
}

/// What it is asked for on the command line.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Settings of nginx or HAProxy.
    file: PathBuf,
    /// Whose they are; found out by their form without this.
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// End with 3 if anything was not understood.
    #[arg(long)]
    strict: bool,
}

/// Why there is no draft.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The file cannot be read.
    #[error("read {}", .file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// It has no form that is known.
    #[error("{}:{note}", .file.display())]
    Form {
        /// The file.
        file: PathBuf,
        /// Where and what.
        note: Note,
    },
    /// Nobody takes the draft.
    #[error("write the draft")]
    Write(#[source] io::Error),
}

/// Writes a draft to stdout and what was not understood to stderr. Whether that is to be an error.
///
/// # Errors
/// There is no draft.
pub fn run(arguments: &Arguments) -> Result<bool, ImportError> {
    let file = &arguments.file;
    let text = fs::read_to_string(file)
        .map_err(|source| ImportError::Read { file: file.clone(), source })?;
    let form = |note| ImportError::Form { file: file.clone(), note };
    let format = arguments.format.or_else(|| Format::guess(&text)).ok_or_else(|| {
        form(Note { line: 1, text: "neither nginx nor HAProxy; name it with --format".to_owned() })
    })?;
    let imported = import(&text, format).map_err(form)?;
    io::stdout().write_all(imported.toml.as_bytes()).map_err(ImportError::Write)?;
    for note in &imported.notes {
        // Without a stderr there is nobody to tell, and the draft is out.
        let _ = writeln!(io::stderr(), "{}:{note}", file.display());
    }
    Ok(arguments.strict && !imported.notes.is_empty())
}

/// Something that was not understood, or not wholly.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Note {
    /// Where it stands, from 1.
    pub line: usize,
    /// What it is, and what became of it.
    pub text: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.line, self.text)
    }
}

/// A draft of our settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// The settings file.
    pub toml: String,
    /// What to look at, by line.
    pub notes: Vec<Note>,
}

/// Reads `text`, settings of another program.
///
/// # Errors
/// Its form cannot be read at all; the text says where and why.
pub fn import(text: &str, format: Format) -> Result<Imported, Note> {
    let (draft, notes) = match format {
        Format::Nginx => nginx::read(text)?,
        Format::Haproxy => haproxy::read(text),
    };
    Ok(Imported { toml: write::toml(&draft), notes: notes.into_iter().collect() })
}

/// What a reader has found, and what it has not understood.
type Read = (Draft, BTreeSet<Note>);
