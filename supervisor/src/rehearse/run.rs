//! The course of one drill.
