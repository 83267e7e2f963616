//! Holdfast series.
