//! Binding a socket, and the care that a Unix socket's path needs.
//!
//! A path is taken over only from a dead server, and only if it is a socket; it is removed only while device and inode
//! are still those of the socket bound here. Between its binding and its listening a socket looks dead: a lock file beside
//! the path lets one process at a time look and bind.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::socket::{Origin, Socket, checked_address};
use crate::address::{Address, Endpoint};
use crate::error::Error;

/// Connections that may wait for being accepted; the kernel cuts it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;
/// Another process that binds the same path needs less than a millisecond for it.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to wait before the lock is tried again.
const LOCK_PAUSE: Duration = Duration::from_millis(2);

/// How far a socket is that the application prepares ([`Builder::on_bind`](crate::Builder::on_bind)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BindStage {
    /// It is made, and has our options: those that have to be set before it is bound, such as `IPV6_V6ONLY`, `SO_REUSEPORT`
    /// or `IP_FREEBIND`.
    Made,
    /// It has its address, and does not listen yet: nobody can connect, and a Unix socket's path can be given to another
    /// owner.
    Bound,
}

/// What the application does to each socket that is bound.
pub(crate) type OnBind = Box<dyn Fn(BindStage, BorrowedFd<'_>, &Endpoint) -> io::Result<()> + Send>;

/// How sockets are bound.
pub(crate) struct Binding {
    pub(crate) backlog: i32,
    pub(crate) hook: Option<OnBind>,
}

impl Default for Binding {
    fn default() -> Binding {
        Binding { backlog: BACKLOG, hook: None }
    }
}

impl Binding {
    fn prepare(&self, stage: BindStage, fd: &OwnedFd, endpoint: &Endpoint) -> Result<(), Error> {
        let Some(hook) = &self.hook else { return Ok(()) };
        hook(stage, fd.as_fd(), endpoint).map_err(|error| {
            let Endpoint { name, address, .. } = endpoint;
            Error::socket(format!("cannot bind {address}: the application cannot prepare the socket {name:?}"), error)
        })
    }
}

/// Binds an endpoint, and listens where it is a stream's. `ipv6_only`: where it is for all addresses, IPv4's are left to
/// others; without it the system's default holds.
pub(super) fn bind(endpoint: &Endpoint, ipv6_only: bool, how: &Binding) -> Result<Socket, Error> {
    bind_with(endpoint, endpoint.mode.map(|mode| Mode::from_raw_mode(mode.into())), ipv6_only, how)
}

/// Binds the control socket: only its owner may connect, from the moment on at which it exists.
pub(crate) fn bind_control(endpoint: &Endpoint) -> Result<Socket, Error> {
    bind_with(endpoint, Some(Mode::RUSR | Mode::WUSR), false, &Binding::default())
}

fn bind_with(endpoint: &Endpoint, mode: Option<Mode>, ipv6_only: bool, how: &Binding) -> Result<Socket, Error> {
    // What is asked for is not the umask's to change. No other thread of ours makes a file meanwhile.
    let _umask = mode.map(|_| Umask::none());
    let fd = open(endpoint, mode, ipv6_only, how)?;
    let address = checked_address(&format!("the listener {:?}", endpoint.name), &fd)?;
    let inode = endpoint.address.path().and_then(inode_of);
    let asked = endpoint.address.clone();
    Ok(Socket { name: endpoint.name.clone(), address, asked, origin: Origin::Bound, inode, fd: Arc::new(fd) })
}

fn open(endpoint: &Endpoint, mode: Option<Mode>, ipv6_only: bool, how: &Binding) -> Result<OwnedFd, Error> {
    let address = &endpoint.address;
    let failed = |error: Errno| Error::socket(format!("cannot bind {address}"), error);
    let kind = address.socket_type();
    // Held until the socket listens.
    let _lock = address.path().map(|path| PathLock::new(path, address)).transpose()?;
    let fd = match address {
        Address::Tcp(ip) | Address::Udp(ip) => {
            let family = if ip.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
            let fd = socket(family, kind).map_err(failed)?;
            // A port in TIME_WAIT is free for a server; two living servers still exclude each other.
            if kind == SocketType::STREAM {
                rustix::net::sockopt::set_socket_reuseaddr(&fd, true).map_err(failed)?;
            }
            if ip.is_ipv6() && ipv6_only {
                rustix::net::sockopt::set_ipv6_v6only(&fd, true).map_err(failed)?;
            }
            how.prepare(BindStage::Made, &fd, endpoint)?;
            rustix::net::bind(&fd, ip).map_err(failed)?;
            fd
        }
        Address::UnixAbstract(name) => {
            let fd = socket(AddressFamily::UNIX, kind).map_err(failed)?;
            let name = SocketAddrUnix::new_abstract_name(name.as_bytes()).map_err(failed)?;
            how.prepare(BindStage::Made, &fd, endpoint)?;
            rustix::net::bind(&fd, &name).map_err(failed)?;
            fd
        }
        Address::Unix(path) | Address::UnixDatagram(path) => bind_path(endpoint, path, kind, mode, how)?,
        Address::UnixUnnamed => return Err(failed(Errno::INVAL)),
    };
    let listen = || match kind {
        SocketType::STREAM => rustix::net::listen(&fd, how.backlog).map_err(failed),
        _ => Ok(()),
    };
    // Nobody finds a path that leads to no listener.
    how.prepare(BindStage::Bound, &fd, endpoint).and_then(|()| listen()).inspect_err(|_| {
        _ = address.path().map(fs::remove_file);
    })?;
    Ok(fd)
}

fn socket(family: AddressFamily, kind: SocketType) -> rustix::io::Result<OwnedFd> {
    rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)
}

