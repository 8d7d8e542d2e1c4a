//! The named set of sockets that a generation serves on, and where each of them comes from.
//!
//! Precedence: handed over by a predecessor, then given by a service manager (LISTEN_FDS), then bound here. Everything
//! that was not made here is an allegation until it is checked. The set knows nothing of reloads in progress.

mod accept;
mod bind;
mod gate;
pub(crate) mod inherited;
mod socket;

use std::collections::BTreeSet;
use std::net::SocketAddr;

#[cfg(all(test, feature = "tokio"))]
pub(crate) use accept::listener_of;
pub use accept::{Accepted, Listener, Reactor};
pub use bind::BindStage;
pub(crate) use bind::{Binding, bind_control, has_lost_its_path, unlink_if_ours};
pub(crate) use inherited::{from_fd_3, from_listen_fds};
pub use socket::Origin;
pub(crate) use socket::Socket;
#[cfg(feature = "tokio")]
pub(crate) use socket::peer_of;

use crate::address::{Address, Endpoint};
use crate::error::Error;

/// What a generation serves on, and what it does not take over.
#[derive(Debug)]
pub(crate) struct Resolved {
    pub(crate) kept: Vec<Socket>,
    /// Handed over, and not wanted any more.
    pub(crate) released: Vec<Socket>,
}

/// What to serve on, from what is there and what is wanted.
///
/// Sockets given by a service manager are all kept; those handed over are kept where they are wanted, be it under
/// another name; what is wanted and not there is bound, also in place of one whose path somebody has removed. `default`
/// is bound only where there is nothing else at all. `beside`: what else the service listens on. `how`: how it is bound.
pub(crate) fn resolve(
    there: Vec<Socket>,
    wanted: &[Endpoint],
    default: Option<&Endpoint>,
    beside: &[Endpoint],
    how: &Binding,
) -> Result<Resolved, Error> {
    let mut names = BTreeSet::new();
    for endpoint in wanted {
        if !names.insert(&endpoint.name) {
            let name = &endpoint.name;
            return Err(Error::address(format!(
                "two listeners are called {name:?}: give each its own name, as in {name}2={}",
                endpoint.address
            )));
        }
    }
    let default = default.filter(|_| wanted.is_empty());
    let wanted: Vec<&Endpoint> = wanted.iter().chain(default).collect();
    let only_default = default.is_some();
    let (mut released, mut there): (Vec<Socket>, Vec<Socket>) = there.into_iter().partition(has_lost_its_path);
    rename(&mut there, &wanted);
    let serves_any = |socket: &Socket| wanted.iter().any(|endpoint| socket.serves(endpoint));
    let (mut kept, unwanted): (Vec<Socket>, Vec<Socket>) =
        there.into_iter().partition(|socket| socket.origin == Origin::Activated || serves_any(socket));
    released.extend(unwanted);
    for endpoint in &wanted {
        let superfluous = only_default && !kept.is_empty();
        if !superfluous && !kept.iter().any(|socket| socket.serves(endpoint)) {
            let others = wanted.iter().copied().chain(beside).map(|other| &other.address);
            let ipv6_only = others.chain(kept.iter().map(|socket| &socket.address)).any(is_ipv4_of(&endpoint.address));
            let bound = bind::bind(endpoint, ipv6_only, how);
            kept.push(bound.map_err(|error| explain(error, endpoint, &kept, &released))?);
        }
    }
    Ok(Resolved { kept, released })
}

/// An address that is wanted under another name keeps its socket: it could not be bound while that one listens.
fn rename(there: &mut [Socket], wanted: &[&Endpoint]) {
    for endpoint in wanted {
        if there.iter().any(|socket| socket.serves(endpoint)) {
            continue;
        }
        let unclaimed = |socket: &&mut Socket| {
            let claimed = wanted.iter().any(|other| socket.serves(other));
            socket.origin == Origin::Bound && socket.asked == endpoint.address && !claimed
        };
        if let Some(socket) = there.iter_mut().find(unclaimed) {
            socket.name.clone_from(&endpoint.name);
        }
    }
}

/// Whether an address is an IPv4 one of the same port: `[::]` then has to leave IPv4 to it.
fn is_ipv4_of(address: &Address) -> impl Fn(&Address) -> bool {
    let (ip, kind) = (address.ip(), address.socket_type());
    move |other| {
        let same = |ip: SocketAddr| other.ip().is_some_and(|other| other.is_ipv4() && other.port() == ip.port());
        ip.is_some_and(|ip| ip.is_ipv6() && ip.port() != 0 && same(ip)) && other.socket_type() == kind
    }
}

