//! What clients of plain HTTP are told where a site is served by HTTPS: where to go, and browsers, not to come back.

use std::time::Duration;

use restart_core::Address;

use super::sites::host_of;
use crate::config::{RedirectPort, TlsConfig, speaks_tls};

/// Where those who issue certificates look for the proof that a site is whose it says. They ask by plain HTTP.
const ACME_CHALLENGE: &str = "/.well-known/acme-challenge/";

/// The port of HTTPS, which nobody has to name.
const HTTPS_PORT: u16 = 443;

/// The port that clients are sent to, if they are: the one that was said, or that of the first of these listeners, given by
/// their names, that speaks TLS on a port. Where none does, as behind a Unix socket, whoever is in front has the usual one.
pub fn redirect_port<'a>(
    config: &TlsConfig,
    listeners: impl IntoIterator<Item = (&'a str, &'a Address)>,
) -> Option<u16> {
    if let RedirectPort::Outside(port) = config.redirect? {
        return Some(port);
    }
    let port = listeners.into_iter().filter(|(name, _)| speaks_tls(name)).find_map(|(_, address)| match address {
        Address::Tcp(address) => Some(address.port()),
        _ => None,
    });
    Some(port.unwrap_or(HTTPS_PORT))
}

/// What is done with a request that came by plain HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plain {
    /// It is answered as it is: it is about no page of the site, or proves whose site it is.
    Serve,
    /// It is answered with 308 and this `Location`.
    Redirect(String),
    /// It is answered with 400: it does not say which site it means.
    Refuse,
}

/// Decides on a request of plain HTTP where everything is served by HTTPS. `host` is its `Host`, with or without a port,
/// and `target` its path and query. `port` is that of the listener for HTTPS.
pub fn plain(host: Option<&str>, target: &str, port: u16) -> Plain {
    if !target.starts_with('/') || target.starts_with(ACME_CHALLENGE) {
        return Plain::Serve;
    }
    let Some(host) = host.map(host_of).filter(|host| is_host(host)) else { return Plain::Refuse };
    let (open, close) = if host.contains(':') { ("[", "]") } else { ("", "") };
    let port = if port == HTTPS_PORT { String::new() } else { format!(":{port}") };
    Plain::Redirect(format!("https://{open}{host}{close}{port}{target}"))
}

/// Whether nothing in it could mean something else in a URL.
fn is_host(host: &str) -> bool {
    let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:%".contains(&byte);
    !host.is_empty() && host.bytes().all(is_fit)
}

/// The value of `Strict-Transport-Security`, by which a browser asks for HTTPS only for this long. It belongs in the answers
/// over TLS, and in no other.
pub fn strict_transport_security(duration: Duration) -> String {
    format!("max-age={}", duration.as_secs())
}

#[cfg(test)]
mod tests {
    use super::super::testing::config;
    use super::*;

    #[test]
    fn a_request_is_sent_to_the_same_page_by_https() {
        for (host, target, port, expected) in [
            ("one.org", "/", 443, "https://one.org/"),
            ("one.org:80", "/a/b?c=d&e=%2F", 443, "https://one.org/a/b?c=d&e=%2F"),
            ("one.org:8080", "/", 8443, "https://one.org:8443/"),
            ("[::1]:8080", "/", 8443, "https://[::1]:8443/"),
            ("[::1]", "/", 443, "https://[::1]/"),
            ("127.0.0.1", "//evil.org/", 443, "https://127.0.0.1//evil.org/"),
            ("one.org", "/.well-known/acme-challenge", 443, "https://one.org/.well-known/acme-challenge"),
        ] {
            assert_eq!(plain(Some(host), target, port), Plain::Redirect(expected.to_owned()), "{host} {target}");
        }
    }

    #[test]
    fn what_proves_whose_site_it_is_and_what_is_no_page_is_served() {
        for target in ["/.well-known/acme-challenge/token", "*"] {
            assert_eq!(plain(Some("one.org"), target, 443), Plain::Serve, "{target}");
        }
    }

    #[test]
    fn a_request_that_names_no_site_leads_nowhere() {
        for host in [None, Some(""), Some(":80"), Some("one.org/x"), Some("one@two"), Some("a\r\nb"), Some("a b")] {
            assert_eq!(plain(host, "/", 443), Plain::Refuse, "{host:?}");
        }
    }

    #[test]
    fn clients_are_sent_to_the_port_that_was_said_or_to_the_first_that_speaks_tls() {
        let tcp = |port: u16| Address::Tcp(([127, 0, 0, 1], port).into());
        let all = [("http", tcp(80)), ("https-local", Address::Unix("/run/x".into())), ("https", tcp(8443))];
        for (redirect, listeners, expected) in [
            (None, &all[..], None),
            (Some(RedirectPort::Listener), &all[..], Some(8443)),
            (Some(RedirectPort::Listener), &all[..2], Some(443)),
            (Some(RedirectPort::Outside(444)), &all[..], Some(444)),
        ] {
            let config = TlsConfig { redirect, ..config(vec![]) };
            let listeners = listeners.iter().map(|(name, address)| (*name, address));
            assert_eq!(redirect_port(&config, listeners), expected, "{redirect:?}");
        }
    }

    #[test]
    fn browsers_are_told_in_seconds() {
        assert_eq!(strict_transport_security(Duration::from_millis(1_500)), "max-age=1");
        assert_eq!(strict_transport_security(Duration::ZERO), "max-age=0");
    }
}
