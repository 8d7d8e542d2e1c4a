//! The names that a certificate is for.
//!
//! They are its subject alternative names: what it calls its subject by itself has not counted for any client for years.

use std::net::{Ipv4Addr, Ipv6Addr};

use x509_cert::certificate::{CertificateInner, Raw};
use x509_cert::der::Decode;
use x509_cert::der::oid::AssociatedOid;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

/// A name that a certificate is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Name {
    /// A host in small letters, or an address, as `Host` has it without brackets.
    Host(String),
    /// Each host one label below this domain, in small letters: `example.com` for `*.example.com`.
    Below(String),
}

/// The names in a certificate; none where it has none that a client of HTTPS could mean. The error says what is wrong
/// with it.
pub(super) fn names(certificate: &CertificateInner<Raw>) -> Result<Vec<Name>, String> {
    let extensions = certificate.tbs_certificate.extensions.iter().flatten();
    let mut names = vec![];
    for extension in extensions.filter(|extension| extension.extn_id == SubjectAltName::OID) {
        let found = SubjectAltName::from_der(extension.extn_value.as_bytes())
            .map_err(|error| format!("its names cannot be read ({error})"))?;
        names.extend(found.0.iter().filter_map(name));
    }
    Ok(names)
}

fn name(name: &GeneralName) -> Option<Name> {
    match name {
        GeneralName::DnsName(name) => {
            let name = name.as_str().to_ascii_lowercase();
            Some(match name.strip_prefix("*.") {
                Some(domain) => Name::Below(domain.to_owned()),
                None => Name::Host(name),
            })
        }
        GeneralName::IpAddress(bytes) => {
            let bytes = bytes.as_bytes();
            let v4 = <[u8; 4]>::try_from(bytes).map(|bytes| Ipv4Addr::from(bytes).to_string());
            let address = v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(|bytes| Ipv6Addr::from(bytes).to_string()));
            address.ok().map(Name::Host)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_in_small_letters_and_of_three_kinds() {
        let key = rcgen::KeyPair::generate().unwrap();
        let given = ["Example.COM", "*.Example.com", "127.0.0.1", "::1"].map(str::to_owned);
        let made = rcgen::CertificateParams::new(given).unwrap().self_signed(&key).unwrap();
        let found = names(&CertificateInner::from_der(made.der()).unwrap()).unwrap();
        let address = |text: &str| Name::Host(text.to_owned());
        let expected =
            [Name::Host("example.com".into()), Name::Below("example.com".into()), address("127.0.0.1"), address("::1")];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_subject_without_alternative_names_has_none() {
        let key = rcgen::KeyPair::generate().unwrap();
        let made = rcgen::CertificateParams::new(vec![]).unwrap().self_signed(&key).unwrap();
        assert_eq!(names(&CertificateInner::from_der(made.der()).unwrap()).unwrap(), []);
    }
}
