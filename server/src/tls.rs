//! What TLS needs before a connection comes: certificates, the keys of tickets, and how the two make a handshake.
//!
//! [`Certificates`] are read from files and checked, without anything being opened for clients: that is what `reborn check`
//! does. [`Acceptors`] make of them what a handshake is held with, together with what the generation before has saved, so
//! that neither tickets nor a certificate that was made here change at a reload. Files are read on the calling thread, at
//! the start. No connection is known here, nor who carries its bytes.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::server::NoServerSessionStorage;
use rustls::version::{TLS12, TLS13};
use zeroize::Zeroizing;

use crate::config::{TlsConfig, TlsVersion, inherited_without_certificate, speaks_tls};

mod certificate;
mod names;
mod redirect;
mod saved;
mod self_signed;
mod sites;
#[cfg(test)]
mod testing;
mod tickets;

use certificate::Certificate;
pub use certificate::{Error, Part};
pub use redirect::{Plain, plain, redirect_port, strict_transport_security};
use saved::Saved;
use self_signed::SelfSigned;
use sites::Sites;
use tickets::Tickets;

/// The protocol that is spoken over TLS (ALPN).
const HTTP_1_1: &[u8] = b"http/1.1";

/// The certificates that were asked for, read and checked.
#[derive(Debug, Default)]
pub struct Certificates {
    certificates: Vec<Certificate>,
    warnings: Vec<String>,
}

impl Certificates {
    /// Reads the files. The first that cannot be used at `now` is the error. It blocks for as long as reading takes.
    pub fn load(config: &TlsConfig, now: SystemTime) -> Result<Certificates, Error> {
        let mut all = Certificates::default();
        for (index, files) in config.certificates.iter().enumerate() {
            let (certificate, warnings) = certificate::load(index, files, now)?;
            all.certificates.push(certificate);
            all.warnings.extend(warnings);
        }
        Ok(all)
    }

    /// What should be looked at, a line each: certificates that expire soon, and keys that everybody can read.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// What is said where there are certificates, and none of these listeners uses them.
    pub fn unused<'a>(&self, listeners: impl IntoIterator<Item = &'a str>) -> Option<&'static str> {
        let is_used = self.certificates.is_empty() || listeners.into_iter().any(speaks_tls);
        (!is_used).then_some(
            "no listener speaks TLS, so that no certificate is used: call one https, as with --listen https=[::]:443",
        )
    }
}

/// What the handshakes of this generation are held with.
pub struct Acceptors {
    config: Arc<ServerConfig>,
    sites: Arc<Sites>,
    tickets: Arc<Tickets>,
    self_signed: Option<SelfSigned>,
    not_after: SystemTime,
}

impl Acceptors {
    /// Opens them for the listeners of these names; there are none where none of them speaks TLS. `state` is what the
    /// generation before has [saved](Acceptors::save); one that cannot be read is passed over, with a line in the log.
    ///
    /// It is an error that such a listener has no certificate, or that none can be made.
    pub fn open<'a>(
        config: &TlsConfig,
        certificates: Certificates,
        state: Option<&[u8]>,
        listeners: impl IntoIterator<Item = &'a str>,
    ) -> io::Result<Option<Acceptors>> {
        let Some(listener) = listeners.into_iter().find(|name| speaks_tls(name)) else { return Ok(None) };
        let saved = state.map_or_else(Saved::default, |state| {
            Saved::decode(state).unwrap_or_else(|cause| {
                log::info!("what the generation before says of TLS is not used, so that sessions begin anew: {cause}");
                Saved::default()
            })
        });
        let mut certificates = certificates.certificates;
        let mut self_signed = None;
        if config.self_signed {
            let (made, certificate) = SelfSigned::open(saved.self_signed, SystemTime::now()).map_err(|cause| {
                io::Error::other(format!("no certificate can be made for --tls-self-signed: {cause}"))
            })?;
            self_signed = Some(made);
            certificates.push(certificate);
        }
        let Some(not_after) = certificates.iter().map(|certificate| certificate.not_after).min() else {
            return Err(io::Error::new(io::ErrorKind::NotFound, inherited_without_certificate(listener)));
        };
        let sites = Arc::new(Sites::new(&certificates));
        let tickets = Arc::new(Tickets::new(saved.keys.iter().map(|key| **key)));
        let config = Arc::new(server_config(config.min_version, &sites, &tickets)?);
        Ok(Some(Acceptors { config, sites, tickets, self_signed, not_after }))
    }

    /// What a handshake on the listener of this name is held with; nothing where it does not speak TLS.
    pub fn for_listener(&self, name: &str) -> Option<Arc<ServerConfig>> {
        speaks_tls(name).then(|| Arc::clone(&self.config))
    }

    /// What the next generation goes on with. It is secret.
    pub fn save(&self) -> Zeroizing<Vec<u8>> {
        Saved { keys: self.tickets.save(), self_signed: self.self_signed.clone() }.encode()
    }

    /// When the first of the certificates expires.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Whether a request for `host` (its `Host`, in any case, also with a port) belongs on a connection whose client has
    /// asked for `server_name` (SNI): one certificate is for both. Otherwise it is answered with 421, since another site's
    /// rules may hold for it. A client that asked for no name has taken what it was shown.
    pub fn is_misdirected(&self, server_name: Option<&str>, host: &str) -> bool {
        server_name.is_some_and(|name| !self.sites.are_one(name, host))
    }
}

