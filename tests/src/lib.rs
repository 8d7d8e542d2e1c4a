//! The end-to-end tests' own tools: a load generator that sees every byte and every close, and a laboratory with a real
//! service manager.

#![allow(clippy::missing_panics_doc)]

pub mod lab;
pub mod load;