/// 127.0.0.1:80 and 0.0.0.0:80 exclude each other, and the one that is released listens until the commit. `[::]:80`
/// serves IPv4 clients as well, where it was bound alone.
fn explain(error: Error, endpoint: &Endpoint, kept: &[Socket], released: &[Socket]) -> Error {
    let port = |address: &Address| match address {
        Address::Tcp(address) => Some(address.port()),
        _ => None,
    };
    let in_the_way =
        |socket: &&Socket| port(&socket.address).is_some() && port(&socket.address) == port(&endpoint.address);
    if let Some(both) = kept.iter().find(|socket| is_ipv4_of(&socket.address)(&endpoint.address)) {
        return Error::occupied(format!(
            "{error}; the running generation's {} may serve IPv4 clients as well, which only a restart changes: remove {}, \
             or restart the service with both",
            both.address, endpoint.address
        ));
    }
    match released.iter().find(in_the_way) {
        Some(socket) => Error::occupied(format!(
            "{error}; the running generation listens on {} until a reload has removed it: remove it with one reload, \
             and add {} with the next",
            socket.address, endpoint.address
        )),
        None => error,
    }
}

/// The names that sockets without one get: those of the endpoints that are wanted, in order.
pub(crate) fn spare_names(wanted: &[Endpoint], default: Option<&Endpoint>) -> impl Iterator<Item = String> {
    let names: Vec<String> =
        wanted.iter().chain(default.filter(|_| wanted.is_empty())).map(|e| e.name.clone()).collect();
    let more = (1..).map(|number| format!("{}-{number}", Endpoint::DEFAULT_NAME));
    names.into_iter().chain(more)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn resolve(there: Vec<Socket>, wanted: &[Endpoint], default: Option<&Endpoint>) -> Result<Resolved, Error> {
        super::resolve(there, wanted, default, &[], &Binding::default())
    }

    fn activated(name: &str) -> Socket {
        Socket::check(name, "test", TcpListener::bind("127.0.0.1:0").unwrap().into()).unwrap()
    }

    fn names(sockets: &[Socket]) -> Vec<&str> {
        sockets.iter().map(|socket| socket.name.as_str()).collect()
    }

    fn endpoints(texts: &[&str]) -> Vec<Endpoint> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn the_default_is_bound_only_where_there_is_nothing_else() {
        let default: Endpoint = "http=127.0.0.1:0".parse().unwrap();
        let alone = resolve(vec![], &[], Some(&default)).unwrap().kept;
        assert_eq!((alone.len(), alone[0].name.as_str(), alone[0].origin), (1, "http", Origin::Bound));
        let given = resolve(vec![activated("web")], &[], Some(&default)).unwrap().kept;
        assert_eq!((given.len(), given[0].name.as_str()), (1, "web"));
        let wanted = resolve(vec![], &endpoints(&["a=127.0.0.1:0"]), Some(&default)).unwrap().kept;
        assert_eq!((wanted.len(), wanted[0].name.as_str()), (1, "a"));
    }

    #[test]
    fn what_is_wanted_and_not_given_is_bound_beside_what_is() {
        let sockets =
            resolve(vec![activated("a")], &endpoints(&["a=127.0.0.1:1", "b=127.0.0.1:0"]), None).unwrap().kept;
        let names: Vec<_> = sockets.iter().map(|socket| (socket.name.as_str(), socket.origin)).collect();
        assert_eq!(names, [("a", Origin::Activated), ("b", Origin::Bound)]);
    }

    #[test]
    fn a_templates_socket_is_taken_by_its_default_name_and_handed_on() {
        let wanted = endpoints(&["app@80.socket=127.0.0.1:1"]);
        let first = resolve(vec![activated("app@80.socket")], &wanted, None).unwrap().kept.remove(0);
        let handed = Socket::from_entry(&first.entry(), first.fd.try_clone().unwrap()).unwrap();
        let second = resolve(vec![handed], &wanted, None).unwrap().kept;
        assert_eq!((names(&second), second[0].origin), (vec!["app@80.socket"], Origin::Activated));
    }

    #[test]
    fn a_socket_that_was_bound_to_any_port_is_kept_by_the_next_generation() {
        let wanted = endpoints(&["a=127.0.0.1:0"]);
        let first = resolve(vec![], &wanted, None).unwrap().kept.remove(0);
        let entry = first.entry();
        let handed = Socket::from_entry(&entry, first.fd.try_clone().unwrap()).unwrap();
        let second = resolve(vec![handed], &wanted, None).unwrap().kept.remove(0);
        assert_eq!(second.address, first.address);
    }

    #[test]
    fn a_bound_socket_that_is_not_wanted_any_more_is_let_go() {
        let first = resolve(vec![], &endpoints(&["a=127.0.0.1:0"]), None).unwrap().kept;
        let second = resolve(first, &endpoints(&["b=127.0.0.2:0"]), None).unwrap();
        assert_eq!((names(&second.kept), names(&second.released)), (vec!["b"], vec!["a"]));
    }

    #[test]
    fn an_address_keeps_its_socket_under_another_name() {
        let first = resolve(vec![], &endpoints(&["a=127.0.0.1:0", "b=127.0.0.2:0", "c=127.0.0.3:0"]), None).unwrap();
        let addresses: Vec<_> = first.kept.iter().map(|socket| socket.address.clone()).collect();
        let wanted = endpoints(&["b=127.0.0.1:0", "a=127.0.0.2:0", "d=127.0.0.4:0"]);
        let second = resolve(first.kept, &wanted, None).unwrap();
        assert_eq!((names(&second.kept), names(&second.released)), (vec!["b", "a", "d"], vec!["c"]));
        assert_eq!([&second.kept[0].address, &second.kept[1].address], [&addresses[0], &addresses[1]]);
    }

    #[test]
    fn a_path_that_somebody_has_removed_is_bound_anew_and_a_taken_one_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let wanted = endpoints(&[&format!("a=unix:{}", path.display())]);
        let first = resolve(vec![], &wanted, None).unwrap().kept;
        let kept = resolve(first.clone(), &wanted, None).unwrap();
        assert_eq!((kept.kept[0].inode, kept.released.len()), (first[0].inode, 0));
        std::fs::remove_file(&path).unwrap();
        let second = resolve(first.clone(), &wanted, None).unwrap();
        assert_eq!((names(&second.kept), names(&second.released)), (vec!["a"], vec!["a"]));
        std::os::unix::net::UnixStream::connect(&path).unwrap();
        // The first one's socket is no longer what lies there: to it, the second one is another live server.
        let error = resolve(first, &wanted, None).unwrap_err();
        assert!(error.is_socket() && error.to_string().contains("a live server listens on it"), "{error}");
    }

    #[test]
    fn an_address_that_overlaps_a_released_one_is_refused_with_the_way_out() {
        let mut first = resolve(vec![], &endpoints(&["a=127.0.0.1:0"]), None).unwrap().kept;
        let Address::Tcp(address) = first[0].address else { panic!("{first:?}") };
        first[0].asked = Address::Tcp(address);
        let wanted = endpoints(&[&format!("a=0.0.0.0:{}", address.port())]);
        let error = resolve(first, &wanted, None).unwrap_err();
        let expected = format!("listens on {address} until a reload has removed it");
        assert!(error.is_socket() && error.to_string().contains(&expected), "{error}");
    }

    /// A port that is free for both families.
    fn free_port() -> u16 {
        TcpListener::bind("[::]:0").unwrap().local_addr().unwrap().port()
    }

    #[test]
    fn all_of_ipv6_leaves_ipv4_to_whoever_wants_the_same_port() {
        if TcpListener::bind("[::1]:0").is_err() {
            return;
        }
        let is_ipv6_only = |socket: &Socket| rustix::net::sockopt::ipv6_v6only(&socket.fd).unwrap();
        for other in ["0.0.0.0", "127.0.0.1"] {
            for six_first in [true, false] {
                let port = free_port();
                let mut texts = [format!("six=[::]:{port}"), format!("four={other}:{port}")];
                if !six_first {
                    texts.reverse();
                }
                let kept = resolve(vec![], &endpoints(&[&texts[0], &texts[1]]), None).unwrap().kept;
                assert!(is_ipv6_only(kept.iter().find(|socket| socket.name == "six").unwrap()), "{texts:?}");
            }
        }
        let port = free_port();
        let beside = endpoints(&[&format!("m=127.0.0.1:{port}")]);
        let kept =
            super::resolve(vec![], &endpoints(&[&format!("six=[::]:{port}")]), None, &beside, &Binding::default())
                .unwrap()
                .kept;
        assert!(is_ipv6_only(&kept[0]));
        // Alone it stays as the system has it, and cannot be changed any more.
        let port = free_port();
        let alone = endpoints(&[&format!("six=[::]:{port}")]);
        let kept = resolve(vec![], &alone, None).unwrap().kept;
        let by_default = std::fs::read_to_string("/proc/sys/net/ipv6/bindv6only").unwrap().trim() == "1";
        assert_eq!(is_ipv6_only(&kept[0]), by_default);
        if !by_default {
            let both = [alone, endpoints(&[&format!("four=0.0.0.0:{port}")])].concat();
            let error = resolve(kept, &both, None).unwrap_err().to_string();
            assert!(error.contains("which only a restart changes"), "{error}");
        }
    }

    #[test]
    fn one_name_twice_is_refused() {
        let error = resolve(vec![], &endpoints(&["a=127.0.0.1:0", "a=127.0.0.2:0"]), None).unwrap_err();
        assert!(error.is_address() && error.to_string().contains("\"a\""), "{error}");
    }

    #[test]
    fn what_cannot_be_served_on_is_refused_by_name() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connection = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let error = Socket::check("web", "descriptor 3", connection.into()).unwrap_err();
        assert!(error.is_inherited() && error.to_string().contains("descriptor 3"), "{error}");
        assert!(error.to_string().contains("not a listening socket"), "{error}");
        let file = std::fs::File::open("/dev/null").unwrap();
        let error = Socket::check("web", "descriptor 4", file.into()).unwrap_err();
        assert!(error.to_string().contains("no socket"), "{error}");
    }
}
