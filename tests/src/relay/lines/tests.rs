#![allow(clippy::unwrap_used)]

use std::{
    fs::File,
    os::fd::{AsFd, OwnedFd},
    thread::JoinHandle,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

use super::{Lines, Parties, pair};
use crate::relay::{Change, Direction, Occurrence, Order, Seen, Which, packet::Packet};

/// A relay in a thread, with its two sides here.
struct Scene {
    older: OwnedFd,
    newer: OwnedFd,
    seen: tempfile::NamedTempFile,
    relay: JoinHandle<std::io::Result<()>>,
}

fn scene(orders: &[(Occurrence, Change)]) -> Scene {
    let (older, of_older) = pair().unwrap();
    let (newer, of_newer) = pair().unwrap();
    let direction = Direction::ToNewer;
    let order = |(occurrence, change): &(Occurrence, Change)| Order {
        direction,
        kind: "word".into(),
        socket: None,
        occurrence: *occurrence,
        change: change.clone(),
    };
    let orders = orders.iter().map(order).collect();
    let seen = tempfile::NamedTempFile::new().unwrap();
    let parties = Parties { predecessor: Some(std::process::id()), successor: std::process::id() };
    let mut lines = Lines::new(of_older, of_newer, parties, orders, seen.reopen().unwrap());
    Scene { older, newer, seen, relay: std::thread::spawn(move || lines.run()) }
}

fn say(socket: impl AsFd, text: &str, fds: Vec<OwnedFd>) {
    Packet { bytes: text.as_bytes().to_vec(), fds }.send(socket).unwrap();
}

/// Waits for the next packet; none where nothing more comes.
fn hear(socket: impl AsFd) -> Option<(String, Vec<OwnedFd>)> {
    loop {
        match Packet::receive(&socket) {
            Ok(packet) => return packet.map(|packet| (String::from_utf8(packet.bytes).unwrap(), packet.fds)),
            Err(Errno::AGAIN) => {
                let waited = poll(&mut [PollFd::new(&socket, PollFlags::IN)], Some(&DEADLINE));
                assert_ne!(waited, Ok(0), "nothing comes");
            }
            Err(Errno::CONNRESET | Errno::INTR) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

fn null() -> OwnedFd {
    File::open("/dev/null").unwrap().into()
}

/// How long to wait for a packet.
const DEADLINE: Timespec = Timespec { tv_sec: 30, tv_nsec: 0 };

const WORD: &str = r#"{"kind":"word","n":1}"#;

impl Scene {
    /// Both sides hang up: what the relay saw.
    fn end(self) -> Vec<Seen> {
        drop((self.older, self.newer));
        self.relay.join().unwrap().unwrap();
        let text = std::fs::read_to_string(self.seen.path()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

#[test]
fn what_is_sent_arrives_unchanged_in_both_directions_with_its_descriptors() {
    let scene = scene(&[]);
    say(&scene.older, WORD, vec![null(), null()]);
    say(&scene.newer, "no JSON", vec![]);
    let (text, fds) = hear(&scene.newer).unwrap();
    assert_eq!((text.as_str(), fds.len()), (WORD, 2));
    assert_eq!(hear(&scene.older).unwrap().0, "no JSON");
    let seen = scene.end();
    let facts: Vec<_> = seen.iter().map(|seen| (seen.direction, seen.kind.as_str(), seen.descriptors)).collect();
    let (there, back) = ((Direction::ToNewer, "word", 2), (Direction::ToOlder, "", 0));
    assert!(facts == [there, back] || facts == [back, there], "{facts:?}");
}

#[test]
fn what_was_sent_before_a_side_hung_up_still_arrives_and_then_the_other_side_is_hung_up_on() {
    let Scene { older, newer, relay, .. } = scene(&[(Occurrence::First, Change::Delay(50))]);
    say(&older, WORD, vec![]);
    say(&older, "last", vec![]);
    drop(older);
    assert_eq!((hear(&newer).unwrap().0.as_str(), hear(&newer).unwrap().0.as_str()), (WORD, "last"));
    assert!(hear(&newer).is_none());
    relay.join().unwrap().unwrap();
    let refused = Packet { bytes: b"late".to_vec(), fds: vec![] }.send(&newer);
    assert_eq!(refused, Err(Errno::PIPE));
}

#[test]
fn who_sends_to_a_side_that_hears_nothing_more_is_refused() {
    let scene = scene(&[]);
    rustix::net::shutdown(&scene.newer, rustix::net::Shutdown::Read).unwrap();
    // The first one is on its way when the relay learns it.
    while (Packet { bytes: b"unheard".to_vec(), fds: vec![] }).send(&scene.older) != Err(Errno::PIPE) {}
    say(&scene.newer, WORD, vec![]);
    assert_eq!(hear(&scene.older).unwrap().0, WORD);
    scene.end();
}

#[test]
fn each_change_is_made_to_the_message_that_is_meant() {
    let changed = |change| {
        let scene = scene(&[(Occurrence::Nth(1), change)]);
        for fds in [vec![], vec![null(), null()], vec![]] {
            say(&scene.older, WORD, fds);
        }
        say(&scene.older, "end", vec![]);
        let heard = std::iter::from_fn(|| hear(&scene.newer).filter(|(text, _)| text != "end"));
        let heard: Vec<(bool, usize)> = heard.map(|(text, fds)| (text == WORD, fds.len())).collect();
        let seen = scene.end();
        let is_changed: Vec<bool> = seen.iter().map(Seen::is_changed).collect();
        assert_eq!(is_changed, [false, true, false, false]);
        heard
    };
    let plain = (true, 0);
    assert_eq!(changed(Change::UnknownField), [plain, (false, 2), plain]);
    assert_eq!(changed(Change::Garbage), [plain, (false, 2), plain]);
    assert_eq!(changed(Change::Duplicate), [plain, (true, 2), (true, 2), plain]);
    assert_eq!(changed(Change::DropDescriptor(Which::First)), [plain, (true, 1), plain]);
    assert_eq!(changed(Change::SurplusDescriptor), [plain, (true, 3), plain]);
    assert_eq!(changed(Change::Drop), [plain, plain]);
    assert_eq!(changed(Change::Delay(20)), [plain, (true, 2), plain]);
}

#[test]
fn a_socket_that_is_passed_is_relayed_as_well_and_changed_by_the_same_orders() {
    let scene = scene(&[(Occurrence::Every, Change::OtherKind("song".into()))]);
    let (ours, passed) = pair().unwrap();
    say(&scene.newer, r#"{"kind":"greeting"}"#, vec![null(), passed]);
    let theirs = hear(&scene.older).unwrap().1.pop().unwrap();
    say(&theirs, WORD, vec![]);
    assert_eq!(hear(&ours).unwrap().0, r#"{"kind":"song","n":1}"#);
    say(&ours, WORD, vec![]);
    assert_eq!(hear(&theirs).unwrap().0, WORD, "the other way nothing is ordered");
    drop(theirs);
    assert!(hear(&ours).is_none());
    let seen = scene.end();
    assert_eq!(seen[1].socket, "handover/greeting.1");
}

#[test]
fn a_socket_that_its_sender_still_has_and_reads_is_left_to_it_until_the_receiver_speaks() {
    let scene = scene(&[]);
    let (other, held) = pair().unwrap();
    say(&scene.older, r#"{"kind":"given"}"#, vec![held.try_clone().unwrap()]);
    let theirs = hear(&scene.newer).unwrap().1.pop().unwrap();
    for number in 0..50 {
        say(&other, &number.to_string(), vec![]);
        assert_eq!(hear(&held).unwrap().0, number.to_string());
    }
    say(&theirs, WORD, vec![]);
    assert_eq!(hear(&other).unwrap().0, WORD);
    say(&other, "now", vec![]);
    assert_eq!(hear(&theirs).unwrap().0, "now");
    drop((held, theirs));
    scene.end();
}
