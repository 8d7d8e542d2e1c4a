//! A notify socket of the test's own, in place of the service manager's: it records every message with the pid that
//! the kernel vouches for, and answers barriers by closing the fd that came with them, at once or when told.

use std::{
    io::{self, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::OwnedFd,
        unix::{fs::PermissionsExt, net::UnixDatagram},
    },
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, Shutdown, recvmsg, shutdown, sockopt::set_socket_passcred,
};

/// The longest message that is read.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// The most fds that a message may carry.
const FDS_MAX: usize = 64;

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// When it was received.
    pub at: Instant,
    /// The process that sent it.
    pub pid: u32,
    /// Its user.
    pub uid: u32,
    /// Its lines, as name and value, in their order.
    pub fields: Vec<(String, String)>,
    /// The fds that came with it.
    pub fds: usize,
}

impl Message {
    /// The value of a field.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// Whether it holds the line `NAME=VALUE`.
    pub fn has(&self, line: &str) -> bool {
        line.split_once('=').is_some_and(|(name, value)| self.get(name) == Some(value))
    }
}

/// What has been received.
#[derive(Debug, Default)]
struct Received {
    messages: Vec<Message>,
    /// Barriers not yet answered, while they are held back.
    barriers: Vec<OwnedFd>,
    holds_barriers: bool,
    failure: Option<String>,
}

#[derive(Debug, Default)]
struct Shared {
    received: Mutex<Received>,
    arrived: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Received> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The socket, with the thread that reads it.
#[derive(Debug)]
pub struct NotifySocket {
    path: PathBuf,
    socket: Arc<UnixDatagram>,
    shared: Arc<Shared>,
    thread: Option<thread::JoinHandle<()>>,
}

impl NotifySocket {
    /// Binds a socket that any user may write to.
    pub fn bind(path: &Path) -> io::Result<Self> {
        let socket = Arc::new(UnixDatagram::bind(path)?);
        set_socket_passcred(&socket, true)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
        let shared = Arc::new(Shared::default());
        let (of_thread, to) = (socket.clone(), shared.clone());
        let thread = thread::Builder::new().name("notify".into()).spawn(move || read(&of_thread, &to))?;
        Ok(Self { path: path.to_owned(), socket, shared, thread: Some(thread) })
    }

    /// The value of `NOTIFY_SOCKET`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All messages so far.
    pub fn messages(&self) -> Vec<Message> {
        self.shared.lock().messages.clone()
    }

    /// Waits for a message that fits, among all that have come and those still to come; panics with all of them when
    /// it takes too long.
    #[track_caller]
    pub fn wait_for(&self, what: &str, deadline: Duration, fits: impl Fn(&Message) -> bool) -> Message {
        let is_missing = |received: &mut Received| received.failure.is_none() && !received.messages.iter().any(&fits);
        let waited = self.shared.arrived.wait_timeout_while(self.shared.lock(), deadline, is_missing);
        let received = waited.unwrap_or_else(PoisonError::into_inner).0;
        let found = received.messages.iter().find(|message| fits(message));
        found.cloned().unwrap_or_else(|| panic!("waited {deadline:?} for {what}; received: {received:#?}"))
    }

    /// Leaves the barriers that come from now on unanswered, until they are released.
    pub fn hold_barriers(&self) {
        self.shared.lock().holds_barriers = true;
    }

    /// Answers the barriers that were held back, and those that come from now on.
    pub fn release_barriers(&self) {
        let mut received = self.shared.lock();
        received.holds_barriers = false;
        received.barriers.clear();
    }