impl fmt::Debug for Acceptors {
    /// Without the keys.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Acceptors").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

/// The suites are rustls's own choice: AEAD with a key exchange of its own for each connection, also in TLS 1.2.
fn server_config(oldest: TlsVersion, sites: &Arc<Sites>, tickets: &Arc<Tickets>) -> io::Result<ServerConfig> {
    let versions: &[_] = match oldest {
        TlsVersion::V1_2 => &[&TLS13, &TLS12],
        TlsVersion::V1_3 => &[&TLS13],
    };
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_protocol_versions(versions).map_err(io::Error::other)?;
    let mut config = builder.with_no_client_auth().with_cert_resolver(Arc::<Sites>::clone(sites));
    config.alpn_protocols = vec![HTTP_1_1.to_vec()];
    config.ticketer = Arc::<Tickets>::clone(tickets);
    // A session that this process remembered would be of no use to the next one.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, ClientConnection, HandshakeKind, ProtocolVersion, RootCertStore, ServerConnection};

    use super::testing::{Made, config, days};
    use super::*;

    fn open(config: &TlsConfig, state: Option<&[u8]>) -> Acceptors {
        let certificates = Certificates::load(config, SystemTime::now()).unwrap();
        Acceptors::open(config, certificates, state, ["http", "https"]).unwrap().unwrap()
    }

    /// A client that takes what is shown, if it is this.
    fn client(trusted: &[u8], version: &'static rustls::SupportedProtocolVersion) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(trusted.to_vec().into()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_protocol_versions(&[version]).unwrap();
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![HTTP_1_1.to_vec()];
        Arc::new(config)
    }

    /// Holds a handshake in memory, and gives what the server knows then.
    fn shake_hands(
        client: &Arc<ClientConfig>,
        name: &str,
        server: &Acceptors,
    ) -> Result<ServerConnection, rustls::Error> {
        let mut client = ClientConnection::new(Arc::clone(client), ServerName::try_from(name.to_owned()).unwrap())?;
        let mut server = ServerConnection::new(server.for_listener("https").unwrap())?;
        // A ticket comes after the handshake, so each side is asked a few times more than it needs.
        for _ in 0..10 {
            let mut bytes = vec![];
            while client.wants_write() {
                client.write_tls(&mut bytes).unwrap();
            }
            server.read_tls(&mut bytes.as_slice()).unwrap();
            server.process_new_packets()?;
            let mut bytes = vec![];
            while server.wants_write() {
                server.write_tls(&mut bytes).unwrap();
            }
            client.read_tls(&mut bytes.as_slice()).unwrap();
            client.process_new_packets()?;
        }
        assert!(!client.is_handshaking() && !server.is_handshaking());
        Ok(server)
    }

    #[test]
    fn a_session_is_resumed_by_the_next_generation_with_the_ticket_of_the_one_before() {
        for version in [&TLS12, &TLS13] {
            let config = config(vec![]);
            let first = open(&config, None);
            let client = client(&first.self_signed.as_ref().unwrap().certificate, version);
            let kind = |server: &Acceptors| shake_hands(&client, "localhost", server).unwrap().handshake_kind();
            assert_ne!(kind(&first), Some(HandshakeKind::Resumed));
            let second = open(&config, Some(&first.save()));
            assert_eq!(kind(&second), Some(HandshakeKind::Resumed), "{version:?}");
            let third = open(&config, Some(&second.save()));
            assert_eq!(kind(&third), Some(HandshakeKind::Resumed), "{version:?}");
            // Another server, with the same certificate: what it cannot open is a whole handshake.
            let keyless = Saved { keys: vec![], self_signed: third.self_signed.clone() };
            assert_ne!(kind(&open(&config, Some(&keyless.encode()))), Some(HandshakeKind::Resumed));
        }
    }

    #[test]
    fn a_certificate_that_was_made_here_goes_on_and_a_state_that_cannot_be_read_is_no_state() {
        let config = config(vec![]);
        let first = open(&config, None);
        let made = |acceptors: &Acceptors| acceptors.self_signed.as_ref().unwrap().certificate.clone();
        assert_eq!(made(&open(&config, Some(&first.save()))), made(&first));
        assert_ne!(made(&open(&config, Some(b"\xff of another version"))), made(&first));
    }

    #[test]
    fn each_client_gets_the_certificate_of_its_site_and_the_protocol_of_this_server() {
        let folder = tempfile::tempdir().unwrap();
        let all = [Made::new(&["one.org"]), Made::new(&["*.two.org"])];
        let files = ["one", "two"].iter().zip(&all).map(|(name, made)| made.write(folder.path(), name)).collect();
        let acceptors = open(&config(files), None);
        for (made, name) in [(&all[0], "one.org"), (&all[1], "www.two.org")] {
            let client = client(made.certificate.der(), &TLS13);
            let server = shake_hands(&client, name, &acceptors).unwrap();
            assert_eq!((server.server_name(), server.alpn_protocol()), (Some(name), Some(HTTP_1_1)));
        }
        assert!(shake_hands(&client(all[0].certificate.der(), &TLS13), "www.two.org", &acceptors).is_err());
        assert!(acceptors.is_misdirected(Some("one.org"), "www.two.org"));
        assert!(!acceptors.is_misdirected(Some("one.org"), "one.org:443"));
        assert!(!acceptors.is_misdirected(None, "www.two.org"));
    }

    #[test]
    fn a_version_that_is_too_old_is_not_spoken() {
        let config = config(vec![]);
        let client_of = |acceptors: &Acceptors| client(&acceptors.self_signed.as_ref().unwrap().certificate, &TLS12);
        let both = open(&config, None);
        let server = shake_hands(&client_of(&both), "localhost", &both).unwrap();
        assert_eq!(server.protocol_version(), Some(ProtocolVersion::TLSv1_2));
        let newest = open(&TlsConfig { min_version: TlsVersion::V1_3, ..config }, None);
        assert!(shake_hands(&client_of(&newest), "localhost", &newest).is_err());
    }

    #[test]
    fn listeners_speak_tls_by_their_names_and_need_a_certificate() {
        let folder = tempfile::tempdir().unwrap();
        let files = vec![Made::valid(&["one.org"], days(-1), days(30)).write(folder.path(), "one")];
        let config = config(files);
        let acceptors = open(&config, None);
        assert!(acceptors.for_listener("https-2").is_some() && acceptors.for_listener("http").is_none());
        let left = acceptors.not_after().duration_since(SystemTime::now()).unwrap();
        assert_eq!(left.as_secs() / (24 * 60 * 60), 29);
        let none = TlsConfig { certificates: vec![], ..config.clone() };
        let open =
            |config, certificates, listener: &'static str| Acceptors::open(config, certificates, None, [listener]);
        let error = open(&none, Certificates::default(), "https-web").unwrap_err().to_string();
        assert!(error.starts_with("the listener \"https-web\" speaks TLS") && error.contains("; give "), "{error}");
        let certificates = || Certificates::load(&config, SystemTime::now()).unwrap();
        assert!(open(&config, certificates(), "http").unwrap().is_none());
        assert_eq!((certificates().unused(["http", "https"]), certificates().warnings().len()), (None, 0));
        assert!(certificates().unused(["http"]).is_some_and(|text| text.starts_with("no listener speaks TLS")));
        assert_eq!(Certificates::default().unused(["http"]), None);
    }
}
