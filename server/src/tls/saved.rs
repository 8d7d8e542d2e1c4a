//! What TLS hands on to the next generation, as bytes: the keys of tickets, and the certificate that was made here.
//!
//! The first byte is the format's number. A generation that does not know it begins anew: handshakes are whole ones then,
//! and nothing fails. The bytes are secrets, which go through the memory of two processes and nothing else.

use zeroize::Zeroizing;

use super::self_signed::SelfSigned;
use super::tickets::{KEY_BYTES, KEYS_MAX};

const FORMAT: u8 = 1;

/// A certificate or a key of ours has some hundred bytes.
const DER_BYTES_MAX: usize = 16 * 1024;

/// What is handed on.
#[derive(Default)]
pub(super) struct Saved {
    pub(super) keys: Vec<Zeroizing<[u8; KEY_BYTES]>>,
    pub(super) self_signed: Option<SelfSigned>,
}

impl Saved {
    pub(super) fn encode(&self) -> Zeroizing<Vec<u8>> {
        let keys = &self.keys[self.keys.len().saturating_sub(KEYS_MAX)..];
        let ders = self.self_signed.iter().flat_map(|made| [made.certificate.as_slice(), made.key.as_slice()]);
        let length = ders.clone().map(|der| size_of::<u32>() + der.len()).sum::<usize>();
        // Room for all of it, so that no piece stays behind where it grows.
        let mut bytes = Zeroizing::new(Vec::with_capacity(2 + keys.len() * KEY_BYTES + length));
        bytes.push(FORMAT);
        bytes.push(u8::try_from(keys.len()).expect("there are few keys"));
        for key in keys {
            bytes.extend_from_slice(&**key);
        }
        for der in ders {
            let length = u32::try_from(der.len()).expect("a certificate is small");
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(der);
        }
        bytes
    }

    /// The error says why nothing can be gone on with.
    pub(super) fn decode(bytes: &[u8]) -> Result<Saved, &'static str> {
        const SHORT: &str = "it is shorter than it says";
        let ([format, count], mut rest) = bytes.split_first_chunk::<2>().ok_or(SHORT)?;
        if *format != FORMAT {
            return Err("another version wrote it");
        }
        if usize::from(*count) > KEYS_MAX {
            return Err("it has too many keys");
        }
        let mut saved = Saved::default();
        for _ in 0..*count {
            let key;
            (key, rest) = rest.split_first_chunk::<KEY_BYTES>().ok_or(SHORT)?;
            saved.keys.push(Zeroizing::new(*key));
        }
        if !rest.is_empty() {
            let (certificate, after) = der(rest).ok_or(SHORT)?;
            let (key, after) = der(after).ok_or(SHORT)?;
            if !after.is_empty() {
                return Err("it is longer than it says");
            }
            let key = Zeroizing::new(key.to_vec());
            saved.self_signed = Some(SelfSigned { certificate: certificate.to_vec(), key });
        }
        Ok(saved)
    }
}

/// What a length stands before, and what follows.
fn der(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    if length > DER_BYTES_MAX { None } else { rest.split_at_checked(length) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saved(keys: u8, self_signed: bool) -> Saved {
        let made = SelfSigned { certificate: vec![1; 300], key: Zeroizing::new(vec![2; 100]) };
        Saved {
            keys: (0..keys).map(|byte| Zeroizing::new([byte; KEY_BYTES])).collect(),
            self_signed: self_signed.then_some(made),
        }
    }

    #[test]
    fn what_was_encoded_is_decoded() {
        for (keys, self_signed) in [(0, false), (2, false), (0, true), (3, true)] {
            let saved = saved(keys, self_signed);
            let decoded = Saved::decode(&saved.encode()).unwrap();
            assert!(decoded.keys == saved.keys && decoded.self_signed == saved.self_signed);
        }
    }

    #[test]
    fn bytes_of_any_other_kind_are_refused_and_harm_nobody() {
        let bytes = saved(2, true).encode();
        // Without what was made here it is whole again.
        let whole = 2 + 2 * KEY_BYTES;
        for length in (0..bytes.len()).filter(|&length| length != whole) {
            assert!(Saved::decode(&bytes[..length]).is_err(), "{length}");
        }
        let changed = |at: usize, to: u8| {
            let mut bytes = bytes.to_vec();
            bytes[at] = to;
            Saved::decode(&bytes).err()
        };
        assert_eq!(changed(0, 2), Some("another version wrote it"));
        assert_eq!(changed(1, 4), Some("it has too many keys"));
        assert_eq!(changed(whole, 0xff), Some("it is shorter than it says"));
        assert_eq!(Saved::decode(&[&bytes[..], b"x"].concat()).err(), Some("it is longer than it says"));
    }
}
