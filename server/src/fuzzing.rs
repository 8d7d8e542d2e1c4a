//! What must hold for any input at all, as functions that panic where it does not.
//!
//! The fuzz targets in `server/fuzz` call them with what the fuzzer makes up, the tests below with the seeds from there,
//! changed at random. Only tests and fuzzers see this module; it is no part of the library.
#![allow(clippy::missing_panics_doc, reason = "each panics where its property does not hold: that is its purpose")]

use std::ffi::OsString;
use std::fs::File;
use std::mem;
use std::os::unix::net::UnixStream;

use http_types::Request;

use crate::config::Config;
use crate::http::Limits;
use crate::http::message::chunked;
use crate::http::message::decode;
use crate::http::message::forwarded;
use crate::http::message::head::{self, Head, HeadEnd};
use crate::http::proxied;
use crate::http::transport::tls::fuzzed;
use crate::http::trust::{Trust, address_in};
use crate::moving;
use crate::program::cli::{self, Command};
use crate::program::configuration::checked;

/// Any bytes are a head that async-h1 reads as we do, or the beginning of one, or refused; in pieces as in one.
pub fn head(bytes: &[u8]) {
    let limits = Limits { head_bytes: 1024, headers: 16, ..Limits::default() };
    let whole = head::find(bytes, 0, &limits);
    let mut scanned = 0;
    let mut pieces =
        (1..=bytes.len()).map(|length| head::find(&bytes[..length], mem::replace(&mut scanned, length), &limits));
    let first = pieces.find(|found| !matches!(found, Ok(HeadEnd::Partial { .. })));
    match (&whole, &first) {
        // What is wrong first may differ.
        (Err(_), Some(Err(_))) | (Ok(HeadEnd::Partial { .. }), None) => {}
        (whole, first) => assert_eq!(Some(whole), first.as_ref(), "whole and byte by byte"),
    }
    let Ok(HeadEnd::Complete(length)) = whole else { return };
    assert!(bytes[..length].ends_with(b"\r\n\r\n"), "a head ends with an empty line");
    if let Ok(head) = head::check(&bytes[..length], &limits) {
        assert!(head.fields.len() <= limits.headers && length <= limits.head_bytes);
        let again = head::check(&bytes[..length], &limits).expect("it has passed");
        if let Ok(request) = decode::request(again, bytes[0].is_multiple_of(2), &mut None) {
            agrees(&head, request);
        }
    }
}

/// Whether a request says what its head says.
fn agrees(head: &Head<'_>, request: &Request) {
    let is_other = |name: &str| !name.eq_ignore_ascii_case("host");
    let values = |name: &str| request.header(name).map_or(0, |values| values.iter().count());
    assert_eq!(request.method(), head.method);
    for (name, _) in head.fields.iter().filter(|(name, _)| is_other(name)) {
        let sent = head.fields.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name)).count();
        assert_eq!(values(name), sent, "{name} of {head:?}");
    }
    let names = request.header_names().filter(|name| is_other(name.as_str()));
    let made_up: Vec<_> =
        names.filter(|name| !head.fields.iter().any(|(other, _)| other.eq_ignore_ascii_case(name.as_str()))).collect();
    assert!(made_up.is_empty(), "{made_up:?} was never sent");
    assert_eq!(values("host"), usize::from(head.host.is_some()), "the hosts of {head:?}");
}

/// A PROXY header is found at the same place however much has come of what follows it, and what is refused stays so.
pub fn proxy_header(bytes: &[u8]) {
    let whole = proxied::look(bytes);
    let mut pieces = (0..=bytes.len()).map(|length| (length, proxied::look(&bytes[..length])));
    let first = pieces.find(|(_, found)| !matches!(found, Ok(None)));
    match (&whole, &first) {
        // What is wrong first may differ.
        (Ok(None), None) | (Err(_), Some((_, Err(_)))) => {}
        (whole, Some((received, found))) => {
            assert_eq!(whole, found, "whole and byte by byte");
            let length = whole.as_ref().ok().and_then(Option::as_ref).map(|(length, _)| *length);
            assert!(length.is_some_and(|length| length <= *received && length <= proxied::HEADER_BYTES_MAX));
        }
        (whole, None) => panic!("{whole:?} is found in no piece"),
    }
}

