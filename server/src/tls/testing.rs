//! Certificates for tests, made in a moment.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, KeyPair};

use super::certificate::{self, Certificate};
use super::self_signed::set_dates;
use crate::config::{CertificateFiles, TlsConfig, TlsVersion};

/// A certificate with its key.
pub(super) struct Made {
    pub(super) certificate: rcgen::Certificate,
    key: KeyPair,
}

impl Made {
    /// One for these names, valid from yesterday on for three months.
    pub(super) fn new(names: &[&str]) -> Made {
        Made::valid(names, days(-1), days(90))
    }

    /// One for these names, valid for this time.
    pub(super) fn valid(names: &[&str], from: SystemTime, to: SystemTime) -> Made {
        let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        set_dates(&mut params, from, to);
        let key = KeyPair::generate().unwrap();
        Made { certificate: params.self_signed(&key).unwrap(), key }
    }

    /// Writes it to `NAME.pem` and `NAME.key`, which its owner alone can read.
    pub(super) fn write(&self, folder: &Path, name: &str) -> CertificateFiles {
        let (certificate, key) = (folder.join(format!("{name}.pem")), folder.join(format!("{name}.key")));
        fs::write(&certificate, self.certificate.pem()).unwrap();
        fs::write(&key, self.key.serialize_pem()).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        CertificateFiles { certificate, key }
    }
}

/// A configuration with these certificates, or else with one that is made.
pub(super) fn config(certificates: Vec<CertificateFiles>) -> TlsConfig {
    TlsConfig {
        self_signed: certificates.is_empty(),
        certificates,
        min_version: TlsVersion::V1_2,
        redirect: None,
        hsts: None,
        handshake_timeout: Duration::from_secs(10),
        handshakes: 1,
    }
}

/// So many days from now.
pub(super) fn days(count: i32) -> SystemTime {
    let days = Duration::from_secs(24 * 60 * 60) * count.unsigned_abs();
    if count < 0 { SystemTime::now() - days } else { SystemTime::now() + days }
}

pub(super) fn load(files: &CertificateFiles) -> Certificate {
    certificate::load(0, files, SystemTime::now()).unwrap().0
}