fn bind_path(
    endpoint: &Endpoint,
    path: &Path,
    kind: SocketType,
    mode: Option<Mode>,
    how: &Binding,
) -> Result<OwnedFd, Error> {
    let address = &endpoint.address;
    let failed = |error: Errno| Error::socket(format!("cannot bind {address}"), error);
    let name = SocketAddrUnix::new(path).map_err(failed)?;
    let make = || {
        let fd = socket(AddressFamily::UNIX, kind)?;
        if let Some(mode) = mode {
            // The socket file is born with the socket's own mode (less the umask), so no moment is left open.
            rustix::fs::fchmod(&fd, mode)?;
        }
        Ok(fd)
    };
    let fd = make().map_err(failed)?;
    how.prepare(BindStage::Made, &fd, endpoint)?;
    let try_bind = || rustix::net::bind(&fd, &name);
    match try_bind() {
        Err(Errno::ADDRINUSE) => {
            refuse_unless_dead(path, &name, kind)?;
            fs::remove_file(path)
                .map_err(|error| Error::socket(format!("cannot replace the dead {address}"), error))?;
            try_bind().map_err(failed)?;
        }
        result => result.map_err(failed)?,
    }
    Ok(fd)
}

/// The process's umask, until it is dropped.
struct Umask(Mode);

impl Umask {
    fn none() -> Umask {
        Umask(rustix::process::umask(Mode::empty()))
    }
}

impl Drop for Umask {
    fn drop(&mut self) {
        rustix::process::umask(self.0);
    }
}

/// The lock of a socket's path: a file `PATH.binding` that only its owner can open, which goes with its holder.
#[derive(Debug)]
struct PathLock {
    file: PathBuf,
    _fd: OwnedFd,
}

impl PathLock {
    fn new(path: &Path, address: &Address) -> Result<PathLock, Error> {
        let mut name = path.as_os_str().to_owned();
        name.push(".binding");
        let file = PathBuf::from(name);
        let failed = |error: io::Error| {
            Error::socket(format!("cannot bind {address}: cannot lock its path with {}", file.display()), error)
        };
        let end = Instant::now() + LOCK_TIMEOUT;
        loop {
            if let Some(fd) = try_lock(&file).map_err(failed)? {
                return Ok(PathLock { file, _fd: fd });
            }
            if Instant::now() >= end {
                return Err(failed(io::Error::new(io::ErrorKind::TimedOut, "another process holds it")));
            }
            thread::sleep(LOCK_PAUSE);
        }
    }
}

