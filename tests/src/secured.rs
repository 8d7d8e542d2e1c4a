//! Clients that speak TLS, for what is counted and measured: blocking, with rustls, and with one suite, so that every
//! server is asked for the same work.
//!
//! The load tool sees each byte of many clients at once and speaks plain HTTP; here one client at a time has its turn. A
//! client that gets something else than an answer says so by an error.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConnection, HandshakeKind, RootCertStore, StreamOwned};

use crate::certificates::Certificate;
use crate::{DEADLINE, Reborn, Server};

/// The suite that is spoken, as OpenSSL names it too.
pub const SUITE: &str = "TLS_AES_128_GCM_SHA256";

/// The name that servers are asked for.
pub const NAME: &str = "localhost";

/// The largest head of an answer.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Puts a certificate and its key into a folder, for a server to speak TLS with. Returns where they are.
#[must_use]
pub fn write_certificate(folder: &Path) -> [PathBuf; 2] {
    let certificate = Certificate::new(&[NAME]);
    let paths = ["site.pem", "site.key"].map(|name| folder.join(name));
    for (path, text) in paths.iter().zip([certificate.pem(), certificate.key_pem()]) {
        fs::write(path, text).expect("the folder is ours");
    }
    paths
}

/// A server that speaks TLS as well, on a port of the kernel's choosing, and its certificate's path.
pub fn speaking(reborn: Reborn) -> (Reborn, PathBuf) {
    let [certificate, key] = write_certificate(reborn.folder());
    let reborn = reborn.listen("https=127.0.0.1:0").arg("--tls-certificate").arg(&certificate);
    (reborn.arg("--tls-key").arg(key), certificate)
}

/// Where a server of this kind speaks TLS.
pub fn address(server: &Server) -> SocketAddr {
    let status = server.status();
    let listeners = status["listeners"].as_array().into_iter().flatten();
    let address = listeners.filter(|listener| listener["name"] == "https").find_map(|found| found["address"].as_str());
    address.and_then(|address| address.parse().ok()).unwrap_or_else(|| panic!("no https in {status}"))
}

/// How clients shake hands: they trust the certificate in a file, and resume earlier sessions or never do.
#[must_use]
pub fn trusting(certificate: &Path, resumes: bool) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let certificate = CertificateDer::from_pem_file(certificate).expect("a certificate of our own making");
    roots.add(certificate).expect("a certificate of our own making");
    let mut provider = ring::default_provider();
    provider.cipher_suites.retain(|suite| suite.suite() == rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
    let builder = ClientConfig::builder_with_provider(Arc::new(provider));
    let builder = builder.with_protocol_versions(&[&rustls::version::TLS13]).expect("it has the suite");
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.resumption = if resumes { Resumption::default() } else { Resumption::disabled() };
    Arc::new(config)
}

/// A client.
#[derive(Debug)]
pub struct Secured {
    tls: StreamOwned<ClientConnection, TcpStream>,
    received: Vec<u8>,
}

impl Secured {
    /// Connects and shakes hands, for no longer than the tests' deadline.
    pub fn connect(address: SocketAddr, config: &Arc<ClientConfig>) -> io::Result<Secured> {
        let mut begun = Secured::begin(address, config)?;
        while begun.tls.conn.is_handshaking() {
            begun.tls.conn.complete_io(&mut begun.tls.sock)?;
        }
        Ok(begun)
    }

    /// Connects and says the first word, and no more. The first request takes the handshake to its end.
    pub fn begin(address: SocketAddr, config: &Arc<ClientConfig>) -> io::Result<Secured> {
        let socket = TcpStream::connect(address)?;
        socket.set_read_timeout(Some(DEADLINE))?;
        socket.set_write_timeout(Some(DEADLINE))?;
        socket.set_nodelay(true)?;
        let name = ServerName::try_from(NAME).expect("it is one");
        let connection = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
        let mut tls = StreamOwned::new(connection, socket);
        tls.conn.write_tls(&mut tls.sock)?;
        Ok(Secured { tls, received: Vec::new() })
    }

    /// Waits until the server has sent something.
    pub fn wait_bytes(&self) -> io::Result<()> {
        self.tls.sock.peek(&mut [0]).map(drop)
    }

    /// Whether an earlier session was resumed.
    #[must_use]
    pub fn is_resumed(&self) -> bool {
        self.tls.conn.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// Sends a request.
    pub fn send(&mut self, request: &[u8]) -> io::Result<()> {
        self.tls.write_all(request)?;
        self.tls.flush()
    }

    /// Receives an answer with a body of known length, and returns its status.
    pub fn status(&mut self) -> io::Result<u16> {
        loop {
            if let Some((status, length)) = answer(&self.received)?
                && self.received.len() >= length
            {
                self.received.drain(..length);
                return Ok(status);
            }
            let mut room = [0; 4096];
            match self.tls.read(&mut room)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => self.received.extend_from_slice(&room[..count]),
            }
        }
    }

    /// Waits until the server has ended the connection.
    pub fn wait_end(&mut self) -> io::Result<()> {
        match self.tls.read(&mut [0; 256]) {
            Ok(0) => Ok(()),
            Ok(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "more than an answer")),
            // Without a word of TLS, which some servers leave out.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Asks and returns the status of the answer.
    pub fn ask(&mut self, request: &[u8]) -> io::Result<u16> {
        self.send(request)?;
        self.status()
    }
}

/// The status of the answer that begins so, and its length, once its head is whole.
fn answer(bytes: &[u8]) -> io::Result<Option<(u16, usize)>> {
    let mut lines = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Response::new(&mut lines);
    let httparse::Status::Complete(head_bytes) = head.parse(bytes).map_err(io::Error::other)? else {
        return if bytes.len() > HEAD_BYTES_MAX { Err(io::ErrorKind::InvalidData.into()) } else { Ok(None) };
    };
    let length = head.headers.iter().find(|line| line.name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|line| str::from_utf8(line.value).ok()?.parse::<usize>().ok());
    let length = length.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "an answer of unknown length"))?;
    Ok(Some((head.code.unwrap_or(0), head_bytes + length)))
}
