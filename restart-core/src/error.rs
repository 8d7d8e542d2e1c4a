//! The library's one error type.

use std::fmt;
use std::io;

/// What went wrong, with the thing that it concerns and its cause in the text.
///
/// The kind is private; ask with the predicates. The text says the cause, so that `source()` gives none;
/// [`io_error`](Error::io_error) is the operating system's error, where there is one.
///
/// Its `Debug` is its text as well: that is what a `main` prints that returns it.
pub struct Error {
    kind: Kind,
    what: String,
    source: Option<io::Error>,
    note: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Address,
    Inherited,
    Socket,
    Handover,
    Control,
    NotRunning,
    System,
}

impl Error {
    fn new(kind: Kind, what: impl Into<String>) -> Error {
        Error { kind, what: what.into(), source: None, note: None }
    }

    fn caused(kind: Kind, what: impl Into<String>, source: impl Into<io::Error>) -> Error {
        Error { kind, what: what.into(), source: Some(source.into()), note: None }
    }

    pub(crate) fn address(what: impl Into<String>) -> Error {
        Error::new(Kind::Address, what)
    }

    pub(crate) fn inherited(what: impl Into<String>) -> Error {
        Error::new(Kind::Inherited, what)
    }

    pub(crate) fn socket(what: impl Into<String>, source: impl Into<io::Error>) -> Error {
        Error::caused(Kind::Socket, what, source)
    }

    pub(crate) fn occupied(what: impl Into<String>) -> Error {
        Error::new(Kind::Socket, what)
    }

    pub(crate) fn handover(what: impl Into<String>) -> Error {
        Error::new(Kind::Handover, what)
    }

    pub(crate) fn handover_io(what: impl Into<String>, source: impl Into<io::Error>) -> Error {
        Error::caused(Kind::Handover, what, source)
    }

    pub(crate) fn control(what: impl Into<String>) -> Error {
        Error::new(Kind::Control, what)
    }

    pub(crate) fn control_io(what: impl Into<String>, source: impl Into<io::Error>) -> Error {
        Error::caused(Kind::Control, what, source)
    }

    pub(crate) fn not_running(what: impl Into<String>) -> Error {
        Error::new(Kind::NotRunning, what)
    }

    pub(crate) fn system(what: impl Into<String>, source: impl Into<io::Error>) -> Error {
        Error::caused(Kind::System, what, source)
    }

    /// What the application asked for cannot be.
    pub(crate) fn refused(what: impl Into<String>) -> Error {
        Error::new(Kind::System, what)
    }

    /// The same, with what the application knows about it in parentheses at the end.
    pub(crate) fn noted(self, note: Option<String>) -> Error {
        Error { note, ..self }
    }

    /// The operating system's error behind it, where there is one.
    pub fn io_error(&self) -> Option<&io::Error> {
        self.source.as_ref()
    }

    /// An address or a listener's name that cannot be understood, or one that is asked for twice.
    pub fn is_address(&self) -> bool {
        self.kind == Kind::Address
    }

    /// What the process was started with (LISTEN_FDS, `-g`) is not what it claims to be.
    pub fn is_inherited(&self) -> bool {
        self.kind == Kind::Inherited
    }

    /// A socket could not be bound or used.
    pub fn is_socket(&self) -> bool {
        self.kind == Kind::Socket
    }

    /// The predecessor or the successor did not keep to the handover's protocol, or vanished.
    pub fn is_handover(&self) -> bool {
        self.kind == Kind::Handover
    }

    /// There was no room for what was to be sent; later there may be.
    pub(crate) fn is_busy(&self) -> bool {
        let busy = [libc::EAGAIN, libc::ETOOMANYREFS, libc::ENOBUFS, libc::EINTR];
        let code = self.source.as_ref().and_then(io::Error::raw_os_error);
        code.is_some_and(|code| busy.contains(&code))
    }

    pub(crate) fn is_broken_pipe(&self) -> bool {
        self.source.as_ref().is_some_and(|source| source.kind() == io::ErrorKind::BrokenPipe)
    }

    /// The control socket could not be made or used.
    pub fn is_control(&self) -> bool {
        self.kind == Kind::Control
    }

    /// What to do about it, where the cause alone tells.
    fn advice(&self) -> &'static str {
        match (self.kind, self.source.as_ref().map(io::Error::kind)) {
            (Kind::Socket, Some(io::ErrorKind::AddrInUse)) => {
                "; stop the program that has it, which `ss -lnp` names, or choose another address"
            }
            (Kind::Socket, Some(io::ErrorKind::AddrNotAvailable)) => {
                "; choose an address that this machine has, as `ip address` shows them"
            }
            _ => "",
        }
    }

    /// No running server was found, or several.
    pub fn is_not_running(&self) -> bool {
        self.kind == Kind::NotRunning
    }
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.what)?;
        if let Some(source) = &self.source {
            write!(out, ": {source}")?;
        }
        if let Some(note) = &self.note {
            write!(out, " ({note})")?;
        }
        out.write_str(self.advice())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    #[test]
    fn a_cause_is_told_once_and_is_to_be_had() {
        let error = Error::socket("cannot bind 127.0.0.1:80", io::ErrorKind::PermissionDenied);
        assert_eq!(error.to_string(), "cannot bind 127.0.0.1:80: permission denied");
        assert_eq!(format!("{error:?}"), error.to_string(), "which a main prints that returns it");
        let busy = Error::socket("cannot bind 127.0.0.1:80", io::Error::from_raw_os_error(libc::EADDRINUSE));
        assert!(busy.to_string().ends_with(" or choose another address"), "{busy}");
        assert!(error.source().is_none(), "whoever prints a chain of causes would say it twice");
        assert_eq!(error.io_error().map(io::Error::kind), Some(io::ErrorKind::PermissionDenied));
    }
}
