//! Which certificate a client gets: by the name that it asks for (SNI), exact before wildcard, and else the first.
//!
//! Several may be for one name, with keys of different kinds: the first whose signatures the client understands is it.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::certificate::Certificate;
use super::names::Name;

/// What is shown to a client that asks for no name, or for one that is in no certificate.
const DEFAULT: &[usize] = &[0];

/// The certificates, by the names that they are for. There is at least one.
#[derive(Debug)]
pub(super) struct Sites {
    certificates: Vec<Arc<CertifiedKey>>,
    hosts: HashMap<String, Vec<usize>>,
    /// By the domain behind the asterisk.
    domains: HashMap<String, Vec<usize>>,
}

impl Sites {
    pub(super) fn new(certificates: &[Certificate]) -> Sites {
        let (mut hosts, mut domains) = (HashMap::<_, Vec<_>>::new(), HashMap::<_, Vec<_>>::new());
        for (index, certificate) in certificates.iter().enumerate() {
            for name in &certificate.names {
                match name {
                    Name::Host(host) => hosts.entry(host.clone()).or_default().push(index),
                    Name::Below(domain) => domains.entry(domain.clone()).or_default().push(index),
                }
            }
        }
        let certificates = certificates.iter().map(|certificate| Arc::clone(&certificate.key)).collect();
        Sites { certificates, hosts, domains }
    }

    /// Whether some certificate is for both names, or shown for both. `host` may be in any case, and have a dot and a port
    /// at its end.
    pub(super) fn are_one(&self, server_name: &str, host: &str) -> bool {
        let (one, other) = (self.select(server_name), self.select(host_of(host)));
        one.iter().any(|index| other.contains(index))
    }

    /// The certificates for a name, the preferred one first.
    fn select(&self, name: &str) -> &[usize] {
        let name = name.to_ascii_lowercase();
        let name = name.strip_suffix('.').unwrap_or(&name);
        let domain = name.split_once('.').filter(|(label, _)| !label.is_empty()).map(|(_, domain)| domain);
        let found = self.hosts.get(name).or_else(|| self.domains.get(domain?));
        found.map_or(DEFAULT, Vec::as_slice)
    }
}

impl ResolvesServerCert for Sites {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let among = hello.server_name().map_or(DEFAULT, |name| self.select(name));
        let certificates = among.iter().map(|index| &self.certificates[*index]);
        let understood =
            |certificate: &&Arc<CertifiedKey>| certificate.key.choose_scheme(hello.signature_schemes()).is_some();
        certificates.clone().find(understood).or(certificates.clone().next()).cloned()
    }
}

/// The host of `HOST[:PORT]`, an IPv6 address without its brackets.
pub(super) fn host_of(authority: &str) -> &str {
    if let Some(rest) = authority.strip_prefix('[') {
        return rest.split(']').next().unwrap_or(rest);
    }
    authority.rsplit_once(':').map_or(authority, |(host, _)| host)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{self, Made};
    use super::*;

    fn sites(of: &[&[&str]]) -> Sites {
        let folder = tempfile::tempdir().unwrap();
        let load = |names: &&[&str]| testing::load(&Made::new(names).write(folder.path(), names[0]));
        let certificates: Vec<_> = of.iter().map(load).collect();
        Sites::new(&certificates)
    }

    #[test]
    fn an_exact_name_comes_before_a_wildcard_and_the_first_certificate_is_for_all_others() {
        let sites = sites(&[&["one.org"], &["*.two.org"], &["a.two.org", "two.org"]]);
        for (name, expected) in [
            ("one.org", 0),
            ("ONE.org.", 0),
            ("b.two.org", 1),
            ("a.two.org", 2),
            ("two.org", 2),
            ("a.b.two.org", 0),
            ("xtwo.org", 0),
            (".two.org", 0),
            ("", 0),
        ] {
            assert_eq!(sites.select(name), [expected], "{name}");
        }
    }

    #[test]
    fn certificates_for_the_same_name_are_all_there_in_their_order() {
        let sites = sites(&[&["one.org"], &["one.org", "two.org"]]);
        assert_eq!((sites.select("one.org"), sites.select("two.org")), (&[0, 1][..], &[1][..]));
    }

    #[test]
    fn two_names_are_one_site_where_one_certificate_is_shown_for_both() {
        let sites = sites(&[&["one.org", "www.one.org", "::1"], &["two.org"]]);
        for (server_name, host, expected) in [
            ("one.org", "one.org:443", true),
            ("one.org", "WWW.one.org.", true),
            ("one.org", "two.org", false),
            ("two.org", "one.org", false),
            ("two.org", "elsewhere.org", false),
            ("elsewhere.org", "one.org", true),
            ("one.org", "[::1]:443", true),
        ] {
            assert_eq!(sites.are_one(server_name, host), expected, "{server_name} {host}");
        }
    }
}
