//! Verdicts on Redis.
