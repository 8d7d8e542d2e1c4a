//! An HTTP/1.1 server on async-h1 and smol that is replaced while it serves.
//!
//! [`run`] is all that a program of one's own needs: it gives it the command line of `reborn`, its listeners, reload,
//! drain, limits and log. The modules are public for those who want a part of it: [`http`] serves one connection, and
//! [`app`] is what `reborn` answers by itself.

mod access;
mod admin;
pub mod app;
pub mod cli;
mod clients;
pub mod config;
pub mod exit;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod http;
mod ledger;
pub mod logging;
mod means;
mod metrics;
mod moving;
mod overview;
mod poller;
mod progress;
mod run;
mod serve;
mod workers;

pub use run::{VERSION, run, run_default};
