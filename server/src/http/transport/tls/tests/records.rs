//! The table of what may come and what is said to it, by a client that seals whatever a test wants.

use proptest::prelude::*;
use rustls::AlertDescription;

use super::super::failure::Failure;
use super::super::keys::{DATA_BYTES_MAX, Kind, OVERHEAD_BYTES_MAX, Suite, Version};
use super::super::records::{Opened, Sealed};
use super::support::{AES_1_2, AES_1_3, Hand, Server, by_hand, noise, suites, suites_1_3};

const UPDATE: [u8; 5] = [24, 0, 0, 1, 0];
const UPDATE_REQUESTED: [u8; 5] = [24, 0, 0, 1, 1];

/// What a server sends once nobody sends data.
fn due(server: &mut Server) -> Vec<u8> {
    let mut room = [0; 256];
    let sealed = server.records().seal([&[], &[]], &mut room).expect("nothing is asked for that cannot be");
    assert!(!server.records().is_due(), "all that is due fits in");
    room[..sealed.written].to_vec()
}

/// The only alert that a client got, if it got one.
fn alert(server: &mut Server, hand: &mut Hand) -> Option<AlertDescription> {
    let sent = due(server);
    match &hand.open(&sent)[..] {
        [] => None,
        [(Kind::Alert, content)] => {
            let warnings = [AlertDescription::CloseNotify, AlertDescription::NoRenegotiation];
            let alert = AlertDescription::from(content[1]);
            assert_eq!(content[0] == 1, warnings.contains(&alert), "the level of {alert:?}");
            Some(alert)
        }
        other => panic!("{other:?}"),
    }
}

