//! An HTTP/1.1 server on async-h1 and smol that is replaced while it serves.

pub mod app;
pub mod cli;
pub mod config;
pub mod exit;
pub mod http;
pub mod logging;
