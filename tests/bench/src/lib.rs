//! The benchmark: reborn beside what a user would pick instead, each in turn on the same machine, with the same answers.
//!
//! `answer` is what all peers of this crate answer; `peer` starts a peer and `group` looks at its processes. The
//! scenarios measure (`secured` what TLS costs, `lasting` a reload beside silent and slow clients); `results` keeps their
//! figures, and `page` and `plot` show them. The programs are `bench`, which measures, and the peers `peer-reborn` and
//! `peer-hyper`; pingora's and Go's are in `peers`, beside the configurations of nginx and HAProxy.

// These are tools for this repository: what they panic on is a broken measurement, and their text says what it was.
#![allow(clippy::missing_panics_doc, clippy::cast_precision_loss, clippy::must_use_candidate)]

pub mod answer;
pub mod group;
pub mod growth;
pub mod lasting;
pub mod machine;
pub mod page;
pub mod peer;
pub mod plot;
pub mod reload;
pub mod results;
pub mod secured;
pub mod steady;
pub mod wrk;
