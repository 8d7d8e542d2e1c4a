//! One socket of the set: what it is called, where it comes from, and what it is bound to.
//!
//! Whatever was not made here is an allegation until it is checked. It neither binds nor accepts.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::net::{AddressFamily, SocketAddrAny, SocketAddrUnix, SocketType};

use crate::address::{Address, Endpoint, check_given_name};
use crate::error::Error;

/// Where a socket comes from in the first place; it stays the same over all generations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// Bound by a generation of this service.
    Bound,
    /// Given by a service manager or a development tool, which keeps a copy of its own.
    Activated,
}

/// One socket of the set.
#[derive(Clone, Debug)]
pub(crate) struct Socket {
    pub(crate) name: String,
    /// What it is bound to.
    pub(crate) address: Address,
    /// What was asked for; differs where the port was 0.
    pub(crate) asked: Address,
    pub(crate) origin: Origin,
    /// Device and inode of its path when it was bound here.
    pub(crate) inode: Option<(u64, u64)>,
    pub(crate) fd: Arc<OwnedFd>,
}

impl Socket {
    /// Checks that a descriptor is a socket that can be served on. `what` names it in errors.
    pub(crate) fn check(name: &str, what: &str, fd: OwnedFd) -> Result<Socket, Error> {
        check_given_name(name)?;
        let address = checked_address(what, &fd)?;
        let asked = address.clone();
        Ok(Socket { name: name.to_owned(), address, asked, origin: Origin::Activated, inode: None, fd: Arc::new(fd) })
    }

    /// Whether it is what is wanted here.
    pub(super) fn serves(&self, wanted: &Endpoint) -> bool {
        self.name == wanted.name && (self.origin == Origin::Activated || self.asked == wanted.address)
    }
}

/// The address of a socket that connections can be accepted or datagrams received on.
pub(super) fn checked_address(what: &str, fd: impl AsFd) -> Result<Address, Error> {
    use rustix::net::sockopt::{socket_acceptconn, socket_domain, socket_type};
    let fd = fd.as_fd();
    let refuse = |why: String| Error::inherited(format!("{what} cannot be served on: {why}"));
    let kind = socket_type(fd).map_err(|error| refuse(format!("it is no socket ({error})")))?;
    let family = socket_domain(fd).map_err(|error| refuse(error.to_string()))?;
    let stream = match kind {
        SocketType::STREAM => true,
        SocketType::DGRAM => false,
        other => return Err(refuse(format!("its type is neither stream nor datagram ({other:?})"))),
    };
    if stream && !socket_acceptconn(fd).map_err(|error| refuse(error.to_string()))? {
        return Err(refuse("it is not a listening socket; it may be a connection".to_owned()));
    }
    let address = rustix::net::getsockname(fd).map_err(|error| refuse(error.to_string()))?;
    match family {
        AddressFamily::INET | AddressFamily::INET6 => ip_address(&address, stream),
        AddressFamily::UNIX => unix_address(&address, stream),
        other => return Err(refuse(format!("its family is neither IP nor Unix ({other:?})"))),
    }
    .ok_or_else(|| refuse("its address cannot be written as text".to_owned()))
}

/// A stream's address, whatever its family.
pub(super) fn address_of(address: &SocketAddrAny) -> Option<Address> {
    ip_address(address, true).or_else(|| unix_address(address, true))
}

/// The other end's address of a connection. One that is gone has none.
#[cfg(feature = "tokio")]
pub(crate) fn peer_of(connection: impl AsFd) -> Address {
    let peer = rustix::net::getpeername(connection).ok().flatten();
    peer.as_ref().and_then(address_of).unwrap_or(Address::UnixUnnamed)
}

fn ip_address(address: &SocketAddrAny, stream: bool) -> Option<Address> {
    let ip = SocketAddr::try_from(address.clone()).ok()?;
    Some(if stream { Address::Tcp(ip) } else { Address::Udp(ip) })
}

fn unix_address(address: &SocketAddrAny, stream: bool) -> Option<Address> {
    let unix = SocketAddrUnix::try_from(address.clone()).ok()?;
    // A peer without a name may look like one of an empty name.
    if let Some(name) = unix.abstract_name().filter(|name| !name.is_empty()) {
        return String::from_utf8(name.to_vec()).ok().map(Address::UnixAbstract);
    }
    let Some(path) = unix.path() else { return Some(Address::UnixUnnamed) };
    let path = path.to_str().ok()?.into();
    Some(if stream { Address::Unix(path) } else { Address::UnixDatagram(path) })
}
