//! Both ends of a connection in memory: ours, and a client that is rustls's or made by hand.

use std::io::{Read, Write};
use std::sync::{Arc, OnceLock};

use rcgen::{CertifiedKey, KeyPair};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, SupportedCipherSuite};

use super::super::failure::Failure;
use super::super::frozen::Frozen;
use super::super::handshake::{Established, Handshake, Progress};
use super::super::keys::{Cipher, Direction, Kind, Material, Suite, Version};
use super::super::records::{Opened, ROOM_BYTES_MIN, Records};
use super::super::secret::Secret;

const CIPHERS: [Cipher; 3] = [Cipher::Aes128Gcm, Cipher::Aes256Gcm, Cipher::Chacha20Poly1305];

/// Every version with every cipher.
pub(super) fn suites() -> impl Iterator<Item = Suite> {
    [Version::Tls12, Version::Tls13].into_iter().flat_map(|version| CIPHERS.map(|cipher| Suite { version, cipher }))
}

pub(super) fn suites_1_3() -> impl Iterator<Item = Suite> {
    suites().filter(|suite| suite.version == Version::Tls13)
}

pub(super) const AES_1_3: Suite = Suite { version: Version::Tls13, cipher: Cipher::Aes128Gcm };
pub(super) const AES_1_2: Suite = Suite { version: Version::Tls12, cipher: Cipher::Aes128Gcm };

fn certified() -> &'static CertifiedKey<KeyPair> {
    static CERTIFIED: OnceLock<CertifiedKey<KeyPair>> = OnceLock::new();
    CERTIFIED.get_or_init(|| rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate"))
}

/// rustls's suite of a name such as `TLS13_AES_128_GCM_SHA256`.
fn provider(suite: Option<Suite>) -> Arc<CryptoProvider> {
    let mut provider = ring::default_provider();
    if let Some(suite) = suite {
        provider.cipher_suites.retain(|offered| is(*offered, suite));
    }
    Arc::new(provider)
}

fn is(offered: SupportedCipherSuite, suite: Suite) -> bool {
    let name = format!("{:?}", offered.suite());
    let cipher = match suite.cipher {
        Cipher::Aes128Gcm => "AES_128_GCM",
        Cipher::Aes256Gcm => "AES_256_GCM",
        Cipher::Chacha20Poly1305 => "CHACHA20",
    };
    offered.tls13().is_some() == (suite.version == Version::Tls13) && name.contains(cipher)
}

/// What a server has that offers one suite, or all of them.
pub(super) fn server_config(suite: Option<Suite>) -> ServerConfig {
    let key = PrivateKeyDer::Pkcs8(certified().signing_key.serialize_der().into());
    let builder = ServerConfig::builder_with_provider(provider(suite));
    let builder = builder.with_safe_default_protocol_versions().or_else(|_| {
        let version = if suite.is_some_and(|suite| suite.version == Version::Tls12) {
            &rustls::version::TLS12
        } else {
            &rustls::version::TLS13
        };
        ServerConfig::builder_with_provider(provider(suite)).with_protocol_versions(&[version])
    });
    let builder = builder.expect("the suite fits the version").with_no_client_auth();
    let mut config = builder.with_single_cert(vec![certified().cert.der().clone()], key).expect("its key");
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

pub(super) fn client_config() -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(certified().cert.der().clone()).expect("a root");
    let builder = ClientConfig::builder_with_provider(provider(None)).with_safe_default_protocol_versions();
    let mut config = builder.expect("all versions").with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

pub(super) fn client(config: ClientConfig) -> ClientConnection {
    let name = ServerName::try_from("localhost").expect("a name");
    ClientConnection::new(Arc::new(config), name).expect("a client")
}

/// Everything that a client has to send.
pub(super) fn written(client: &mut ClientConnection) -> Vec<u8> {
    let mut wire = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut wire).expect("memory");
    }
    wire
}

/// Gives a client what was sent to it. Returns the data.
pub(super) fn read(client: &mut ClientConnection, mut wire: &[u8]) -> Vec<u8> {
    let mut data = Vec::new();
    while !wire.is_empty() {
        let before = wire.len();
        client.read_tls(&mut wire).expect("memory");
        client.process_new_packets().expect("what rustls takes");
        // At the end of what is there it would block.
        let _ = client.reader().read_to_end(&mut data);
        assert!(wire.len() < before || client.process_new_packets().is_ok_and(|state| state.peer_has_closed()));
        if wire.len() == before {
            break;
        }
    }
    data
}

/// Shakes hands in pieces of so many bytes. Returns our end and what the client had sent behind its Finished.
pub(super) fn shake_hands(
    config: &ServerConfig,
    client: &mut ClientConnection,
    piece: usize,
) -> (Established, Vec<u8>) {
    let mut handshake = Handshake::new(config).expect("a configuration");
    let mut to_client = Vec::new();
    for _ in 0..8 {
        let wire = written(client);
        let mut rest = &wire[..];
        while !rest.is_empty() {
            let (used, progress) = handshake.feed(&rest[..piece.min(rest.len())], &mut to_client);
            rest = &rest[used..];
            handshake = match progress {
                Progress::Waits(handshake) => handshake,
                Progress::Done(established) => {
                    read(client, &to_client);
                    return (*established, rest.to_vec());
                }
                other => panic!("{other:?}"),
            };
        }
        read(client, &std::mem::take(&mut to_client));
    }
    panic!("the handshake has no end");
}

