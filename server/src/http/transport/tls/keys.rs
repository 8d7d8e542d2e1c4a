//! The keys of one direction: from a traffic secret to sealed records and back (RFC 8446, 5 and 7; RFC 5288; RFC 7905).
//!
//! A record is sealed with the next sequence number, which is spent before anything can fail: no failure, however late,
//! leads to a second record with the same one. It stands alone because it is all that touches cryptography, which is
//! ring's; it knows neither which records are allowed when nor what they mean.

#[cfg(test)]
pub(super) mod ledger;
#[cfg(debug_assertions)]
mod noted;

use std::ops::Range;

use ring::{aead, hkdf};
use rustls::AlertDescription;

use super::failure::Failure;
use super::secret::Secret;

/// The most that a record carries.
pub(crate) const DATA_BYTES_MAX: usize = 16 * 1024;

/// A record's header: its kind, a version that says nothing any more, and the length of the rest.
pub(super) const HEADER_BYTES: usize = 5;

/// What a record is longer than its data, at most: header, explicit part of the nonce or the kind, tag.
pub(crate) const OVERHEAD_BYTES_MAX: usize = HEADER_BYTES + EXPLICIT_BYTES + TAG_BYTES;

const TAG_BYTES: usize = 16;
const EXPLICIT_BYTES: usize = 8;
pub(super) const IV_BYTES: usize = 12;

/// What a record may be longer on the wire than its data: in TLS 1.3 with padding, in TLS 1.2 with what a cipher may add.
const EXPANSION_BYTES_MAX_1_3: usize = 256;
const EXPANSION_BYTES_MAX_1_2: usize = 2048;

/// After so many records a key of AES-GCM is replaced (RFC 8446, 5.5: 2^24.5 records of full size).
const GCM_RECORDS_MAX: u64 = 1 << 24;
/// Where the other cipher's sequence numbers come to their end, with some left for a KeyUpdate and an alert.
const CHACHA_RECORDS_MAX: u64 = u64::MAX - (1 << 16);
/// How many records may follow on a key that is used up: a KeyUpdate, warnings, an alert.
const LAST_RECORDS_MAX: u64 = 64;

/// What a record holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    ChangeCipherSpec,
    Alert,
    Handshake,
    Data,
}

impl Kind {
    fn code(self) -> u8 {
        match self {
            Kind::ChangeCipherSpec => 20,
            Kind::Alert => 21,
            Kind::Handshake => 22,
            Kind::Data => 23,
        }
    }

    fn of(code: u8) -> Option<Kind> {
        [Kind::ChangeCipherSpec, Kind::Alert, Kind::Handshake, Kind::Data].into_iter().find(|kind| kind.code() == code)
    }
}

/// The version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    Tls12,
    Tls13,
}

/// What records are sealed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cipher {
    Aes128Gcm,
    Aes256Gcm,
    Chacha20Poly1305,
}

impl Cipher {
    pub(super) fn key_bytes(self) -> usize {
        self.algorithm().key_len()
    }

    /// The length of a traffic secret: what the suite's hash gives.
    pub(super) fn secret_bytes(self) -> usize {
        match self {
            Cipher::Aes256Gcm => 48,
            Cipher::Aes128Gcm | Cipher::Chacha20Poly1305 => 32,
        }
    }

    fn algorithm(self) -> &'static aead::Algorithm {
        match self {
            Cipher::Aes128Gcm => &aead::AES_128_GCM,
            Cipher::Aes256Gcm => &aead::AES_256_GCM,
            Cipher::Chacha20Poly1305 => &aead::CHACHA20_POLY1305,
        }
    }

    fn hkdf(self) -> hkdf::Algorithm {
        match self {
            Cipher::Aes256Gcm => hkdf::HKDF_SHA384,
            Cipher::Aes128Gcm | Cipher::Chacha20Poly1305 => hkdf::HKDF_SHA256,
        }
    }

    fn records_max(self) -> u64 {
        match self {
            Cipher::Aes128Gcm | Cipher::Aes256Gcm => GCM_RECORDS_MAX,
            Cipher::Chacha20Poly1305 => CHACHA_RECORDS_MAX,
        }
    }
}

/// The version and the cipher of a connection, which both directions share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Suite {
    pub(crate) version: Version,
    pub(crate) cipher: Cipher,
}

impl Suite {
    /// The length of what a direction's keys come from.
    pub(super) fn root_bytes(self) -> usize {
        match self.version {
            Version::Tls12 => self.cipher.key_bytes(),
            Version::Tls13 => self.cipher.secret_bytes(),
        }
    }

