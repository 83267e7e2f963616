//! Certificates for a test, made by OpenSSL in its folder.

use std::path::Path;
use std::process::{Command, Stdio};

/// Options that make a new key without a password.
pub(crate) const NEW_KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";

/// Runs `openssl` in a folder; no argument may hold a space.
pub(crate) fn openssl(dir: &Path, arguments: &str) {
    let mut command = Command::new("openssl");
    command.args(arguments.split(' ')).current_dir(dir).stdin(Stdio::null());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
