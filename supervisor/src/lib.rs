//! holdfast.
