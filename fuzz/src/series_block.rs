//! Blocks of the metrics store: footer, index, pages, samples.

/// Reads the input as the parts of a block.
pub fn run(input: &[u8]) {
    holdfast_series::fuzz::block(input);
}
