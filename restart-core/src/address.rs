//! Addresses and named endpoints, as people write them: `[NAME=]ADDR`.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use rustix::net::SocketType;

use crate::error::Error;

/// The longest path that fits into a Unix socket address (`unix(7)`: 108 bytes with the closing NUL).
const UNIX_PATH_BYTES_MAX: usize = 107;
/// The bound that systemd sets for a descriptor's name (`sd_listen_fds(3)`).
const NAME_BYTES_MAX: usize = 255;

/// What is between a Unix socket's path and its permissions.
const MODE: &str = "?mode=";

/// An address that a socket is bound to.
///
/// Written as `127.0.0.1:8080`, `[::1]:8080`, `unix:/run/app.sock` (or just the absolute path), `unix:@name` (or just
/// `@name`, the abstract namespace), and, for datagrams, `udp:127.0.0.1:53` and `unixgram:/run/log.sock`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Address {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A UDP address.
    Udp(SocketAddr),
    /// A Unix stream socket's path. While it is bound, and no longer, a lock file `PATH.binding` lies beside it.
    Unix(PathBuf),
    /// A Unix stream socket's abstract name.
    UnixAbstract(String),
    /// A Unix datagram socket's path.
    UnixDatagram(PathBuf),
    /// A Unix socket without a name, as the client's end of a connection has.
    UnixUnnamed,
}

impl Address {
    /// Whether connections are accepted there, rather than datagrams received.
    pub fn is_stream(&self) -> bool {
        !matches!(self, Address::Udp(_) | Address::UnixDatagram(_))
    }

    /// The path in the file system, where there is one.
    pub fn path(&self) -> Option<&std::path::Path> {
        match self {
            Address::Unix(path) | Address::UnixDatagram(path) => Some(path),
            _ => None,
        }
    }

    pub(crate) fn ip(&self) -> Option<SocketAddr> {
        match self {
            Address::Tcp(address) | Address::Udp(address) => Some(*address),
            _ => None,
        }
    }

    pub(crate) fn socket_type(&self) -> SocketType {
        if self.is_stream() { SocketType::STREAM } else { SocketType::DGRAM }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => write!(out, "{address}"),
            Address::Udp(address) => write!(out, "udp:{address}"),
            Address::Unix(path) => write!(out, "unix:{}", path.display()),
            Address::UnixAbstract(name) => write!(out, "unix:@{name}"),
            Address::UnixDatagram(path) => write!(out, "unixgram:{}", path.display()),
            Address::UnixUnnamed => out.write_str("unix:"),
        }
    }
}

impl FromStr for Address {
    type Err = Error;

    /// Reads an address; the error says what is wrong with it and what would be right.
    fn from_str(text: &str) -> Result<Address, Error> {
        if let Some(rest) = text.strip_prefix("unixgram:") {
            return unix_path(text, rest).map(Address::UnixDatagram);
        }
        if let Some(rest) = text.strip_prefix("udp:") {
            return ip(text, rest).map(Address::Udp);
        }
        let rest = text.strip_prefix("unix:").unwrap_or(text);
        if let Some(name) = rest.strip_prefix('@') {
            return abstract_name(text, name).map(Address::UnixAbstract);
        }
        if rest.len() < text.len() || rest.starts_with('/') {
            return unix_path(text, rest).map(Address::Unix);
        }
        ip(text, text).map(Address::Tcp)
    }
}

fn ip(whole: &str, text: &str) -> Result<SocketAddr, Error> {
    text.parse().map_err(|_| {
        Error::address(format!(
            "{whole:?} is no address: write IP:PORT as in 127.0.0.1:8080 or [::1]:8080, a Unix socket's absolute path \
             as in unix:/run/app.sock, or an abstract name as in unix:@app"
        ))
    })
}

fn unix_path(whole: &str, path: &str) -> Result<PathBuf, Error> {
    if !path.starts_with('/') {
        return Err(Error::address(format!(
            "{whole:?}: the path of a Unix socket must be absolute, as in unix:/run/x"
        )));
    }
    if path.len() > UNIX_PATH_BYTES_MAX || path.contains('\0') {
        let length = path.len();
        return Err(Error::address(format!(
            "{whole:?}: a Unix socket's path may have {UNIX_PATH_BYTES_MAX} bytes and no NUL; this one has {length}"
        )));
    }
    Ok(PathBuf::from(path))
}