impl Drop for PathLock {
    fn drop(&mut self) {
        // While it is still locked: whoever opened it meanwhile sees that it is gone, and makes a new one.
        let _ = fs::remove_file(&self.file);
    }
}

/// Locks a file, made if it is missing; `None` where somebody else has it, or has just removed it.
fn try_lock(path: &Path) -> io::Result<Option<OwnedFd>> {
    // Neither follows a symlink nor waits for the other end of a FIFO.
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?;
    match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::AGAIN) => return Ok(None),
        result => result?,
    }
    let locked = rustix::fs::fstat(&fd)?;
    let still_there = inode_of(path) == Some((locked.st_dev, locked.st_ino));
    Ok(still_there.then_some(fd))
}

/// Lets a path pass only if it is a socket on which nobody listens.
fn refuse_unless_dead(path: &Path, name: &SocketAddrUnix, kind: SocketType) -> Result<(), Error> {
    let shown = path.display();
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) => return Err(Error::socket(format!("cannot look at {shown}"), error)),
    };
    if !metadata.file_type().is_socket() {
        return Err(Error::occupied(format!(
            "cannot bind {shown}: it exists and is no socket; it was left as it is: remove it, or choose another path"
        )));
    }
    let probe =
        socket(AddressFamily::UNIX, kind).and_then(|fd| rustix::net::connect(&fd, name)).map_err(io::Error::from);
    match probe {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err(Error::socket(format!("cannot bind {shown}: it is another user's socket"), error))
        }
        _ => Err(Error::occupied(format!("cannot bind {shown}: a live server listens on it"))),
    }
}

