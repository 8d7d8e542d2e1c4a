//! The end-to-end tests' own tools.

#![allow(clippy::missing_panics_doc)]

pub mod lab;
