//! A terminal of a test's own: what a person sits at, and what a program that runs on it has.

use std::os::fd::OwnedFd;

use rustix::{
    fs::{Mode, OFlags, open},
    pty::{OpenptFlags, openpt, ptsname, unlockpt},
};

/// The terminal as the person has it, and as the program has it. It closes with the first.
#[must_use]
pub fn terminal() -> (OwnedFd, OwnedFd) {
    let person = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a pseudo-terminal");
    unlockpt(&person).expect("it is new");
    let path = ptsname(&person, Vec::new()).expect("it has a path");
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let program = open(&path, flags, Mode::empty()).expect("its other end can be opened");
    (person, program)
}
