//! TLS on a client's socket: rustls over memory, and what of it has not been sent yet. It waits for nothing: whoever owns
//! the socket calls it whenever the kernel would take or give something.
//!
//! Every certificate is taken, since those of a test change while its clients are connected. Each fourth connection speaks
//! TLS 1.2, the others TLS 1.3.

use std::{
    io::{self, Read, Write},
    os::fd::BorrowedFd,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use rustix::net::{RecvFlags, SendFlags, recv, send};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, SupportedProtocolVersion,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};

use super::Look;

/// How much is sealed at once.
const PIECE_BYTES: usize = 16 * 1024;

static BEGUN: AtomicU64 = AtomicU64::new(0);
static DONE: AtomicU64 = AtomicU64::new(0);

/// How many TLS handshakes the clients of this process have completed.
pub fn handshakes() -> u64 {
    DONE.load(Ordering::Relaxed)
}

/// A connection's TLS.
pub(super) struct Secured {
    connection: ClientConnection,
    unsent: Vec<u8>,
    /// The server's end of the stream has come, announced or not.
    is_over: bool,
}

impl Secured {
    pub(super) fn new() -> Self {
        let number = BEGUN.fetch_add(1, Ordering::Relaxed);
        let name = ServerName::try_from("localhost").expect("a name");
        let connection = ClientConnection::new(Arc::clone(config(number % 4 == 3)), name).expect("it takes any name");
        Self { connection, unsent: Vec::new(), is_over: false }
    }

    /// Whether the handshake is over, and everything of it sent.
    pub(super) fn is_established(&self) -> bool {
        !self.connection.is_handshaking() && self.unsent.is_empty() && !self.connection.wants_write()
    }

    /// Counts a handshake that is over.
    pub(super) fn count_handshake() {
        DONE.fetch_add(1, Ordering::Relaxed);
    }

    /// Sends what is sealed; WouldBlock as long as something of it is left.
    pub(super) fn flush(&mut self, fd: BorrowedFd<'_>) -> io::Result<()> {
        while self.connection.wants_write() {
            self.connection.write_tls(&mut self.unsent)?;
        }
        while !self.unsent.is_empty() {
            let sent = send(fd, &self.unsent, SendFlags::NOSIGNAL)?;
            self.unsent.drain(..sent);
        }
        Ok(())
    }

    /// Takes of these bytes, after everything that was taken before has been sent. Returns how many.
    pub(super) fn send(&mut self, fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
        self.flush(fd)?;
        let taken = self.connection.writer().write(&bytes[..bytes.len().min(PIECE_BYTES)])?;
        match self.flush(fd) {
            // It is on its way: the next call sends it first.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(taken),
            flushed => flushed.map(|()| taken),
        }
    }

    /// Appends data; 0 is the end that the server has announced. One that it has not announced is an error.
    pub(super) fn receive(&mut self, fd: BorrowedFd<'_>, buffer: &mut Vec<u8>) -> io::Result<usize> {
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            match self.connection.reader().read(&mut piece) {
                Ok(count) => {
                    buffer.extend_from_slice(&piece[..count]);
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.pull(fd)?,
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes what has come on the socket, and sends what there is to say to it.
    pub(super) fn pull(&mut self, fd: BorrowedFd<'_>) -> io::Result<()> {
        if self.is_over {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.is_over = self.connection.read_tls(&mut Wire(fd))? == 0;
        let processed = self.connection.process_new_packets();
        // What cannot leave now goes along with what is sent next; what was received counts in any case.
        let _ = self.flush(fd);
        processed.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error)).map(drop)
    }

    /// What has arrived, without waiting. Whatever is not for the client, as a ticket, is taken in.
    pub(super) fn look(&mut self, fd: BorrowedFd<'_>) -> Look {
        loop {
            let Ok(state) = self.connection.process_new_packets() else { return Look::Reset };
            match (state.plaintext_bytes_to_read(), state.peer_has_closed(), self.is_over) {
                (count @ 1.., ..) => return Look::Bytes(count),
                (_, true, _) => return Look::Fin,
                (_, false, true) => return Look::Reset,
                (_, false, false) => {}
            }
            match self.pull(fd) {
                Ok(()) => {}
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                    return Look::Open;
                }
                Err(_) => return Look::Reset,
            }
        }
    }

    /// Says that no more will be sent.
    pub(super) fn finish(&mut self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.connection.send_close_notify();
        self.flush(fd)
    }
}

/// The receiving half of a socket.
struct Wire<'a>(BorrowedFd<'a>);

impl Read for Wire<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(recv(self.0, buffer, RecvFlags::empty())?.1)
    }
}

/// What clients of either version have.
fn config(is_older: bool) -> &'static Arc<ClientConfig> {
    static NEWEST: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    static OLDER: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    let make = |version: &'static SupportedProtocolVersion| {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(&[version]);
        let builder = builder.expect("ring has suites of both versions").dangerous();
        let mut config = builder.with_custom_certificate_verifier(Arc::new(Any(provider))).with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Arc::new(config)
    };
    if is_older {
        OLDER.get_or_init(|| make(&rustls::version::TLS12))
    } else {
        NEWEST.get_or_init(|| make(&rustls::version::TLS13))
    }
}

/// Takes any certificate whose key signs.
#[derive(Debug)]
struct Any(Arc<CryptoProvider>);

impl ServerCertVerifier for Any {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
