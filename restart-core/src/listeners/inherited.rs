//! Sockets that the process was started with: LISTEN_FDS of a service manager, or a listener on descriptor 3.
//!
//! listenfd reads the numbers. A missing LISTEN_PID is accepted, as development tools leave it out; another process's is
//! an error, since clients wait on sockets that nobody would serve. Names and all checks are done here.

use std::collections::BTreeMap;
use std::io;

use rustix::process::{PidfdFlags, getpid, pidfd_open};

use super::socket::{Socket, checked_address};
use crate::environment::Environment;
use crate::error::Error;
use crate::sys;

/// The first inherited descriptor (`sd_listen_fds(3)`, SD_LISTEN_FDS_START).
const FIRST_FD: i32 = 3;
/// The file system of pidfds that have an inode each (`linux/magic.h`, `PID_FS_MAGIC`).
const PIDFS_MAGIC: rustix::fs::FsWord = 0x5049_4446;
/// More sockets are not taken: a mistaken number must not make the process reserve memory without bound.
const LISTEN_FDS_MAX: usize = 1024;

/// Takes the sockets of LISTEN_FDS. `spare` gives names to those that have none.
pub(crate) fn from_listen_fds(
    environment: &Environment,
    mut spare: impl Iterator<Item = String>,
) -> Result<Vec<Socket>, Error> {
    let Some(text) = &environment.listen_fds else { return Ok(vec![]) };
    let count = count(text)?;
    if count == 0 {
        return Ok(vec![]);
    }
    check_addressee(environment)?;
    let numbers = given(count)?;
    let names = names(environment.listen_fdnames.as_deref(), count)?;
    let mut sockets = Vec::with_capacity(count);
    for (number, name) in numbers.into_iter().zip(names) {
        let name = name.or_else(|| spare.next()).unwrap_or_default();
        let what = format!("descriptor {number} of LISTEN_FDS={count} (name {name:?})");
        let absent =
            |error| Error::inherited(format!("{what} cannot be used: {error}; the starter did not pass it on"));
        sockets.push(take(&name, &what, number, absent)?);
    }
    Ok(sockets)
}

/// The descriptors that were given.
#[cfg(feature = "systemd")]
#[expect(clippy::unnecessary_wraps, reason = "without the feature they are refused")]
fn given(count: usize) -> Result<Vec<i32>, Error> {
    let mut given = listenfd::ListenFd::from_env();
    Ok((0..count).map_while(|index| given.take_raw_fd(index).ok().flatten()).collect())
}

#[cfg(not(feature = "systemd"))]
fn given(count: usize) -> Result<Vec<i32>, Error> {
    Err(Error::inherited(format!(
        "LISTEN_FDS={count} sockets were given, and this program was built without the feature `systemd` of restart-core: \
         build it with that, or start it without the variable"
    )))
}

/// Refuses sockets that are meant for another process (`sd_listen_fds(3)`): variables that a wrapper left behind.
fn check_addressee(environment: &Environment) -> Result<(), Error> {
    let refuse = |variable: &str, value: &str, own: &str| {
        Err(Error::inherited(format!(
            "{variable}={value} says that the sockets of LISTEN_FDS are for another process, and this one is {own}: \
             start it by exec, or without the LISTEN_ variables"
        )))
    };
    let (own, own_id) = (std::process::id().to_string(), own_pidfd_inode());
    match (&environment.listen_pid, &environment.listen_pidfdid, own_id) {
        (Some(pid), ..) if *pid != own => refuse("LISTEN_PID", pid, &own),
        (_, Some(id), Some(own)) if *id != own => refuse("LISTEN_PIDFDID", id, &own),
        _ => Ok(()),
    }
}

/// The inode of this process's pidfd. Before Linux 6.9 all pidfds shared one, which tells nothing.
fn own_pidfd_inode() -> Option<String> {
    let pidfd = pidfd_open(getpid(), PidfdFlags::empty()).ok()?;
    let inode = rustix::fs::fstat(&pidfd).ok()?.st_ino.to_string();
    (rustix::fs::fstatfs(&pidfd).ok()?.f_type == PIDFS_MAGIC).then_some(inode)
}

