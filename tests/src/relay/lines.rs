//! What a relay does: one loop that serves all its lines until none is left, the handover socket first, and each further
//! one that is passed over a line. Each packet is written down, changed as ordered, and given to the other end.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, Write},
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::sockopt,
};

use super::{
    Change, Direction, Occurrence, Order, Seen, Which,
    line::{End, Line, NEWER, OLDER, Reading, has_socket, pair},
    packet::{Packet, carries_packets},
};

/// The pids of the two generations of the handover.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parties {
    predecessor: Option<u32>,
    successor: u32,
}

impl Parties {
    /// The predecessor is who made the handover socket.
    pub(super) fn of(handover: impl AsFd, successor: u32) -> Self {
        let made_by = sockopt::socket_peercred(handover).ok();
        let predecessor = made_by.and_then(|made_by| u32::try_from(made_by.pid.as_raw_nonzero().get()).ok());
        Self { predecessor, successor }
    }

    /// Who sends this way.
    fn sender(self, direction: Direction) -> Option<u32> {
        match direction {
            Direction::ToNewer => self.predecessor,
            Direction::ToOlder => Some(self.successor),
        }
    }
}

/// All lines of a relay.
#[derive(Debug)]
pub(super) struct Lines {
    all: Vec<Line>,
    /// The inodes of all sockets that were passed to the relay.
    passed: BTreeSet<u64>,
    parties: Parties,
    /// With the number of messages that each one has met.
    orders: Vec<(Order, usize)>,
    seen: File,
}

impl Lines {
    /// One line, the handover socket.
    pub(super) fn new(older: OwnedFd, newer: OwnedFd, parties: Parties, orders: Vec<Order>, seen: File) -> Self {
        let handover = Line::new("handover".into(), [older, newer].map(End::new));
        let orders = orders.into_iter().map(|order| (order, 0)).collect();
        Self { all: vec![handover], passed: BTreeSet::new(), parties, orders, seen }
    }

    /// Relays until nobody is left on one of the two sides of each line.
    pub(super) fn run(&mut self) -> io::Result<()> {
        loop {
            let mut pause = None;
            for line in &mut self.all {
                pause = pause.into_iter().chain(line.advance(Instant::now())).min();
            }
            self.all.retain(|line| !line.is_over());
            if self.all.is_empty() {
                return Ok(());
            }
            for (line, end, flags) in self.wait(pause)? {
                if self.all[line].ends[end].reading == Reading::Ours && flags != PollFlags::OUT {
                    self.take(line, end)?;
                } else if flags.contains(PollFlags::HUP) {
                    self.all[line].gone.get_or_insert(end);
                }
            }
        }
    }

    /// Waits until something can be done, for a time at the most: which ends are ready for what.
    fn wait(&self, pause: Option<Duration>) -> io::Result<Vec<(usize, usize, PollFlags)>> {
        let (mut places, mut fds) = (Vec::new(), Vec::new());
        for (number, line) in self.all.iter().enumerate() {
            for end in [OLDER, NEWER] {
                if let Some(flags) = line.interest(end) {
                    places.push((number, end));
                    fds.push(PollFd::new(&line.ends[end].socket, flags));
                }
            }
        }
        let timeout = pause.map(Timespec::try_from).transpose().map_err(io::Error::other)?;
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready = places.into_iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty());
        Ok(ready.map(|((line, end), fd)| (line, end, fd.revents())).collect())
    }

    /// Takes what an end has sent.
    fn take(&mut self, line: usize, end: usize) -> io::Result<()> {
        while self.all[line].has_room_from(end) {
            match Packet::receive(&self.all[line].ends[end].socket) {
                Ok(Some(packet)) => self.deliver(line, end, packet)?,
                Err(Errno::AGAIN) => return Ok(()),
                // Who closed it had left something unread, which is said once. What came before is still to be taken.
                Err(Errno::CONNRESET | Errno::INTR) => {}
                Ok(None) | Err(_) => {
                    self.all[line].end_of(end);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Writes a packet down, changes it, and lets it wait for the other end.
    fn deliver(&mut self, line: usize, end: usize, mut packet: Packet) -> io::Result<()> {
        let direction = Direction::from(end);
        let (kind, fields) = packet.outline();
        let mut seen = Seen {
            successor: self.parties.successor,
            direction,
            socket: self.all[line].name.clone(),
            kind,
            fields,
            descriptors: packet.fds.len(),
            bytes: packet.bytes.len(),
            changes: Vec::new(),
            unix_ms: unix_ms(),
        };
        let (mut times, mut delay) = (1, Duration::ZERO);
        for change in orders_for(&mut self.orders, &seen) {
            let is_done = match &change {
                Change::Drop => std::mem::take(&mut times) > 0,
                Change::Duplicate => std::mem::replace(&mut times, 2) < 2,
                Change::Delay(ms) => {
                    delay += Duration::from_millis(*ms);
                    true
                }
                Change::DropDescriptor(Which::First) if !packet.fds.is_empty() => {
                    packet.fds.remove(0);
                    true
                }
                Change::DropDescriptor(_) => packet.fds.pop().is_some(),
                Change::SurplusDescriptor => {
                    packet.fds.push(File::open("/dev/null")?.into());
                    true
                }
                change => packet.rewrite(change),
            };
            seen.changes.extend(is_done.then_some(change));
        }
        // In one piece, since several relays may write, and before anybody can have received the packet.
        self.seen.write_all(format!("{}\n", serde_json::to_string(&seen)?).as_bytes())?;
        if times == 0 {
            return Ok(());
        }
        for (index, fd) in packet.fds.iter_mut().enumerate() {
            if carries_packets(&*fd) {
                let name = format!("{}/{}.{index}", seen.socket, seen.kind);
                let theirs = self.open(name, direction, fd.try_clone()?)?;
                *fd = theirs;
            }
        }
        self.all[line].put(direction, packet, times, Instant::now() + delay)
    }

    /// Makes a line of a socket that is passed on: what the receiver gets in its place.
    fn open(&mut self, name: String, direction: Direction, socket: OwnedFd) -> io::Result<OwnedFd> {
        let (ours, theirs) = pair()?;
        let inode = rustix::fs::fstat(&socket)?.st_ino;
        for end in self.all.iter_mut().flat_map(|line| &mut line.ends) {
            if end.inode == Some(inode) {
                end.reading = Reading::Over;
            }
        }
        let is_passed_again = !self.passed.insert(inode);
        let holds = |sender: &u32| !is_passed_again && has_socket(*sender, inode);
        let sender = self.parties.sender(direction).filter(holds);
        let mut passed = End::new(socket);
        passed.inode = Some(inode);
        passed.reading = sender.map_or(Reading::Ours, |sender| Reading::SharedWith(sender, None));
        let ends = if direction == Direction::ToNewer { [passed, End::new(ours)] } else { [End::new(ours), passed] };
        self.all.push(Line::new(name, ends));
        Ok(theirs)
    }
}

/// The changes that are ordered for a packet.
fn orders_for(orders: &mut [(Order, usize)], seen: &Seen) -> Vec<Change> {
    let mut changes = Vec::new();
    for (order, met) in orders {
        let is_on_socket = order.socket.as_ref().is_none_or(|socket| *socket == seen.socket);
        if order.direction != seen.direction || order.kind != seen.kind || !is_on_socket {
            continue;
        }
        let is_meant = match order.occurrence {
            Occurrence::First => *met == 0,
            Occurrence::Nth(number) => *met == number,
            Occurrence::Every => true,
        };
        *met += 1;
        changes.extend(is_meant.then(|| order.change.clone()));
    }
    changes
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