fn abstract_name(whole: &str, name: &str) -> Result<String, Error> {
    if name.is_empty() || name.len() > UNIX_PATH_BYTES_MAX || name.contains('\0') {
        return Err(Error::address(format!(
            "{whole:?}: an abstract name has 1 to {UNIX_PATH_BYTES_MAX} bytes and no NUL"
        )));
    }
    Ok(name.to_owned())
}

/// An address under the name by which the application knows it.
///
/// Written `NAME=ADDR`, or just `ADDR`, which names it `listener`; a Unix socket's path may be followed by its permissions,
/// as in `unix:/run/app.sock?mode=0660`. The name is what a systemd socket unit calls
/// `FileDescriptorName=` (without one the unit's name, such as `app@80.socket`), and what stays the same over all
/// generations.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Endpoint {
    /// The name.
    pub name: String,
    /// The address.
    pub address: Address,
    /// The permissions of a Unix socket's path, from the moment at which it exists; without them it gets those that the
    /// umask leaves. A socket that is handed over keeps what it has.
    pub mode: Option<u16>,
}

impl Endpoint {
    /// The name of an endpoint that was given none.
    pub const DEFAULT_NAME: &str = "listener";

    /// Makes an endpoint; fails where the name is no good.
    pub fn new(name: impl Into<String>, address: Address) -> Result<Endpoint, Error> {
        let name = name.into();
        check_name(&name)?;
        Ok(Endpoint { name, address, mode: None })
    }

    /// The same, with the permissions of its path, which only a Unix socket has.
    #[must_use]
    pub fn with_mode(self, mode: u16) -> Endpoint {
        Endpoint { mode: Some(mode), ..self }
    }

    /// Reads `[NAME=]ADDR`; one without a name gets `name`.
    pub fn parse(text: &str, name: &str) -> Result<Endpoint, Error> {
        // A path and an abstract name may hold an equals sign; a name holds neither a slash nor a colon, and does not
        // begin with an at sign.
        let (name, address) = match text.split_once('=') {
            Some((name, address)) if !name.contains(['/', ':']) && !name.starts_with('@') => (name, address),
            _ => (name, text),
        };
        let (address, mode) = match address.rsplit_once(MODE) {
            Some((path, digits)) => (path.parse()?, Some(mode(address, digits)?)),
            None => (address.parse::<Address>()?, None),
        };
        if mode.is_some() && address.path().is_none() {
            return Err(Error::address(format!("{text:?}: only the path of a Unix socket has permissions")));
        }
        Ok(Endpoint { mode, ..Endpoint::new(name, address)? })
    }
}

/// Reads permissions as chmod(1) takes them.
fn mode(whole: &str, digits: &str) -> Result<u16, Error> {
    let mode = u16::from_str_radix(digits, 8).ok().filter(|mode| *mode <= 0o777 && !digits.starts_with('+'));
    mode.ok_or_else(|| {
        Error::address(format!(
            "{whole:?}: {digits:?} are no permissions of a socket: write three octal digits, as in {MODE}660"
        ))
    })
}

/// A name that people give has to fit into LISTEN_FDNAMES and before the equals sign of `NAME=ADDR`.
fn check_name(name: &str) -> Result<(), Error> {
    if !fits_fdnames(name) || name.contains(['=', '/']) || name.starts_with('@') {
        return Err(Error::address(format!(
            "{name:?} is no name for a listener: 1 to {NAME_BYTES_MAX} bytes without colon, equals sign, slash, control \
             characters, or an at sign at its beginning"
        )));
    }
    Ok(())
}

/// A name that came with a socket may be whatever a service manager allows, such as `app@80.socket`, which systemd
/// gives the sockets of a template.
pub(crate) fn check_given_name(name: &str) -> Result<(), Error> {
    if !fits_fdnames(name) {
        return Err(Error::inherited(format!(
            "{name:?} is no name for a socket: 1 to {NAME_BYTES_MAX} bytes without colon or control characters"
        )));
    }
    Ok(())
}

