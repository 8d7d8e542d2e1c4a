//! The exit codes of the `reborn` binary, documented once.
//!
//! Scripts and service managers act on these numbers, so they never change their meaning. A server that was asked to
//! stop, and one that handed over to its successor, both end with [`OK`]: for the service manager both are a success.
//! The help text of the binary repeats this table, and a test compares the two.

/// The operation succeeded, or the server ended as it was asked to.
pub const OK: u8 = 0;

/// The operation failed: the reload did not happen (the old version still serves), or the server cannot serve, for
/// example because an address is taken.
pub const FAILED: u8 = 1;

/// What was asked for cannot be: an unknown flag, a value (of a flag, a variable or the file) that is refused, or a file or
/// an address that this user may not have. Nothing was started. Trying again without a change is useless, so the units
/// have `RestartPreventExitStatus=2`.
pub const USAGE: u8 = 2;

/// A client command (`reload`, `status`, `stop`) found no running server.
pub const NOT_RUNNING: u8 = 3;

/// A client command found a control socket that this user may not look at or connect to.
pub const NOT_ALLOWED: u8 = 4;

/// Each code with the line that the help text gives it.
pub const TABLE: [(u8, &str); 5] = [
    (OK, "success"),
    (FAILED, "the operation failed: no reload happened, or the server cannot serve"),
    (USAGE, "usage: an unknown flag or a value that cannot be; nothing was started"),
    (NOT_RUNNING, "no running server was found (reload, status, stop)"),
    (NOT_ALLOWED, "the server is another user's, and not this one's to ask (reload, status, stop)"),
];
