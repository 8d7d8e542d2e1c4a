//! The controlling terminal of this process, as far as its hang-up is concerned (`tty(4)`).

use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::sys;

/// Whether this process has a controlling terminal.
pub(crate) fn has_one() -> bool {
    open().is_ok()
}

/// Whether this process has no controlling terminal (any more).
pub(crate) fn is_gone() -> bool {
    open().is_err_and(|error| error == Errno::NXIO)
}

/// Whether this process leads the session of a terminal: with its end that hangs up.
pub(crate) fn is_led_by_this_process() -> bool {
    let this = rustix::process::getpid().as_raw_nonzero().get();
    sys::session_leader() == Some(this) && has_one()
}

fn open() -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::open("/dev/tty", flags, Mode::empty())
}
