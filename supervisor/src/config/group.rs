//! Settings of the supervisors' group: where this member listens, what it shows the others, how fast the group is.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use holdfast_settings::duration;
use serde::Deserialize;

use super::check::Checker;
use crate::cluster::Address;
use crate::group::{Credentials, Timing, TlsFiles};

/// A shared secret shorter than this can be guessed by whoever reaches the listener.
const SECRET_BYTES_MIN: usize = 16;

/// A member of a group of several supervisors.
#[derive(Debug, Clone)]
pub struct Group {
    /// Where the other members reach it.
    pub listen: SocketAddr,
    /// The same as they know it.
    pub advertise: Address,
    /// What it shows them.
    pub credentials: Credentials,
    /// How fast the group notices that its leader is gone.
    pub timing: Timing,
    /// A leader that has lost the majority but reaches every member keeps what runs running.
    pub failsafe: bool,
}

/// As written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Written {
    listen: String,
    advertise: Option<Address>,
    secret_file: Option<PathBuf>,
    certificate_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
    ca_file: Option<PathBuf>,
    #[serde(default = "heartbeat", with = "duration")]
    heartbeat: Duration,
    #[serde(default = "election", with = "duration")]
    election_timeout: Duration,
    #[serde(default)]
    failsafe: bool,
}

fn heartbeat() -> Duration {
    Timing::default().heartbeat
}

fn election() -> Duration {
    Timing::default().election
}

impl Checker<'_> {
    pub(super) fn group(&mut self, written: Written) -> Option<Group> {
        let listen = self.listen("group.listen", &written.listen);
        let advertise = match (written.advertise, listen) {
            (Some(address), _) => Some(address),
            (None, Some(listen)) if !listen.ip().is_unspecified() && listen.port() != 0 => {
                Some(Address::new(listen.ip().to_string(), listen.port()))
            }
            (None, Some(listen)) => {
                let text = format!(
                    "expected the address at which the other members reach this one: {listen} is none"
                );
                self.fault("group.advertise", text);
                None
            }
            (None, None) => None,
        };
        self.require(
            written.heartbeat >= Duration::from_millis(10),
            "group.heartbeat",
            "expected at least 10ms",
        );
        self.require(
            written.election_timeout >= written.heartbeat * 4,
            "group.election_timeout",
            "expected at least four times group.heartbeat: fewer, and one late message ends a leadership",
        );
        let secret = self.optional_secret("group.secret_file", written.secret_file).ok()?;
        if secret.as_ref().is_some_and(|secret| secret.expose().len() < SECRET_BYTES_MIN) {
            let text = format!("expected at least {SECRET_BYTES_MIN} characters in the file");
            self.fault("group.secret_file", text);
        }
        let files = [written.certificate_file, written.key_file, written.ca_file];
        let given = files.iter().flatten().count();
        let files = match files {
            [Some(certificate), Some(key), Some(authority)] => Some(TlsFiles {
                certificate: self.path(certificate),
                key: self.path(key),
                authority: self.path(authority),
            }),
            _ => None,
        };
        if files.is_none() && given > 0 {
            let text = "expected certificate_file, key_file and ca_file together";
            self.fault("group.certificate_file", text);
            return None;
        }
        if files.is_none() && secret.is_none() {
            let text = "expected a file with the group's secret, or certificate_file, key_file and ca_file";
            self.fault("group.secret_file", text);
            return None;
        }
        let credentials = Credentials::new(files.as_ref(), secret)
            .map_err(|error| {
                let text = holdfast_telemetry::errors::Chain(&error).to_string();
                self.fault("group", text);
            })
            .ok()?;
        Some(Group {
            listen: listen?,
            advertise: advertise?,
            credentials,
            timing: Timing { heartbeat: written.heartbeat, election: written.election_timeout },
            failsafe: written.failsafe,
        })
    }
}
