//! Settings of TLS: whose certificates we believe as a client, and which one we show as a server.

use std::path::PathBuf;
use std::sync::Arc;

use holdfast_psync::Tls;
use holdfast_settings::tls::{ClientSection, SectionFault};
use serde::Deserialize;

use super::check::Checker;
use crate::serve::tls::ServerFiles;

/// For connections that are made to us.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_field_names, reason = "the names are those of the keys")]
pub(super) struct WrittenServer {
    certificate_file: PathBuf,
    key_file: PathBuf,
    client_ca_file: Option<PathBuf>,
}

impl Checker<'_> {
    /// `None` after a fault at or below `section`.
    pub(super) fn client_tls(&mut self, section: &str, written: ClientSection) -> Option<Tls> {
        match written.load(|path| self.path(path)) {
            Ok((client, server_name)) => Some(Tls::new(Arc::new(client), server_name)),
            Err(SectionFault { key, message }) => {
                let key = key.map(|key| format!("{section}.{key}"));
                self.fault(key.unwrap_or_else(|| section.to_owned()), message);
                None
            }
        }
    }

    /// `None` after a fault at or below `section`.
    pub(super) fn server_tls(
        &mut self,
        section: &str,
        written: WrittenServer,
    ) -> Option<ServerFiles> {
        let files = ServerFiles {
            certificate: self.path(written.certificate_file),
            key: self.path(written.key_file),
            client_authorities: written.client_ca_file.map(|path| self.path(path)),
        };
        match files.load() {
            Ok(_) => Some(files),
            Err(error) => {
                self.fault(section, holdfast_telemetry::errors::Chain(&error));
                None
            }
        }
    }
}
