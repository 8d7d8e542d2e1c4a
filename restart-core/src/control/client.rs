//! The client's side of the control socket. Blocking: it is for commands, not for servers.

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::command::new_id;
use super::protocol::{Answer, CUTS_OLDEST, REPLY_BYTES_MAX, Reply, Request, Status};
use crate::error::Error;
use crate::sys;

/// A server that works says something every few seconds; one that is silent for so long hangs.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// How long a client that was cut off looks for the generation that serves now.
const RECONNECT: Duration = Duration::from_secs(10);

/// How long a client that waits for its turn lets pass before it asks again.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// A connection to a running service.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    /// Its reloads cut the oldest generation where as many drain as may.
    cuts_oldest: bool,
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects to the control socket at `path`, as [`find`](super::find) gave it. Waits for at most 30 s.
    ///
    /// Fails where the one who answers is neither this user nor root, unless root asks; and where the path is somebody
    /// else's: who may put a symlink there shall not choose whom root commands.
    pub fn connect(path: &Path) -> Result<Client, Error> {
        let connect = || -> std::io::Result<UnixStream> {
            let stream = connect(path, Some(SILENCE_MAX))?;
            stream.set_read_timeout(Some(SILENCE_MAX))?;
            Ok(stream)
        };
        let stream = connect().map_err(|error| {
            let full = if error.kind() == ErrorKind::WouldBlock { "its queue is full: " } else { "" };
            Error::not_running(format!("cannot connect to {}: {full}{error}", path.display()))
        })?;
        check_server(path, &stream)?;
        Ok(Client { path: path.to_owned(), cuts_oldest: false, stream: BufReader::new(stream) })
    }

    /// The control socket's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Asks how the service is doing. Waits for at most 30 s.
    ///
    /// Where the generation that was asked ends without an answer, since it has just been replaced, its successor is
    /// asked, for at most 10 s.
    pub fn status(&mut self) -> Result<Status, Error> {
        let end = Instant::now() + RECONNECT;
        loop {
            self.ask(&Request::Status)?;
            match self.answer()? {
                Some(Reply::Status(status)) => return Ok(*status),
                None if Instant::now() < end => self.reconnect()?,
                other => return Err(unexpected(other)),
            }
        }
    }

    /// Replaces the running generation, and waits until the outcome is known.
    ///
    /// The server bounds the wait (ready timeout, probation); one that says nothing for 30 s is an error. Where the
    /// generation that was asked dies on the way, its successor is asked what became of the reload.
    pub fn reload(&mut self) -> Result<Answer, Error> {
        let id = new_id();
        self.ask(&Request::Reload { id: id.clone(), cut_oldest: self.cuts_oldest })?;
        let reply = match self.answer() {
            Ok(None) => self.ask_the_successor(&id)?,
            reply => reply?,
        };
        match reply {
            Some(Reply::Outcome(outcome)) => Ok(Answer::Outcome(Box::new(outcome))),
            Some(Reply::Refused { reason }) => Ok(Answer::Refused(reason)),
            Some(Reply::Stopping) => Ok(Answer::Stopping),
            other => Err(unexpected(other)),
        }
    }

    /// The same, for a client that waits for its turn: where the server starts no reload now (one is under way, or as many
    /// generations drain as may), it is asked again, for at most `patience` beyond the reload itself. After that the
    /// answer is the last refusal. `waits` is told the reason of the wait, and each new one.
    pub fn reload_in_turn(&mut self, patience: Duration, mut waits: impl FnMut(&str)) -> Result<Answer, Error> {
        let begun = Instant::now();
        let mut told = String::new();
        loop {
            let left = patience.saturating_sub(begun.elapsed());
            match self.reload()? {
                Answer::Refused(reason) if !left.is_zero() => {
                    // Behind the first line stands what changes all the time.
                    let first = reason.lines().next().unwrap_or_default();
                    if first != told {
                        waits(&reason);
                        first.clone_into(&mut told);
                    }
                }
                answer => return Ok(answer),
            }
            std::thread::sleep(ASK_AGAIN_AFTER.min(left));
            self.reconnect()?;
        }
    }

    /// Ends the service, and waits until it has: until requests in flight are finished, or the drain's deadline.
    pub fn stop(&mut self) -> Result<(), Error> {
        loop {
            self.ask(&Request::Stop)?;
            match self.answer()? {
                // The kernel closes the connection when the process that stops is gone.
                Some(Reply::Stopping) => {
                    while self.answer()?.is_some() {}
                    return Ok(());
                }
                // A generation that has just been replaced passes the stop on; its successor tells the end of it.
                None => match Client::connect(&self.path) {
                    Ok(successor) => *self = successor,
                    Err(_) => return Ok(()),
                },
                other => return Err(unexpected(other)),
            }
        }
    }

    /// Has the reloads of this client cut the oldest generation, where as many drain as may and the reload would be
    /// refused: its deadline passes at once, what it still has is lost, and the reload begins when it has ended. Any other
    /// reload stays what it is.
    ///
    /// Fails where the server is of a version that would pass over the wish; it is asked for its status, as by
    /// [`status`](Client::status). Nothing has happened then.
    pub fn cut_oldest(&mut self) -> Result<(), Error> {
        let status = self.status()?;
        if status.control_version < CUTS_OLDEST {
            let way_out = match status.draining.first() {
                Some(oldest) => format!("; `kill -9 {}` ends the oldest generation, {}", oldest.pid, oldest.generation),
                None => String::new(),
            };
            return Err(Error::control(format!(
                "{}, version {}, cannot be asked to cut the oldest generation, which came later; no reload was started\
                 {way_out}",
                status.id, status.id.version
            )));
        }
        self.reconnect()?;
        self.cuts_oldest = true;
        Ok(())
    }

    /// A connection is good for one command; the next one reaches whoever serves by then.
    fn reconnect(&mut self) -> Result<(), Error> {
        *self = Client { cuts_oldest: self.cuts_oldest, ..Client::connect(&self.path)? };
        Ok(())
    }

    fn ask_the_successor(&mut self, id: &str) -> Result<Option<Reply>, Error> {
        let end = Instant::now() + RECONNECT;
        loop {
            let attempt = Client::connect(&self.path).and_then(|mut client| {
                client.ask(&Request::Outcome { id: id.to_owned() })?;
                client.answer()
            });
            match attempt {
                Ok(Some(reply)) => return Ok(Some(reply)),
                _ if Instant::now() < end => std::thread::sleep(Duration::from_millis(50)),
                Ok(None) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    fn ask(&mut self, request: &Request) -> Result<(), Error> {
        let mut line = serde_json::to_vec(request).map_err(|error| Error::control(error.to_string()))?;
        line.push(b'\n');
        match self.stream.get_mut().write_all(&line) {
            // It has closed already; why, its answer says.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
            result => result
                .map_err(|error| Error::control_io(format!("cannot ask the server at {}", self.path.display()), error)),
        }
    }

    /// The next reply that is more than a sign of life; `None` where the server closed the connection.
    fn answer(&mut self) -> Result<Option<Reply>, Error> {
        loop {
            let mut line = Vec::new();
            let limit = REPLY_BYTES_MAX as u64;
            match self.stream.by_ref().take(limit).read_until(b'\n', &mut line) {
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(None),
                Err(error) => {
                    let what = format!("no answer from the server at {} for {SILENCE_MAX:?}", self.path.display());
                    return Err(Error::control_io(what, error));
                }
                Ok(_) if !line.ends_with(b"\n") => return Ok(None),
                Ok(_) => {}
            }
            match serde_json::from_slice(&line) {
                Ok(Reply::Pending) => {}
                Ok(reply) => return Ok(Some(reply)),
                Err(error) => return Err(Error::control(format!("the server's answer cannot be read: {error}"))),
            }
        }
    }
}

/// Connects to a Unix socket. Where its queue is full it waits so long at the most, or not at all, and fails with EAGAIN.
pub(super) fn connect(path: &Path, patience: Option<Duration>) -> std::io::Result<UnixStream> {
    let address = SocketAddrUnix::new(path)?;
    let flags = if patience.is_some() { SocketFlags::CLOEXEC } else { SocketFlags::CLOEXEC | SocketFlags::NONBLOCK };
    let stream = UnixStream::from(rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?);
    // It bounds the connecting as well (`unix(7)`).
    stream.set_write_timeout(patience)?;
    rustix::net::connect(&stream, &address)?;
    Ok(stream)
}

/// Checks who listens at a path, before a word is said (`SO_PEERCRED`).
fn check_server(path: &Path, stream: &UnixStream) -> Result<(), Error> {
    let shown = path.display();
    let failed = |error| Error::control_io(format!("cannot see who answers at {shown}"), error);
    let server = sys::peer_uid(stream.as_fd()).map_err(failed)?;
    let own = rustix::process::geteuid().as_raw();
    if ![own, 0].contains(&server) && own != 0 {
        return Err(Error::control(format!(
            "uid {server} answers at {shown}: commands go to a server of uid {own} or of root; nothing was said to it"
        )));
    }
    let owner = owner(path).map_err(failed)?;
    if owner != server {
        return Err(Error::control(format!(
            "uid {server} answers at {shown}, which belongs to uid {owner}, who may have put another's socket there; \
             nothing was said to it: give the path of the socket itself with --control"
        )));
    }
    Ok(())
}

/// Whose a path is. A symlink is its owner's, except for root's, which stands for what it points to.
fn owner(path: &Path) -> std::io::Result<u32> {
    let metadata = fs::symlink_metadata(path)?;
    let followed = metadata.is_symlink() && metadata.uid() == 0;
    Ok(if followed { fs::metadata(path)?.uid() } else { metadata.uid() })
}

fn unexpected(reply: Option<Reply>) -> Error {
    match reply {
        Some(Reply::Error { reason } | Reply::Refused { reason }) => Error::control(reason),
        Some(Reply::Stopping) => Error::control("the service is stopping"),
        Some(_) => Error::control("the server gave an answer that this version does not understand"),
        None => Error::control("the server closed the connection without an answer; look at its log"),
    }
}

/// The process of the service that answers there, if one does.
pub(crate) fn running_pid(path: &Path) -> Option<u32> {
    Client::connect(path).and_then(|mut client| client.status()).ok().map(|status| status.id.pid)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{lchown, symlink};
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_symlink_of_ones_own_leads_to_ones_own_server() {
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("control.sock"), folder.path().join("link"));
        let _listener = UnixListener::bind(&path).unwrap();
        symlink(&path, &link).unwrap();
        Client::connect(&path).unwrap();
        Client::connect(&link).unwrap();
    }

    #[test]
    fn nobody_chooses_by_a_symlink_whom_root_commands() {
        if !rustix::process::geteuid().is_root() {
            assert!(std::env::var_os("CI").is_none(), "only root can give a symlink away");
            eprintln!("SKIPPED: only root can give a symlink away");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("other.sock"), folder.path().join("control.sock"));
        let listener = UnixListener::bind(&path).unwrap();
        symlink(&path, &link).unwrap();
        lchown(&link, Some(65534), None).unwrap();
        let error = Client::connect(&link).unwrap_err();
        assert!(error.is_control() && error.to_string().contains("belongs to uid 65534"), "{error}");
        let mut said = Vec::new();
        listener.accept().unwrap().0.read_to_end(&mut said).unwrap();
        assert_eq!(said, b"");
    }
}