/// A record of an established connection that is wrong, and what the client is told of it.
type Wrong = (&'static str, fn(&mut Hand) -> Vec<u8>, AlertDescription);

const WRONG: [Wrong; 9] = [
    ("a changed bit", |hand| changed(hand.seal(Kind::Data, b"data"), -1), AlertDescription::BadRecordMac),
    (
        "a changed bit of the content",
        |hand| changed(hand.seal(Kind::Data, b"data"), -20),
        AlertDescription::BadRecordMac,
    ),
    ("a length that is too short", |_| vec![23, 3, 3, 0, 15], AlertDescription::BadRecordMac),
    ("a length that is too long", |_| vec![23, 3, 3, 0x48, 1], AlertDescription::RecordOverflow),
    ("too much content", |hand| hand.seal(Kind::Data, &[1; DATA_BYTES_MAX + 1]), AlertDescription::RecordOverflow),
    ("an unknown kind", |_| b"GET / HTTP/1.1\r\n".to_vec(), AlertDescription::UnexpectedMessage),
    ("a change of ciphers", |hand| hand.seal(Kind::ChangeCipherSpec, &[1]), AlertDescription::UnexpectedMessage),
    ("an empty alert", |hand| hand.seal(Kind::Alert, &[]), AlertDescription::UnexpectedMessage),
    ("two alerts in one record", |hand| hand.seal(Kind::Alert, &[1, 0, 1, 0]), AlertDescription::DecodeError),
];

const WRONG_1_3: [Wrong; 12] = [
    ("an alert in the clear", |_| vec![21, 3, 3, 0, 2, 2, 10], AlertDescription::UnexpectedMessage),
    ("a change of ciphers in the clear", |_| vec![20, 3, 3, 0, 1, 1], AlertDescription::UnexpectedMessage),
    ("padding beyond the bound", |hand| padded(hand, &[1; DATA_BYTES_MAX], 1), AlertDescription::RecordOverflow),
    ("nothing but padding", |hand| nothing_but_padding(hand), AlertDescription::UnexpectedMessage),
    ("an empty message", |hand| hand.seal(Kind::Handshake, &[]), AlertDescription::UnexpectedMessage),
    ("a hello", |hand| hand.seal(Kind::Handshake, &[1, 0, 0, 1, 0]), AlertDescription::UnexpectedMessage),
    (
        "a KeyUpdate and more",
        |hand| hand.seal(Kind::Handshake, &[24, 0, 0, 1, 0, 24]),
        AlertDescription::UnexpectedMessage,
    ),
    ("a longer KeyUpdate", |hand| hand.seal(Kind::Handshake, &[24, 0, 0, 2, 0, 0]), AlertDescription::DecodeError),
    ("an empty KeyUpdate", |hand| hand.seal(Kind::Handshake, &[24, 0, 0, 0]), AlertDescription::DecodeError),
    (
        "a KeyUpdate of another kind",
        |hand| hand.seal(Kind::Handshake, &[24, 0, 0, 1, 2]),
        AlertDescription::IllegalParameter,
    ),
    (
        "data within a message",
        |hand| [hand.seal(Kind::Handshake, &[24]), hand.seal(Kind::Data, b"x")].concat(),
        AlertDescription::UnexpectedMessage,
    ),
    (
        "nothing within a message",
        |hand| [hand.seal(Kind::Handshake, &[24]), hand.seal(Kind::Data, &[])].concat(),
        AlertDescription::UnexpectedMessage,
    ),
];

const WRONG_1_2: [Wrong; 3] = [
    ("another version", |_| vec![23, 3, 1, 0, 100], AlertDescription::ProtocolVersion),
    ("an alert of no level", |hand| hand.seal(Kind::Alert, &[3, 10]), AlertDescription::IllegalParameter),
    ("a message that is no hello", |hand| hand.seal(Kind::Handshake, &UPDATE), AlertDescription::UnexpectedMessage),
];

fn changed(mut record: Vec<u8>, at: isize) -> Vec<u8> {
    let at = record.len().checked_add_signed(at).expect("within the record");
    record[at] ^= 1;
    record
}

/// A record of TLS 1.3 with padding: its content goes on with its own kind, and zeros behind that.
fn padded(hand: &mut Hand, data: &[u8], zeros: usize) -> Vec<u8> {
    let inner = [data, &[23], &vec![0; zeros][..]].concat();
    sealed_inner(hand, &inner)
}

fn nothing_but_padding(hand: &mut Hand) -> Vec<u8> {
    sealed_inner(hand, &[0; 40])
}

/// Seals what stands within a record of TLS 1.3, which ends with a kind like any other but for its number.
fn sealed_inner(hand: &mut Hand, inner: &[u8]) -> Vec<u8> {
    hand.sending.seal_inner(inner)
}

#[test]
fn a_wrong_record_gets_its_alert_and_ends_the_connection() {
    let of = |suite: Suite| {
        let own = if suite.version == Version::Tls13 { &WRONG_1_3[..] } else { &WRONG_1_2[..] };
        WRONG.iter().chain(own)
    };
    for suite in suites() {
        for (name, make, expected) in of(suite) {
            let (mut server, mut hand) = by_hand(suite);
            let wrong = make(&mut hand);
            let failure = server.receive(&wrong).expect_err(name);
            assert_eq!(failure.alert, Some(*expected), "{name} with {suite:?}: {failure}");
            assert_eq!(alert(&mut server, &mut hand), Some(*expected), "{name} with {suite:?}");
            let again = Failure::silent("the connection has failed before");
            assert_eq!(server.receive(&[]), Err(again), "{name}: it stays failed");
            server.send(b"data", 1000).expect_err("it stays failed");
            assert_eq!(due(&mut server), b"", "{name}: an alert is sent once");
        }
    }
}

#[test]
fn a_record_as_large_as_allowed_arrives() {
    for suite in suites() {
        let (mut server, mut hand) = by_hand(suite);
        let data = noise(DATA_BYTES_MAX, 1);
        let record = hand.seal(Kind::Data, &data);
        server.receive(&record).unwrap();
        assert_eq!(server.data, data);
    }
}

#[test]
fn padding_is_taken_off() {
    for suite in suites_1_3() {
        let (mut server, mut hand) = by_hand(suite);
        for (data, zeros) in [(&b"data"[..], 100), (&[0; 4], 1), (&[5; DATA_BYTES_MAX - 100], 100)] {
            let record = padded(&mut hand, data, zeros);
            server.receive(&record).unwrap();
            assert_eq!(server.data, data);
            server.data.clear();
        }
    }
}

#[test]
fn the_end_of_the_client_is_heard_and_it_is_still_answered() {
    for suite in suites() {
        let (mut server, mut hand) = by_hand(suite);
        let end = [hand.seal(Kind::Data, b"last"), hand.seal(Kind::Alert, &[1, 0]), b"garbage".to_vec()].concat();
        server.receive(&end).unwrap();
        assert!(server.records().is_ended() && server.records().is_open());
        server.moves();
        server.receive(b"more garbage").unwrap();
        server.send(b"an answer", 1000).unwrap();
        server.records().close();
        let sent = [server.sent(), due(&mut server)].concat();
        let expected = [(Kind::Data, b"an answer".to_vec()), (Kind::Alert, vec![1, 0])];
        assert_eq!(hand.open(&sent), expected);
        assert_eq!(server.data, b"last");
    }
}

#[test]
fn after_our_end_the_client_is_still_heard_and_gets_nothing() {
    for suite in suites() {
        let (mut server, mut hand) = by_hand(suite);
        server.records().close();
        assert!(server.records().is_due());
        assert_eq!(alert(&mut server, &mut hand), Some(AlertDescription::CloseNotify));
        server.records().close();
        assert_eq!(due(&mut server), b"", "the end is said once");
        let record = hand.seal(Kind::Data, b"data");
        server.receive(&record).unwrap();
        assert_eq!(server.data, b"data");
        let failure = server.send(b"data", 1000).expect_err("it has ended");
        assert_eq!(failure.alert, None);
    }
}

#[test]
fn warnings_are_passed_over_and_a_fatal_alert_is_the_end_without_an_answer() {
    for suite in suites() {
        let (mut server, mut hand) = by_hand(suite);
        let canceled = hand.seal(Kind::Alert, &[1, 90]);
        server.receive(&canceled).unwrap();
        let warning = hand.seal(Kind::Alert, &[1, 100]);
        assert_eq!(server.receive(&warning).is_ok(), suite.version == Version::Tls12);
        let (mut server, mut hand) = by_hand(suite);
        let fatal = hand.seal(Kind::Alert, &[2, 20]);
        assert_eq!(server.receive(&fatal).expect_err("it is fatal").alert, None);
        assert_eq!(due(&mut server), b"", "nobody is there to be told");
        assert!(!server.records().is_open());
    }
}

#[test]
fn a_renegotiation_is_refused_and_the_connection_goes_on() {
    let (mut server, mut hand) = by_hand(AES_1_2);
    let hello = [hand.seal(Kind::Handshake, &[1, 0, 0, 4, 3, 3, 0, 0]), hand.seal(Kind::Data, b"data")].concat();
    server.receive(&hello).unwrap();
    server.moves();
    assert!(server.records().is_due());
    assert_eq!(alert(&mut server, &mut hand), Some(AlertDescription::NoRenegotiation));
    server.send(b"answer", 1000).unwrap();
    let sent = server.sent();
    assert_eq!(hand.open(&sent), [(Kind::Data, b"answer".to_vec())]);
    assert_eq!(server.data, b"data");
}

#[test]
fn a_flood_of_records_without_data_ends_where_nothing_is_sent_either() {
    for (suite, make) in [(AES_1_2, empty as fn(&mut Hand) -> Vec<u8>), (AES_1_3, empty), (AES_1_3, update)] {
        let (mut server, mut hand) = by_hand(suite);
        for _ in 0..32 {
            let record = make(&mut hand);
            server.receive(&record).unwrap();
            server.moves();
        }
        server.send(b"a download goes on", 1000).unwrap();
        for _ in 0..32 {
            let record = make(&mut hand);
            server.receive(&record).unwrap();
        }
        let record = hand.seal(Kind::Data, b"data");
        server.receive(&record).unwrap();
        for _ in 0..32 {
            let record = make(&mut hand);
            server.receive(&record).unwrap();
            server.moves();
        }
        let record = make(&mut hand);
        let failure = server.receive(&record).expect_err("that was one too many");
        assert_eq!(failure.alert, Some(AlertDescription::UnexpectedMessage));
    }
}

fn empty(hand: &mut Hand) -> Vec<u8> {
    hand.seal(Kind::Data, &[])
}

fn update(hand: &mut Hand) -> Vec<u8> {
    let record = hand.seal(Kind::Handshake, &UPDATE);
    hand.sending.update();
    record
}

#[test]
fn the_answer_to_a_key_update_goes_before_the_next_data_and_once() {
    for suite in suites_1_3() {
        let (mut server, mut hand) = by_hand(suite);
        for _ in 0..3 {
            let record = hand.seal(Kind::Handshake, &UPDATE_REQUESTED);
            hand.sending.update();
            server.receive(&record).unwrap();
            server.moves();
        }
        let record = hand.seal(Kind::Data, b"with the fourth key");
        server.receive(&record).unwrap();
        assert_eq!(server.data, b"with the fourth key");
        assert!(server.records().is_due());
        server.send(b"answer", 1000).unwrap();
        server.moves();
        server.send(b"more", 1000).unwrap();
        let sent = server.sent();
        let expected =
            [(Kind::Handshake, UPDATE.to_vec()), (Kind::Data, b"answer".to_vec()), (Kind::Data, b"more".to_vec())];
        assert_eq!(hand.open(&sent), expected);
    }
}

#[test]
fn a_silent_server_answers_a_key_update_all_the_same() {
    for suite in suites_1_3() {
        let (mut server, mut hand) = by_hand(suite);
        for _ in 0..3 {
            let record = hand.seal(Kind::Handshake, &UPDATE_REQUESTED);
            hand.sending.update();
            server.receive(&record).unwrap();
        }
        let sent = due(&mut server);
        assert_eq!(hand.open(&sent), [(Kind::Handshake, UPDATE.to_vec())], "once for all of them (RFC 8446, 4.6.3)");
        server.send(b"data", 1000).unwrap();
        let sent = server.sent();
        assert_eq!(hand.open(&sent), [(Kind::Data, b"data".to_vec())]);
    }
}

#[test]
fn a_key_update_may_be_split_over_records_and_each_of_them_may_move() {
    for cut in 1..UPDATE.len() {
        let (mut server, mut hand) = by_hand(AES_1_3);
        let first = hand.seal(Kind::Handshake, &UPDATE_REQUESTED[..cut]);
        server.receive(&first).unwrap();
        server.moves();
        let second = hand.seal(Kind::Handshake, &UPDATE_REQUESTED[cut..]);
        hand.sending.update();
        server.receive(&second).unwrap();
        let record = hand.seal(Kind::Data, b"data");
        server.receive(&record).unwrap();
        assert_eq!(server.data, b"data", "cut at {cut}");
    }
}

#[test]
fn a_key_that_is_used_up_is_replaced_or_the_connection_closes() {
    for suite in suites() {
        let (mut server, mut hand) = by_hand(suite);
        server.records().limit_to(10);
        let data = noise(100 * DATA_BYTES_MAX, 2);
        let outcome = server.send(&data, 64 * 1024);
        let sent = server.sent();
        let opened = hand.open(&sent);
        let came: Vec<u8> =
            opened.iter().filter(|(kind, _)| *kind == Kind::Data).flat_map(|(_, data)| data.clone()).collect();
        if suite.version == Version::Tls13 {
            outcome.unwrap();
            assert_eq!(came, data);
            assert!(opened.iter().filter(|(kind, _)| *kind == Kind::Handshake).count() >= 10);
        } else {
            outcome.expect_err("TLS 1.2 has no next key");
            assert_eq!(opened.last(), Some(&(Kind::Alert, vec![1, 0])), "the end is said");
            assert_eq!(came, data[..came.len()]);
        }
    }
}

#[test]
fn the_number_of_records_of_a_key_is_counted_across_moves() {
    let (mut server, mut hand) = by_hand(AES_1_3);
    for _ in 0..3 {
        for _ in 0..3 {
            server.send(b"data", 1000).unwrap();
            server.moves();
        }
        server.records().limit_to(9);
    }
    server.send(b"data", 1000).unwrap();
    let sent = server.sent();
    let kinds: Vec<_> = hand.open(&sent).into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds.iter().position(|kind| *kind == Kind::Handshake), Some(9));
}