/// A server's end of a connection, with the buffers that a transport has.
pub(super) struct Server {
    records: Option<Records>,
    pub(super) raw: Vec<u8>,
    pub(super) data: Vec<u8>,
    pub(super) out: Vec<u8>,
}

impl Server {
    pub(super) fn new(records: Records) -> Server {
        Server { records: Some(records), raw: Vec::new(), data: Vec::new(), out: Vec::new() }
    }

    pub(super) fn records(&mut self) -> &mut Records {
        self.records.as_mut().expect("records that are not on their way")
    }

    /// Takes in bytes and opens all the records that are there.
    pub(super) fn receive(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.raw.extend_from_slice(bytes);
        loop {
            let records = self.records.as_mut().expect("records");
            match records.open(&mut self.raw)? {
                Opened::Partial => return Ok(()),
                Opened::Record { used, data } => {
                    self.data.extend_from_slice(&self.raw[data]);
                    self.raw.drain(..used);
                }
                Opened::Ended => {
                    self.raw.clear();
                    return Ok(());
                }
            }
        }
    }

    /// Seals all of it, through a room of so many bytes.
    pub(super) fn send(&mut self, data: &[u8], room: usize) -> Result<(), Failure> {
        let mut rest = data;
        let mut room = vec![0; room.max(ROOM_BYTES_MIN)];
        loop {
            let (first, second) = rest.split_at(rest.len() / 3);
            let sealed = self.records().seal([first, second], &mut room)?;
            self.out.extend_from_slice(&room[..sealed.written]);
            rest = &rest[sealed.taken..];
            if rest.is_empty() {
                return Ok(());
            }
            assert!(sealed.written > 0, "a room of {} bytes is enough for something", room.len());
        }
    }

    pub(super) fn into_records(self) -> Records {
        self.records.expect("records that are not on their way")
    }

    /// What it has to send.
    pub(super) fn sent(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    /// Goes to another process and goes on there, as bytes.
    pub(super) fn moves(&mut self) {
        let frozen = self.records.take().expect("records").freeze();
        let is_open = frozen.is_open();
        let frozen = Frozen::from_bytes(&frozen.into_bytes()).expect("it was written here");
        assert_eq!(frozen.is_open(), is_open);
        self.records = Some(frozen.thaw());
    }
}

/// A client made by hand, which seals whatever a test wants.
pub(super) struct Hand {
    pub(super) suite: Suite,
    pub(super) sending: Direction,
    pub(super) receiving: Direction,
}

impl Hand {
    /// A record of this kind with this content.
    pub(super) fn seal(&mut self, kind: Kind, content: &[u8]) -> Vec<u8> {
        let mut record = vec![0; self.suite.overhead_bytes() + content.len()];
        let length = self.sending.seal(kind, [content, &[]], &mut record).expect("a record");
        assert_eq!(length, record.len());
        record
    }

    /// Opens all records that were sent, each with its kind.
    pub(super) fn open(&mut self, wire: &[u8]) -> Vec<(Kind, Vec<u8>)> {
        let (mut wire, mut at, mut opened) = (wire.to_vec(), 0, Vec::new());
        while at < wire.len() {
            let header = *wire[at..].first_chunk().expect("a header");
            let end = at + self.suite.record_bytes(header).expect("a record");
            let record = &mut wire[at..end];
            let (kind, content) = self.receiving.open(record).expect("a record of ours");
            opened.push((kind, record[content].to_vec()));
            if kind == Kind::Handshake {
                self.receiving.update();
            }
            at = end;
        }
        opened
    }
}

/// Both ends of a connection whose keys nobody else has.
pub(super) fn by_hand(suite: Suite) -> (Server, Hand) {
    let root = || Secret::copy_of(&random(suite.root_bytes()));
    let material = |root: &Secret| match suite.version {
        Version::Tls12 => Material { root: Secret::copy_of(root.expose()), iv: [7; 12], sequence: 1 },
        Version::Tls13 => Material::of_secret(suite.cipher, Secret::copy_of(root.expose()), 0),
    };
    let (to_server, to_client) = (root(), root());
    let server = Server::new(Records::new(suite, material(&to_server), material(&to_client)));
    let direction = |root: &Secret| Direction::new(suite, material(root));
    (server, Hand { suite, sending: direction(&to_server), receiving: direction(&to_client) })
}

/// Random bytes, so that no two tests share a key.
fn random(length: usize) -> Vec<u8> {
    std::iter::repeat_with(|| fastrand::u8(..)).take(length).collect()
}

/// Has a client write all of this, as far as rustls takes it at once.
pub(super) fn write(client: &mut ClientConnection, data: &[u8]) -> Vec<u8> {
    let mut wire = Vec::new();
    let mut rest = data;
    while !rest.is_empty() {
        let taken = client.writer().write(rest).expect("memory");
        rest = &rest[taken..];
        wire.extend(written(client));
    }
    wire
}

/// So many bytes, of which no piece looks like another one.
pub(super) fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(|| random.u8(..)).take(length).collect()
}