    /// How many barriers are held back.
    pub fn held_barriers(&self) -> usize {
        self.shared.lock().barriers.len()
    }
}

impl Drop for NotifySocket {
    fn drop(&mut self) {
        // The reader's receive returns 0 from here on.
        let is_shut = shutdown(&self.socket, Shutdown::Read).is_ok();
        if let Some(thread) = self.thread.take().filter(|_| is_shut) {
            // Its panic, if there was one, has already been printed.
            let _outcome = thread.join();
        }
    }
}

/// Reads until the socket is shut down.
fn read(socket: &UnixDatagram, shared: &Shared) {
    loop {
        match receive(socket) {
            Ok(Some((message, fds))) => {
                let mut received = shared.lock();
                if message.has("BARRIER=1") && received.holds_barriers {
                    received.barriers.extend(fds);
                }
                received.messages.push(message);
            }
            Ok(None) => return,
            Err(error) => {
                shared.lock().failure = Some(error.to_string());
                shared.arrived.notify_all();
                return;
            }
        }
        shared.arrived.notify_all();
    }
}

fn receive(socket: &UnixDatagram) -> io::Result<Option<(Message, Vec<OwnedFd>)>> {
    let mut bytes = vec![0; MESSAGE_BYTES_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX), ScmCredentials(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let result = recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let (mut sender, mut fds) = (None, Vec::new());
    for ancillary in control.drain() {
        match ancillary {
            RecvAncillaryMessage::ScmRights(received) => fds.extend(received),
            RecvAncillaryMessage::ScmCredentials(credentials) => sender = Some(credentials),
            _ => {}
        }
    }
    let Some(sender) = sender.filter(|_| result.bytes > 0) else {
        // An empty datagram means nothing in this protocol: it is the shutdown.
        return Ok(None);
    };
    let text = String::from_utf8_lossy(&bytes[..result.bytes]);
    let field = |line: &str| line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    let message = Message {
        at: Instant::now(),
        pid: sender.pid.as_raw_nonzero().get().unsigned_abs(),
        uid: sender.uid.as_raw(),
        fields: text.lines().filter_map(field).collect(),
        fds: fds.len(),
    };
    Ok(Some((message, fds)))
}

#[cfg(test)]
mod tests {
    use std::{
        io::{IoSlice, Read},
        mem::MaybeUninit,
        os::{fd::AsFd, unix::net::UnixDatagram},
        path::Path,
        time::Duration,
    };

    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

    use super::NotifySocket;

    const DEADLINE: Duration = Duration::from_secs(30);

    /// Sends a barrier; its other end reads 0 once the barrier is answered.
    fn send_barrier(to: &Path) -> std::io::PipeReader {
        let (reader, writer) = std::io::pipe().unwrap();
        let socket = UnixDatagram::unbound().unwrap();
        socket.connect(to).unwrap();
        let fds = [writer.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        sendmsg(&socket, &[IoSlice::new(b"BARRIER=1")], &mut control, SendFlags::empty()).unwrap();
        reader
    }

    #[test]
    fn messages_are_recorded_in_order_with_their_sender() {
        let folder = tempfile::tempdir().unwrap();
        let notify = NotifySocket::bind(&folder.path().join("notify")).unwrap();
        let socket = UnixDatagram::unbound().unwrap();
        socket.send_to(b"RELOADING=1\nMONOTONIC_USEC=12\n", notify.path()).unwrap();
        socket.send_to(b"READY=1\nSTATUS=a=b", notify.path()).unwrap();
        let ready = notify.wait_for("READY=1", DEADLINE, |message| message.has("READY=1"));
        assert_eq!((ready.get("STATUS"), ready.pid, ready.fds), (Some("a=b"), std::process::id(), 0));
        let messages = notify.messages();
        assert!(messages[0].has("RELOADING=1") && messages[0].at <= ready.at && messages.len() == 2, "{messages:?}");
    }

    #[test]
    fn a_barrier_is_answered_at_once_or_when_it_is_released() {
        let folder = tempfile::tempdir().unwrap();
        let notify = NotifySocket::bind(&folder.path().join("notify")).unwrap();
        assert_eq!(send_barrier(notify.path()).read(&mut [0]).unwrap(), 0);
        notify.hold_barriers();
        let mut held = send_barrier(notify.path());
        while notify.held_barriers() == 0 {
            std::thread::yield_now();
        }
        notify.release_barriers();
        assert_eq!(held.read(&mut [0]).unwrap(), 0);
    }
}
