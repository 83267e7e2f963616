//! `[rules]`: rule files and how often they are evaluated.

use std::path::PathBuf;
use std::time::Duration;

use holdfast_settings::duration;
use serde::Deserialize;

use super::check::Checker;

/// The reaction time people expect of "seconds".
const INTERVAL: Duration = Duration::from_secs(1);

/// Rule files.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Paths or glob patterns, absolute.
    pub files: Vec<String>,
    /// For groups without an interval of their own.
    pub evaluation_interval: Duration,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Written {
    pub(super) files: Vec<String>,
    #[serde(with = "duration")]
    pub(super) evaluation_interval: Duration,
}

impl Default for Written {
    fn default() -> Self {
        Self { files: Vec::new(), evaluation_interval: INTERVAL }
    }
}

impl Checker<'_> {
    pub(super) fn rules(&mut self, written: &Written) -> Rules {
        self.require(
            written.evaluation_interval.as_millis() >= 100,
            "rules.evaluation_interval",
            "expected at least 100ms",
        );
        let mut files = Vec::new();
        for (index, pattern) in written.files.iter().enumerate() {
            let absolute = self.path(PathBuf::from(pattern)).to_string_lossy().into_owned();
            if let Err(error) = glob::Pattern::new(&absolute) {
                self.fault(format!("rules.files[{index}]"), format!("{pattern:?}: {error}"));
            }
            files.push(absolute);
        }
        Rules { files, evaluation_interval: written.evaluation_interval }
    }
}
