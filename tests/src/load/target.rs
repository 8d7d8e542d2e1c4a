//! Where a client connects to, in the notation of `reborn --listen`: TCP, TLS, a Unix path, or an abstract Unix name.

use std::{
    fmt,
    net::{AddrParseError, SocketAddr},
    path::PathBuf,
    str::FromStr,
};

/// One address of the server under load.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// TCP over IPv4 or IPv6.
    Tcp(SocketAddr),
    /// The same with TLS.
    Tls(SocketAddr),
    /// A Unix stream socket by path.
    Unix(PathBuf),
    /// A Unix stream socket by abstract name.
    Abstract(String),
}

impl From<SocketAddr> for Target {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

impl From<PathBuf> for Target {
    fn from(path: PathBuf) -> Self {
        Self::Unix(path)
    }
}

impl FromStr for Target {
    type Err = AddrParseError;

    /// Reads `127.0.0.1:8080`, `[::1]:8080`, `https=127.0.0.1:8443`, `unix:/path`, `/path`, `unix:@name` or `@name`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(address) = text.strip_prefix("https=") {
            return address.parse().map(Self::Tls);
        }
        let (name, is_unix) = text.strip_prefix("unix:").map_or((text, false), |rest| (rest, true));
        match name.strip_prefix('@') {
            Some(name) => Ok(Self::Abstract(name.to_owned())),
            None if is_unix || name.starts_with('/') => Ok(Self::Unix(name.into())),
            None => text.parse().map(Self::Tcp),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Tls(address) => write!(f, "https={address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Abstract(name) => write!(f, "unix:@{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Target;

    #[test]
    fn every_notation_of_the_servers_flag_reads_back_as_written() {
        for text in ["127.0.0.1:8080", "[::1]:8080", "https=127.0.0.1:8443", "unix:/run/a", "unix:@a"] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
        assert_eq!("/run/a".parse::<Target>().unwrap(), Target::Unix("/run/a".into()));
        assert_eq!("@a".parse::<Target>().unwrap(), Target::Abstract("a".into()));
        assert!("8080".parse::<Target>().is_err());
    }
}
