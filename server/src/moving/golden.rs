//! Descriptions as released versions write them, in `golden`: one of each kind, read for ever, since the process on the other
//! side may be of any release that has the format. A file is never changed; a new meaning is a new format, with files of its
//! own. What those over TLS mean is in `tls`.

mod tls;

use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::Value;

use super::{Kind, Packed, kind, pack, unpack};
use crate::http::plan::rest::Tail;
use crate::http::{Piece, Reason, Start, Switching, UnderWay, Unfinished};

/// What there is, each with its kind and the formats that it needs.
const GOLDEN: [(&[u8], Kind, &[&str]); 8] = [
    (include_bytes!("golden/http-1"), Kind::Idle, &["http/1"]),
    (include_bytes!("golden/response-1-file"), Kind::Response, &["response/1"]),
    (include_bytes!("golden/response-1-memory"), Kind::Response, &["response/1"]),
    (include_bytes!("golden/response-1-stream"), Kind::Stream, &["response/1", "stream/demo-events/1"]),
    (include_bytes!("golden/upgraded-1"), Kind::Upgraded, &["upgraded/1", "protocol/demo-chat/1"]),
    (include_bytes!("golden/tls-1-idle"), Kind::Idle, &["http/1", "tls/1"]),
    (include_bytes!("golden/tls-1-response"), Kind::Response, &["response/1", "tls/1"]),
    (include_bytes!("golden/tls-1-upgraded"), Kind::Upgraded, &["upgraded/1", "protocol/demo-chat/1", "tls/1"]),
];

fn read(blob: &[u8]) -> (Start, Duration) {
    let (stream, _) = UnixStream::pair().unwrap();
    let file = tempfile::tempfile().unwrap();
    unpack(stream.into(), blob, Some(file.into())).unwrap()
}

/// The description and the bytes behind it. How long ago a request began grows on the way, and is left out.
fn parts(blob: &[u8]) -> (Value, &[u8]) {
    let end = blob.iter().position(|byte| *byte == 0).unwrap();
    let mut description: Value = serde_json::from_slice(&blob[..end]).unwrap();
    if let Some(began) = description.pointer_mut("/response/account/began_ms") {
        *began = Value::Null;
    }
    (description, &blob[end + 1..])
}

fn response(blob: &[u8]) -> Unfinished {
    let (Start { under_way: UnderWay::Response(unfinished), .. }, _) = read(blob) else { panic!("no response") };
    *unfinished
}

#[test]
fn nothing_that_a_released_version_says_is_lost_on_the_way_through_this_one() {
    for (blob, expected, formats) in GOLDEN {
        let (start, age) = read(blob);
        assert_eq!((kind(&start), age), (expected, Duration::from_millis(61_200)));
        let (_, Packed { formats: needed, blob: again, .. }) = pack(start, age);
        assert_eq!(needed, formats.iter().copied().collect());
        assert_eq!(parts(&again), parts(blob));
    }
}

#[test]
fn what_a_newer_version_adds_is_skipped() {
    for (blob, expected, _) in GOLDEN {
        let more = [br#"{"colour":["red"],"#, &blob[1..]].concat();
        let (start, age) = read(&more);
        assert_eq!(kind(&start), expected);
        assert_eq!(parts(&pack(start, age).1.blob), parts(blob));
    }
}

#[test]
fn a_connection_within_a_head_means_what_it_meant() {
    let (start, _) = read(GOLDEN[0].0);
    assert_eq!((start.listener.as_deref(), start.peer.as_deref()), (Some("http"), Some("192.0.2.7:51034")));
    assert_eq!((start.requests, start.waited), (3, Duration::from_millis(250)));
    assert_eq!(start.read_ahead, b"GET /next HTTP/1.1\r\nhost: local");
}

#[test]
fn a_response_from_a_file_means_what_it_meant() {
    assert_eq!(read(GOLDEN[1].0).0.read_ahead, b"GET /behind HTTP/1.1\r\n");
    let Unfinished { rest, close, account } = response(GOLDEN[1].0);
    let Tail::Content { file: Some(_), pieces } = rest.tail else { panic!("{rest:?}") };
    let between = b"\r\n--b7\r\ncontent-range: bytes 4096-8191/16384\r\n\r\n".to_vec();
    let expected = [Piece::File(512..1024), Piece::Memory(between), Piece::File(4096..8192)];
    assert_eq!(pieces[..3], expected);
    assert_eq!(pieces[3..], [Piece::Memory(b"\r\n--b7--\r\n".to_vec())]);
    assert_eq!((&*rest.unsent, close), (&b"-length: 8289\r\n\r\n"[..], None));
    let account = account.unwrap();
    assert!(account.began.elapsed() >= Duration::from_millis(1500));
    assert_eq!((&*account.line, account.status), (&b"GET /video HTTP/1.1"[..], 206));
    assert_eq!(account.referer.as_deref(), Some(&b"http://example.org/"[..]));
    assert_eq!(account.user_agent.as_deref(), Some(&b"curl/8.5.0"[..]));
    assert_eq!((account.sent_bytes, account.head_bytes), (940, 207));
}

#[test]
fn a_response_from_memory_means_what_it_meant() {
    let Unfinished { rest, close, account } = response(GOLDEN[2].0);
    assert_eq!(rest.unsent, b"rest of a page that says that nothing is there\n");
    assert!(matches!(rest.tail, Tail::Nothing));
    assert_eq!(close, Some(Reason::Refused(404)));
    assert_eq!(account.unwrap().line, b"GET /missing HTTP/1.0");
}

#[test]
fn a_stream_and_a_protocol_mean_what_they_meant() {
    let Unfinished { rest, account, .. } = response(GOLDEN[3].0);
    let Tail::Stream { name, state, chunked: true } = rest.tail else { panic!("{rest:?}") };
    assert_eq!((&*name, &*rest.unsent), ("demo-events/1", &b"43\n\n\r\n"[..]));
    assert_eq!(state, br#"{"last":41,"due_ms":1764369600250,"interval_ms":250}"#);
    assert_eq!(account.unwrap().user_agent.as_deref(), Some(&b"curl/8.5.0"[..]));
    let (start, _) = read(GOLDEN[4].0);
    assert_eq!(start.read_ahead, b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f");
    let UnderWay::Protocol(switching) = start.under_way else { panic!("{start:?}") };
    let Switching { name, state } = *switching;
    assert_eq!((&*name, &*state), ("demo-chat/1", &br#"{"nickname":"ada","count":12}"#[..]));
}