/// Nothing that a client writes into the headers of proxies hides what the trusted proxy in front of it adds: the client is
/// the one that it names, or the request is refused. What it does not name itself is an address, or nothing.
pub fn forwarded(bytes: &[u8]) {
    let trust = Trust::new(vec!["10.0.0.0/8".parse().expect("a network")], false);
    let said: String = String::from_utf8_lossy(bytes).chars().filter(|one| !one.is_control()).collect();
    let read = |lines: &str| {
        let text = format!("GET / HTTP/1.1\r\nHost: inner\r\n{lines}\r\n\r\n");
        let head = head::check(text.as_bytes(), &Limits::default()).ok()?;
        forwarded::read(&head, &trust).ok().map(|said| (said.client, said.host.map(str::to_owned)))
    };
    let own = "203.0.113.7";
    for added in [format!("X-Forwarded-For: {said}, {own}"), format!("Forwarded: {said}, for={own};proto=https")] {
        let client = read(&added).map(|(client, _)| client);
        assert!(client.as_ref().is_none_or(|client| client.as_deref() == Some(own)), "{added:?} is of {client:?}");
    }
    for lines in [format!("X-Forwarded-For: {said}"), format!("Forwarded: {said}"), format!("X-Forwarded-Host: {said}")]
    {
        let Some((client, host)) = read(&lines) else { continue };
        assert!(client.as_deref().is_none_or(|client| address_in(client).is_some()), "{lines:?} is of {client:?}");
        assert!(host.is_none_or(|host| !host.contains(['/', '@', ' ', '\\'])), "{lines:?}");
    }
}

/// A chunked body is read the same in pieces (as long as the first byte says) as whole, and never beyond its end.
pub fn chunked(bytes: &[u8]) {
    let Some((&piece, input)) = bytes.split_first() else { return };
    let cuts: Vec<usize> = (0..input.len()).step_by(1 + usize::from(piece) % 16).collect();
    let limit = 1000;
    let whole = chunked::read_in_pieces(input, &[], limit);
    assert_eq!(whole, chunked::read_in_pieces(input, &cuts, limit), "whole and in pieces");
    if let Ok((data, trailers, left)) = whole {
        assert!(data.len() as u64 <= limit && data.len() + trailers.len() + left <= input.len());
        assert!(trailers.ends_with(b"\r\n"));
    }
}

/// What travels with a connection is read or refused, and what was read is written back the same.
pub fn moved(bytes: &[u8]) {
    let read = |bytes: &[u8]| {
        let (stream, _) = UnixStream::pair().expect("a pair");
        let file = File::open("/proc/self/exe").expect("what runs is a plain file");
        moving::unpack(stream.into(), bytes, Some(file.into()))
    };
    if let Ok((start, age)) = read(bytes) {
        let (_, packed) = moving::pack(start, age);
        let (again, age) = read(&packed.blob).expect("it was written here");
        let (_, once_more) = moving::pack(again, age);
        let without_times = |blob: &[u8]| blob.split(|byte| *byte == 0).skip(1).map(<[u8]>::to_vec).collect::<Vec<_>>();
        assert_eq!(without_times(&packed.blob), without_times(&once_more.blob));
        assert_eq!(packed.formats, once_more.formats);
    }
}

/// The records of a TLS connection lead to the same in pieces as whole, with a move after each piece.
pub fn records(bytes: &[u8]) {
    fuzzed::records(bytes);
}

/// What is left of a TLS connection that moves is read or refused, and what was read is written back the same.
pub fn frozen(bytes: &[u8]) {
    fuzzed::frozen(bytes);
}

/// A command line, a line for each argument, is a configuration or refused in one line that says what would be right.
pub fn flags(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    // A file's contents are another matter, and only one of many texts that name one.
    if text.contains("--config") {
        return;
    }
    let arguments = ["reborn", "serve"].into_iter().chain(text.lines()).map(OsString::from);
    if let Ok(Command::Serve(args)) = cli::parse(arguments) {
        configured(checked(&args).map_err(|error| error.to_string()));
    }
}

/// A configuration file is a configuration or refused in one line that says what would be right.
pub fn configuration_file(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    match cli::parse_with_file(&text) {
        Ok(Command::Serve(args)) => configured(checked(&args).map_err(|error| error.to_string())),
        Ok(other) => panic!("{other} was never asked for"),
        Err(_) => {}
    }
}

fn configured(config: Result<Config, String>) {
    match config {
        Ok(config) => assert!(config.threads > 0 && config.limits.connections > 0),
        Err(error) => assert!(error.lines().count() == 1 && error.contains("; "), "{error}"),
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

    holds_for_changed_seeds!(head chunked moved records frozen flags configuration_file proxy_header forwarded);
}