#[test]
fn a_key_of_gcm_is_used_up_after_two_to_the_24_records() {
    for (suite, count) in [(AES_1_3, 1_u64 << 24), (AES_1_2, 1 << 24)] {
        let (mut server, mut hand) = by_hand(suite);
        server.records().skip_to(count - 1);
        hand.receiving.skip_to(count - 1);
        server.send(b"last", 1000).unwrap();
        let outcome = server.send(b"first", 1000);
        assert_eq!(outcome.is_ok(), suite.version == Version::Tls13);
        let sent = server.sent();
        let kinds: Vec<_> = hand.open(&sent).into_iter().map(|(kind, _)| kind).collect();
        match suite.version {
            Version::Tls13 => assert_eq!(kinds, [Kind::Data, Kind::Handshake, Kind::Data]),
            Version::Tls12 => assert_eq!(kinds, [Kind::Data, Kind::Alert]),
        }
    }
}

#[test]
fn the_last_sequence_number_is_a_failure_and_no_panic() {
    for suite in suites() {
        let (mut server, mut hand) = by_hand(suite);
        server.records().skip_to(u64::MAX);
        server.send(b"data", 1000).expect_err("no key is left to seal with");
        assert_eq!(server.sent(), b"");
        hand.receiving.skip_to(u64::MAX);
        let mut record = [0; 100];
        record[..5].copy_from_slice(&[23, 3, 3, 0, 95]);
        let failure = hand.receiving.open(&mut record).expect_err("no number is left to receive with");
        assert_eq!(failure.alert, Some(AlertDescription::InternalError));
    }
}