/// The number in LISTEN_FDS.
pub(crate) fn count(text: &str) -> Result<usize, Error> {
    text.parse().ok().filter(|&count| count <= LISTEN_FDS_MAX).ok_or_else(|| {
        Error::inherited(format!("LISTEN_FDS is {text:?}, which is no number from 0 to {LISTEN_FDS_MAX}"))
    })
}

/// The names of LISTEN_FDNAMES, one for each descriptor; `unknown` is what systemd writes for none.
pub(crate) fn names(text: Option<&str>, count: usize) -> Result<Vec<Option<String>>, Error> {
    let Some(text) = text else { return Ok(vec![None; count]) };
    let names: Vec<&str> = text.split(':').collect();
    if names.len() != count {
        return Err(Error::inherited(format!(
            "LISTEN_FDNAMES={text} has {} names for LISTEN_FDS={count}",
            names.len()
        )));
    }
    let mut seen = BTreeMap::new();
    for (second, &name) in (FIRST_FD..).zip(&names) {
        if named(name)
            && let Some(first) = seen.insert(name, second)
        {
            return Err(Error::inherited(format!(
                "LISTEN_FDNAMES={text} gives the name {name:?} to descriptors {first} and {second}: a listener is known \
                 by its name, so give each socket a unit with a FileDescriptorName= of its own"
            )));
        }
    }
    Ok(names.into_iter().map(|name| named(name).then(|| name.to_owned())).collect())
}

fn named(name: &str) -> bool {
    !matches!(name, "" | "unknown")
}

/// Takes a listening socket on descriptor 3, where a starter that passes `-g` and nothing else leaves it.
pub(crate) fn from_fd_3(name: &str) -> Result<Socket, Error> {
    let what = format!("descriptor {FIRST_FD}");
    let absent = |_| {
        Error::inherited(format!(
            "-g asks to take over from a running server, but there is nothing to take: standard input is no handover \
             socket, and {what} was not passed on; -g is put there by a reload: start without it"
        ))
    };
    take(name, &what, FIRST_FD, absent)
}

/// Takes a descriptor that can be served on, and leaves any other as it is.
fn take(name: &str, what: &str, number: i32, absent: impl FnOnce(io::Error) -> Error) -> Result<Socket, Error> {
    let fd = sys::take_inherited(number, |fd| checked_address(what, fd).map(drop)).map_err(absent)??;
    Socket::check(name, what, fd)
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, IntoRawFd};

    use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};

    use super::*;

    fn absent(error: io::Error) -> Error {
        Error::system("absent", error)
    }

    /// A copy that looks like one that exec has passed on.
    fn inherited(fd: impl AsFd) -> i32 {
        let copy = fcntl_dupfd_cloexec(fd, 100).unwrap();
        fcntl_setfd(&copy, FdFlags::empty()).unwrap();
        copy.into_raw_fd()
    }

    #[test]
    fn what_is_no_listening_socket_stays_open_and_untouched() {
        let number = inherited(std::fs::File::open("/dev/null").unwrap());
        for _ in 0..2 {
            let error = take("web", "descriptor 3", number, absent).unwrap_err();
            assert!(error.is_inherited() && error.to_string().contains("no socket"), "{error}");
        }
        drop(sys::take_inherited(number, |_| Ok::<(), Error>(())).unwrap());
    }

    #[test]
    fn a_listening_socket_that_was_passed_on_is_taken() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let number = inherited(&listener);
        let socket = take("web", "descriptor 3", number, absent).unwrap();
        assert_eq!(socket.address.to_string(), listener.local_addr().unwrap().to_string());
        assert!(take("web", "descriptor 3", number, absent).unwrap_err().to_string().contains("absent"), "once");
    }

    #[test]
    fn names_belong_to_descriptors_in_order() {
        assert_eq!(names(Some("a:unknown:b"), 3).unwrap(), [Some("a".into()), None, Some("b".into())]);
        assert_eq!(names(None, 2).unwrap(), [None, None]);
    }

    #[test]
    fn names_that_do_not_fit_are_refused() {
        assert!(names(Some("a:b"), 3).unwrap_err().is_inherited());
        let error = names(Some("a:b:a"), 3).unwrap_err().to_string();
        assert!(error.contains("\"a\"") && error.contains("3 and 5"), "{error}");
    }
}
