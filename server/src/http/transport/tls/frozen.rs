//! A connection's records while nobody may seal: what goes from one process to the next, as a value and as bytes.
//!
//! [`Frozen`] is made by `Records::freeze` or read by [`Frozen::from_bytes`], and [`thaw`](Frozen::thaw) makes `Records` of
//! it; each consumes what it is made of. The encoding has a number: what this version does not know is an error, and so is
//! any byte that it would not have written.

use std::fmt;

use rustls::AlertDescription;

use super::keys::{Cipher, IV_BYTES, Material, Suite, Version};
use super::records::{Inbound, KEY_UPDATE, Outbound, Records, State};
use super::secret::Secret;

/// The number of the encoding, which is its first byte. The format by which connections move names it, too.
pub(crate) const ENCODING: u8 = 1;

/// No frozen connection is longer.
pub(crate) const FROZEN_BYTES_MAX: usize = HEAD_BYTES + 2 * (8 + IV_BYTES + 48);
const HEAD_BYTES: usize = 9;

const UPDATE_DUE: u8 = 1;
const REFUSAL_DUE: u8 = 2;

/// The records of a connection, frozen. It opens what is sent from now on to whoever reads it: see the rule of ownership.
pub(crate) struct Frozen {
    suite: Suite,
    receiving: Material,
    sending: Material,
    state: State,
}

/// Why bytes are no frozen connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unreadable(&'static str);

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the state of a TLS connection cannot be read: {}; the connection ends", self.0)
    }
}

impl std::error::Error for Unreadable {}

impl Records {
    /// Makes something of it that can go to another process and cannot seal.
    pub(crate) fn freeze(self) -> Frozen {
        let (suite, receiving, sending, state) = self.into_parts();
        Frozen { suite, receiving, sending, state }
    }
}

impl Frozen {
    /// The records again. Whoever calls this is the connection's only owner from now on.
    pub(crate) fn thaw(self) -> Records {
        Records::with_state(self.suite, self.receiving, self.sending, self.state)
    }

    /// Whether it is worth a move: both directions still run, or only the client has ended its own.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn is_open(&self) -> bool {
        self.state.outbound == Outbound::Open && self.state.inbound != Inbound::Failed
    }

    /// As bytes for another process, which must be the only one that reads them.
    pub(crate) fn into_bytes(self) -> Secret {
        // With all its room from the start: a vector that grows leaves copies behind.
        let mut bytes = Vec::with_capacity(FROZEN_BYTES_MAX);
        let State { inbound, outbound, update_due, refusal_due, partial, fruitless } = self.state;
        let flags = (u8::from(update_due) * UPDATE_DUE) | (u8::from(refusal_due) * REFUSAL_DUE);
        let (sending, alert) = match outbound {
            Outbound::Open => (0, 0),
            Outbound::Due(alert) => (1, u8::from(alert)),
            Outbound::Ended => (2, 0),
        };
        let receiving = match inbound {
            Inbound::Open => 0,
            Inbound::Ended => 1,
            Inbound::Failed => 2,
        };
        let (version, cipher) = codes(self.suite);
        let head: [u8; HEAD_BYTES] = [ENCODING, version, cipher, flags, receiving, sending, alert, partial, fruitless];
        bytes.extend(head);
        for material in [&self.receiving, &self.sending] {
            bytes.extend(material.sequence.to_be_bytes());
            if self.suite.version == Version::Tls12 {
                bytes.extend(material.iv);
            }
            bytes.extend_from_slice(material.root.expose());
        }
        Secret::from_vec(bytes)
    }

    /// Reads what [`into_bytes`](Frozen::into_bytes) has written, and nothing else.
    pub(crate) fn from_bytes(bytes: &Secret) -> Result<Frozen, Unreadable> {
        let bytes = bytes.expose();
        if bytes.first().is_some_and(|encoding| *encoding != ENCODING) {
            return Err(Unreadable("it is of an encoding that this version does not know"));
        }
        let (&head, mut rest) = bytes.split_first_chunk::<HEAD_BYTES>().ok_or(Unreadable("it is cut off"))?;
        let [_, version, cipher, ..] = head;
        let suites = [Version::Tls12, Version::Tls13].into_iter().flat_map(|version| {
            let ciphers = [Cipher::Aes128Gcm, Cipher::Aes256Gcm, Cipher::Chacha20Poly1305];
            ciphers.map(|cipher| Suite { version, cipher })
        });
        let suite = suites.into_iter().find(|suite| codes(*suite) == (version, cipher));
        let suite = suite.ok_or(Unreadable("its version or its cipher is unknown"))?;
        let state = state(suite.version, head).ok_or(Unreadable("its state does not exist"))?;
        let receiving = material(suite, &mut rest).ok_or(Unreadable("it is cut off"))?;
        let sending = material(suite, &mut rest).ok_or(Unreadable("it is cut off"))?;
        match rest {
            [] => Ok(Frozen { suite, receiving, sending, state }),
            _ => Err(Unreadable("something stands behind it")),
        }
    }
}

/// The numbers by which the encoding knows a suite.
fn codes(suite: Suite) -> (u8, u8) {
    let version = match suite.version {
        Version::Tls12 => 12,
        Version::Tls13 => 13,
    };
    let cipher = match suite.cipher {
        Cipher::Aes128Gcm => 1,
        Cipher::Aes256Gcm => 2,
        Cipher::Chacha20Poly1305 => 3,
    };
    (version, cipher)
}

fn state(version: Version, head: [u8; HEAD_BYTES]) -> Option<State> {
    let [_, _, _, flags, receiving, sending, alert, partial, fruitless] = head;
    let inbound = match receiving {
        0 => Inbound::Open,
        1 => Inbound::Ended,
        2 => Inbound::Failed,
        _ => return None,
    };
    let outbound = match (sending, alert) {
        (0, 0) => Outbound::Open,
        (1, alert) => Outbound::Due(AlertDescription::from(alert)),
        (2, 0) => Outbound::Ended,
        _ => return None,
    };
    let is_known = match version {
        Version::Tls12 => flags & !REFUSAL_DUE == 0 && partial == 0,
        Version::Tls13 => flags & !UPDATE_DUE == 0 && usize::from(partial) <= KEY_UPDATE.len(),
    };
    let (update_due, refusal_due) = (flags & UPDATE_DUE != 0, flags & REFUSAL_DUE != 0);
    is_known.then_some(State { inbound, outbound, update_due, refusal_due, partial, fruitless })
}

fn material(suite: Suite, bytes: &mut &[u8]) -> Option<Material> {
    let (sequence, rest) = bytes.split_first_chunk()?;
    let sequence = u64::from_be_bytes(*sequence);
    let (iv, rest) = match suite.version {
        Version::Tls12 => rest.split_first_chunk::<IV_BYTES>().map(|(iv, rest)| (Some(*iv), rest))?,
        Version::Tls13 => (None, rest),
    };
    let (root, rest) = rest.split_at_checked(suite.root_bytes())?;
    *bytes = rest;
    let root = Secret::copy_of(root);
    Some(match iv {
        Some(iv) => Material { root, iv, sequence },
        None => Material::of_secret(suite.cipher, root, sequence),
    })
}
