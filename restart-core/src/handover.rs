//! The handover: what a predecessor and its successor say to each other, and the socket on which they say it.
//!
//! `codec` is pure: messages to bytes and back, with every bound. `channel` moves messages and descriptors over one
//! `SOCK_SEQPACKET` socket. Neither knows in which order messages make sense; `lifecycle` does.

mod channel;
pub(crate) mod codec;

pub(crate) use channel::{
    Channel, IN_FLIGHT_PAUSE, Received, adopt_stdin, is_handover_socket, receive_state, state_memfd,
};
pub(crate) use codec::{
    Commit, ConnectionsPart, FDS_PER_MESSAGE_MAX, Given, Hello, LISTENERS_MAX, Legacy, Link, ListenersPart, Message,
    ReloadMark, Report, SocketEntry, StateBlob,
};
