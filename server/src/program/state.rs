//! What one generation gives the next: the application's state, and behind it what TLS goes on with.
//!
//! An application's state stays as it is where there is nothing to add, so that versions which know nothing of TLS read it,
//! and theirs is read. Otherwise a mark at its end says that there is more, and how much.

use restart_core::State;
use zeroize::{Zeroize, Zeroizing};

/// The end of a state with more than the application's. Nothing else ends with it but by intention.
const MARK: [u8; 16] = *b"\0reborn+tls\0v1\0\0";

/// Whether the application has saved something.
const HAS_APPLICATION: u8 = 1;

/// What stands behind the part of TLS: how many bytes it has, whether there is one of the application, and the mark.
const TRAILER_BYTES: usize = size_of::<u32>() + 1 + MARK.len();

/// The state of both, in the bytes of the application's.
pub(super) fn join(application: Option<Vec<u8>>, tls: Option<&[u8]>) -> Vec<u8> {
    let (tls, has_application) = (tls.unwrap_or_default(), application.is_some());
    let mut bytes = application.unwrap_or_default();
    if has_application && tls.is_empty() {
        return bytes;
    }
    let length = u32::try_from(tls.len()).expect("some keys and a certificate are a few kilobytes");
    bytes.reserve(tls.len() + TRAILER_BYTES);
    bytes.extend_from_slice(tls);
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.push(if has_application { HAS_APPLICATION } else { 0 });
    bytes.extend_from_slice(&MARK);
    bytes
}

/// What was joined: the application's state, and what TLS goes on with.
pub(super) fn split(mut state: State) -> (Option<State>, Option<Zeroizing<Vec<u8>>>) {
    let Some((length, has_application)) = trailer(&state.bytes) else { return (Some(state), None) };
    let start = state.bytes.len() - TRAILER_BYTES - length;
    let tls = Zeroizing::new(state.bytes[start..start + length].to_vec());
    state.bytes[start..].zeroize();
    state.bytes.truncate(start);
    (has_application.then_some(state), Some(tls).filter(|tls| !tls.is_empty()))
}

/// How long the part of TLS is, and whether there is one of the application, where there is more than that.
fn trailer(bytes: &[u8]) -> Option<(usize, bool)> {
    let rest = bytes.strip_suffix(&MARK)?;
    let (has_application, rest) = rest.split_last()?;
    let (rest, length) = rest.split_last_chunk::<4>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    (length <= rest.len()).then_some((length, *has_application == HAS_APPLICATION))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(bytes: &[u8]) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
        let (application, tls) = super::split(State::new(7, bytes.to_vec()));
        assert!(application.as_ref().is_none_or(|state| state.format == 7));
        (application.map(|state| state.bytes), tls.map(|tls| tls.to_vec()))
    }

    #[test]
    fn what_was_joined_is_split() {
        for application in [None, Some(vec![]), Some(b"customers".to_vec())] {
            for tls in [None, Some(&b"keys"[..])] {
                let joined = join(application.clone(), tls);
                assert_eq!(split(&joined), (application.clone(), tls.map(<[u8]>::to_vec)));
            }
        }
    }

    #[test]
    fn an_applications_state_alone_is_what_it_always_was() {
        assert_eq!(join(Some(b"customers".to_vec()), None), b"customers");
        for state in [&b""[..], b"customers", &MARK, &[&[0xff; 5][..], &MARK].concat()] {
            assert_eq!(split(state), (Some(state.to_vec()), None), "{state:?}");
        }
    }
}
