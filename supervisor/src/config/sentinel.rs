//! Settings of the Sentinel-compatible endpoint.

use std::net::SocketAddr;
use std::path::PathBuf;

use holdfast_psync::Tls;
use holdfast_settings::tls::ClientSection;
use serde::Deserialize;

use super::check::Checker;
use super::tls;
use crate::cluster::Address;
use crate::observe::redis::Login;
use crate::serve::tls::ServerFiles;

/// Where and for whom the endpoint answers.
#[derive(Debug, Clone)]
pub struct Sentinel {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where clients reach it, as the other supervisors tell them; `None`: the host of this supervisor and the port of `listen`.
    pub announce: Option<Address>,
    /// What clients must say first; `None`: nothing.
    pub login: Option<Login>,
    /// Clients must speak TLS; `None`: they must not.
    pub tls: Option<ServerFiles>,
    /// How the leader's endpoint is asked, where clients must speak TLS; `None`: it is not, and clients are sent to it.
    pub peer_tls: Option<Tls>,
}

/// As written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Written {
    listen: String,
    announce: Option<Address>,
    username: Option<String>,
    password_file: Option<PathBuf>,
    tls: Option<tls::WrittenServer>,
    peer_tls: Option<ClientSection>,
}

impl Checker<'_> {
    pub(super) fn sentinel(&mut self, written: Written) -> Option<Sentinel> {
        let listen = self.listen("sentinel.listen", &written.listen);
        if written.username.is_some() && written.password_file.is_none() {
            self.fault("sentinel.username", "expected password_file beside it");
        }
        let password = self.optional_secret("sentinel.password_file", written.password_file);
        let tls = written.tls.map(|tls| self.server_tls("sentinel.tls", tls));
        let peer_tls = written.peer_tls.map(|tls| self.client_tls("sentinel.peer_tls", tls));
        if peer_tls.is_some() && tls.is_none() {
            self.fault("sentinel.peer_tls", "expected only with sentinel.tls");
        }
        Some(Sentinel {
            listen: listen?,
            announce: written.announce,
            login: password.ok()?.map(|password| Login { username: written.username, password }),
            tls: tls.map_or(Some(None), |inner| inner.map(Some))?,
            peer_tls: peer_tls.map_or(Some(None), |inner| inner.map(Some))?,
        })
    }
}
