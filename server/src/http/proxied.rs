//! The PROXY protocol: the header with which a proxy begins a connection that it brings, and which tells whose it is.
//!
//! It is read before anything else, TLS included, on connections of which that is known beforehand, and within the time of
//! a request's head. What follows it stays, as what was read ahead. Versions 1 and 2 are taken, as `proxy-header` reads
//! them; of what version 2 may add nothing is used. A connection on which none has come yet cannot move: it is waited for.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use futures_lite::FutureExt;
use proxy_header::{Error, ParseConfig, ProxyHeader};

use super::handler::Context;
use super::lifetime::{End, Reason, Start};
use super::shutdown::{over, stopping};
use super::timer::Timer;
use super::transport::Transport;

/// The longest header that is taken; version 1 ends it at 107 bytes, and version 2 with all that proxies add has hundreds.
pub(crate) const HEADER_BYTES_MAX: usize = 4096;

/// What headers begin with, of either version.
const BEGINNINGS: [&[u8]; 2] = [b"PROXY ", b"\r\n\r\n\0\r\nQUIT\n"];

/// A connection that came without the header that it had to begin with.
#[derive(Debug)]
pub struct NoHeader {
    /// How it ended.
    pub end: End,
    /// What was wrong, in a few words, where that was the proxy's fault.
    pub cause: Option<&'static str>,
}

/// A connection whose header has been read: its socket, what followed the header, and whom that names.
type Read = (OwnedFd, Vec<u8>, Option<SocketAddr>);

/// How a connection without a header ended: nobody is there any more, or we close it, for this reason and cause.
enum Ended {
    Gone,
    Closed(Reason, Option<&'static str>),
}

/// Takes the header off a connection that was just accepted. Its peer is then whom the header names; it stays what it was
/// where the proxy speaks for itself, as to ask whether somebody is there. It waits no longer than for a request's head.
pub async fn proxied<H>(context: &Context<H>, start: Start) -> Result<Start, NoHeader> {
    let Start { stream, read_ahead, peer, local, .. } = start;
    let late = async {
        Timer::after(context.limits.head_timeout).await;
        Err(Ended::Closed(Reason::ProxyHeader, Some("it has not come in time")))
    };
    let crowded = async {
        context.capacity.called_late().await;
        Err(Ended::Closed(Reason::Crowded, None))
    };
    let stops = async {
        stopping(&context.drain).await;
        Err(Ended::Closed(Reason::Stopping, None))
    };
    let is_over = async {
        over(&context.drain).await;
        Err(Ended::Closed(Reason::DrainDeadline, None))
    };
    let outcome = read(stream, local, read_ahead).or(late).or(crowded).or(stops).or(is_over).await;
    match outcome {
        Ok((stream, read_ahead, source)) => {
            let peer = source.map(|source| source.to_string()).or(peer);
            Ok(Start { stream, peer, read_ahead, ..start })
        }
        Err(Ended::Gone) => Err(NoHeader { end: End::Client { requests: 0 }, cause: None }),
        Err(Ended::Closed(reason, cause)) => Err(NoHeader { end: End::Server { reason, requests: 0 }, cause }),
    }
}

async fn read(stream: OwnedFd, local: bool, read_ahead: Vec<u8>) -> Result<Read, Ended> {
    let failed = |error: io::Error| {
        log::warn!("cannot watch an accepted connection: {error}; it is closed");
        Ended::Closed(Reason::Failed, None)
    };
    let transport = Transport::new(stream, local, read_ahead, None).map_err(failed)?;
    let source = loop {
        let found = look(transport.received().filled());
        match found.map_err(|cause| Ended::Closed(Reason::ProxyHeader, Some(cause)))? {
            Some((length, source)) => {
                transport.received().consume(length);
                break source;
            }
            None => transport.received().settle(),
        }
        match transport.receive() {
            Ok(0) => return Err(Ended::Gone),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                poll_fn(|task| transport.poll_readable(task)).await;
            }
            Err(_) => return Err(Ended::Gone),
        }
    };
    let (stream, read_ahead, _) = transport.into_parts().map_err(failed)?;
    Ok((stream, read_ahead, source))
}

