//! The handshake: rustls, fed one record at a time, up to the client's Finished and not a byte further.
//!
//! [`Handshake::feed`] takes it from state to state; at the end rustls gives up its secrets and is gone, and what follows
//! belongs to `Records`. It does no I/O and knows no time: whoever drives it has a deadline for the whole.

use std::fmt;
use std::sync::Arc;

use rustls::{ConnectionTrafficSecrets, HandshakeKind, ProtocolVersion, ServerConfig, ServerConnection};

use super::key_log::{Collector, Secrets};
use super::keys::{Cipher, HEADER_BYTES, IV_BYTES, Material, Suite, Version};
use super::records::Records;
use super::secret::Secret;

/// The most that a client may send before the handshake is done: a long chain of its own certificates fits.
const HANDSHAKE_BYTES_MAX: usize = 256 * 1024;

/// The first byte of a client that speaks TLS: a record of the handshake.
const HANDSHAKE_RECORD: u8 = 22;
/// What anybody else is told: a fatal alert, unexpected_message, in a record that is not protected.
const UNEXPECTED_MESSAGE: [u8; 7] = [21, 3, 3, 0, 2, 2, 10];

/// A handshake under way.
pub(crate) struct Handshake {
    connection: Box<ServerConnection>,
    secrets: Arc<Collector>,
    record: Cut,
    /// How many bytes have come.
    received: usize,
}

/// How a handshake stands.
#[derive(Debug)]
pub(crate) enum Progress {
    /// The client has the next word.
    Waits(Handshake),
    /// The client does not speak TLS but, to all appearances, HTTP. Nothing was taken of what it sent.
    PlainHttp,
    /// It failed. What the client is told of it was put out.
    Failed(Refusal),
    /// It is done.
    Done(Box<Established>),
}

/// A connection after its handshake.
#[derive(Debug)]
pub(crate) struct Established {
    pub(crate) records: Records,
    /// The protocol that was agreed on.
    pub(crate) alpn: Option<Vec<u8>>,
    /// The name that the client asked for.
    pub(crate) server_name: Option<String>,
    /// The suite by rustls's name for it, as `TLS13_AES_128_GCM_SHA256`.
    pub(crate) suite_name: Option<&'static str>,
    /// Whether an earlier session was resumed.
    pub(crate) resumed: bool,
}

/// Why a handshake failed.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// By the protocol, or by the client's own decision.
    Protocol(rustls::Error),
    /// The client speaks neither TLS nor HTTP.
    NoTls,
    /// The client sent more than any handshake takes.
    TooLong,
    /// The keys are not to be had, or not those that rustls uses. That is a fault of this program.
    Keys(&'static str),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Protocol(error) => write!(f, "the TLS handshake failed: {error}"),
            Refusal::NoTls => f.write_str("the TLS handshake failed: the client does not speak TLS"),
            Refusal::TooLong => {
                write!(f, "the TLS handshake failed: the client sent more than {HANDSHAKE_BYTES_MAX} bytes")
            }
            Refusal::Keys(reason) => write!(f, "the TLS handshake succeeded, and its keys cannot be used: {reason}"),
        }
    }
}

/// The text says the cause, so that there is no source that would say it again.
impl std::error::Error for Refusal {}

impl From<rustls::Error> for Refusal {
    fn from(error: rustls::Error) -> Refusal {
        Refusal::Protocol(error)
    }
}

impl Handshake {
    /// Begins a handshake with a client of which nothing was heard yet. It fails only for what the configuration says.
    ///
    /// Whatever the configuration says of them, there is no early data, which a client could have sent twice, and the
    /// secrets can be had.
    pub(crate) fn new(config: &ServerConfig) -> Result<Handshake, rustls::Error> {
        let secrets = Arc::new(Collector::before(Arc::clone(&config.key_log)));
        let mut config = config.clone();
        config.key_log = Arc::<Collector>::clone(&secrets);
        config.enable_secret_extraction = true;
        config.max_early_data_size = 0;
        config.send_half_rtt_data = false;
        let connection = Box::new(ServerConnection::new(Arc::new(config))?);
        Ok(Handshake { connection, secrets, record: Cut::default(), received: 0 })
    }

    /// Takes what was received, and appends to `out` what has to be sent, whatever comes of it. Returns how many bytes were
    /// taken: all of them, unless it is over; then the rest are the first of what the connection's records are.
    pub(crate) fn feed(mut self, received: &[u8], out: &mut Vec<u8>) -> (usize, Progress) {
        if let (0, Some(&first)) = (self.received, received.first())
            && first != HANDSHAKE_RECORD
        {
            if first.is_ascii_alphabetic() {
                return (0, Progress::PlainHttp);
            }
            out.extend(UNEXPECTED_MESSAGE);
            return (0, Progress::Failed(Refusal::NoTls));
        }
        let mut used = 0;
        while used < received.len() && self.connection.is_handshaking() {
            let piece = self.record.next(&received[used..]);
            used += piece.len();
            self.received += piece.len();
            if let Err(refusal) = self.take(piece, out) {
                return (used, Progress::Failed(refusal));
            }
        }
        if self.connection.is_handshaking() {
            return (used, Progress::Waits(self));
        }
        (used, self.establish().map_or_else(Progress::Failed, |established| Progress::Done(Box::new(established))))
    }

