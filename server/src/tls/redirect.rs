//! What clients of plain HTTP are told where a site is served by HTTPS: where to go, and browsers, not to come back.

use std::time::Duration;

use http_types::headers::{HOST, HeaderName, HeaderValue, LOCATION};
use http_types::url::Position;
use http_types::{Request, Response, StatusCode};
use restart_core::Address;

use super::sites::host_of;
use crate::config::{TlsConfig, speaks_tls};

/// Where those who issue certificates look for the proof that a site is whose it says. They ask by plain HTTP.
const ACME_CHALLENGE: &str = "/.well-known/acme-challenge/";

/// The port of HTTPS, which nobody has to name.
const HTTPS_PORT: u16 = 443;

/// What a server with HTTPS does with each request, by how it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Where the clients of plain HTTP are sent, if they are.
    redirect_port: Option<u16>,
    hsts: Option<HeaderValue>,
}

impl Policy {
    /// What is asked for, with these listeners, by their names. The first of them that speaks TLS on a port is the one that
    /// clients are sent to; where none does, as behind a Unix socket, whoever is in front has the usual port.
    pub fn new<'a>(config: &TlsConfig, listeners: impl IntoIterator<Item = (&'a str, &'a Address)>) -> Policy {
        let port = listeners.into_iter().filter(|(name, _)| speaks_tls(name)).find_map(|(_, address)| match address {
            Address::Tcp(address) => Some(address.port()),
            _ => None,
        });
        let hsts = config.hsts.map(strict_transport_security);
        // A word and a number always are a header's value.
        let hsts = hsts.and_then(|value| value.parse().ok());
        Policy { redirect_port: config.redirect.then(|| port.unwrap_or(HTTPS_PORT)), hsts }
    }

    /// The answer to a request that came by plain HTTP, in the handler's place; nothing where the handler answers.
    pub fn answer_plain(&self, request: &Request) -> Option<Response> {
        let port = self.redirect_port?;
        let host = request.header(HOST).map(|host| host.last().as_str());
        let (status, location) = match plain(host, &request.url()[Position::BeforePath..Position::AfterQuery], port) {
            Plain::Serve => return None,
            Plain::Redirect(location) => (StatusCode::PermanentRedirect, Some(location)),
            Plain::Refuse => (StatusCode::BadRequest, None),
        };
        let mut response = Response::new(status);
        if let Some(location) = location {
            response.insert_header(LOCATION, location);
        }
        response.set_body("this site is served by HTTPS\n");
        Some(response)
    }

    /// The header for each answer over TLS, where browsers are told to stay.
    pub fn header(&self) -> Option<(HeaderName, HeaderValue)> {
        self.hsts.clone().map(|value| (HeaderName::from("strict-transport-security"), value))
    }
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

    fn policy(redirect: bool, hsts: Option<Duration>, listeners: &[(&str, Address)]) -> Policy {
        let config = TlsConfig {
            certificates: vec![],
            self_signed: true,
            min_version: crate::config::TlsVersion::V1_2,
            redirect,
            hsts,
            handshake_timeout: Duration::from_secs(10),
            handshakes: 1,
        };
        Policy::new(&config, listeners.iter().map(|(name, address)| (*name, address)))
    }

    #[test]
    fn clients_are_sent_to_the_first_listener_that_speaks_tls_with_all_that_they_asked_for() {
        let tcp = |port: u16| Address::Tcp(([127, 0, 0, 1], port).into());
        let listeners = [("http", tcp(80)), ("https-local", Address::Unix("/run/x".into())), ("https", tcp(8443))];
        let mut request = Request::get("http://one.org:80/a%20b?c=%2F");
        request.insert_header("host", "one.org:80");
        let response = policy(true, None, &listeners).answer_plain(&request).unwrap();
        assert_eq!(response.status(), StatusCode::PermanentRedirect);
        assert_eq!(response.header("location").unwrap().as_str(), "https://one.org:8443/a%20b?c=%2F");
        let response = policy(true, None, &listeners[..2]).answer_plain(&request).unwrap();
        assert_eq!(response.header("location").unwrap().as_str(), "https://one.org/a%20b?c=%2F");
        assert!(policy(false, None, &listeners).answer_plain(&request).is_none());
        request.remove_header("host");
        let response = policy(true, None, &listeners).answer_plain(&request).unwrap();
        assert!(response.status() == StatusCode::BadRequest && response.header("location").is_none());
        let challenge = Request::get("http://one.org/.well-known/acme-challenge/x");
        assert!(policy(true, None, &listeners).answer_plain(&challenge).is_none());
    }

    #[test]
    fn answers_over_tls_have_the_header_where_it_is_asked_for() {
        assert_eq!(policy(true, None, &[]).header(), None);
        let (name, value) = policy(false, Some(Duration::from_secs(60)), &[]).header().unwrap();
        assert_eq!((name.as_str(), value.as_str()), ("strict-transport-security", "max-age=60"));
    }

    #[test]
    fn browsers_are_told_in_seconds() {
        assert_eq!(strict_transport_security(Duration::from_millis(1_500)), "max-age=1");
        assert_eq!(strict_transport_security(Duration::ZERO), "max-age=0");
    }
}
