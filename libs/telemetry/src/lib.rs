//! Holdfast telemetry.