#[test]
fn a_room_too_small_takes_nothing_and_spends_nothing() {
    for suite in suites() {
        let (mut server, mut hand) = by_hand(suite);
        for room in 0..=server.records().overhead_bytes() {
            let sealed = server.records().seal([b"da", b"ta"], &mut vec![0; room]).unwrap();
            assert_eq!(sealed, Sealed::default(), "a room of {room}");
        }
        let mut room = vec![0; OVERHEAD_BYTES_MAX + 1];
        let sealed = server.records().seal([b"da", b"ta"], &mut room).unwrap();
        assert!(sealed.taken > 0);
        assert_eq!(hand.open(&room[..sealed.written]), [(Kind::Data, b"data"[..sealed.taken].to_vec())]);
    }
}

#[test]
fn head_and_body_go_in_one_record() {
    let (mut server, mut hand) = by_hand(AES_1_3);
    let mut room = [0; 100];
    let sealed = server.records().seal([b"head", b"body"], &mut room).unwrap();
    assert_eq!(hand.open(&room[..sealed.written]), [(Kind::Data, b"headbody".to_vec())]);
}

#[test]
fn nothing_is_touched_before_a_record_is_whole() {
    for suite in suites() {
        let (mut server, mut hand) = by_hand(suite);
        let whole = hand.seal(Kind::Data, b"data");
        for cut in 0..whole.len() {
            let mut part = whole[..cut].to_vec();
            assert_eq!(server.records().open(&mut part), Ok(Opened::Partial));
            assert_eq!(part, whole[..cut]);
        }
        server.receive(&whole).unwrap();
        assert_eq!(server.data, b"data");
    }
}

