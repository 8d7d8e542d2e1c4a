//! The manifest: a generation's sockets as the handover describes them, and back.
//!
//! It stands between the two: the set of sockets knows nothing of what is said to other generations, and what is said is
//! plain data that knows of no socket. What a line says is an allegation until its descriptor agrees.

use std::os::fd::OwnedFd;

use crate::address::Address;
use crate::error::Error;
use crate::handover::{SocketEntry, SocketOrigin};
use crate::listeners::{Origin, Socket};

impl Socket {
    /// The manifest's line for this socket.
    pub(crate) fn entry(&self) -> SocketEntry {
        SocketEntry {
            name: self.name.clone(),
            address: self.address.to_string(),
            asked: self.asked.to_string(),
            origin: match self.origin {
                Origin::Bound => SocketOrigin::Bound,
                Origin::Activated => SocketOrigin::Activated,
            },
            inode: self.inode,
        }
    }

    /// Takes a socket over whose descriptor came with a line of a manifest, if the two agree.
    pub(crate) fn from_entry(entry: &SocketEntry, fd: OwnedFd) -> Result<Socket, Error> {
        let what = format!("the listener {:?} that was handed over", entry.name);
        let mut socket = Socket::check(&entry.name, &what, fd)?;
        let announced: Address = entry.address.parse()?;
        if socket.address != announced {
            let found = &socket.address;
            return Err(Error::handover(format!("{what} is bound to {found} and was announced as {announced}")));
        }
        socket.asked = entry.asked.parse()?;
        socket.origin = match entry.origin {
            SocketOrigin::Bound => Origin::Bound,
            SocketOrigin::Activated => Origin::Activated,
        };
        socket.inode = entry.inode;
        Ok(socket)
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_manifest_that_disagrees_with_its_descriptor_is_refused() {
        let socket = Socket::check("web", "test", TcpListener::bind("127.0.0.1:0").unwrap().into()).unwrap();
        let entry = SocketEntry { address: "127.0.0.1:1".to_owned(), ..socket.entry() };
        let error = Socket::from_entry(&entry, socket.fd.try_clone().unwrap()).unwrap_err();
        assert!(error.is_handover() && error.to_string().contains("127.0.0.1:1"), "{error}");
    }
}
