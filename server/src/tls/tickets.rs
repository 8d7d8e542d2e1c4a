//! Session tickets: what lets a client come back without a whole handshake, also to the process after this one.
//!
//! A ticket is the client's session, sealed by a key that only the server has. The keys are part of the state that goes to
//! the next generation, and change with their age alone, never because of a reload: the newest seals for 12 hours, and
//! each opens for 24, so that a ticket is good for 12 at the least. rustls has tickets of its own, but does not give its
//! keys away. Keys have no text, and are wiped where they end, but for what `ring` makes of one for the time of a call.

use std::fmt;
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::server::ProducesTickets;
use zeroize::{Zeroize, Zeroizing};

use crate::lock::unpoisoned;

/// For how long a key seals.
pub(super) const SEALING_SECONDS: u64 = 12 * 60 * 60;

/// For how long a key opens what it has sealed.
pub(super) const OPENING_SECONDS: u64 = 24 * 60 * 60;

/// How many keys there are at most: the one that seals, and those before it that still open.
pub(super) const KEYS_MAX: usize = 3;

const NAME_BYTES: usize = 16;
const SECRET_BYTES: usize = 32;

/// What a key is in the state: its name, its secret, and when it was made.
pub(super) const KEY_BYTES: usize = NAME_BYTES + SECRET_BYTES + size_of::<u64>();

/// A longer one is no ticket of ours: a session is some hundred bytes, and has the client's certificate in no case.
const TICKET_BYTES_MAX: usize = 4096;

/// A key for tickets. Its name stands in each ticket that it has sealed.
#[derive(Clone)]
struct Key {
    name: [u8; NAME_BYTES],
    secret: Zeroizing<[u8; SECRET_BYTES]>,
    /// In seconds since 1970.
    made: u64,
}

/// Seals and opens tickets.
pub(super) struct Tickets {
    /// The newest is the last.
    keys: Mutex<Vec<Key>>,
    random: SystemRandom,
}

impl Tickets {
    /// Goes on with the keys of the generation before; those that are too old are left out.
    pub(super) fn new(saved: impl IntoIterator<Item = [u8; KEY_BYTES]>) -> Tickets {
        let mut keys: Vec<_> = saved.into_iter().map(Key::restore).collect();
        keys.sort_by_key(|key| key.made);
        Tickets { keys: Mutex::new(keys), random: SystemRandom::new() }
    }

    /// The keys that still open something, for the next generation.
    pub(super) fn save(&self) -> Vec<Zeroizing<[u8; KEY_BYTES]>> {
        let mut keys = unpoisoned(self.keys.lock());
        forget(&mut keys, now());
        keys.iter().map(Key::save).collect()
    }

    fn seal(&self, plain: &[u8], now: u64) -> Option<Vec<u8>> {
        let key = self.sealing(now)?;
        // A random one, as two processes seal by the same key for a while. At 10,000 handshakes a second it is the same
        // twice in the life of a key with a probability of 2^-37.
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).ok()?;
        let mut ticket = [&key.name[..], &nonce, plain].concat();
        let body = &mut ticket[NAME_BYTES + NONCE_LEN..];
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = key.aead()?.seal_in_place_separate_tag(nonce, Aad::from(key.name), body).ok()?;
        ticket.extend_from_slice(tag.as_ref());
        Some(ticket)
    }

    fn open(&self, ticket: &[u8], now: u64) -> Option<Vec<u8>> {
        if ticket.len() > TICKET_BYTES_MAX {
            return None;
        }
        let (name, rest) = ticket.split_first_chunk::<NAME_BYTES>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let key = {
            let mut keys = unpoisoned(self.keys.lock());
            forget(&mut keys, now);
            // The name is no secret: it stands in each ticket.
            keys.iter().find(|key| key.name == *name)?.clone()
        };
        let mut body = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let length = key.aead()?.open_in_place(nonce, Aad::from(*name), &mut body).ok()?.len();
        body.truncate(length);
        Some(body)
    }

    /// The key that seals now, made where the last one is too old.
    fn sealing(&self, now: u64) -> Option<Key> {
        let mut keys = unpoisoned(self.keys.lock());
        forget(&mut keys, now);
        if keys.last().is_none_or(|key| now - key.made >= SEALING_SECONDS) {
            keys.push(Key::generate(&self.random, now)?);
            let surplus = keys.len().saturating_sub(KEYS_MAX);
            keys.drain(..surplus);
        }
        keys.last().cloned()
    }
}

/// Forgets the keys that open no more. One from the future is of a clock that was wrong, and as old as this moment.
fn forget(keys: &mut Vec<Key>, now: u64) {
    for key in keys.iter_mut() {
        key.made = key.made.min(now);
    }
    keys.retain(|key| now - key.made < OPENING_SECONDS);
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        u32::try_from(OPENING_SECONDS - SEALING_SECONDS).expect("twelve hours are few seconds")
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.seal(plain, now())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.open(ticket, now())
    }
}

