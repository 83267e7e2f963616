//! Strict TOML settings, the same way in all three programs.
//!
//! A settings file is read into the program's own serde type (with `deny_unknown_fields`), then checked by the program's own
//! conversion. Both report through [`Faults`], which names file, line and key for every fault, so an operator repairs a file in one
//! pass. Rejected: returning the `toml` error as it is, because it knows nothing of faults that only a cross-field check can see, and
//! stopping at the first of those.
//!
//! - [`Source`]: the file's text and where each key stands in it.
//! - [`Faults`]: what is wrong, all of it.
//! - [`duration`]: `"250ms"`, `"1h30m"` as [`std::time::Duration`] fields.
//! - [`Secret`]: a value that never prints itself; read from a one-line file.
//! - [`redact`]: text without the passwords in its URLs.
//! - [`tls`]: certificates and keys in PEM files, and the section of a TLS client.

pub mod duration;
mod faults;
mod redact;
mod secret;
mod source;
pub mod tls;

pub use faults::{Fault, Faults};
pub use redact::redact;
pub use secret::{Secret, SecretError};
pub use source::{Source, parse, read};
