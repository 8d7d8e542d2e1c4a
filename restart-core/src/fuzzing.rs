//! What must hold for any input at all, as functions that panic where it does not.
//!
//! The fuzz targets in `restart-core/fuzz` call them with what the fuzzer makes up, the tests below with the seeds from
//! there, changed at random. Only tests and fuzzers see this module; it is no part of the library.
#![allow(clippy::missing_panics_doc, reason = "each panics where its property does not hold: that is its purpose")]

use crate::address::Endpoint;
use crate::connections::COMPANIONS_MAX;
use crate::control::{Reply, Request};
use crate::handover::Message;
use crate::handover::codec::MESSAGE_BYTES_MAX;
use crate::listeners;

/// A packet of the handover is read or refused, and what was read is written back the same.
pub fn handover(packet: &[u8]) {
    let Ok((message, tail)) = Message::decode(packet) else { return };
    if let Message::Hello(hello) = &message {
        let _ = hello.common_version();
    }
    if let Message::Connections(part) = &message
        && let Some(blobs) = part.split(tail)
    {
        assert_eq!((blobs.len(), blobs.concat().as_slice()), (part.blobs.len(), tail));
    }
    if let Message::Connections(part) = &message
        && let Some(each) = part.descriptors(COMPANIONS_MAX)
    {
        assert!(each.len() == part.blobs.len() && each.iter().all(|count| (1..=1 + COMPANIONS_MAX).contains(count)));
    }
    match message.encode(tail) {
        Ok(again) => assert_eq!(Message::decode(&again).expect("it has just been encoded"), (message, tail)),
        Err(_) => assert!(packet.len() > MESSAGE_BYTES_MAX / 8, "{message:?} is short"),
    }
}

/// A line on the control socket is a request, a reply or refused; an outcome can be shown to people.
pub fn control(line: &[u8]) {
    if let Ok(request) = serde_json::from_slice::<Request>(line) {
        let again = serde_json::to_vec(&request).expect("a request is plain data");
        assert_eq!(serde_json::from_slice::<Request>(&again).expect("it has just been written"), request);
    }
    if let Ok(Reply::Outcome(outcome)) = serde_json::from_slice::<Reply>(line) {
        assert!(outcome.to_string().starts_with("reload"));
    }
}

/// LISTEN_FDS and LISTEN_FDNAMES, a line each, give a name or none to each descriptor, never one to two; or are refused.
pub fn listen_fds(text: &[u8]) {
    let text = String::from_utf8_lossy(text);
    let (fds, names) = text.split_once('\n').map_or((&*text, None), |(fds, names)| (fds, Some(names)));
    let Ok(count) = listeners::inherited::count(fds) else { return };
    if let Ok(names) = listeners::inherited::names(names, count) {
        assert_eq!(names.len(), count);
        let mut named: Vec<_> = names.iter().flatten().collect();
        named.sort_unstable();
        assert!(named.windows(2).all(|pair| pair[0] != pair[1]), "{named:?}");
    }
}

/// An endpoint is refused, or reads the same when it is written out.
pub fn endpoint(text: &[u8]) {
    let Ok(text) = str::from_utf8(text) else { return };
    if let Ok(endpoint) = Endpoint::parse(text, Endpoint::DEFAULT_NAME) {
        let again = format!("{}={}", endpoint.name, endpoint.address);
        assert_eq!(Endpoint::parse(&again, "").expect("it has just been written"), endpoint);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use proptest::prelude::*;

    /// The seeds of a fuzz target, each changed in one place, and any bytes at all.
    fn input(target: &str) -> impl Strategy<Value = Vec<u8>> + use<> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
        let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let seeds: Vec<_> = files.map(|file| fs::read(file.unwrap().path()).unwrap()).collect();
        let some = || proptest::collection::vec(any::<u8>(), 0..4);
        let changed = (proptest::sample::select(seeds), any::<prop::sample::Index>(), 0..4_usize, some());
        let changed = changed.prop_map(|(mut seed, at, removed, added)| {
            let at = at.index(seed.len() + 1);
            seed.splice(at..seed.len().min(at + removed), added);
            seed
        });
        prop_oneof![9 => changed, 1 => proptest::collection::vec(any::<u8>(), 0..200)]
    }

    macro_rules! holds_for_changed_seeds {
        ($($target:ident)*) => {
            proptest! {
                $(#[test]
                fn $target(bytes in input(stringify!($target))) {
                    super::$target(&bytes);
                })*
            }
        };
    }

    holds_for_changed_seeds!(handover control listen_fds endpoint);
}
