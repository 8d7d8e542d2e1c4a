//! One packet as the relay sees it: bytes, of which those before the first NUL are a JSON object, and descriptors; and what
//! an order makes of its bytes. It takes packets off a socket and puts them on one, and knows nothing of lines.

use std::{
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
        SendFlags, SocketType, getpeername, recvmsg, sendmsg, sockopt,
    },
};
use serde_json::{Map, Value};

use super::Change;

/// The longest packet that passes; the protocol has a smaller bound of its own.
const PACKET_BYTES_MAX: usize = 256 * 1024;

/// The kernel's `SCM_MAX_FD`.
const FDS_PER_PACKET_MAX: usize = 253;

/// The field that nobody knows.
const UNKNOWN_FIELD: &str = "a field that nobody knows";

/// What was sent at once.
#[derive(Debug)]
pub(super) struct Packet {
    pub(super) bytes: Vec<u8>,
    pub(super) fds: Vec<OwnedFd>,
}

impl Packet {
    /// Takes the next packet, if there is one by now; none at the end of what was sent.
    pub(super) fn receive(socket: impl AsFd) -> rustix::io::Result<Option<Self>> {
        let mut bytes = vec![0; PACKET_BYTES_MAX];
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_PER_PACKET_MAX))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let received = recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, flags)?;
        let mut fds = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                fds.extend(rights);
            }
        }
        bytes.truncate(received.bytes);
        // Nobody sends an empty packet.
        Ok((!bytes.is_empty() || !fds.is_empty()).then_some(Self { bytes, fds }))
    }

    /// Puts it on a socket, if there is room by now.
    pub(super) fn send(&self, socket: impl AsFd) -> rustix::io::Result<()> {
        let fds: Vec<BorrowedFd<'_>> = self.fds.iter().map(AsFd::as_fd).collect();
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_PER_PACKET_MAX))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(&fds)) {
            return Err(Errno::TOOBIG);
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        sendmsg(socket, &[IoSlice::new(&self.bytes)], &mut ancillary, flags).map(drop)
    }

    /// The same once more, with descriptors of its own.
    pub(super) fn duplicate(&self) -> std::io::Result<Self> {
        let fds = self.fds.iter().map(OwnedFd::try_clone).collect::<std::io::Result<_>>()?;
        Ok(Self { bytes: self.bytes.clone(), fds })
    }

    /// Its kind, and the names of its other fields.
    pub(super) fn outline(&self) -> (String, Vec<String>) {
        let (object, _) = split(&self.bytes);
        let Some(object) = object else { return (String::new(), Vec::new()) };
        let kind = object.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
        (kind, object.keys().filter(|name| *name != "kind").cloned().collect())
    }

    /// Changes its bytes; false where the change does not fit it, or is not one of bytes.
    pub(super) fn rewrite(&mut self, change: &Change) -> bool {
        let (object, tail) = split(&self.bytes);
        let text = match change {
            Change::Garbage => b"{\"kind\": this is no JSON".to_vec(),
            _ => match object.and_then(|object| rewrite(object, change)) {
                Some(object) => Value::Object(object).to_string().into_bytes(),
                None => return false,
            },
        };
        self.bytes = [&text, tail].concat();
        true
    }
}

/// The JSON object at the beginning of a packet, if it is one, and what is behind it, with the NUL.
fn split(bytes: &[u8]) -> (Option<Map<String, Value>>, &[u8]) {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let (text, tail) = bytes.split_at(end);
    (serde_json::from_slice(text).ok(), tail)
}

fn rewrite(mut object: Map<String, Value>, change: &Change) -> Option<Map<String, Value>> {
    let first = object.keys().find(|name| *name != "kind").cloned();
    match change {
        Change::UnknownField => {
            object.insert(UNKNOWN_FIELD.to_owned(), Value::Bool(true));
        }
        Change::MissingField(name) => {
            object.remove(&name.clone().or(first)?)?;
        }
        Change::OtherType(name) => {
            let value = object.get_mut(&name.clone().or(first)?)?;
            *value = if value.is_string() { 7.into() } else { "of another type".into() };
        }
        Change::OtherKind(kind) => {
            object.insert("kind".to_owned(), kind.as_str().into());
        }
        Change::Garbage
        | Change::Duplicate
        | Change::DropDescriptor(_)
        | Change::SurplusDescriptor
        | Change::Drop
        | Change::Delay(_) => return None,
    }
    Some(object)
}

/// Whether a descriptor is one over which further packets come: a connected `SOCK_SEQPACKET` Unix socket.
pub(super) fn carries_packets(fd: impl AsFd) -> bool {
    let fd = fd.as_fd();
    let is_of_kind =
        sockopt::socket_domain(fd) == Ok(AddressFamily::UNIX) && sockopt::socket_type(fd) == Ok(SocketType::SEQPACKET);
    is_of_kind && getpeername(fd).is_ok()
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        os::unix::net::{UnixListener, UnixStream},
    };

    use super::{Change, Packet, UNKNOWN_FIELD, carries_packets};

    fn changed(text: &str, change: &Change) -> Option<String> {
        let mut packet = Packet { bytes: text.as_bytes().to_vec(), fds: Vec::new() };
        packet.rewrite(change).then(|| String::from_utf8(packet.bytes).unwrap())
    }

    #[test]
    fn each_change_of_the_text_is_made_and_what_is_behind_the_text_stays() {
        let text = "{\"kind\":\"taken\",\"batch\":3,\"name\":\"a\"}\0tail\0";
        let with_tail = |object: &str| Some(format!("{object}\0tail\0"));
        assert_eq!(
            changed(text, &Change::UnknownField),
            with_tail(&format!(r#"{{"{UNKNOWN_FIELD}":true,"batch":3,"kind":"taken","name":"a"}}"#))
        );
        assert_eq!(changed(text, &Change::MissingField(None)), with_tail(r#"{"kind":"taken","name":"a"}"#));
        assert_eq!(
            changed(text, &Change::MissingField(Some("name".into()))),
            with_tail(r#"{"batch":3,"kind":"taken"}"#)
        );
        let other = |name: &str| changed(text, &Change::OtherType(Some(name.into()))).unwrap();
        assert!(other("batch").contains(r#""batch":"of another type""#) && other("name").contains(r#""name":7"#));
        assert!(changed(text, &Change::OtherKind("song".into())).unwrap().contains(r#""kind":"song""#));
        assert!(changed(text, &Change::Garbage).unwrap().ends_with("no JSON\0tail\0"));
    }

    #[test]
    fn a_change_that_does_not_fit_changes_nothing() {
        assert_eq!(changed(r#"{"kind":"ping"}"#, &Change::MissingField(None)), None);
        assert_eq!(changed(r#"{"kind":"ping"}"#, &Change::OtherType(Some("no".into()))), None);
        assert_eq!(changed("nonsense", &Change::UnknownField), None);
        assert_eq!(changed(r#"{"kind":"ping"}"#, &Change::Drop), None);
    }

    #[test]
    fn only_a_connected_socket_for_packets_carries_them() {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("socket")).unwrap();
        let (stream, _other) = UnixStream::pair().unwrap();
        assert!(!carries_packets(listener) && !carries_packets(stream));
        assert!(!carries_packets(File::open("/dev/null").unwrap()));
        let (packets, _other) = crate::relay::line::pair().unwrap();
        assert!(carries_packets(packets));
    }
}
