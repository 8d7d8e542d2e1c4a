//! A certificate of this program's own making, for development: for this machine, under the names that it has there.
//!
//! A browser asks once whether to trust it. So it is made once, and goes on from generation to generation with its key; a
//! new one is made only where the last expires soon.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use rustix::system::uname;
use zeroize::Zeroizing;

use super::certificate::{Certificate, EXPIRES_SOON};

/// For how long it is valid: browsers take no longer one from anybody.
const VALID: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// How far back its time begins, since clocks differ.
const BACKDATED: Duration = Duration::from_secs(24 * 60 * 60);

/// A certificate that was made here, and its key (PKCS #8), both in DER.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct SelfSigned {
    pub(super) certificate: Vec<u8>,
    pub(super) key: Zeroizing<Vec<u8>>,
}

impl SelfSigned {
    /// Goes on with the one of the generation before, or makes one. The error says why none can be made.
    pub(super) fn open(saved: Option<SelfSigned>, now: SystemTime) -> Result<(SelfSigned, Certificate), String> {
        let lasts = |certificate: &Certificate| certificate.not_after > now + EXPIRES_SOON;
        let kept = saved.and_then(|saved| Some((saved.load(now).filter(lasts)?, saved)));
        if let Some((certificate, saved)) = kept {
            return Ok((saved, certificate));
        }
        let made = SelfSigned::make(now).map_err(|error| error.to_string())?;
        let certificate = made.load(now).ok_or("it cannot be read")?;
        Ok((made, certificate))
    }

    fn load(&self, now: SystemTime) -> Option<Certificate> {
        Certificate::from_der(self.certificate.clone(), &self.key, now)
    }

    fn make(now: SystemTime) -> Result<SelfSigned, rcgen::Error> {
        let mut params = CertificateParams::new(names())?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "self-signed for development");
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        set_dates(&mut params, now - BACKDATED, now + VALID);
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?.der().to_vec();
        Ok(SelfSigned { certificate, key: Zeroizing::new(key.serialize_der()) })
    }
}

/// What this machine is called by itself.
fn names() -> Vec<String> {
    let mut names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
    let machine = uname().nodename().to_string_lossy().to_ascii_lowercase();
    let is_fit = |character: char| character.is_ascii_alphanumeric() || "-.".contains(character);
    if !machine.is_empty() && machine.chars().all(is_fit) && !names.contains(&machine) {
        names.push(machine);
    }
    names
}

/// Has a certificate be valid for this time, without fractions of a second.
pub(super) fn set_dates(params: &mut CertificateParams, from: SystemTime, to: SystemTime) {
    let date = |time: SystemTime| {
        let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds)
    };
    (params.not_before, params.not_after) = (date(from), date(to));
}

#[cfg(test)]
mod tests {
    use super::super::names::Name;
    use super::*;

    #[test]
    fn it_is_for_this_machine_and_is_made_once() {
        let now = SystemTime::now();
        let (made, certificate) = SelfSigned::open(None, now).unwrap();
        for name in ["localhost", "127.0.0.1", "::1"] {
            assert!(certificate.names.contains(&Name::Host(name.into())), "{:?}", certificate.names);
        }
        let (kept, _) = SelfSigned::open(Some(made.clone()), now).unwrap();
        assert!(kept == made, "another certificate was made");
    }

    #[test]
    fn one_that_expires_soon_or_cannot_be_used_is_replaced() {
        let now = SystemTime::now();
        let (made, _) = SelfSigned::open(None, now).unwrap();
        let later = now + VALID - EXPIRES_SOON;
        let (renewed, certificate) = SelfSigned::open(Some(made.clone()), later).unwrap();
        assert!(renewed != made && certificate.not_after > later + EXPIRES_SOON);
        let (other, _) = SelfSigned::open(None, now).unwrap();
        let mixed = SelfSigned { key: other.key, ..made };
        assert!(SelfSigned::open(Some(mixed.clone()), now).unwrap().0 != mixed);
    }
}
