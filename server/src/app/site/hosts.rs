//! Which site a request is for: by its Host, exact before wildcard, and else the first.
//!
//! Over TLS the client has named a site before, when it opened the connection (SNI): a request for another one there is
//! misdirected. Where there is one site, nothing is looked at.

use std::borrow::Cow;
use std::collections::HashMap;

use http_types::Request;
use http_types::headers::HOST;

use crate::config::{Host, SiteConfig};
use crate::http::Tls;

/// The site for hosts that are in no list.
const FIRST: usize = 0;

#[derive(Debug, Default)]
pub(super) struct Hosts {
    /// Empty where there is one site.
    names: HashMap<String, usize>,
    domains: HashMap<String, usize>,
}

impl Hosts {
    pub(super) fn new(sites: &[SiteConfig]) -> Hosts {
        let mut hosts = Hosts::default();
        let all = sites.iter().enumerate().filter(|_| sites.len() > 1);
        for (index, host) in all.flat_map(|(index, site)| site.hosts.iter().map(move |host| (index, host))) {
            match host {
                Host::Name(name) => hosts.names.insert(name.clone(), index),
                Host::Below(domain) => hosts.domains.insert(domain.clone(), index),
            };
        }
        hosts
    }

    /// The number of the site that a request is for; nothing where its connection was opened for another one.
    pub(super) fn find(&self, request: &Request) -> Option<usize> {
        if self.names.is_empty() && self.domains.is_empty() {
            return Some(FIRST);
        }
        let named = request.ext().get::<Tls>().and_then(Tls::server_name).map(|name| self.site_of(name));
        let meant = request.header(HOST).map(|host| self.site_of(host.last().as_str()));
        match (meant, named) {
            (Some(meant), Some(named)) => (meant == named).then_some(meant),
            (one, other) => Some(one.or(other).unwrap_or(FIRST)),
        }
    }

    /// The number of the site for `HOST[:PORT]`, in whichever case, with a dot at its end or without.
    fn site_of(&self, authority: &str) -> usize {
        let host = host_of(authority);
        let host = host.strip_suffix('.').unwrap_or(host);
        let host: Cow<'_, str> = if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            host.to_ascii_lowercase().into()
        } else {
            host.into()
        };
        if let Some(site) = self.names.get(&*host) {
            return *site;
        }
        let mut domain = &*host;
        while let Some((label, above)) = domain.split_once('.') {
            if let Some(site) = self.domains.get(above).filter(|_| !label.is_empty()) {
                return *site;
            }
            domain = above;
        }
        FIRST
    }
}

/// The host of `HOST[:PORT]`, an IPv6 address without its brackets.
fn host_of(authority: &str) -> &str {
    match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => authority.split(':').next().unwrap_or(authority),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(sites: &[&[&str]]) -> Hosts {
        let host = |text: &&str| match text.strip_prefix("*.") {
            Some(domain) => Host::Below(domain.to_owned()),
            None => Host::Name((*text).to_owned()),
        };
        let site = |hosts: &&[&str]| SiteConfig { hosts: hosts.iter().map(host).collect(), ..SiteConfig::default() };
        Hosts::new(&sites.iter().map(site).collect::<Vec<_>>())
    }

    fn find(hosts: &Hosts, host: Option<&str>, server_name: Option<&str>) -> Option<usize> {
        let mut request = Request::get("http://localhost/");
        request.remove_header(HOST);
        if let Some(host) = host {
            request.insert_header(HOST, host);
        }
        if let Some(name) = server_name {
            request.ext_mut().insert(Tls::new("TLSv1.3", "", Some(name.to_owned()), false));
        }
        hosts.find(&request)
    }

    #[test]
    fn an_exact_host_comes_before_a_wildcard_the_longer_domain_before_the_shorter_and_the_first_site_is_for_all_others()
    {
        let hosts = hosts(&[&["one.org"], &["*.two.org", "two.org"], &["a.two.org"], &["*.b.two.org", "::1"]]);
        for (host, expected) in [
            (Some("one.org"), 0),
            (Some("two.org"), 1),
            (Some("TWO.org.:8080"), 1),
            (Some("x.two.org"), 1),
            (Some("x.y.two.org"), 1),
            (Some("a.two.org:80"), 2),
            (Some("x.a.two.org"), 1),
            (Some("x.b.two.org"), 3),
            (Some("b.two.org"), 1),
            (Some("[::1]:80"), 3),
            (Some(".two.org"), 0),
            (Some("xtwo.org"), 0),
            (Some("elsewhere"), 0),
            (Some("127.0.0.1:80"), 0),
            (None, 0),
        ] {
            assert_eq!(find(&hosts, host, None), Some(expected), "{host:?}");
        }
    }

    #[test]
    fn over_tls_a_request_for_another_site_than_the_connection_was_opened_for_is_misdirected() {
        let two = hosts(&[&["one.org", "www.one.org"], &["two.org"]]);
        for (server_name, host, expected) in [
            ("one.org", "www.one.org", Some(0)),
            ("one.org", "elsewhere", Some(0)),
            ("elsewhere", "one.org", Some(0)),
            ("one.org", "two.org", None),
            ("two.org", "one.org", None),
            ("two.org", "elsewhere", None),
            ("two.org", "two.org:443", Some(1)),
        ] {
            assert_eq!(find(&two, Some(host), Some(server_name)), expected, "{server_name} {host}");
        }
        assert_eq!(find(&two, None, Some("two.org")), Some(1), "a client of HTTP/1.0 names no host");
        assert_eq!(find(&hosts(&[&["one.org"]]), Some("two.org"), Some("three.org")), Some(0), "there is one site");
    }
}
