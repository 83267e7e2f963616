//! Act: decisions carried out. Each step is idempotent, bounded in time and reports what it did.

pub mod backup;
pub mod redis;
pub mod upstreams;
