//! A client that speaks TLS with rustls, blocking and with a generous deadline, and what a server needs to answer it.

#![allow(dead_code, reason = "each test file uses its own part of this")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, OnceLock};

use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, StreamOwned, SupportedProtocolVersion};

use crate::http_support::DEADLINE;

pub(crate) const TLS12: &SupportedProtocolVersion = &rustls::version::TLS12;
pub(crate) const TLS13: &SupportedProtocolVersion = &rustls::version::TLS13;
pub(crate) const NAME: &str = "test.example";

static CERTIFICATE: OnceLock<(CertificateDer<'static>, Vec<u8>)> = OnceLock::new();

fn certificate() -> &'static (CertificateDer<'static>, Vec<u8>) {
    CERTIFICATE.get_or_init(|| {
        let made = rcgen::generate_simple_self_signed([NAME.to_owned()]).expect("a certificate");
        (made.cert.der().clone(), made.signing_key.serialize_der())
    })
}

/// What handshakes are held with.
pub(crate) fn server_config() -> Arc<ServerConfig> {
    let (certificate, key) = certificate();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(&[TLS13, TLS12]).expect("both");
    let key = PrivatePkcs8KeyDer::from(key.clone());
    let builder = builder.with_no_client_auth();
    Arc::new(builder.with_single_cert(vec![certificate.clone()], key.into()).expect("they fit"))
}

/// A client over TLS.
pub(crate) struct Client {
    pub(crate) tls: StreamOwned<ClientConnection, TcpStream>,
    received: Vec<u8>,
}

impl Client {
    /// A client whose handshake is to come.
    pub(crate) fn new(address: SocketAddr, version: &'static SupportedProtocolVersion) -> Client {
        let mut roots = RootCertStore::empty();
        roots.add(certificate().0.clone()).expect("a root");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]).expect("one");
        let config = Arc::new(builder.with_root_certificates(roots).with_no_client_auth());
        let socket = TcpStream::connect(address).expect("a connection");
        socket.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        socket.set_write_timeout(Some(DEADLINE)).expect("a timeout");
        socket.set_nodelay(true).expect("no delay");
        let connection = ClientConnection::new(config, ServerName::try_from(NAME).expect("a name")).expect("a client");
        Client { tls: StreamOwned::new(connection, socket), received: Vec::new() }
    }

    /// A client whose handshake is done, as far as it can tell.
    pub(crate) fn connect(address: SocketAddr, version: &'static SupportedProtocolVersion) -> Client {
        let mut client = Client::new(address, version);
        while client.tls.conn.is_handshaking() {
            client.tls.conn.complete_io(&mut client.tls.sock).expect("a handshake");
        }
        client
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.tls.write_all(bytes.as_ref()).expect("the server takes bytes");
        self.tls.flush().expect("the server takes bytes");
    }

    /// What is sent for `bytes`, sealed and not sent.
    pub(crate) fn seal(&mut self, bytes: impl AsRef<[u8]>) -> Vec<u8> {
        self.tls.conn.writer().write_all(bytes.as_ref()).expect("memory");
        let mut out = Vec::new();
        while self.tls.conn.wants_write() {
            self.tls.conn.write_tls(&mut out).expect("memory");
        }
        out
    }

    /// Says that nothing more is sent.
    pub(crate) fn close(&mut self) {
        self.tls.conn.send_close_notify();
        self.tls.flush().expect("the server takes bytes");
    }

    #[track_caller]
    pub(crate) fn get(&mut self, path: &str) -> String {
        String::from_utf8(self.get_bytes(path)).expect("text")
    }

    #[track_caller]
    pub(crate) fn get_bytes(&mut self, path: &str) -> Vec<u8> {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n"));
        self.reply_bytes()
    }

    /// The body of the next response.
    #[track_caller]
    pub(crate) fn reply(&mut self) -> String {
        String::from_utf8(self.reply_bytes()).expect("text")
    }

    #[track_caller]
    pub(crate) fn reply_bytes(&mut self) -> Vec<u8> {
        let head = self.until("\r\n\r\n").to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 200"), "{head}");
        if head.contains("transfer-encoding: chunked") {
            return self.chunks();
        }
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
        self.take(length.parse().expect("a number"))
    }

    fn chunks(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let line = self.until("\r\n");
            let size = usize::from_str_radix(line.trim_end(), 16).expect("a size");
            let mut chunk = self.take(size + 2);
            assert_eq!(chunk.split_off(size), b"\r\n");
            body.extend(chunk);
            if size == 0 {
                return body;
            }
        }
    }

    #[track_caller]
    pub(crate) fn until(&mut self, end: &str) -> String {
        loop {
            if let Some(at) = self.received.windows(end.len()).position(|window| window == end.as_bytes()) {
                return String::from_utf8(self.take(at + end.len())).expect("text");
            }
            self.receive();
        }
    }

    #[track_caller]
    pub(crate) fn take(&mut self, count: usize) -> Vec<u8> {
        while self.received.len() < count {
            self.receive();
        }
        let rest = self.received.split_off(count);
        std::mem::replace(&mut self.received, rest)
    }

    #[track_caller]
    fn receive(&mut self) {
        let mut bytes = vec![0; 65536];
        let count = self.tls.read(&mut bytes).expect("the server answers or closes in order");
        assert!(count > 0, "closed within {} bytes", self.received.len());
        self.received.extend_from_slice(&bytes[..count]);
    }
}
