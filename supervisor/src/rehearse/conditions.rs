//! Is the cluster well?
