//! Settings of the operator API: where it listens, who is known there, and what is written down of their changes.

use std::fmt::Display;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use holdfast_settings::Secret;
use serde::{Deserialize, Serialize};

use super::{Checker, EXPECTED_NAME, is_name};
use crate::tls::{ClientCertificate, MinVersion, ServerTls};

/// A year of an operator's changes; a supervisor that changes weights often fills it in weeks.
const JOURNAL_MAX_BYTES: u64 = 10 * 1_024 * 1_024;
/// Below it a file holds a few entries only.
const JOURNAL_BYTES_MIN: u64 = 4_096;
/// Older files of the journal that are kept beside it.
const JOURNAL_FILES: usize = 4;
const JOURNAL_FILES_MAX: usize = 100;
/// For the balancer's own user alone.
const UNIX_MODE: &str = "0600";
/// Tokens beyond this number are no longer known to anybody by heart, and each is compared at every call.
const TOKENS_MAX: usize = 64;
/// Name of the token that `token_file` holds.
const FIRST_TOKEN: &str = "admin";

/// The table `[admin]` as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    listen: String,
    #[serde(rename = "token_file")]
    first_token: PathBuf,
    #[serde(default)]
    token: Vec<FileToken>,
    tls: Option<FileTls>,
    unix: Option<FileUnix>,
    state_dir: Option<PathBuf>,
    #[serde(default)]
    keep_changes: bool,
    #[serde(default = "journal_max_bytes")]
    journal_max_bytes: u64,
    #[serde(default = "journal_files")]
    journal_files: usize,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileToken {
    name: String,
    file: PathBuf,
    #[serde(default)]
    role: Role,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileTls {
    chain: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
    client_certificate: Option<ClientCertificate>,
    #[serde(default)]
    client: Vec<Client>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileUnix {
    path: PathBuf,
    #[serde(default = "unix_mode")]
    mode: String,
    #[serde(default = "operate")]
    role: Role,
}

fn journal_max_bytes() -> u64 {
    JOURNAL_MAX_BYTES
}
fn journal_files() -> usize {
    JOURNAL_FILES
}
fn unix_mode() -> String {
    UNIX_MODE.to_owned()
}
fn operate() -> Role {
    Role::Operate
}

/// What somebody may do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Look at everything.
    #[default]
    Read,
    /// Change things, too.
    Operate,
}

impl Role {
    /// As in the settings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Operate => "operate",
        }
    }
}

/// Checked settings of the operator API.
#[derive(Debug, Clone, PartialEq)]
pub struct AdminConfig {
    /// Address of the operator API, the status page, `/metrics` and `/health/*`.
    pub listen: SocketAddr,
    /// Known tokens, names and values unique; at least one.
    pub tokens: Vec<Token>,
    /// What is spoken there, if not clear text.
    pub tls: Option<AdminTls>,
    /// A socket for this machine's users, beside the address.
    pub unix: Option<UnixSocket>,
    /// Where the journal and what is kept stand; the journal is in memory only without.
    pub state_dir: Option<PathBuf>,
    /// Whether changes survive a restart; only with `state_dir`.
    pub keep_changes: bool,
    /// A longer journal file is put aside.
    pub journal_bytes_max: u64,
    /// Files put aside that are kept.
    pub journal_files: usize,
}

/// A bearer token.
#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    /// Who has it, for the journal.
    pub name: String,
    /// Its value.
    pub secret: Secret,
    /// What it is good for.
    pub role: Role,
}

/// TLS of the operator API.
#[derive(Debug, Clone, PartialEq)]
pub struct AdminTls {
    /// Certificate, and authorities of clients' certificates.
    pub server: ServerTls,
    /// File of the certificate.
    pub chain: PathBuf,
    /// Who is known by a certificate.
    pub clients: Vec<Client>,
}

impl AdminTls {
    /// A name the certificate is for, if it is for any.
    pub(crate) fn server_name(&self) -> Option<String> {
        let name = self.server.certificates().first()?.names().first()?;
        // Any name will do under a wildcard.
        Some(name.replace('*', "balancer"))
    }
}

/// Somebody who is known by a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Client {
    /// The certificate's common name, or one of its alternative names.
    pub name: String,
    /// What they may do.
    #[serde(default)]
    pub role: Role,
}

/// A socket in the file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnixSocket {
    /// Where.
    pub path: PathBuf,
    /// Rights of the file, which are the rights to connect.
    pub mode: u32,
    /// What whoever connects may do.
    pub role: Role,
}

