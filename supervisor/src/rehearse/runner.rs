//! Carries drills out.