impl fmt::Debug for Tickets {
    /// How many keys there are, and none of them.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = unpoisoned(self.keys.lock()).len();
        formatter.debug_struct("Tickets").field("keys", &keys).finish_non_exhaustive()
    }
}

impl Key {
    fn generate(random: &SystemRandom, now: u64) -> Option<Key> {
        let mut key = Key { name: [0; NAME_BYTES], secret: Zeroizing::default(), made: now };
        random.fill(&mut key.name).ok()?;
        random.fill(&mut *key.secret).ok()?;
        Some(key)
    }

    fn save(&self) -> Zeroizing<[u8; KEY_BYTES]> {
        let mut saved = Zeroizing::new([0; KEY_BYTES]);
        let (name, rest) = saved.split_at_mut(NAME_BYTES);
        let (secret, made) = rest.split_at_mut(SECRET_BYTES);
        name.copy_from_slice(&self.name);
        secret.copy_from_slice(&*self.secret);
        made.copy_from_slice(&self.made.to_be_bytes());
        saved
    }

    fn restore(mut saved: [u8; KEY_BYTES]) -> Key {
        let mut key = Key { name: [0; NAME_BYTES], secret: Zeroizing::default(), made: 0 };
        let (name, rest) = saved.split_at(NAME_BYTES);
        let (secret, made) = rest.split_at(SECRET_BYTES);
        key.name.copy_from_slice(name);
        key.secret.copy_from_slice(secret);
        key.made = u64::from_be_bytes(made.try_into().expect("what is left has this length"));
        saved.zeroize();
        key
    }

    fn aead(&self) -> Option<LessSafeKey> {
        UnboundKey::new(&CHACHA20_POLY1305, &*self.secret).ok().map(LessSafeKey::new)
    }
}

/// In seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000;

    fn next_generation(tickets: &Tickets) -> Tickets {
        let keys = unpoisoned(tickets.keys.lock());
        Tickets::new(keys.iter().map(|key| *key.save()))
    }

    #[test]
    fn a_ticket_is_opened_by_the_generations_after_as_well() {
        let first = Tickets::new([]);
        let ticket = first.seal(b"a session", NOW).unwrap();
        assert!(!ticket.windows(9).any(|part| part == b"a session"), "it is sealed");
        let second = next_generation(&first);
        let third = next_generation(&second);
        for tickets in [&first, &second, &third] {
            assert_eq!(tickets.open(&ticket, NOW).as_deref(), Some(&b"a session"[..]));
        }
        assert_eq!(third.open(&second.seal(b"x", NOW).unwrap(), NOW).as_deref(), Some(&b"x"[..]), "no key was changed");
    }

    #[test]
    fn a_key_seals_for_twelve_hours_and_opens_for_twentyfour() {
        let tickets = Tickets::new([]);
        let name = |ticket: &[u8]| ticket[..NAME_BYTES].to_vec();
        let first = tickets.seal(b"1", NOW).unwrap();
        let last = tickets.seal(b"2", NOW + SEALING_SECONDS - 1).unwrap();
        let next = tickets.seal(b"3", NOW + SEALING_SECONDS).unwrap();
        assert!(name(&first) == name(&last) && name(&last) != name(&next));
        let lifetime = u64::from(tickets.lifetime());
        assert!(
            tickets.open(&last, NOW + SEALING_SECONDS - 1 + lifetime).is_some(),
            "for as long as the client is told"
        );
        assert!(tickets.open(&first, NOW + OPENING_SECONDS).is_none());
        assert!(tickets.open(&next, NOW + OPENING_SECONDS).is_some());
    }

    #[test]
    fn keys_are_few_and_age_whatever_the_clock_does() {
        let tickets = Tickets::new([]);
        for hour in 0..100 {
            tickets.seal(b"x", NOW + hour * 60 * 60).unwrap();
            assert!(unpoisoned(tickets.keys.lock()).len() <= KEYS_MAX);
        }
        // The clock is set back by a year: no key lasts for longer than it would have.
        let early = NOW - 365 * 24 * 60 * 60;
        let ticket = tickets.seal(b"x", early).unwrap();
        assert!(tickets.open(&ticket, early + 1).is_some());
        assert!(tickets.open(&ticket, early + OPENING_SECONDS).is_none());
    }

    #[test]
    fn what_was_not_sealed_here_is_not_opened() {
        let tickets = Tickets::new([]);
        let ticket = tickets.seal(b"a session", NOW).unwrap();
        for at in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[at] ^= 1;
            assert_eq!(tickets.open(&changed, NOW), None, "byte {at}");
            assert_eq!(tickets.open(&ticket[..at], NOW), None, "{at} bytes of it");
        }
        assert_eq!(Tickets::new([]).open(&ticket, NOW), None, "another server's");
        assert_eq!(tickets.open(&vec![0; TICKET_BYTES_MAX + 1], NOW), None);
    }

    #[test]
    fn no_secret_is_shown() {
        let tickets = Tickets::new([]);
        tickets.seal(b"x", NOW).unwrap();
        assert_eq!(format!("{tickets:?}"), "Tickets { keys: 1, .. }");
    }
}
