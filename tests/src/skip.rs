//! What a test needs and this machine may not have. A missing facility is a loud skip, written past the test runner's
//! capture; where `CI=true`, it is a failure, so that no promise goes untested in silence.

use std::fs;
use std::io::Write;
use std::process::Command;

use rustix::process::{Gid, Uid, geteuid};

/// The user as whom the server runs in tests that must not run as root.
pub const NOBODY: u32 = 65534;

/// Skips the rest of a test: the caller returns after it.
#[track_caller]
pub fn skip(reason: &str) {
    let is_ci = std::env::var_os("CI").is_some_and(|value| value == "true");
    assert!(!is_ci, "a test was skipped where CI=true allows no skip: {reason}");
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    // The runner captures what the print macros write, and only that.
    let _is_best_effort = writeln!(std::io::stderr().lock(), "SKIP: {test}: {reason}");
}

/// Whether the test may become another user; skips if not.
#[track_caller]
pub fn may_change_user() -> bool {
    let is_root = geteuid() == Uid::ROOT;
    if !is_root {
        skip("only root can start the server as another user");
    }
    is_root
}

/// Whether the test may stop processes by strace; skips if not.
#[track_caller]
pub fn may_trace() -> bool {
    let scope = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
    let may = geteuid() == Uid::ROOT || matches!(scope.trim(), "" | "0");
    let is_there = Command::new("strace").arg("-V").output().is_ok();
    if !may || !is_there {
        skip("strace (Debian package strace) is missing, or may not attach to other processes (ptrace_scope)");
    }
    may && is_there
}

/// Gives a file or folder to [`NOBODY`].
pub(crate) fn give_to_nobody(path: &std::path::Path) {
    let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    rustix::fs::chown(path, Some(user), Some(group)).expect("root gives its own file to nobody");
}