    /// How much of the nonce stands before the data of a record.
    fn explicit_bytes(self) -> usize {
        match (self.version, self.cipher) {
            (Version::Tls12, Cipher::Aes128Gcm | Cipher::Aes256Gcm) => EXPLICIT_BYTES,
            (Version::Tls12, Cipher::Chacha20Poly1305) | (Version::Tls13, _) => 0,
        }
    }

    /// How many bytes follow the data, within what is sealed: the kind, in TLS 1.3.
    fn inner_bytes(self) -> usize {
        usize::from(self.version == Version::Tls13)
    }

    /// What a record of this suite is longer than its data.
    pub(super) fn overhead_bytes(self) -> usize {
        HEADER_BYTES + self.explicit_bytes() + self.inner_bytes() + TAG_BYTES
    }

    /// The length of the record that begins so, its header included, or why no record does.
    pub(super) fn record_bytes(self, header: [u8; HEADER_BYTES]) -> Result<usize, Failure> {
        let [kind, major, minor, high, low] = header;
        let length = usize::from(u16::from_be_bytes([high, low]));
        let expansion = match self.version {
            Version::Tls12 => EXPANSION_BYTES_MAX_1_2,
            Version::Tls13 => EXPANSION_BYTES_MAX_1_3,
        };
        match (self.version, Kind::of(kind)) {
            (_, None) => Err(Failure::told(AlertDescription::UnexpectedMessage, "a record of no known kind")),
            (Version::Tls13, Some(Kind::ChangeCipherSpec | Kind::Alert | Kind::Handshake)) => {
                Err(Failure::told(AlertDescription::UnexpectedMessage, "a record that is not protected"))
            }
            (Version::Tls12, _) if [major, minor] != [3, 3] => {
                Err(Failure::told(AlertDescription::ProtocolVersion, "a record of another version"))
            }
            _ if length > DATA_BYTES_MAX + expansion => {
                Err(Failure::told(AlertDescription::RecordOverflow, "a record that is too long"))
            }
            _ if HEADER_BYTES + length < self.overhead_bytes() => {
                Err(Failure::told(AlertDescription::BadRecordMac, "a record that is too short to be sealed"))
            }
            _ => Ok(HEADER_BYTES + length),
        }
    }
}

/// What a direction's key is made of, and how far its records have come: all of it that travels.
pub(super) struct Material {
    /// TLS 1.3: the traffic secret. TLS 1.2: the key.
    pub(super) root: Secret,
    /// TLS 1.2: the IV, which comes with the key. TLS 1.3: what follows from the secret.
    pub(super) iv: [u8; IV_BYTES],
    /// The sequence number of the next record.
    pub(super) sequence: u64,
}

impl Material {
    /// Of TLS 1.3: from a traffic secret.
    pub(super) fn of_secret(cipher: Cipher, secret: Secret, sequence: u64) -> Material {
        let mut iv = [0; IV_BYTES];
        expand_label(cipher, &secret, b"iv", &mut iv);
        Material { root: secret, iv, sequence }
    }

    /// Whether this is what somebody else's key and IV come from.
    pub(super) fn agrees(&self, suite: Suite, key: &[u8], iv: &[u8]) -> bool {
        self.key(suite).expose() == key && self.iv == iv
    }

    fn key(&self, suite: Suite) -> Secret {
        match suite.version {
            Version::Tls12 => Secret::copy_of(self.root.expose()),
            Version::Tls13 => {
                let mut key = Secret::zeros(suite.cipher.key_bytes());
                expand_label(suite.cipher, &self.root, b"key", key.expose_mut());
                key
            }
        }
    }
}

/// HKDF-Expand-Label without a context (RFC 8446, 7.1).
fn expand_label(cipher: Cipher, secret: &Secret, label: &[u8], out: &mut [u8]) {
    struct Length(usize);
    impl hkdf::KeyType for Length {
        fn len(&self) -> usize {
            self.0
        }
    }
    let length = u16::try_from(out.len()).expect("a key or a secret is short").to_be_bytes();
    let label_length = u8::try_from(b"tls13 ".len() + label.len()).expect("a label is short");
    let info: [&[u8]; 5] = [&length, &[label_length], b"tls13 ", label, &[0]];
    let secret = hkdf::Prk::new_less_safe(cipher.hkdf(), secret.expose());
    let expanded = secret.expand(&info, Length(out.len())).and_then(|expanded| expanded.fill(out));
    expanded.expect("HKDF gives 255 hashes, and a key is shorter than one");
}

