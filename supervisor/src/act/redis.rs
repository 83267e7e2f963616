//! Redis actions.
