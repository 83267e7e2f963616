//! What is wrong with a settings file, all faults together.

use std::fmt;
use std::path::PathBuf;

use crate::{Source, redact};

/// One fault: where it is and what was expected there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Line in the file, from 1; `None` if the key is missing or the file could not be read.
    pub line: Option<usize>,
    /// Full key, such as `pool[0].server[1].address`; empty when the fault is not about one key.
    pub key: String,
    /// What was found and what was expected, without passwords that stood there.
    pub message: String,
}

/// All faults of one file. Displays one line for each: `file:line: key: message`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Faults {
    /// The file as it was named on the command line.
    pub file: PathBuf,
    /// The faults in the order they were found.
    pub list: Vec<Fault>,
}

impl Faults {
    /// No faults yet in the file at `file`.
    pub fn new(file: impl Into<PathBuf>) -> Self {
        Self { file: file.into(), list: Vec::new() }
    }

    /// Adds a fault at `key`; its line is looked up in `source`.
    pub fn add(&mut self, source: &Source, key: impl Into<String>, message: impl fmt::Display) {
        let key = key.into();
        let message = redact(&message.to_string()).into_owned();
        self.list.push(Fault { line: source.line_of(&key), key, message });
    }

    /// `Ok(value)` if nothing was found, else the faults.
    pub fn finish<T>(self, value: T) -> Result<T, Self> {
        if self.list.is_empty() { Ok(value) } else { Err(self) }
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.list.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{}", self.file.display())?;
            if let Some(line) = fault.line {
                write!(f, ":{line}")?;
            }
            write!(f, ": ")?;
            if !fault.key.is_empty() {
                write!(f, "{}: ", fault.key)?;
            }
            write!(f, "{}", fault.message)?;
        }
        Ok(())
    }
}