fn inode_of(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Whether a path is no longer that of the socket that was bound there by this service: nobody reaches it there.
pub(crate) fn has_lost_its_path(socket: &Socket) -> bool {
    let bound = socket.inode.filter(|_| socket.origin == Origin::Bound);
    bound.is_some() && socket.asked.path().is_some_and(|path| inode_of(path) != bound)
}

/// Removes a socket's path, if it was bound by this service and is still the same file.
pub(crate) fn unlink_if_ours(socket: &Socket) {
    if let (Some(path), Some(inode), Origin::Bound) = (socket.asked.path(), socket.inode, socket.origin)
        && inode_of(path) == Some(inode)
        && let Err(error) = fs::remove_file(path)
    {
        log::warn!("cannot remove {}: {error}", path.display());
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::sync::Barrier;

    use super::*;

    fn bind(endpoint: &Endpoint) -> Result<Socket, Error> {
        super::bind(endpoint, false, &Binding::default())
    }

    fn endpoint(path: &Path) -> Endpoint {
        Endpoint::new("test", Address::Unix(path.to_owned())).unwrap()
    }

    #[test]
    fn a_dead_path_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        drop(UnixListener::bind(&path).unwrap());
        let socket = bind(&endpoint(&path)).unwrap();
        UnixStream::connect(&path).unwrap();
        let error = bind(&endpoint(&path)).unwrap_err();
        assert!(error.to_string().contains("a live server"), "{error}");
        UnixStream::connect(&path).unwrap();
        drop(socket);
    }

    #[test]
    fn of_many_that_start_on_a_dead_path_at_once_one_gets_it_and_is_reached_there() {
        const STARTS: usize = 8;
        for _ in 0..200 {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("socket");
            drop(UnixListener::bind(&path).unwrap());
            let begin = Barrier::new(STARTS);
            let start = || {
                begin.wait();
                bind(&endpoint(&path))
            };
            let results: Vec<_> = thread::scope(|scope| {
                let starts: Vec<_> = (0..STARTS).map(|_| scope.spawn(start)).collect();
                starts.into_iter().map(|start| start.join().unwrap()).collect()
            });
            let (winners, losers): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
            assert_eq!(winners.len(), 1, "{losers:?}");
            let _client = UnixStream::connect(&path).unwrap();
            rustix::net::accept(&winners[0].as_ref().unwrap().fd).unwrap();
            assert!(losers.iter().all(|loser| loser.as_ref().unwrap_err().to_string().contains("a live server")));
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no lock is left");
        }
    }

    #[test]
    fn what_somebody_has_planted_where_the_lock_goes_is_neither_followed_nor_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let (path, lock) = (folder.path().join("socket"), folder.path().join("socket.binding"));
        std::os::unix::fs::symlink(folder.path().join("elsewhere"), &lock).unwrap();
        let error = bind(&endpoint(&path)).unwrap_err();
        assert!(error.is_socket() && error.to_string().contains("socket.binding"), "{error}");
        assert!(!folder.path().join("elsewhere").exists());
        fs::remove_file(&lock).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &lock, Mode::RUSR | Mode::WUSR).unwrap();
        bind(&endpoint(&path)).unwrap();
    }

    #[test]
    fn a_regular_file_is_never_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "precious").unwrap();
        assert!(bind(&endpoint(&path)).unwrap_err().to_string().contains("no socket"));
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn only_our_own_path_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let socket = bind(&endpoint(&path)).unwrap();
        fs::rename(&path, folder.path().join("aside")).unwrap();
        let _other = UnixListener::bind(&path).unwrap();
        unlink_if_ours(&socket);
        assert!(path.exists(), "another server's path stays");
        fs::rename(folder.path().join("aside"), &path).unwrap();
        unlink_if_ours(&socket);
        assert!(!path.exists());
    }

    #[test]
    fn the_control_socket_is_its_owners_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control");
        bind_control(&endpoint(&path)).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_path_has_the_permissions_that_were_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        for mode in [0o660, 0o666, 0o600] {
            let path = folder.path().join(format!("{mode:o}"));
            bind(&Endpoint { mode: Some(mode), ..endpoint(&path) }).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, u32::from(mode));
        }
    }

    #[test]
    fn what_the_application_does_to_a_socket_comes_before_it_is_bound_and_before_it_listens() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let watched = path.clone();
        let hook = move |stage, fd: BorrowedFd<'_>, endpoint: &Endpoint| {
            assert_eq!((endpoint.name.as_str(), watched.exists()), ("test", stage == BindStage::Bound));
            assert!(!rustix::net::sockopt::socket_acceptconn(fd)?);
            rustix::net::sockopt::set_socket_keepalive(fd, true)?;
            if stage == BindStage::Bound { rustix::fs::chmod(&watched, Mode::RWXU).map_err(Into::into) } else { Ok(()) }
        };
        let how = Binding { hook: Some(Box::new(hook)), backlog: 7 };
        let socket = super::bind(&endpoint(&path), false, &how).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(rustix::net::sockopt::socket_keepalive(&socket.fd).unwrap());
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn a_socket_that_the_application_cannot_prepare_is_named_and_leaves_no_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        for failing in [BindStage::Made, BindStage::Bound] {
            let hook = move |stage, _: BorrowedFd<'_>, _: &Endpoint| {
                if stage == failing { Err(io::ErrorKind::PermissionDenied.into()) } else { Ok(()) }
            };
            let how = Binding { hook: Some(Box::new(hook)), ..Binding::default() };
            let error = super::bind(&endpoint(&path), false, &how).unwrap_err();
            assert!(error.is_socket() && error.to_string().contains("prepare the socket \"test\""), "{error}");
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        }
    }

    #[test]
    fn a_busy_port_is_an_error_that_names_the_address() {
        let busy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::Tcp(busy.local_addr().unwrap());
        let error = bind(&Endpoint::new("a", address.clone()).unwrap()).unwrap_err();
        assert!(error.is_socket() && error.to_string().contains(&address.to_string()), "{error}");
    }
}
