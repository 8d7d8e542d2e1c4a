//! The traffic secrets of a handshake of TLS 1.3, by the way that rustls has for logs of keys.
//!
//! rustls gives out keys, from which no next key follows; the secrets that they come from it tells its `KeyLog` alone. Each
//! handshake has one of these, and whatever log the configuration has hears everything as before.

use std::fmt;
use std::sync::{Arc, Mutex};

use rustls::KeyLog;

use super::secret::Secret;
use crate::lock::unpoisoned;

/// The labels of the secrets that the application's data is sealed with.
const CLIENT: &str = "CLIENT_TRAFFIC_SECRET_0";
const SERVER: &str = "SERVER_TRAFFIC_SECRET_0";

/// The secrets of one handshake, as far as they are known.
#[derive(Default)]
pub(super) struct Secrets {
    pub(super) client: Option<Secret>,
    pub(super) server: Option<Secret>,
}

/// Collects them.
pub(super) struct Collector {
    secrets: Mutex<Secrets>,
    configured: Arc<dyn KeyLog>,
}

impl Collector {
    pub(super) fn before(configured: Arc<dyn KeyLog>) -> Collector {
        Collector { secrets: Mutex::default(), configured }
    }

    /// What came so far; it is given out once.
    pub(super) fn take(&self) -> Secrets {
        std::mem::take(&mut *unpoisoned(self.secrets.lock()))
    }
}

impl KeyLog for Collector {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        {
            let mut secrets = unpoisoned(self.secrets.lock());
            match label {
                CLIENT => secrets.client = Some(Secret::copy_of(secret)),
                SERVER => secrets.server = Some(Secret::copy_of(secret)),
                _ => {}
            }
        }
        if self.configured.will_log(label) {
            self.configured.log(label, client_random, secret);
        }
    }

    fn will_log(&self, label: &str) -> bool {
        [CLIENT, SERVER].contains(&label) || self.configured.will_log(label)
    }
}

impl fmt::Debug for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collector").finish_non_exhaustive()
    }
}
