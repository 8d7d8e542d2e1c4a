//! Certificates that are made in a moment, each its own issuer.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{CertificateParams, KeyPair, date_time_ymd};

/// A certificate with its key.
#[derive(Debug)]
pub struct Certificate {
    made: rcgen::Certificate,
    key: KeyPair,
}

impl Certificate {
    /// One for these names, valid from yesterday on for three months.
    #[must_use]
    pub fn new(names: &[&str]) -> Certificate {
        Certificate::valid(names, days_from_now(-1), days_from_now(90))
    }

    /// One for these names, valid for this time, of which fractions of a second are left out.
    #[must_use]
    pub fn valid(names: &[&str], from: SystemTime, to: SystemTime) -> Certificate {
        let date = |time: SystemTime| {
            let seconds = time.duration_since(UNIX_EPOCH).expect("no test is older than that").as_secs();
            date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds)
        };
        let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names of hosts");
        (params.not_before, params.not_after) = (date(from), date(to));
        let key = KeyPair::generate().expect("there is randomness");
        Certificate { made: params.self_signed(&key).expect("the key signs"), key }
    }

    /// The certificate in PEM.
    #[must_use]
    pub fn pem(&self) -> String {
        self.made.pem()
    }

    /// The certificate in DER, for a client to trust.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        self.made.der()
    }

    /// The key in PEM (PKCS #8).
    #[must_use]
    pub fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }
}

/// So many days from now, or before.
#[must_use]
pub fn days_from_now(count: i32) -> SystemTime {
    let days = Duration::from_secs(24 * 60 * 60) * count.unsigned_abs();
    if count < 0 { SystemTime::now() - days } else { SystemTime::now() + days }
}