/// One direction of a connection, ready to seal or to open.
pub(super) struct Direction {
    suite: Suite,
    material: Material,
    /// What is made of it for the work itself: half a kilobyte, which is there from the first record on until the
    /// direction [rests](Direction::rest).
    key: Option<Box<aead::LessSafeKey>>,
    /// At this sequence number the key is used up. Tests have it lower.
    limit: u64,
}

impl Direction {
    pub(super) fn new(suite: Suite, material: Material) -> Direction {
        Direction { suite, material, key: None, limit: suite.cipher.records_max() }
    }

    /// Gives back the memory that only a next record needs, which takes a microsecond longer then.
    pub(super) fn rest(&mut self) {
        self.key = None;
    }

    fn key(&mut self) -> &aead::LessSafeKey {
        let Direction { suite, material, key, .. } = self;
        key.get_or_insert_with(|| {
            let key = aead::UnboundKey::new(suite.cipher.algorithm(), material.key(*suite).expose());
            Box::new(aead::LessSafeKey::new(key.expect("a key has its cipher's length, checked where it came from")))
        })
    }

    /// What it was made of, as far as it has come.
    pub(super) fn into_material(self) -> Material {
        self.material
    }

    /// Whether no more data may be sealed with this key.
    pub(super) fn is_used_up(&self) -> bool {
        self.material.sequence >= self.limit
    }

    /// Goes on with the next secret (RFC 8446, 7.2).
    pub(super) fn update(&mut self) {
        let cipher = self.suite.cipher;
        let mut next = Secret::zeros(cipher.secret_bytes());
        expand_label(cipher, &self.material.root, b"traffic upd", next.expose_mut());
        let limit = self.limit;
        *self = Direction { limit, ..Direction::new(self.suite, Material::of_secret(cipher, next, 0)) };
    }

    /// Seals the two pieces of data as one record at the front of `out`, which has room for it. Returns its length.
    pub(super) fn seal(&mut self, kind: Kind, data: [&[u8]; 2], out: &mut [u8]) -> Result<usize, Failure> {
        let sequence = self.spend()?;
        let [first, second] = data;
        let (data_bytes, explicit) = (first.len() + second.len(), self.suite.explicit_bytes());
        let record = &mut out[..self.suite.overhead_bytes() + data_bytes];
        let length = length_bytes(record.len() - HEADER_BYTES);
        let wire_kind = if self.suite.version == Version::Tls13 { Kind::Data } else { kind };
        let header = [wire_kind.code(), 3, 3, length[0], length[1]];
        let nonce = self.nonce(sequence);
        record[..HEADER_BYTES].copy_from_slice(&header);
        let (before, tag) = record.split_at_mut(HEADER_BYTES + explicit + data_bytes + self.suite.inner_bytes());
        let (before, content) = before.split_at_mut(HEADER_BYTES + explicit);
        before[HEADER_BYTES..].copy_from_slice(&nonce[IV_BYTES - explicit..]);
        content[..first.len()].copy_from_slice(first);
        content[first.len()..data_bytes].copy_from_slice(second);
        if let Some(inner) = content.get_mut(data_bytes) {
            *inner = kind.code();
        }
        let nonce = aead::Nonce::assume_unique_for_key(nonce);
        let sealed = match self.suite.version {
            Version::Tls13 => self.key().seal_in_place_separate_tag(nonce, aead::Aad::from(header), content),
            Version::Tls12 => {
                let about = about_1_2(sequence, kind.code(), data_bytes);
                self.key().seal_in_place_separate_tag(nonce, aead::Aad::from(about), content)
            }
        };
        let sealed =
            sealed.map_err(|_| Failure::told(AlertDescription::InternalError, "a record could not be sealed"))?;
        tag.copy_from_slice(sealed.as_ref());
        Ok(record.len())
    }

