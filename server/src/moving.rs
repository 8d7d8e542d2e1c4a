//! A connection on its way between two generations: what travels with it, as bytes.
//!
//! A JSON object with what is known of the connection, and behind a NUL, which no JSON text holds, the bytes that were
//! read and belong to no finished request. Readers skip fields that they do not know. Pure.

use std::sync::LazyLock;

use restart_core::Formats;
use serde::{Deserialize, Serialize};

/// The formats in which connections move: a connection between two requests, as [`Luggage`] describes it.
pub(crate) fn formats() -> Formats {
    static FORMATS: LazyLock<Formats> = LazyLock::new(|| ["http/1"].into());
    FORMATS.clone()
}

/// What travels with a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Luggage {
    pub(crate) card: Card,
    pub(crate) read_ahead: Vec<u8>,
}

/// What is known of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Card {
    /// The listener that accepted it.
    pub(crate) listener: String,
    /// The other end's address.
    pub(crate) peer: Option<String>,
    /// How many requests have been answered on it.
    pub(crate) requests: u64,
    /// How long ago it was accepted, in milliseconds.
    pub(crate) age_ms: u64,
    /// How long it has been idle, or its head under way, in milliseconds.
    #[serde(default)]
    pub(crate) waited_ms: u64,
}

impl Luggage {
    pub(crate) fn pack(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec(&self.card).expect("a card is plain data");
        bytes.push(0);
        bytes.extend_from_slice(&self.read_ahead);
        bytes
    }

    pub(crate) fn unpack(bytes: &[u8]) -> Result<Luggage, String> {
        let end = bytes.iter().position(|&byte| byte == 0).ok_or("its description has no end")?;
        let card = serde_json::from_slice(&bytes[..end]).map_err(|error| error.to_string())?;
        Ok(Luggage { card, read_ahead: bytes[end + 1..].to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn luggage_arrives_as_it_was_packed(
            listener in ".{0,20}", peer in proptest::option::of(".{0,20}"), requests: u64, age_ms: u64, waited_ms: u64,
            read_ahead in proptest::collection::vec(any::<u8>(), 0..100),
        ) {
            let luggage = Luggage { card: Card { listener, peer, requests, age_ms, waited_ms }, read_ahead };
            prop_assert_eq!(Luggage::unpack(&luggage.pack()).unwrap(), luggage);
        }
    }
}
