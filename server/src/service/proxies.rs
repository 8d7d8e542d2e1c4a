//! Listeners for proxies: on which of them each connection begins with a PROXY header, from whom one is taken, and what is
//! said of those that bring none.
//!
//! What a header is, and how it is read, is known to the HTTP layer.

use std::net::IpAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::config::ProxyConfig;
use crate::http::Trust;
use crate::lock::unpoisoned;

/// How long the log keeps silent about connections without a header after it has told of one.
const SILENCE: Duration = Duration::from_secs(10);

/// The listeners for proxies.
#[derive(Debug)]
pub(super) struct Proxies {
    listeners: Vec<String>,
    trust: Trust,
    told: Mutex<Told>,
}

/// When somebody was told of last, and how many there were since.
#[derive(Debug, Default)]
struct Told {
    at: Option<Instant>,
    more: u64,
}

impl Proxies {
    pub(super) fn new(config: &ProxyConfig) -> Proxies {
        let (listeners, trust) = (config.listeners.clone(), config.trust.clone().unwrap_or_default());
        Proxies { listeners, trust, told: Mutex::default() }
    }

    /// Whether connections of this listener begin with a header.
    pub(super) fn has(&self, listener: &str) -> bool {
        self.listeners.iter().any(|name| name == listener)
    }

    /// Whether a header is taken from there: from nowhere is a Unix socket.
    pub(super) fn takes_from(&self, address: Option<IpAddr>) -> bool {
        match address {
            Some(address) => self.trust.has(address),
            None => self.trust.has_peer(None),
        }
    }

    /// Says that a connection on this listener is closed, since no header came that can be believed; not of each, where there
    /// are many.
    pub(super) fn tell(&self, listener: &str, peer: Option<&str>, cause: &str) {
        let more = {
            let told = &mut *unpoisoned(self.told.lock());
            if told.at.is_some_and(|at| at.elapsed() < SILENCE) {
                told.more += 1;
                return;
            }
            told.at = Some(Instant::now());
            std::mem::take(&mut told.more)
        };
        let peer = peer.unwrap_or("a client of a Unix socket");
        let others = if more > 0 { format!(" (and {more} others before)") } else { String::new() };
        log::warn!(
            "no PROXY header is taken from {peer} on the listener {listener:?}, and it is closed: {cause}{others}"
        );
    }
}
