//! A connection that moves goes on as if it had not: at every point, in any cut, and with no sequence number used twice.

use proptest::prelude::*;

use super::super::frozen::{ENCODING, FROZEN_BYTES_MAX, Frozen};
use super::super::keys::{Kind, Version, ledger};
use super::super::secret::Secret;
use super::support::{AES_1_2, AES_1_3, Server, by_hand, noise, suites};

/// What happens to a connection.
#[derive(Clone, Debug)]
enum Event {
    /// The client sends so much.
    Data(usize),
    /// It replaces its key, in so many records, and may ask for ours.
    Update { cut: usize, request: bool },
    /// So much of what is on the way arrives.
    Arrives(usize),
    /// We send so much, through a room of so many bytes.
    Send(usize, usize),
    /// It goes to another process.
    Moves,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (0..40_000_usize).prop_map(Event::Data),
        (0..5_usize, any::<bool>()).prop_map(|(cut, request)| Event::Update { cut, request }),
        (1..30_usize).prop_map(Event::Arrives),
        (0..30_000_usize).prop_map(Event::Arrives),
        (0..40_000_usize, 1000..70_000_usize).prop_map(|(length, room)| Event::Send(length, room)),
        Just(Event::Moves),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_all_data_arrives(
        events in proptest::collection::vec(event(), 0..40),
        at in 0..6_usize,
        seed in any::<u64>(),
    ) {
        let suite = suites().nth(at).expect("six");
        let (mut server, mut hand) = by_hand(suite);
        let (mut on_the_way, mut to_server, mut to_client, mut came) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for event in events {
            match event {
                Event::Data(length) => {
                    let data = noise(length, seed);
                    for piece in data.chunks(10_000) {
                        on_the_way.extend(hand.seal(Kind::Data, piece));
                    }
                    to_server.extend(data);
                }
                Event::Update { cut, request } if suite.version == Version::Tls13 => {
                    let message = [24, 0, 0, 1, u8::from(request)];
                    for part in [&message[..cut], &message[cut..]].into_iter().filter(|part| !part.is_empty()) {
                        on_the_way.extend(hand.seal(Kind::Handshake, part));
                    }
                    hand.sending.update();
                    // Some data, so that it is no flood.
                    on_the_way.extend(hand.seal(Kind::Data, b"x"));
                    to_server.push(b'x');
                }
                Event::Update { .. } => {}
                Event::Arrives(length) => {
                    let length = length.min(on_the_way.len());
                    let arrived: Vec<u8> = on_the_way.drain(..length).collect();
                    server.receive(&arrived).unwrap();
                }
                Event::Send(length, room) => {
                    let data = noise(length, !seed);
                    server.send(&data, room).unwrap();
                    to_client.extend(data);
                }
                Event::Moves => server.moves(),
            }
            let sent = server.sent();
            came.extend(hand.open(&sent).into_iter().filter(|(kind, _)| *kind == Kind::Data).flat_map(|(_, data)| data));
        }
        server.receive(&on_the_way).unwrap();
        prop_assert_eq!(&server.data, &to_server);
        prop_assert_eq!(came, to_client);
    }
}

#[test]
fn a_connection_moves_after_each_byte_of_a_record() {
    for suite in suites() {
        ledger::begin();
        let (mut server, mut hand) = by_hand(suite);
        let wire = [hand.seal(Kind::Data, b"first"), hand.seal(Kind::Data, &noise(2000, 4))].concat();
        for (count, byte) in wire.iter().enumerate() {
            server.receive(&[*byte]).unwrap();
            server.moves();
            if count % 7 == 0 {
                server.send(b"meanwhile", 1000).unwrap();
            }
        }
        assert_eq!(server.data, [b"first", &noise(2000, 4)[..]].concat());
        let sent = server.sent();
        let pieces = hand.open(&sent).len();
        assert_eq!(ledger::begin(), 2 + pieces, "each was sealed with a number of its own");
    }
}

#[test]
fn a_connection_that_was_taken_back_goes_on_at_the_same_number() {
    let (mut server, mut hand) = by_hand(AES_1_3);
    server.send(b"before", 1000).unwrap();
    let before = server.sent();
    let mut taken_back = Server::new(server.into_records().freeze().thaw());
    taken_back.send(b"after", 1000).unwrap();
    let sent = [before, taken_back.sent()].concat();
    assert_eq!(hand.open(&sent), [(Kind::Data, b"before".to_vec()), (Kind::Data, b"after".to_vec())]);
}

#[test]
fn what_is_frozen_is_read_as_it_was_written_and_nothing_else_is() {
    for suite in suites() {
        let frozen = || by_hand(suite).0.into_records().freeze();
        let bytes = frozen().into_bytes();
        assert!(bytes.expose().len() <= FROZEN_BYTES_MAX);
        let again = Frozen::from_bytes(&bytes).expect("it was written here").into_bytes();
        assert_eq!(bytes.expose(), again.expose());
        for length in 0..bytes.expose().len() {
            assert!(Frozen::from_bytes(&Secret::copy_of(&bytes.expose()[..length])).is_err(), "cut at {length}");
        }
        let longer = [bytes.expose(), &[0]].concat();
        assert!(Frozen::from_bytes(&Secret::from_vec(longer)).is_err(), "nothing may stand behind it");
    }
}

#[test]
fn an_unknown_encoding_is_an_error_that_says_so() {
    let mut bytes = by_hand(AES_1_2).0.into_records().freeze().into_bytes();
    bytes.expose_mut()[0] = ENCODING + 1;
    let error = Frozen::from_bytes(&bytes).err().expect("an error").to_string();
    assert!(error.contains("an encoding that this version does not know"), "{error}");
}

#[test]
fn each_byte_of_the_head_is_checked() {
    for suite in suites() {
        let bytes = by_hand(suite).0.into_records().freeze().into_bytes();
        for at in 0..8 {
            let mut wrong = Secret::copy_of(bytes.expose());
            wrong.expose_mut()[at] = 99;
            assert!(Frozen::from_bytes(&wrong).is_err(), "byte {at} of {suite:?}");
        }
    }
}

#[test]
fn the_encoding_is_the_one_that_earlier_versions_wrote() {
    for (suite, first, length) in
        [(AES_1_3, [1, 13, 1, 0, 0, 0, 0, 0, 0], 89), (AES_1_2, [1, 12, 1, 0, 0, 0, 0, 0, 0], 81)]
    {
        let bytes = by_hand(suite).0.into_records().freeze().into_bytes();
        assert_eq!((&bytes.expose()[..9], bytes.expose().len()), (&first[..], length));
    }
}
