//! The `holdfast-chatnode` binary.

fn main() {}