impl AdminConfig {
    /// Keys whose values differ and are read at the start only.
    pub(crate) fn differs_at_start(&self, new: &Self) -> Vec<&'static str> {
        [
            ("admin.listen", self.listen != new.listen),
            ("admin.tls", self.tls.is_some() != new.tls.is_some()),
            ("admin.unix", self.unix.as_ref().map(place) != new.unix.as_ref().map(place)),
            ("admin.state_dir", self.state_dir != new.state_dir),
            ("admin.keep_changes", self.keep_changes != new.keep_changes),
        ]
        .into_iter()
        .filter_map(|(key, differs)| differs.then_some(key))
        .collect()
    }

    #[cfg(test)]
    pub(crate) fn for_tests() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            tokens: Vec::new(),
            tls: None,
            unix: None,
            state_dir: None,
            keep_changes: false,
            journal_bytes_max: JOURNAL_MAX_BYTES,
            journal_files: JOURNAL_FILES,
        }
    }
}

fn place(socket: &UnixSocket) -> (&Path, u32) {
    (&socket.path, socket.mode)
}

impl Checker<'_> {
    /// Checks the table.
    pub(super) fn admin(&mut self, written: File) -> AdminConfig {
        let listen = self.listen("admin.listen", &written.listen);
        let tokens = self.tokens(&written);
        let tls = written.tls.and_then(|tls| self.admin_tls(tls));
        let unix = written.unix.map(|unix| {
            let mode = u32::from_str_radix(&unix.mode, 8).ok().filter(|mode| *mode <= 0o777);
            self.require("admin.unix.mode", mode.is_some(), || {
                format!("expected rights such as \"0660\", found {:?}", unix.mode)
            });
            UnixSocket { path: unix.path, mode: mode.unwrap_or(0), role: unix.role }
        });
        if let Some(dir) = &written.state_dir {
            self.require("admin.state_dir", dir.is_dir(), || {
                format!("there is no folder {}", dir.display())
            });
        }
        self.require(
            "admin.keep_changes",
            !written.keep_changes || written.state_dir.is_some(),
            || "needs state_dir".to_owned(),
        );
        let bytes = written.journal_max_bytes;
        self.require("admin.journal_max_bytes", bytes >= JOURNAL_BYTES_MIN, || {
            format!("expected at least {JOURNAL_BYTES_MIN}, found {bytes}")
        });
        let files = written.journal_files;
        self.require("admin.journal_files", files <= JOURNAL_FILES_MAX, || {
            format!("expected at most {JOURNAL_FILES_MAX}, found {files}")
        });
        AdminConfig {
            listen,
            tokens,
            tls,
            unix,
            state_dir: written.state_dir,
            keep_changes: written.keep_changes,
            journal_bytes_max: bytes,
            journal_files: files,
        }
    }

    fn tokens(&mut self, written: &File) -> Vec<Token> {
        let count = written.token.len();
        self.require("admin.token", count < TOKENS_MAX, || {
            format!("expected fewer than {TOKENS_MAX}, found {count}")
        });
        let mut tokens: Vec<Token> = Vec::with_capacity(count + 1);
        let first =
            (FIRST_TOKEN, &written.first_token, Role::Operate, "admin.token_file".to_owned());
        let others = written.token.iter().enumerate().map(|(i, token)| {
            (token.name.as_str(), &token.file, token.role, format!("admin.token[{i}]"))
        });
        for (name, file, role, key) in std::iter::once(first).chain(others) {
            let named = format!("{key}.name");
            self.require(&named, is_name(name), || format!("{EXPECTED_NAME} {name:?}"));
            let secret = match Secret::from_file(file) {
                Ok(secret) => secret,
                Err(error) => {
                    self.fault(key, error);
                    continue;
                }
            };
            let same = |token: &&Token| token.name == name || token.secret == secret;
            if let Some(other) = tokens.iter().find(same) {
                let what = if other.name == name { "this name" } else { "this value" };
                self.fault(key, format!("{what} is used twice"));
            }
            tokens.push(Token { name: name.to_owned(), secret, role });
        }
        tokens
    }

    fn admin_tls(&mut self, written: FileTls) -> Option<AdminTls> {
        let fault = |checker: &mut Self, key: &str, error: &dyn Display| checker.fault(key, error);
        let certificate = ServerTls::certificate(&written.chain, &written.key, None);
        let certificate = certificate.map_err(|error| fault(self, "admin.tls", &error)).ok()?;
        if written.client_ca.is_none() {
            for (key, given) in [
                ("admin.tls.client_certificate", written.client_certificate.is_some()),
                ("admin.tls.client", !written.client.is_empty()),
            ] {
                self.require(key, !given, || "needs client_ca".to_owned());
            }
        }
        let policy = written.client_certificate.unwrap_or(ClientCertificate::Optional);
        let clients = written.client_ca.as_deref().map(|file| (file, policy));
        let server = ServerTls::new(vec![certificate], clients, MinVersion::Tls12, false);
        let server = server.map_err(|error| fault(self, "admin.tls.client_ca", &error)).ok()?;
        Some(AdminTls { server, chain: written.chain, clients: written.client })
    }
}
