//! The end-to-end tests' own tools.
