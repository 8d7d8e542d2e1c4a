//! Certificates for tests, made in a moment.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, KeyPair};

use super::certificate::{self, Certificate};
use super::self_signed::set_dates;
use crate::config::CertificateFiles;

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
        fs::write(&certificate, pem("CERTIFICATE", self.certificate.der())).unwrap();
        fs::write(&key, pem("PRIVATE KEY", &self.key.serialize_der())).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        CertificateFiles { certificate, key }
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

/// Base64 of a few hundred bytes, in lines as PEM has them.
fn pem(label: &str, der: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in der.chunks(3) {
        let bits = (0..3).fold(0, |bits, at| bits << 8 | u32::from(*group.get(at).unwrap_or(&0)));
        for digit in 0..4 {
            let index = (bits >> (18 - 6 * digit)) as usize % 64;
            text.push(if digit <= group.len() { char::from(DIGITS[index]) } else { '=' });
        }
    }
    let lines: Vec<_> = text.as_bytes().chunks(64).map(|line| str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}
