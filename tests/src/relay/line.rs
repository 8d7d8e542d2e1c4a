//! One line that a relay stands in: two sockets of which each carries on what the other one receives, and what waits to be
//! sent. It takes no packet and changes none: that is the loop's part.
//!
//! A socket that its sender keeps a descriptor of may still be the sender's to read: a receiver may get it only to hold it.
//! Nothing is taken from it before the sender has closed it, has passed it once more, or leaves unread what comes, or the
//! receiver has spoken over it. The line of the last time that a socket was passed reads it. What an end of a line does is
//! done to the other one: a close, once all is forwarded, and a refusal to hear more.

use std::{
    collections::VecDeque,
    fs, io,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{AddressFamily, Shutdown, SocketFlags, SocketType, shutdown, socketpair},
};

use super::{Direction, packet::Packet};

/// So many packets wait for one end before no more are taken for it.
const WAITING_MAX: usize = 16;

/// How often it is looked whether a socket's sender still has it, and reads it.
const SHARED_STEP: Duration = Duration::from_millis(5);

/// A sender that leaves a packet unread for so long does not read its socket any more.
const UNREAD_MAX: Duration = Duration::from_millis(100);

/// How long to wait where the kernel has no room for more descriptors in flight.
const IN_FLIGHT_PAUSE: Duration = Duration::from_millis(1);

/// The two ends of a line.
pub(super) const OLDER: usize = 0;
pub(super) const NEWER: usize = 1;

/// A new pair of connected sockets for packets.
pub(super) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

#[derive(Debug)]
pub(super) struct Line {
    pub(super) name: String,
    pub(super) ends: [End; 2],
    /// The end that hung up, with all that it had sent taken.
    pub(super) gone: Option<usize>,
}

/// What is towards one of the two sides.
#[derive(Debug)]
pub(super) struct End {
    pub(super) socket: OwnedFd,
    /// Of a socket that was passed to the relay.
    pub(super) inode: Option<u64>,
    pub(super) reading: Reading,
    /// What is to be sent to it.
    waiting: VecDeque<(Packet, Instant)>,
    /// It takes nothing any more.
    deaf: bool,
    /// It is told that nothing more comes, when all that waits is sent.
    finish: bool,
}

/// Whether packets are taken from an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    Ours,
    /// Not while this process has it and reads it: since when a packet lies there.
    SharedWith(u32, Option<Instant>),
    Over,
}

impl Direction {
    pub(super) fn to(self) -> usize {
        match self {
            Self::ToNewer => NEWER,
            Self::ToOlder => OLDER,
        }
    }

    pub(super) fn from(end: usize) -> Self {
        if end == OLDER { Self::ToNewer } else { Self::ToOlder }
    }
}

impl Line {
    pub(super) fn new(name: String, ends: [End; 2]) -> Self {
        Self { name, ends, gone: None }
    }

    /// Sends what can be sent; the time after which to look again, whatever happens.
    pub(super) fn advance(&mut self, now: Instant) -> Option<Duration> {
        let [older, newer] = [OLDER, NEWER].map(|end| self.send(end, now));
        let mut shared = None;
        for end in &mut self.ends {
            if let (Reading::SharedWith(sender, since), Some(inode)) = (end.reading, end.inode) {
                let since = shows(&end.socket, PollFlags::IN).then(|| since.unwrap_or(now));
                let is_left = since.is_some_and(|since| now - since > UNREAD_MAX) || !has_socket(sender, inode);
                end.reading = if is_left { Reading::Ours } else { Reading::SharedWith(sender, since) };
                shared = Some(SHARED_STEP);
            }
        }
        [older, newer, shared].into_iter().flatten().min()
    }

    fn send(&mut self, to: usize, now: Instant) -> Option<Duration> {
        let end = &mut self.ends[to];
        while let Some((packet, due)) = end.waiting.front() {
            if *due > now {
                return Some(*due - now);
            }
            match packet.send(&end.socket) {
                Ok(()) => drop(end.waiting.pop_front()),
                Err(Errno::AGAIN) => return None,
                Err(Errno::TOOMANYREFS) => return Some(IN_FLIGHT_PAUSE),
                Err(Errno::CONNRESET | Errno::INTR) => {}
                Err(_) => {
                    self.refused_by(to);
                    return None;
                }
            }
        }
        if std::mem::take(&mut end.finish) {
            // A connected socket can be shut down, and one whose other end is closed needs it no more.
            let _ = shutdown(&end.socket, Shutdown::Write);
        }
        None
    }

    /// An end takes nothing any more: whoever sends to it learns it, as without a relay.
    fn refused_by(&mut self, to: usize) {
        let end = &mut self.ends[to];
        end.waiting.clear();
        end.deaf = true;
        if shows(&end.socket, PollFlags::HUP) {
            self.gone.get_or_insert(to);
        } else if !matches!(self.ends[1 - to].reading, Reading::SharedWith(..)) {
            let _ = shutdown(&self.ends[1 - to].socket, Shutdown::Read);
        }
    }

    /// An end sends nothing any more.
    pub(super) fn end_of(&mut self, from: usize) {
        self.ends[from].reading = Reading::Over;
        if shows(&self.ends[from].socket, PollFlags::HUP) {
            self.gone.get_or_insert(from);
        } else {
            self.ends[1 - from].finish = true;
        }
    }

    pub(super) fn put(&mut self, direction: Direction, packet: Packet, times: usize, due: Instant) -> io::Result<()> {
        let end = &mut self.ends[direction.to()];
        if let Reading::SharedWith(..) = end.reading {
            end.reading = Reading::Ours;
        }
        if end.deaf {
            return Ok(());
        }
        let due = end.waiting.back().map_or(due, |(_, before)| due.max(*before));
        for _ in 1..times {
            end.waiting.push_back((packet.duplicate()?, due));
        }
        end.waiting.push_back((packet, due));
        Ok(())
    }

    pub(super) fn has_room_from(&self, from: usize) -> bool {
        self.ends[1 - from].waiting.len() < WAITING_MAX
    }

    /// What an end is watched for; an empty set is its hanging up.
    pub(super) fn interest(&self, end: usize) -> Option<PollFlags> {
        let is_due = self.ends[end].waiting.front().is_some_and(|(_, due)| *due <= Instant::now());
        let writing = if is_due { PollFlags::OUT } else { PollFlags::empty() };
        match self.ends[end].reading {
            _ if self.gone == Some(end) => None,
            Reading::Ours if self.gone.is_none() && self.has_room_from(end) => Some(PollFlags::IN | writing),
            // One that has hung up would be reported again and again while nothing can be taken from it.
            Reading::Ours => is_due.then_some(writing),
            Reading::SharedWith(..) | Reading::Over => Some(writing),
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.gone.is_some_and(|gone| self.ends[1 - gone].waiting.is_empty())
    }
}

impl End {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self { socket, inode: None, reading: Reading::Ours, waiting: VecDeque::new(), deaf: false, finish: false }
    }
}

/// Whether a socket is ready for this, or is hung up.
pub(super) fn shows(socket: &OwnedFd, flags: PollFlags) -> bool {
    let mut fds = [PollFd::new(socket, flags)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).is_ok() && fds[0].revents().contains(flags)
}

/// Whether a process has a descriptor of this socket.
pub(super) fn has_socket(pid: u32, inode: u64) -> bool {
    let name = format!("socket:[{inode}]");
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    entries.filter_map(|entry| fs::read_link(entry.path()).ok()).any(|target| *target == *name)
}
