//! Keeps descriptors in flight: sent over a socket and not received, which the kernel counts for each user (`unix(7)`). Says
//! so in a line on its standard output, and ends with its standard input.

use std::io::{IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

/// How many go with one message.
const AT_ONCE: usize = 100;

fn main() -> std::io::Result<()> {
    let count: usize = std::env::args().nth(1).and_then(|count| count.parse().ok()).expect("how many");
    tests::load::raise_fd_limit()?;
    let (sender, _receiver) = UnixDatagram::pair()?;
    let mut sent = 0;
    while sent < count {
        let fds = vec![sender.as_fd(); AT_ONCE.min(count - sent)];
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(AT_ONCE))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(&fds)), "the space was made for so many");
        sendmsg(&sender, &[IoSlice::new(b"x")], &mut ancillary, SendFlags::DONTWAIT)?;
        sent += fds.len();
    }
    println!("{sent} in flight");
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
