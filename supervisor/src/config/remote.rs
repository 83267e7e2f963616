//! Another server as the settings name it: `[metrics.prometheus]` and each `[[metrics.remote_write]]`.

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Duration;

use holdfast_settings::duration;
use serde::Deserialize;

use super::check::Checker;
use super::relabel;
use crate::remote::client::{Credentials, Endpoint};
use crate::remote::send::Destination;

/// A remote that takes longer for a rule's expression is of no use for rules that are due every second.
const REMOTE_TIMEOUT: Duration = Duration::from_secs(10);
/// Destinations of remote write; each costs a connection.
const REMOTE_WRITE_MAX: usize = 8;

/// Another server, as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Remote {
    name: Option<String>,
    url: String,
    username: Option<String>,
    password_file: Option<PathBuf>,
    bearer_token_file: Option<PathBuf>,
    ca_file: Option<PathBuf>,
    #[serde(default = "remote_timeout", with = "duration")]
    timeout: Duration,
    /// What is sent, and under which labels; as Prometheus' `write_relabel_configs`.
    #[serde(default)]
    relabel: Vec<relabel::Written>,
}

fn remote_timeout() -> Duration {
    REMOTE_TIMEOUT
}

impl Checker<'_> {
    /// Where samples are sent to.
    pub(super) fn destinations(&mut self, written: Vec<Remote>) -> Option<Vec<Destination>> {
        let count = written.len();
        let text = format!("expected at most {REMOTE_WRITE_MAX}, found {count}");
        self.require(count <= REMOTE_WRITE_MAX, "metrics.remote_write", text);
        let mut names = HashSet::new();
        let mut destinations = Vec::new();
        for (index, mut written) in written.into_iter().enumerate() {
            let key = format!("metrics.remote_write[{index}]");
            let name = written.name.clone().unwrap_or_else(|| format!("remote-{}", index + 1));
            self.name(&format!("{key}.name"), &name);
            let text = format!("{name:?} is the name of another destination already");
            self.require(names.insert(name.clone()), &format!("{key}.name"), text);
            let steps = std::mem::take(&mut written.relabel);
            let relabel = self.relabel(&format!("{key}.relabel"), steps);
            written.name = None;
            destinations.push(Destination { name, endpoint: self.remote(&key, written)?, relabel });
        }
        Some(destinations)
    }

    /// How another server is reached; `key` is that of its section.
    pub(super) fn remote(&mut self, key: &str, written: Remote) -> Option<Endpoint> {
        self.url(&format!("{key}.url"), &written.url, &["http", "https"]);
        let only_written = written.name.is_none() && written.relabel.is_empty();
        self.require(only_written, key, "only remote_write has name and relabel");
        let text = "expected more than 0";
        self.require(!written.timeout.is_zero(), &format!("{key}.timeout"), text);
        let password =
            self.optional_secret(&format!("{key}.password_file"), written.password_file).ok()?;
        let token = self
            .optional_secret(&format!("{key}.bearer_token_file"), written.bearer_token_file)
            .ok()?;
        let credentials = match (written.username, password, token) {
            (None, None, None) => Credentials::None,
            (Some(name), Some(password), None) => Credentials::Basic(name, password),
            (None, None, Some(token)) => Credentials::Bearer(token),
            _ => {
                let text = "expected username and password_file, or bearer_token_file, or neither";
                self.fault(format!("{key}.username"), text);
                return None;
            }
        };
        Some(Endpoint {
            url: written.url.trim_end_matches('/').to_owned(),
            credentials,
            ca_file: written.ca_file.map(|path| self.path(path)),
            timeout: written.timeout,
        })
    }
}