    /// Opens one whole record in place. Returns its kind, and where its content lies in it.
    pub(super) fn open(&mut self, record: &mut [u8]) -> Result<(Kind, Range<usize>), Failure> {
        let (header, sealed) = record.split_first_chunk_mut::<HEADER_BYTES>().expect("a whole record has a header");
        let (explicit, sealed) = sealed.split_at_mut(self.suite.explicit_bytes());
        // Whatever comes of it, this record had its turn.
        let sequence = self.material.sequence;
        self.material.sequence = sequence.checked_add(1).ok_or_else(|| {
            Failure::told(AlertDescription::InternalError, "no sequence number is left to receive with")
        })?;
        let mut nonce = self.nonce(sequence);
        nonce[IV_BYTES - explicit.len()..].copy_from_slice(explicit);
        let nonce = aead::Nonce::assume_unique_for_key(nonce);
        let opened = match self.suite.version {
            Version::Tls13 => self.key().open_in_place(nonce, aead::Aad::from(*header), sealed),
            Version::Tls12 => {
                let about = about_1_2(sequence, header[0], sealed.len() - TAG_BYTES);
                self.key().open_in_place(nonce, aead::Aad::from(about), sealed)
            }
        };
        let opened =
            opened.map_err(|_| Failure::told(AlertDescription::BadRecordMac, "a record that does not decrypt"))?;
        let (kind, length) = self.content(header[0], opened)?;
        let start = HEADER_BYTES + self.suite.explicit_bytes();
        Ok((kind, start..start + length))
    }

    /// The kind of an opened record and the length of its content, without padding. Padding counts in the bound.
    fn content(&self, wire_kind: u8, opened: &[u8]) -> Result<(Kind, usize), Failure> {
        if opened.len() > DATA_BYTES_MAX + self.suite.inner_bytes() {
            return Err(Failure::told(AlertDescription::RecordOverflow, "a record with too much in it"));
        }
        let (code, length) = match self.suite.version {
            Version::Tls12 => (wire_kind, opened.len()),
            Version::Tls13 => match opened.iter().rposition(|byte| *byte != 0) {
                Some(end) => (opened[end], end),
                None => {
                    return Err(Failure::told(AlertDescription::UnexpectedMessage, "a record of nothing but padding"));
                }
            },
        };
        let kind = Kind::of(code);
        Ok((
            kind.ok_or_else(|| Failure::told(AlertDescription::UnexpectedMessage, "a record of no known kind"))?,
            length,
        ))
    }

    /// Takes the next sequence number, for one record only.
    fn spend(&mut self) -> Result<u64, Failure> {
        let sequence = self.material.sequence;
        if sequence >= self.suite.cipher.records_max() + LAST_RECORDS_MAX {
            return Err(Failure::told(AlertDescription::InternalError, "the key is used up"));
        }
        self.material.sequence = sequence + 1;
        #[cfg(test)]
        ledger::sealed(&self.material, sequence);
        #[cfg(debug_assertions)]
        noted::sealed(self.material.root.expose(), &self.material.iv, sequence);
        Ok(sequence)
    }

    fn nonce(&self, sequence: u64) -> [u8; IV_BYTES] {
        let mut nonce = self.material.iv;
        for (byte, of_sequence) in nonce[IV_BYTES - 8..].iter_mut().zip(sequence.to_be_bytes()) {
            *byte ^= of_sequence;
        }
        nonce
    }
}

/// What only a test may do: it would use a number twice, show a secret, or seal what nobody may send.
#[cfg(any(test, fuzzing))]
impl Direction {
    #[cfg(test)]
    pub(super) fn limit_to(&mut self, limit: u64) {
        self.limit = limit;
    }

    #[cfg(test)]
    pub(super) fn skip_to(&mut self, sequence: u64) {
        self.material.sequence = sequence;
    }

    #[cfg(test)]
    pub(super) fn secrets(&self) -> [Vec<u8>; 3] {
        let key = self.material.key(self.suite).expose().to_vec();
        [self.material.root.expose().to_vec(), key, self.material.iv.to_vec()]
    }

    /// Seals what stands within a record of TLS 1.3, whatever its last byte is.
    pub(super) fn seal_inner(&mut self, inner: &[u8]) -> Vec<u8> {
        let sequence = self.spend().expect("a number");
        let length = length_bytes(inner.len() + TAG_BYTES);
        let header = [Kind::Data.code(), 3, 3, length[0], length[1]];
        let (mut sealed, nonce) = (inner.to_vec(), aead::Nonce::assume_unique_for_key(self.nonce(sequence)));
        self.key().seal_in_place_append_tag(nonce, aead::Aad::from(header), &mut sealed).expect("sealed");
        [&header[..], &sealed].concat()
    }
}

fn length_bytes(length: usize) -> [u8; 2] {
    u16::try_from(length).expect("a record is never longer than its bound").to_be_bytes()
}

/// What TLS 1.2 authenticates beside a record's data.
fn about_1_2(sequence: u64, kind: u8, data_bytes: usize) -> [u8; 13] {
    let mut about = [0; 13];
    about[..8].copy_from_slice(&sequence.to_be_bytes());
    about[8..11].copy_from_slice(&[kind, 3, 3]);
    about[11..].copy_from_slice(&length_bytes(data_bytes));
    about
}
