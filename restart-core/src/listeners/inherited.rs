//! Sockets that the process was started with: LISTEN_FDS of a service manager, or a listener on descriptor 3.
//!
//! listenfd decides whether LISTEN_FDS concerns this process: a missing LISTEN_PID is accepted, as development tools
//! leave it out, another process's is not. Names and all checks are done here.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use super::Socket;
use crate::environment::Environment;
use crate::error::Error;
use crate::sys;

/// The first inherited descriptor (`sd_listen_fds(3)`, SD_LISTEN_FDS_START).
const FIRST_FD: i32 = 3;
/// More sockets are not taken: a mistaken number must not make the process reserve memory without bound.
const LISTEN_FDS_MAX: usize = 1024;

/// Takes the sockets of LISTEN_FDS. `spare` gives names to those that have none.
pub(crate) fn from_listen_fds(
    environment: &Environment,
    mut spare: impl Iterator<Item = String>,
) -> Result<Vec<Socket>, Error> {
    let Some(text) = &environment.listen_fds else { return Ok(vec![]) };
    let count: usize = text.parse().ok().filter(|&count| count <= LISTEN_FDS_MAX).ok_or_else(|| {
        Error::inherited(format!("LISTEN_FDS is {text:?}, which is no number from 0 to {LISTEN_FDS_MAX}"))
    })?;
    let mut given = listenfd::ListenFd::from_env();
    if given.len() == 0 {
        return Ok(vec![]);
    }
    let names = names(environment.listen_fdnames.as_deref(), count)?;
    let mut sockets = Vec::with_capacity(count);
    for (index, name) in names.into_iter().enumerate() {
        let Ok(Some(number)) = given.take_raw_fd(index) else { break };
        let name = name.or_else(|| spare.next()).unwrap_or_default();
        let what = format!("descriptor {number} of LISTEN_FDS={count} (name {name:?})");
        let fd = adopt(number, &what)?;
        sockets.push(Socket::check(&name, &what, fd)?);
    }
    Ok(sockets)
}

/// The names of LISTEN_FDNAMES, one for each descriptor; `unknown` is what systemd writes for none.
fn names(text: Option<&str>, count: usize) -> Result<Vec<Option<String>>, Error> {
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
                 by its name, so give each socket a unit and a FileDescriptorName= of its own"
            )));
        }
    }
    Ok(names.into_iter().map(|name| named(name).then(|| name.to_owned())).collect())
}

fn named(name: &str) -> bool {
    !matches!(name, "" | "unknown")
}

fn adopt(number: i32, what: &str) -> Result<OwnedFd, Error> {
    sys::adopt_fd(number)
        .map_err(|error| Error::inherited(format!("{what} cannot be used: {error}; the starter did not pass it on")))
}

/// Takes a listening socket on descriptor 3, where a starter that passes `-g` and nothing else leaves it.
pub(crate) fn from_fd_3(name: &str) -> Result<Socket, Error> {
    let what = format!("descriptor {FIRST_FD}");
    let fd = sys::adopt_fd(FIRST_FD).map_err(|_| {
        Error::inherited(format!(
            "-g asks to take over from a running server, but there is nothing to take: standard input is no handover \
             socket, and {what} is not open; -g is put there by a reload: start without it"
        ))
    })?;
    Socket::check(name, &what, fd)
}

#[cfg(test)]
mod tests {
    use super::*;

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
