//! What holds for records and frozen connections whatever their bytes are. Only tests and fuzzers see it.

#[cfg(test)]
use super::keys::ledger;

use super::failure::Failure;
use super::frozen::{FROZEN_BYTES_MAX, Frozen};
use super::keys::{Cipher, Direction, Kind, Material, Suite, Version};
use super::records::{Opened, Records};
use super::secret::Secret;

/// What came of a stream of records.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    data: Vec<u8>,
    failure: Option<Failure>,
    is_ended: bool,
    /// What is sent in the end: what was due, an answer where one can be given, and close_notify.
    sent: Vec<u8>,
}

/// Opens what a client sent, in pieces as in one, with a move after each piece: the outcome is the same.
///
/// The first byte says which suite, the second one how long the pieces are. Then come parts, each with its kind and length:
/// the content of a record that is sealed here, or bytes as they are.
pub(crate) fn records(bytes: &[u8]) {
    let Some((&[number, piece], script)) = bytes.split_first_chunk() else { return };
    let suite = suite(number);
    let wire = wire(suite, script);
    let whole = outcome(suite, wire.chunks(wire.len().max(1)));
    let pieces = outcome(suite, wire.chunks(1 + usize::from(piece) * 3));
    assert_eq!(whole, pieces, "whole and in pieces");
    assert!(whole.data.len() <= wire.len());
    assert!(whole.failure.is_none() || !whole.is_ended);
}

/// Reads a frozen connection or refuses it; what was read is written the same, and neither sealing nor opening panics.
pub(crate) fn frozen(bytes: &[u8]) {
    #[cfg(test)]
    ledger::begin();
    let Ok(frozen) = Frozen::from_bytes(&Secret::copy_of(bytes)) else { return };
    let written = frozen.thaw().freeze().into_bytes();
    assert_eq!(written.expose(), bytes, "read and written");
    assert!(bytes.len() <= FROZEN_BYTES_MAX);
    let mut records = Frozen::from_bytes(&written).expect("it was written here").thaw();
    let mut room = [0; 200];
    let _ = records.seal([b"data", b"more"], &mut room);
    let opened = records.open(&mut [bytes, &[0; 30]].concat());
    assert!(!matches!(opened, Ok(Opened::Record { .. })), "nobody can seal for a key by chance");
    records.close();
    let _ = records.seal([&[], &[]], &mut room);
    records.freeze();
}

fn suite(number: u8) -> Suite {
    let cipher = [Cipher::Aes128Gcm, Cipher::Aes256Gcm, Cipher::Chacha20Poly1305][usize::from(number) % 3];
    let version = if number % 6 < 3 { Version::Tls13 } else { Version::Tls12 };
    Suite { version, cipher }
}

fn material(suite: Suite, fill: u8) -> Material {
    let root = Secret::from_vec(vec![fill; suite.root_bytes()]);
    match suite.version {
        Version::Tls12 => Material { root, iv: [fill; 12], sequence: 1 },
        Version::Tls13 => Material::of_secret(suite.cipher, root, 0),
    }
}

/// What a client sends by a script.
fn wire(suite: Suite, mut script: &[u8]) -> Vec<u8> {
    #[cfg(test)]
    ledger::begin();
    let (mut sending, mut wire, mut message) = (Direction::new(suite, material(suite, 1)), Vec::new(), Vec::new());
    while let Some((&[what, length], rest)) = script.split_first_chunk() {
        let (content, rest) = rest.split_at(usize::from(length).min(rest.len()));
        script = rest;
        let kinds = [Kind::ChangeCipherSpec, Kind::Alert, Kind::Handshake, Kind::Data];
        match kinds.get(usize::from(what) % 6) {
            Some(kind) => {
                let mut record = vec![0; suite.overhead_bytes() + content.len()];
                sending.seal(*kind, [content, &[]], &mut record).expect("there are few records");
                wire.extend(record);
                message.extend(content.iter().filter(|_| *kind == Kind::Handshake));
                // What follows a KeyUpdate is sealed with another key.
                if suite.version == Version::Tls13 && matches!(message[..], [24, 0, 0, 1, 0 | 1]) {
                    sending.update();
                    message.clear();
                }
            }
            None if suite.version == Version::Tls13 && what % 6 == 4 => wire.extend(sending.seal_inner(content)),
            None => wire.extend_from_slice(content),
        }
    }
    wire
}

fn outcome<'a>(suite: Suite, pieces: impl Iterator<Item = &'a [u8]>) -> Outcome {
    #[cfg(test)]
    ledger::begin();
    let mut records = Records::new(suite, material(suite, 1), material(suite, 2));
    let (mut waiting, mut data, mut failure) = (Vec::new(), Vec::new(), None);
    for piece in pieces {
        waiting.extend_from_slice(piece);
        while failure.is_none() {
            match records.open(&mut waiting) {
                Ok(Opened::Record { used, data: place }) => {
                    assert!(place.end <= used && used <= waiting.len());
                    data.extend_from_slice(&waiting[place]);
                    waiting.drain(..used);
                }
                Ok(Opened::Partial | Opened::Ended) => break,
                Err(reason) => failure = Some(reason),
            }
        }
        records = records.freeze().thaw();
    }
    let (is_ended, mut room, mut sent) = (records.is_ended(), [0; 300], Vec::new());
    for _ in 0..2 {
        let answer = if records.is_open() { &b"answer"[..] } else { &[] };
        let sealed = records.seal([answer, &[]], &mut room).expect("nothing is asked for that cannot be");
        sent.extend_from_slice(&room[..sealed.written]);
        records.close();
    }
    Outcome { data, failure, is_ended, sent }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;

    fn seeds(target: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target)
    }

    #[test]
    fn the_seeds_of_records_reach_what_they_are_named_after() {
        let data: [(&str, &[u8], Option<&str>); 5] = [
            ("key-update-split", b"new key", None),
            ("key-update", b"new keynewer", None),
            ("end", b"last", None),
            ("renegotiation", b"ab", None),
            ("flood", b"", Some("too many records in a row without data")),
        ];
        for (name, data, failure) in data {
            let seed = fs::read(seeds("records").join(name)).unwrap();
            let suite = suite(seed[0]);
            let outcome = outcome(suite, wire(suite, &seed[2..]).chunks(100));
            assert_eq!((&outcome.data[..], outcome.failure.map(|failure| failure.reason)), (data, failure), "{name}");
            assert_eq!(outcome.is_ended, name == "end");
        }
    }

    #[test]
    fn the_seeds_of_frozen_connections_can_be_read() {
        for file in fs::read_dir(seeds("frozen")).unwrap() {
            let path = file.unwrap().path();
            let read = Frozen::from_bytes(&Secret::from_vec(fs::read(&path).unwrap()));
            assert!(read.is_ok(), "{}: {:?}", path.display(), read.err());
        }
    }
}
