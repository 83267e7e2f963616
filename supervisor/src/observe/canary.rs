//! The canary.
