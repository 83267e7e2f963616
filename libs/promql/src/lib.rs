//! Holdfast promql.