/// Looks for a header at the beginning of what was received: how long it is, and whom it names. Nothing where more bytes are
/// needed; an error says what is wrong.
pub(crate) fn look(bytes: &[u8]) -> Result<Option<(usize, Option<SocketAddr>)>, &'static str> {
    let begins = |beginning: &&[u8]| beginning.iter().zip(bytes).all(|(one, other)| one == other);
    if !BEGINNINGS.iter().any(begins) {
        return Err("what came in its place is none");
    }
    let config = ParseConfig { include_tlvs: false, ..ParseConfig::default() };
    match ProxyHeader::parse(bytes, config) {
        Ok((_, length)) if length > HEADER_BYTES_MAX => Err("it is longer than 4096 bytes"),
        Ok((header, length)) => Ok(Some((length, header.proxied_address().map(|address| address.source)))),
        Err(Error::BufferTooShort) if bytes.len() < HEADER_BYTES_MAX && announced(bytes) <= HEADER_BYTES_MAX => {
            Ok(None)
        }
        Err(Error::BufferTooShort) => Err("it is longer than 4096 bytes"),
        Err(_) => Err("it is malformed"),
    }
}

/// How long a header of version 2 says that it is, where it has come so far.
fn announced(bytes: &[u8]) -> usize {
    match bytes {
        [b'\r', ..] if bytes.len() >= 16 => 16 + usize::from(u16::from_be_bytes([bytes[14], bytes[15]])),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const VERSION_1: &[u8] = b"PROXY TCP4 192.0.2.1 192.0.2.2 4711 443\r\n";

    fn version_2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).expect("it fits").to_be_bytes();
        [BEGINNINGS[1], &[command, family], &length, rest].concat()
    }

    fn source(bytes: &[u8]) -> Option<String> {
        let (length, source) = look(bytes).expect("it is none that is wrong").expect("it is whole");
        assert_eq!(length, bytes.len());
        source.map(|source| source.to_string())
    }

    #[test]
    fn both_versions_name_the_client() {
        let four = [192, 0, 2, 1, 192, 0, 2, 2, 0x12, 0x67, 1, 187];
        assert_eq!(source(VERSION_1).as_deref(), Some("192.0.2.1:4711"));
        assert_eq!(source(b"PROXY TCP6 2001:db8::1 ::1 4711 443\r\n").as_deref(), Some("[2001:db8::1]:4711"));
        assert_eq!(source(&version_2(0x21, 0x11, &four)).as_deref(), Some("192.0.2.1:4711"));
        let with_more = [&four[..], &[0x05, 0, 2, b'i', b'd']].concat();
        assert_eq!(source(&version_2(0x21, 0x11, &with_more)).as_deref(), Some("192.0.2.1:4711"));
    }

    #[test]
    fn a_proxy_that_speaks_for_itself_names_nobody() {
        assert_eq!(source(b"PROXY UNKNOWN\r\n"), None);
        assert_eq!(source(b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n"), None);
        assert_eq!(source(&version_2(0x20, 0x00, &[])), None);
        assert_eq!(source(&version_2(0x20, 0x11, &[1; 12])), None, "a check by the proxy itself");
        assert_eq!(source(&version_2(0x21, 0x31, &[0; 216])), None, "a client of a Unix socket");
    }

    #[test]
    fn what_is_no_header_is_known_at_once_and_a_long_one_is_not_waited_for() {
        for bytes in [&b"GET / HTTP/1.1\r\n"[..], b"\x16\x03\x01", b"PROXYX", b"\r\n\r\nG"] {
            assert_eq!(look(bytes), Err("what came in its place is none"), "{bytes:?}");
        }
        for bytes in [&b"PROXY TCP4 192.0.2.1 x 1 2\r\n"[..], &[&b"PROXY TCP4 "[..], &[b'1'; 100]].concat()] {
            assert_eq!(look(bytes), Err("it is malformed"), "{bytes:?}");
        }
        let long = version_2(0x21, 0x11, &[0; 5000]);
        assert_eq!(look(&long), Err("it is longer than 4096 bytes"));
        assert_eq!(look(&long[..16]), Err("it is longer than 4096 bytes"));
    }

    #[test]
    fn each_part_of_a_header_may_still_become_one() {
        for bytes in [VERSION_1.to_vec(), version_2(0x21, 0x21, &[7; 40])] {
            for end in 0..bytes.len() {
                assert_eq!(look(&bytes[..end]), Ok(None), "{end} of {bytes:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(version in 0..3_usize, bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let beginning = BEGINNINGS.get(version).copied().unwrap_or_default();
            let _ = look(&[beginning, &bytes].concat());
        }
    }
}
