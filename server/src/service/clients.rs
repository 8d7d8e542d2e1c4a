//! How many connections each client has, so that no single one takes all the room there is.
//!
//! A client is an IPv4 address, or the /64 that an IPv6 address is of, since whoever has one address there has them all.
//! Unix sockets have no such bound, and where none was configured, neither have loopback addresses: behind them is a
//! proxy, with the clients of all others. Nor has a trusted proxy, which tells whose each request is: that counts for its
//! client while it lasts, like a connection. It only counts; whoever accepts connections asks.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::config::ProxyConfig;
use crate::http::{Place, Share, Trust, address_in};
use crate::lock::unpoisoned;

/// How long the log keeps silent about clients with too many connections after it has told of one.
const SILENCE: Duration = Duration::from_secs(10);

/// The bits of an IPv6 address that tell one client from another.
const NETWORK: u128 = u128::MAX << 64;

/// The connections of all clients.
#[derive(Debug)]
pub(crate) struct Clients {
    most: usize,
    /// Whether loopback addresses are bounded as well.
    loopback: bool,
    trust: Option<Trust>,
    counts: Mutex<HashMap<IpAddr, usize>>,
    told: Mutex<Option<Instant>>,
}

/// A connection that counts for its client, as long as this lives; or one that counts for nobody.
#[derive(Debug)]
pub(crate) struct ClientPermit(Option<(Arc<Clients>, IpAddr)>);

impl Clients {
    /// Nobody yet. At most as many connections for each as `configured`; without that, half of all there may be.
    pub(crate) fn new(configured: Option<usize>, connections: usize, trust: Option<Trust>) -> Arc<Clients> {
        let most = configured.unwrap_or((connections / 2).max(1));
        let loopback = configured.is_some();
        Arc::new(Clients { most, loopback, trust, counts: Mutex::default(), told: Mutex::default() })
    }

    /// Counts a connection from this address, unless its client has too many.
    pub(crate) fn enter(self: &Arc<Self>, address: Option<IpAddr>) -> Option<ClientPermit> {
        self.count(address, self.most)
    }

    /// What requests of trusted proxies take their places by, where there are such proxies.
    pub(crate) fn share(self: &Arc<Self>, proxies: &ProxyConfig) -> Option<Share> {
        let clients = Arc::clone(self);
        proxies.trust.as_ref()?;
        Some(Box::new(move |client, is_under_way| {
            let address = address_in(client);
            let permit = if is_under_way { Some(clients.receive(address)) } else { clients.enter(address) };
            permit.map(|permit| Box::new(permit) as Place)
        }))
    }

    /// Counts a connection that was within the bound when it was accepted elsewhere.
    pub(crate) fn receive(self: &Arc<Self>, address: Option<IpAddr>) -> ClientPermit {
        self.count(address, usize::MAX).unwrap_or(ClientPermit(None))
    }

    fn count(self: &Arc<Self>, address: Option<IpAddr>, most: usize) -> Option<ClientPermit> {
        let is_proxy = |address: &IpAddr| self.trust.as_ref().is_some_and(|trust| trust.has(*address));
        let bounded = address.filter(|address| !is_proxy(address)).map(client);
        let Some(client) = bounded.filter(|client| self.loopback || !client.is_loopback()) else {
            return Some(ClientPermit(None));
        };
        let counts = &mut *self.counts();
        let count = counts.entry(client).or_default();
        if *count >= most {
            self.tell(client);
            return None;
        }
        *count += 1;
        Some(ClientPermit(Some((Arc::clone(self), client))))
    }

    fn tell(&self, client: IpAddr) {
        let mut told = unpoisoned(self.told.lock());
        if told.is_none_or(|at| at.elapsed() >= SILENCE) {
            *told = Some(Instant::now());
            let most = self.most;
            log::warn!("{client} has {most} connections (--connections-per-client), and further ones are closed");
        }
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        // Nothing panics while it is held.
        unpoisoned(self.counts.lock())
    }
}

impl ClientPermit {
    /// One that counts for nobody.
    pub(crate) fn of_nobody() -> ClientPermit {
        ClientPermit(None)
    }
}

impl Drop for ClientPermit {
    fn drop(&mut self) {
        let Some((clients, client)) = self.0.take() else { return };
        if let Entry::Occupied(mut count) = clients.counts().entry(client) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

/// Which client an address belongs to.
fn client(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) if !address.is_loopback() => Ipv6Addr::from_bits(address.to_bits() & NETWORK).into(),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enter(clients: &Arc<Clients>, address: &str) -> Option<ClientPermit> {
        clients.enter(Some(address.parse().expect("an address")))
    }

    #[test]
    fn a_client_has_at_most_its_share_and_others_have_theirs() {
        let clients = Clients::new(Some(2), 100, None);
        let held = [enter(&clients, "192.0.2.1"), enter(&clients, "::ffff:192.0.2.1")];
        assert!(held.iter().all(Option::is_some));
        assert!(enter(&clients, "192.0.2.1").is_none());
        assert!(enter(&clients, "192.0.2.2").is_some());
        drop(held);
        assert!(clients.counts().is_empty(), "who has gone is forgotten");
        assert!(enter(&clients, "192.0.2.1").is_some());
    }

    #[test]
    fn a_client_has_all_of_its_64_bits() {
        let clients = Clients::new(Some(1), 100, None);
        let _held = enter(&clients, "2001:db8::1").expect("the first");
        assert!(enter(&clients, "2001:db8::2:0:0:1").is_none());
        assert!(enter(&clients, "2001:db8:0:1::1").is_some());
    }

    #[test]
    fn a_proxy_on_this_machine_and_unix_sockets_have_no_bound_unless_one_is_given() {
        let clients = Clients::new(None, 1, None);
        let proxied: Vec<_> = (0..3).map(|_| enter(&clients, "127.0.0.1")).collect();
        assert!(proxied.iter().all(Option::is_some) && enter(&clients, "::1").is_some());
        let held = enter(&clients, "192.0.2.1");
        assert!(held.is_some() && enter(&clients, "192.0.2.1").is_none(), "others have half of all, and at least one");
        let clients = Clients::new(Some(1), 1, None);
        let held = (enter(&clients, "127.0.0.1"), clients.enter(None), clients.enter(None));
        assert!(held.0.is_some() && held.1.is_some() && held.2.is_some());
        assert!(enter(&clients, "127.0.0.1").is_none());
    }

    #[test]
    fn a_trusted_proxy_has_no_bound() {
        let trust = Trust::new(vec!["192.0.2.0/24".parse().expect("a network")], false);
        let clients = Clients::new(Some(1), 100, Some(trust));
        let proxied: Vec<_> = (0..3).map(|_| enter(&clients, "192.0.2.1")).collect();
        assert!(proxied.iter().all(Option::is_some));
        let held = enter(&clients, "198.51.100.1");
        assert!(held.is_some() && enter(&clients, "198.51.100.1").is_none());
    }

    #[test]
    fn connections_that_move_here_count_and_are_never_refused() {
        let clients = Clients::new(Some(1), 100, None);
        let address = Some("192.0.2.1".parse().expect("an address"));
        let moved = [clients.receive(address), clients.receive(address)];
        assert!(enter(&clients, "192.0.2.1").is_none());
        drop(moved);
        assert!(enter(&clients, "192.0.2.1").is_some());
    }
}