/// What systemd takes as a descriptor's name (`sd_listen_fds(3)`), and letters beyond ASCII.
fn fits_fdnames(name: &str) -> bool {
    let bad = |character: char| character.is_control() || character == ':';
    (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.contains(bad)
}

impl FromStr for Endpoint {
    type Err = Error;

    fn from_str(text: &str) -> Result<Endpoint, Error> {
        Endpoint::parse(text, Endpoint::DEFAULT_NAME)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}={}", self.name, self.address)?;
        self.mode.map_or(Ok(()), |mode| write!(out, "{MODE}{mode:04o}"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn addresses_read_as_they_are_printed() {
        for (text, printed) in [
            ("127.0.0.1:8080", "127.0.0.1:8080"),
            ("[::1]:80", "[::1]:80"),
            ("/run/a=b.sock", "unix:/run/a=b.sock"),
            ("unix:/run/app.sock", "unix:/run/app.sock"),
            ("@app", "unix:@app"),
            ("unix:@app", "unix:@app"),
            ("udp:[::]:53", "udp:[::]:53"),
            ("unixgram:/run/log", "unixgram:/run/log"),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), printed);
            assert_eq!(printed.parse::<Address>().unwrap(), address);
        }
    }

    #[test]
    fn a_bad_address_is_named_with_what_would_be_right() {
        let long = format!("unix:/{}", "x".repeat(200));
        for text in ["", "8080", "localhost:80", "1.2.3.4", "1.2.3.4:99999", "unix:run/x", "@", "unix:", &long] {
            let error = text.parse::<Address>().unwrap_err();
            assert!(error.is_address());
            assert!(error.to_string().contains(text), "{error}");
        }
    }

    #[test]
    fn an_endpoint_has_a_name_before_the_first_equals_sign() {
        let endpoint: Endpoint = "http=127.0.0.1:80".parse().unwrap();
        assert_eq!((endpoint.name.as_str(), endpoint.to_string().as_str()), ("http", "http=127.0.0.1:80"));
        assert_eq!("/run/a=b".parse::<Endpoint>().unwrap().name, Endpoint::DEFAULT_NAME);
        for text in ["=1.2.3.4:80", "a\u{7}=1.2.3.4:80", &format!("{}=1.2.3.4:80", "x".repeat(256))] {
            assert!(text.parse::<Endpoint>().unwrap_err().is_address());
        }
    }

    #[test]
    fn a_templates_socket_has_a_name_with_an_at_sign() {
        let endpoint: Endpoint = "app@80.socket=127.0.0.1:80".parse().unwrap();
        assert_eq!((endpoint.name.as_str(), endpoint.address.to_string().as_str()), ("app@80.socket", "127.0.0.1:80"));
        assert_eq!(endpoint.to_string().parse::<Endpoint>().unwrap(), endpoint);
        for text in ["@a=b", "unix:@a=b"] {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!((endpoint.name.as_str(), endpoint.address.to_string().as_str()), ("listener", "unix:@a=b"));
        }
        assert!(Endpoint::new("@a", "127.0.0.1:80".parse().unwrap()).unwrap_err().is_address());
    }

    #[test]
    fn a_name_that_came_with_a_socket_is_what_a_service_manager_allows() {
        let longest = "x".repeat(NAME_BYTES_MAX);
        for name in ["app@80.socket", "@", "a=b/c d~!", "a\\x2db.socket", &longest] {
            check_given_name(name).unwrap();
        }
        for name in ["", "a:b", "a\nb", "a\u{7f}", &format!("{longest}x")] {
            assert!(check_given_name(name).unwrap_err().is_inherited(), "{name:?}");
        }
    }

    #[test]
    fn a_paths_permissions_are_read_and_printed() {
        for (text, printed) in [
            ("/run/a?mode=660", "listener=unix:/run/a?mode=0660"),
            ("x=unix:/run/a?b?mode=0600", "x=unix:/run/a?b?mode=0600"),
            ("x=unixgram:/run/a?mode=0", "x=unixgram:/run/a?mode=0000"),
        ] {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!(endpoint.to_string(), printed);
            assert_eq!(printed.parse::<Endpoint>().unwrap(), endpoint);
        }
        for text in ["/a?mode=", "/a?mode=8", "/a?mode=+7", "/a?mode=1777", "@a?mode=600", "127.0.0.1:80?mode=600"] {
            assert!(text.parse::<Endpoint>().unwrap_err().is_address(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".{0,120}") {
            if let Ok(endpoint) = text.parse::<Endpoint>() {
                prop_assert_eq!(endpoint.to_string().parse::<Endpoint>().unwrap(), endpoint);
            }
        }
    }
}
