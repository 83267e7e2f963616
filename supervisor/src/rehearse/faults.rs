//! Faults in processes on this host.