#[test]
fn no_debug_output_has_a_secret() {
    let (mut server, hand) = by_hand(AES_1_3);
    let shown = format!("{:?}", server.records());
    assert!(shown.contains("Aes128Gcm"), "{shown}");
    for secret in hand.sending.secrets().into_iter().chain(hand.receiving.secrets()) {
        let decimal = format!("{secret:?}");
        let decimal = decimal.trim_matches(['[', ']']);
        let hex = secret.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat();
        assert!(!shown.contains(decimal) && !shown.contains(&hex), "{shown}");
    }
}

#[test]
#[should_panic(expected = "two records were sealed with the sequence number 0 of one key")]
fn a_sequence_number_that_is_used_twice_is_noticed() {
    let (mut server, mut hand) = by_hand(AES_1_3);
    server.send(b"data", 1000).unwrap();
    let sent = server.sent();
    hand.open(&sent);
    server.records().skip_to(0);
    server.send(b"data", 1000).unwrap();
}

proptest! {
    /// Whatever is sent to an established connection is refused at the latest when it is opened.
    #[test]
    fn garbage_is_refused(garbage in proptest::collection::vec(any::<u8>(), 0..200), at in 0..6_usize) {
        let (mut server, mut hand) = by_hand(suites().nth(at).expect("six"));
        let before = hand.seal(Kind::Data, b"data");
        server.receive(&before).unwrap();
        let _ = server.receive(&garbage);
        prop_assert_eq!(&server.data, b"data");
    }

    /// However the room is cut, the same bytes come out, and never more than 16 KiB a record.
    #[test]
    fn any_room_is_enough_for_all_data(length in 0..60_000_usize, room in 0..70_000_usize, at in 0..6_usize) {
        let (mut server, mut hand) = by_hand(suites().nth(at).expect("six"));
        // A room of a few bytes would make a record of each of them.
        let room = room.max(length / 64);
        let data = noise(length, 3);
        server.send(&data, room).unwrap();
        let sent = server.sent();
        let opened = hand.open(&sent);
        prop_assert!(opened.iter().all(|(_, piece)| piece.len() <= DATA_BYTES_MAX));
        prop_assert_eq!(opened.into_iter().flat_map(|(_, piece)| piece).collect::<Vec<_>>(), data);
    }
}

#[test]
fn a_connection_that_rests_goes_on_where_it_was() {
    for suite in suites() {
        let (mut server, mut hand) = by_hand(suite);
        for round in 0..3_u8 {
            server.receive(&hand.seal(Kind::Data, &[round])).expect("data");
            server.send(&[round], 100).expect("room");
            assert_eq!(hand.open(&server.sent()), [(Kind::Data, vec![round])], "{suite:?}");
            server.records().rest();
        }
    }
}
