//! What is tried.
