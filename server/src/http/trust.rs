//! Whose word counts on where a client is: the proxies in front, by the networks that they are in.
//!
//! It knows addresses only. What proxies say is read by `message::forwarded`, for each request, and by `proxied`, for a
//! connection.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

/// The proxies that are believed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    networks: Vec<IpNet>,
    unix: bool,
}

impl Trust {
    /// Trusts all in these networks, and where `unix` says so all clients of Unix sockets.
    pub fn new(networks: Vec<IpNet>, unix: bool) -> Trust {
        Trust { networks, unix }
    }

    /// Whether nobody is trusted.
    pub fn is_empty(&self) -> bool {
        self.networks.is_empty() && !self.unix
    }

    /// Whether this address is one of a trusted proxy. An IPv4 address within IPv6 is what it is.
    pub fn has(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.networks.iter().any(|network| network.contains(&address))
    }

    /// Whether the other end of a connection is a trusted proxy: one without an address is a client of a Unix socket.
    pub fn has_peer(&self, peer: Option<&str>) -> bool {
        match peer {
            None => self.unix,
            Some(peer) => address_in(peer).is_some_and(|address| self.has(address)),
        }
    }
}

/// The address in a text that is one, with or without a port.
pub(crate) fn address_in(text: &str) -> Option<IpAddr> {
    let address = text.parse::<SocketAddr>().map(|address| address.ip()).or_else(|_| text.parse()).ok()?;
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trust(networks: &[&str], unix: bool) -> Trust {
        Trust::new(networks.iter().map(|text| text.parse().expect("a network")).collect(), unix)
    }

    #[test]
    fn a_proxy_is_known_by_its_network_however_its_address_is_written() {
        let trust = trust(&["10.0.0.0/8", "2001:db8::/32"], false);
        for peer in ["10.1.2.3:4", "10.1.2.3", "[::ffff:10.1.2.3]:4", "[2001:db8::1]:4", "2001:db8::1"] {
            assert!(trust.has_peer(Some(peer)), "{peer}");
        }
        for peer in [Some("11.1.2.3:4"), Some("[2001:db9::1]:4"), Some("unknown"), Some(""), None] {
            assert!(!trust.has_peer(peer), "{peer:?}");
        }
    }

    #[test]
    fn clients_of_unix_sockets_are_trusted_where_that_was_said() {
        assert!(trust(&[], true).has_peer(None) && !trust(&[], true).has_peer(Some("127.0.0.1:1")));
        assert!(trust(&[], false).is_empty() && !trust(&[], true).is_empty());
    }
}
