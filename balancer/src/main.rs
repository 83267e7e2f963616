//! The `holdfast-balancer` binary.

fn main() {}
