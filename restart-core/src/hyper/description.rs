//! A connection on its way between two processes, as bytes.
//!
//! A JSON object with what is known of the connection, and behind a NUL, which no JSON text holds, bytes: those that belong
//! to what is under way, whose lengths the object says, and then those that were read ahead. Readers skip fields that they
//! do not know; what they must not misunderstand has a format of its own, without which the connection stays. Pure.

use serde::{Deserialize, Serialize};

use super::moves::IDLE;
use super::under_way::{At, Sending, UnderWay};
use crate::formats::Formats;
use crate::moves::{protocol_format, stream_format};

#[derive(Debug, Default, Serialize, Deserialize)]
struct Description {
    #[serde(default)]
    fresh: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stream: Option<StreamDescription>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    protocol: Option<ProtocolDescription>,
}

#[derive(Debug, Serialize, Deserialize)]
struct StreamDescription {
    name: String,
    state_bytes: usize,
    unsent_bytes: usize,
    /// In chunks; else the end of the connection is the end of the stream.
    chunked: bool,
    /// Whether other requests may follow.
    keep: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct ProtocolDescription {
    name: String,
    state_bytes: usize,
}

/// Describes what is under way, with what was read ahead.
pub(super) fn pack(under_way: &UnderWay, read_ahead: &[u8]) -> (Formats, Vec<u8>) {
    let mut description = Description::default();
    let (own, bytes): (Option<String>, [&[u8]; 2]) = match under_way {
        UnderWay::Nothing { fresh } => {
            description.fresh = *fresh;
            (None, [b"", b""])
        }
        UnderWay::Stream(Sending { at, unsent, chunked, keep }) => {
            description.stream = Some(StreamDescription {
                name: at.name.clone(),
                state_bytes: at.state.len(),
                unsent_bytes: unsent.len(),
                chunked: *chunked,
                keep: *keep,
            });
            (Some(stream_format(&at.name)), [&at.state, unsent])
        }
        UnderWay::Protocol(at) => {
            description.protocol = Some(ProtocolDescription { name: at.name.clone(), state_bytes: at.state.len() });
            (Some(protocol_format(&at.name)), [&at.state, b""])
        }
    };
    let description = serde_json::to_vec(&description).expect("a description is plain data");
    let blob = [&*description, b"\0", bytes[0], bytes[1], read_ahead].concat();
    (Some(IDLE.to_owned()).into_iter().chain(own).collect(), blob)
}

/// Reads what is under way, and what was read ahead. An error says what cannot be read.
pub(super) fn unpack(blob: &[u8]) -> Result<(UnderWay, &[u8]), String> {
    let end = blob.iter().position(|&byte| byte == 0).ok_or("its description has no end")?;
    let description: Description = serde_json::from_slice(&blob[..end]).map_err(|error| error.to_string())?;
    let mut rest = &blob[end + 1..];
    let mut take = |count: usize| {
        let (taken, left) = rest.split_at_checked(count).ok_or("its bytes are fewer than it says")?;
        rest = left;
        Ok::<_, String>(taken.to_vec())
    };
    let under_way = match (description.stream, description.protocol) {
        (Some(StreamDescription { name, state_bytes, unsent_bytes, chunked, keep }), _) => {
            let at = At { name, state: take(state_bytes)? };
            UnderWay::Stream(Sending { at, unsent: take(unsent_bytes)?, chunked, keep })
        }
        (None, Some(ProtocolDescription { name, state_bytes })) => {
            UnderWay::Protocol(At { name, state: take(state_bytes)? })
        }
        (None, None) => UnderWay::Nothing { fresh: description.fresh },
    };
    Ok((under_way, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(name: &str) -> At {
        At { name: name.to_owned(), state: b"sta\0te".to_vec() }
    }

    #[test]
    fn what_is_under_way_comes_out_as_it_went_in() {
        let stream = Sending { at: at("ticks/1"), unsent: b"unsent".to_vec(), chunked: true, keep: false };
        for (under_way, formats) in [
            (UnderWay::Nothing { fresh: true }, Formats::from(["http/1"])),
            (UnderWay::Nothing { fresh: false }, Formats::from(["http/1"])),
            (UnderWay::Stream(stream), Formats::from(["http/1", "stream/ticks/1"])),
            (UnderWay::Protocol(at("chat/1")), Formats::from(["http/1", "protocol/chat/1"])),
        ] {
            let (needs, blob) = pack(&under_way, b"GET / HT");
            assert_eq!((unpack(&blob).unwrap(), needs), ((under_way, &b"GET / HT"[..]), formats));
        }
    }

    /// What released versions say is read for ever.
    #[test]
    fn descriptions_of_the_first_version_are_read() {
        let (under_way, ahead) = unpack(b"{\"fresh\":false,\"new\":1}\0GET").unwrap();
        assert_eq!((under_way, ahead), (UnderWay::Nothing { fresh: false }, &b"GET"[..]));
        let blob = b"{\"protocol\":{\"name\":\"chat/1\",\"state_bytes\":6}}\0sta\0teunread";
        assert_eq!(unpack(blob).unwrap(), (UnderWay::Protocol(at("chat/1")), &b"unread"[..]));
        let stream = br#"{"stream":{"name":"t","state_bytes":1,"unsent_bytes":1,"chunked":true,"keep":true}}"#;
        let (under_way, ahead) =
            unpack(&[stream, &b"\0sux"[..]].concat()).map(|(way, ahead)| (way, ahead.to_vec())).unwrap();
        let at = At { name: "t".to_owned(), state: b"s".to_vec() };
        let sending = Sending { at, unsent: b"u".to_vec(), chunked: true, keep: true };
        assert_eq!((under_way, &*ahead), (UnderWay::Stream(sending), &b"x"[..]));
    }

    #[test]
    fn what_is_none_is_refused() {
        for blob in [&b""[..], b"{}", b"1\0", b"{\"protocol\":{\"name\":\"x\",\"state_bytes\":9}}\0short"] {
            assert!(unpack(blob).is_err(), "{blob:?}");
        }
    }
}
