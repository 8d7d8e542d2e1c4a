//! The proxies in front: whose word counts on where a client is, and which listeners want it before anything else.

use ipnet::{IpNet, Ipv4Net};

use super::flags::ServeArgs;
use super::given::{Error, Given};
use super::listen::METRICS_NAME;
use crate::http::Trust;

/// What stands for the clients of Unix sockets among networks.
const UNIX: &str = "unix";

/// Which proxies stand in front.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyConfig {
    /// Those whose word counts; nothing where there are none.
    pub trust: Option<Trust>,
    /// The names of the listeners on which each connection begins with a PROXY header.
    pub listeners: Vec<String>,
}

impl ProxyConfig {
    pub(super) fn new(args: &ServeArgs) -> Result<ProxyConfig, Error> {
        let given =
            |list: &[Given]| -> Vec<Given> { list.iter().filter(|given| !given.text().is_empty()).cloned().collect() };
        let (proxies, listeners) = (given(&args.proxies.trusted_proxy), given(&args.proxies.proxy_protocol));
        let (unix, networks): (Vec<_>, Vec<_>) = proxies.iter().partition(|given| given.text() == UNIX);
        let networks = networks.into_iter().map(network).collect::<Result<Vec<_>, _>>()?;
        let trust = Some(Trust::new(networks, !unix.is_empty())).filter(|trust| !trust.is_empty());
        if let Some(given) = listeners.first().filter(|_| trust.is_none()) {
            let advice = "name the networks of those that do with --trusted-proxy CIDR";
            return Err(given.refuse("no proxy may send PROXY headers", advice));
        }
        if let Some(given) = listeners.iter().find(|given| given.text() == METRICS_NAME) {
            return Err(given.refuse("metrics are asked for directly", "name a listener that serves clients"));
        }
        Ok(ProxyConfig { trust, listeners: listeners.iter().map(|given| given.text().clone()).collect() })
    }

    /// What has no effect with the listeners of these names, as a sentence that says what to do.
    pub(crate) fn unused<'a>(&self, listeners: impl IntoIterator<Item = &'a str>) -> Option<String> {
        let names: Vec<_> = listeners.into_iter().collect();
        let unused = self.listeners.iter().find(|name| !names.contains(&name.as_str()))?;
        let names = names.join(", ");
        Some(format!("there is no listener {unused:?}; name one of these: {names}"))
    }
}

/// A network, or one address. The bits behind a network's prefix are not looked at.
fn network(given: &Given) -> Result<IpNet, Error> {
    let text = given.text();
    let network = text.parse::<IpNet>().ok().or_else(|| IpNet::new(text.parse().ok()?, bits(text)).ok());
    network.map(|network| canonical(network.trunc())).ok_or_else(|| {
        given.refuse("no network", "write an address or a network, such as 10.0.0.0/8 or fd00::/8, or unix")
    })
}

/// Networks are compared with what addresses are: an IPv4 network that is written within IPv6 is one of IPv4.
fn canonical(network: IpNet) -> IpNet {
    let IpNet::V6(within) = network else { return network };
    let four = within.network().to_ipv4_mapped().zip(within.prefix_len().checked_sub(96));
    four.and_then(|(address, length)| Ipv4Net::new(address, length).ok()).map_or(network, IpNet::V4)
}

/// How many bits an address has.
fn bits(address: &str) -> u8 {
    if address.contains(':') { 128 } else { 32 }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;
    use crate::program::cli::{self, Command};

    fn config(arguments: &[&str]) -> Result<ProxyConfig, String> {
        let arguments = std::iter::once("reborn").chain(arguments.iter().copied()).map(OsString::from);
        match cli::parse(arguments).unwrap() {
            Command::Serve(args) => ProxyConfig::new(&args).map_err(|error| error.to_string()),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn networks_addresses_and_unix_sockets_are_named() {
        assert_eq!(config(&[]), Ok(ProxyConfig::default()));
        let given = ["10.0.0.0/8", "192.0.2.1", "2001:db8::1/32", "::1", "unix"];
        let arguments: Vec<_> = given.iter().flat_map(|text| ["--trusted-proxy", text]).collect();
        let trust = config(&arguments).unwrap().trust.unwrap();
        for peer in ["10.9.8.7:1", "192.0.2.1:1", "[2001:db8:9::1]:1", "[::1]:1"] {
            assert!(trust.has_peer(Some(peer)), "{peer}");
        }
        assert!(trust.has_peer(None) && !trust.has_peer(Some("192.0.2.2:1")));
        let within = ["::ffff:10.0.0.0/104", "::ffff:192.0.2.1", "::/0"];
        let arguments: Vec<_> = within.iter().flat_map(|text| ["--trusted-proxy", text]).collect();
        let trust = config(&arguments).unwrap().trust.unwrap();
        assert!(trust.has_peer(Some("10.9.8.7:1")) && trust.has_peer(Some("[::ffff:192.0.2.1]:1")));
        assert!(trust.has_peer(Some("[2001:db8::1]:1")) && !trust.has_peer(Some("192.0.2.2:1")));
    }

    #[test]
    fn a_listener_with_headers_needs_somebody_who_may_send_them() {
        let listeners = config(&["--proxy-protocol=web", "--trusted-proxy=::1"]).unwrap().listeners;
        assert_eq!(listeners, ["web"]);
        for (arguments, expected) in [
            (&["--proxy-protocol=web"][..], r#"--proxy-protocol "web": no proxy may send PROXY headers; name the"#),
            (&["--proxy-protocol=metrics", "--trusted-proxy=::1"], r#"--proxy-protocol "metrics": metrics are asked"#),
            (&["--trusted-proxy=localhost"], r#"--trusted-proxy "localhost": no network; write an address or"#),
            (&["--trusted-proxy=10.0.0.0/33"], r#"--trusted-proxy "10.0.0.0/33": no network; write an address or"#),
        ] {
            let error = config(arguments).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn a_name_that_no_listener_has_is_told() {
        let config = config(&["--proxy-protocol=web", "--trusted-proxy=::1"]).unwrap();
        assert_eq!(config.unused(["web", "https"]), None);
        let told = config.unused(["http", "https"]).unwrap();
        assert_eq!(told, r#"there is no listener "web"; name one of these: http, https"#);
    }
}