    /// Gives rustls a piece of one record, and puts out what it says to that.
    fn take(&mut self, mut piece: &[u8], out: &mut Vec<u8>) -> Result<(), Refusal> {
        let mut outcome = if self.received > HANDSHAKE_BYTES_MAX { Err(Refusal::TooLong) } else { Ok(()) };
        while outcome.is_ok() && !piece.is_empty() {
            // It reads from memory, and fails only where a message is longer than rustls takes.
            outcome = match self.connection.read_tls(&mut piece) {
                Ok(_) => self.connection.process_new_packets().map(drop).map_err(Refusal::from),
                Err(_) => Err(Refusal::TooLong),
            };
        }
        while self.connection.wants_write() {
            self.connection.write_tls(out).expect("a vector takes all that is written to it");
        }
        outcome
    }

    /// Takes the connection over from rustls.
    fn establish(self) -> Result<Established, Refusal> {
        let Handshake { connection, secrets, .. } = self;
        let version = match connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => Version::Tls12,
            Some(ProtocolVersion::TLSv1_3) => Version::Tls13,
            _ => return Err(Refusal::Keys("the version is unknown")),
        };
        let alpn = connection.alpn_protocol().map(<[u8]>::to_vec);
        let server_name = connection.server_name().map(str::to_owned);
        let suite_name = connection.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str());
        let resumed = connection.handshake_kind() == Some(HandshakeKind::Resumed);
        let extracted = connection.dangerous_extract_secrets()?;
        let Secrets { client, server } = secrets.take();
        let (suite, receiving) = material(version, client, extracted.rx)?;
        let (_, sending) = material(version, server, extracted.tx)?;
        Ok(Established { records: Records::new(suite, receiving, sending), alpn, server_name, suite_name, resumed })
    }
}

impl fmt::Debug for Handshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handshake").field("received", &self.received).finish_non_exhaustive()
    }
}

/// What one direction's keys are made of: of TLS 1.2 what rustls extracts, of TLS 1.3 the secret from the key log, which
/// must lead to the same.
fn material(
    version: Version,
    secret: Option<Secret>,
    (sequence, extracted): (u64, ConnectionTrafficSecrets),
) -> Result<(Suite, Material), Refusal> {
    let (cipher, key, iv) = match extracted {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (Cipher::Aes128Gcm, key, iv),
        ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (Cipher::Aes256Gcm, key, iv),
        ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (Cipher::Chacha20Poly1305, key, iv),
        _ => return Err(Refusal::Keys("the cipher is unknown")),
    };
    let suite = Suite { version, cipher };
    let iv: [u8; IV_BYTES] = iv.as_ref().try_into().map_err(|_| Refusal::Keys("the IV has another length"))?;
    let root = match version {
        Version::Tls12 => Secret::copy_of(key.as_ref()),
        Version::Tls13 => secret.ok_or(Refusal::Keys("the key log had no secret"))?,
    };
    if root.expose().len() != suite.root_bytes() {
        return Err(Refusal::Keys("the key or the secret has another length"));
    }
    let material = match version {
        Version::Tls12 => Material { root, iv, sequence },
        Version::Tls13 => Material::of_secret(cipher, root, sequence),
    };
    if !material.agrees(suite, key.as_ref(), &iv) {
        return Err(Refusal::Keys("what follows from the secret is not what rustls uses"));
    }
    Ok((suite, material))
}

/// Where a stream of bytes has to be cut so that no piece spans two records.
#[derive(Debug, Default)]
struct Cut {
    header: [u8; HEADER_BYTES],
    /// How much of the header has come.
    have: usize,
    /// How much of the record is to come behind the header.
    left: usize,
}

impl Cut {
    /// The part of `bytes` that belongs to the present record's header or, after it, to the rest of it.
    fn next<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let missing = HEADER_BYTES - self.have;
        if missing > 0 {
            let piece = &bytes[..missing.min(bytes.len())];
            self.header[self.have..self.have + piece.len()].copy_from_slice(piece);
            self.have += piece.len();
            if self.have == HEADER_BYTES {
                self.left = usize::from(u16::from_be_bytes([self.header[3], self.header[4]]));
                self.begin_anew_at_the_end();
            }
            return piece;
        }
        let piece = &bytes[..self.left.min(bytes.len())];
        self.left -= piece.len();
        self.begin_anew_at_the_end();
        piece
    }

    fn begin_anew_at_the_end(&mut self) {
        if self.left == 0 {
            self.have = 0;
        }
    }
}
