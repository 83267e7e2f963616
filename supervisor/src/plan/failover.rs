//! Failover plan.
