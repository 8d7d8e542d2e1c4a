//! Messages of the handover as bytes: one JSON object a packet, told apart by its `kind`, and behind a NUL whatever
//! bytes go with it.
//!
//! A packet that is too long or no such object is an error that names it. Pure: no socket, no clock.

use serde::Deserialize;

use super::wire::Message;
use crate::error::Error;

/// A longer packet does not pass the kernel's default send buffer in every configuration.
pub(crate) const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// The kernel's `SCM_MAX_FD`.
pub(crate) const FDS_PER_MESSAGE_MAX: usize = 253;
/// No reason is longer than this on the wire; the rest is cut.
pub(crate) const REASON_BYTES_MAX: usize = 4096;
/// How many listeners one generation may hand over.
pub(crate) const LISTENERS_MAX: usize = 4096;
/// Of the kind of a packet that cannot be read, so much is shown.
const KIND_CHARS_MAX: usize = 32;

impl Message {
    /// The packet: the message, and behind a NUL, which no JSON text holds, whatever bytes go with it. Fails where it
    /// would be longer than a packet may be.
    pub(crate) fn encode(&self, tail: &[u8]) -> Result<Vec<u8>, Error> {
        let mut bytes = serde_json::to_vec(self).map_err(|error| Error::handover(format!("cannot encode: {error}")))?;
        if !tail.is_empty() {
            bytes.push(0);
            bytes.extend_from_slice(tail);
        }
        if bytes.len() > MESSAGE_BYTES_MAX {
            let (length, max) = (bytes.len(), MESSAGE_BYTES_MAX);
            return Err(Error::handover(format!("a message of {length} bytes is longer than the {max} allowed")));
        }
        Ok(bytes)
    }

    /// The message in a packet, and the bytes that go with it. The error tells the packet's kind, if it has one, its
    /// length, and what is wrong with it.
    pub(crate) fn decode(packet: &[u8]) -> Result<(Message, &[u8]), Error> {
        let end = packet.iter().position(|&byte| byte == 0);
        let (text, tail) = end.map_or((packet, &[][..]), |end| (&packet[..end], &packet[end + 1..]));
        serde_json::from_slice(text).map(|message| (message, tail)).map_err(|error| {
            let kind = kind_of(text).map_or_else(String::new, |kind| format!(" of the kind {kind:?}"));
            Error::handover(format!("a message{kind} of {} bytes cannot be read: {error}", packet.len()))
        })
    }

    /// A Failed whose reason fits.
    pub(crate) fn failed(reason: &str) -> Message {
        let mut end = reason.len().min(REASON_BYTES_MAX);
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        Message::Failed { reason: reason[..end].to_owned() }
    }
}

fn kind_of(text: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Kind {
        kind: String,
    }
    let Kind { kind } = serde_json::from_slice(text).ok()?;
    Some(kind.chars().take(KIND_CHARS_MAX).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::wire::Batch;
    use super::*;

    /// The packets of each version of the protocol that was ever released, oldest first. Nothing here is changed but by
    /// adding lines, and a file for each new version.
    const GOLDEN: [&str; 1] = [include_str!("golden/v1.jsonl")];

    #[test]
    fn what_released_versions_say_is_read_for_ever() {
        for packet in GOLDEN.iter().flat_map(|file| file.lines()) {
            let (message, _) = Message::decode(packet.as_bytes()).unwrap_or_else(|error| panic!("{packet}: {error}"));
            assert_ne!(message, Message::Unknown, "{packet}");
            // Nothing of it is lost on the way through the present version.
            let again: serde_json::Value = serde_json::to_value(&message).unwrap();
            let said: serde_json::Value = serde_json::from_str(packet).unwrap();
            for (field, value) in said.as_object().unwrap() {
                assert!(again[field] == *value, "{field} of {packet} became {again}");
            }
        }
    }

    #[test]
    fn each_message_of_the_present_version_is_among_the_golden_ones() {
        let known: Vec<&str> = GOLDEN.iter().flat_map(|file| file.lines()).collect();
        let source = include_str!("wire.rs");
        let (_, kinds) = source.split_once("pub(crate) fn kind(&self)").unwrap();
        let names = kinds.lines().filter_map(|line| line.trim().strip_prefix("Message::")?.split_once("=> \""));
        let names: Vec<&str> = names.map(|(_, name)| name.trim_end_matches("\",")).collect();
        assert!(names.len() > 20 && names.contains(&"Commit"), "{names:?}");
        for name in names.into_iter().filter(|name| !name.contains(' ')) {
            let kind = format!("\"kind\":\"{}\"", name.to_lowercase());
            assert!(known.iter().any(|packet| packet.contains(&kind)), "{name} is missing");
        }
    }

    #[test]
    fn what_a_newer_version_adds_is_skipped() {
        let packet =
            br#"{"kind":"given","listeners":2,"older":[],"reload":{"id":"a","generation":1,"pid":2,"x":1},"new":[3]}"#;
        assert!(matches!(Message::decode(packet).unwrap().0, Message::Given(given) if given.listeners == 2));
        assert_eq!(Message::decode(br#"{"kind":"song","text":"la"}"#).unwrap().0, Message::Unknown);
    }

    #[test]
    fn what_cannot_be_read_is_told_with_its_kind_and_length() {
        let text = Message::decode(br#"{"kind":"taken","batch":"x"}"#).unwrap_err().to_string();
        assert!(text.contains("\"taken\" of 28 bytes"), "{text}");
        let text = Message::decode(b"noise").unwrap_err().to_string();
        assert!(text.contains("a message of 5 bytes"), "{text}");
    }

    #[test]
    fn bytes_travel_behind_their_message_unchanged() {
        let message = Message::Connections(Batch {
            number: 1,
            formats: vec!["a/1".to_owned()],
            blobs: vec![3],
            companions: vec![],
        });
        let packet = message.encode(&[0, 255, 0]).unwrap();
        assert_eq!(Message::decode(&packet).unwrap(), (message, &[0, 255, 0][..]));
    }

    #[test]
    fn a_message_that_is_too_long_is_not_sent() {
        let message = Message::Failed { reason: "x".repeat(MESSAGE_BYTES_MAX) };
        assert!(message.encode(&[]).is_err());
        assert!(Message::failed(&"ä".repeat(MESSAGE_BYTES_MAX)).encode(&[]).is_ok());
    }

    proptest! {
        #[test]
        fn any_reason_survives_the_wire(reason in ".{0,200}") {
            let message = Message::failed(&reason);
            let packet = message.encode(&[]).unwrap();
            prop_assert_eq!(Message::decode(&packet).unwrap().0, message);
        }
    }
}
