//! What a node says of itself, in the words of HAProxy's agent check: a node that is filling up, warming up or about to be shut down
//! knows it before anybody can measure it.
//!
//! An answer is one line of words, parted by blanks or commas: `up`, `down` (also `stopped`, `fail`, `failed`), `ready`, `drain`, `maint`,
//! `NN%` (share of the weight set), `maxconn:NN`. What stands behind a `#` is a remark. What an answer does not mention stays as it was, and so does all
//! of it while the agent does not answer: a silent agent says nothing about the server. That is what the health checks are for.

use std::num::NonZeroU32;

use schemars::JsonSchema;
use serde::Serialize;

use super::state::AdminState;
use crate::config::Weight;

/// Longest answer read; the words and a remark.
pub const ANSWER_BYTES_MAX: usize = 1_024;
/// Largest share a node may claim, in percent of its weight; what comes of it is bounded by [`Weight::MAX`] as well.
const PERCENT_MAX: u16 = 100 * Weight::MAX;

/// What an answer mentions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Word {
    /// `up` or `down`.
    pub up: Option<bool>,
    /// `ready`, `drain` or `maint`.
    pub state: Option<AdminState>,
    /// `NN%`.
    pub percent: Option<u16>,
    /// `maxconn:NN`; `maxconn:0` lifts it.
    pub connections_max: Option<Option<NonZeroU32>>,
}

/// An answer that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the agent says {0:?}")]
pub struct NoWord(String);

impl Word {
    /// Reads the first line of `answer`.
    ///
    /// # Errors
    /// It holds something else than the words above, or nothing.
    pub fn read(answer: &[u8]) -> Result<Self, NoWord> {
        let line = answer.split(|byte| matches!(byte, b'\n' | b'\r')).next().unwrap_or_default();
        let line = String::from_utf8_lossy(line);
        let words = line.split_once('#').map_or(&*line, |(words, _)| words);
        let mut said = Self::default();
        for word in words.split([' ', '\t', ',']).filter(|word| !word.is_empty()) {
            said.note(&word.to_ascii_lowercase()).ok_or_else(|| NoWord(word.to_owned()))?;
        }
        if said == Self::default() { Err(NoWord(String::new())) } else { Ok(said) }
    }

    fn note(&mut self, word: &str) -> Option<()> {
        match word {
            "up" => self.up = Some(true),
            "down" | "stopped" | "fail" | "failed" => self.up = Some(false),
            "ready" => self.state = Some(AdminState::Ready),
            "drain" => self.state = Some(AdminState::Drain),
            "maint" => self.state = Some(AdminState::Maintenance),
            _ => {
                if let Some(percent) = word.strip_suffix('%') {
                    let percent: u16 = percent.parse().ok()?;
                    self.percent = Some(percent).filter(|percent| *percent <= PERCENT_MAX);
                    self.percent?;
                } else {
                    let max = word.strip_prefix("maxconn:")?.parse().ok()?;
                    self.connections_max = Some(NonZeroU32::new(max));
                }
            }
        }
        Some(())
    }
}

/// What a node has said so far; full weight and willing until it says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Agent {
    /// Whether it says it works.
    pub up: bool,
    /// What it wants to take.
    pub state: AdminState,
    /// Share of its weight, in percent.
    pub percent: u16,
    /// Connections it wants at most.
    pub connections_max: Option<NonZeroU32>,
}

impl Default for Agent {
    fn default() -> Self {
        Self { up: true, state: AdminState::Ready, percent: 100, connections_max: None }
    }
}

impl Agent {
    /// Takes an answer in.
    #[must_use]
    pub fn after(self, word: &Word) -> Self {
        Self {
            up: word.up.unwrap_or(self.up),
            state: word.state.unwrap_or(self.state),
            percent: word.percent.unwrap_or(self.percent),
            connections_max: word.connections_max.unwrap_or(self.connections_max),
        }
    }

    /// Whether it takes new connections.
    pub fn is_willing(&self) -> bool {
        self.state == AdminState::Ready && self.percent > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_as_haproxy_reads_them() {
        let up = Word { up: Some(true), ..Word::default() };
        let drain = Word { state: Some(AdminState::Drain), ..Word::default() };
        let many = Word {
            up: Some(true),
            state: Some(AdminState::Ready),
            percent: Some(75),
            connections_max: Some(NonZeroU32::new(500)),
        };
        let down = Word { up: Some(false), ..Word::default() };
        for (answer, expected) in [
            ("up\n", up),
            ("UP\r\nignored", up),
            ("drain", drain),
            ("down # disk is full", down),
            ("failed", down),
            ("up ready,75%\tmaxconn:500\n", many),
            ("50%", Word { percent: Some(50), ..Word::default() }),
            ("maxconn:0", Word { connections_max: Some(None), ..Word::default() }),
        ] {
            assert_eq!(Word::read(answer.as_bytes()), Ok(expected), "{answer:?}");
        }
        for answer in
            ["", "\n", "# up", "great", "up great", "%", "-1%", "70000%", "maxconn:x", "\u{fffd}"]
        {
            assert!(Word::read(answer.as_bytes()).is_err(), "{answer:?}");
        }
    }

    #[test]
    fn what_is_not_mentioned_stays() {
        let agent = Agent::default().after(&Word::read(b"50% drain").unwrap());
        let agent = agent.after(&Word::read(b"up").unwrap());
        assert_eq!((agent.percent, agent.state, agent.up), (50, AdminState::Drain, true));
        assert!(!agent.is_willing());
        assert!(agent.after(&Word::read(b"ready").unwrap()).is_willing());
        assert!(!agent.after(&Word::read(b"ready 0%").unwrap()).is_willing());
    }
}
