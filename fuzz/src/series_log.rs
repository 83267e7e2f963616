//! Records of the metrics store's log and checkpoints.

/// Reads the input as records.
pub fn run(input: &[u8]) {
    holdfast_series::fuzz::records(input);
}
