//! The handover: what two generations say to each other, and the sockets on which they say it.
//!
//! `wire` is what is said, as plain data; `codec` is pure as well: messages to bytes and back, with every bound.
//! `channel` moves messages and descriptors over one `SOCK_SEQPACKET` socket. None knows in which order messages make
//! sense; `lifecycle` does. `line` is a channel with what is known of its other side.

mod channel;
pub(crate) mod codec;
mod line;
pub(crate) mod wire;

pub(crate) use channel::{
    Channel, Heard, IN_FLIGHT_PAUSE, Received, adopt_stdin, is_handover_socket, receive_state, state_memfd,
};
pub(crate) use codec::{FDS_PER_MESSAGE_MAX, LISTENERS_MAX};
pub(crate) use line::{Line, Peer, own_pidfd, watched_pidfd};
pub(crate) use wire::{
    Batch, CUT, Commit, Counters, Given, Hello, History, ListenersPart, Message, PastReload, ProcessId, ReloadMark,
    Report, SocketEntry, SocketOrigin, Speaker, Standing, StateBlob, WITHDRAW, Wait,
};
