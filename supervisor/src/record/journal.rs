//! The journal's storage.
