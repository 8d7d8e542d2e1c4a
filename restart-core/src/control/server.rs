//! The server's side of the control socket: accepts clients of the same user and root, reads one request at a time,
//! and passes it on to the driver.
//!
//! Clients, their requests and their time are bounded, and who says nothing makes room for others. It decides nothing
//! about a request but who may make it, and that its client still has to be there.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_channel::{Receiver, Sender, bounded};
use async_executor::Executor;
use async_io::{Async, Timer};
use futures_lite::future;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::command::{Clients, Command};
use super::protocol::{REQUEST_BYTES_MAX, Reply, Request};
use crate::listeners::Listener;
use crate::sys;

/// More clients wait in the accept queue.
const CLIENTS_MAX: usize = 64;
/// A client has to have sent its request by then, and to take its answer.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a client that waits for an outcome is told that the work goes on.
const PENDING_EVERY: Duration = Duration::from_secs(5);

/// Accepts clients until it is dropped; those accepted are served on `executor` beyond that.
pub(crate) async fn serve(
    listener: Listener,
    executor: Arc<Executor<'static>>,
    commands: Sender<Command>,
    clients: Clients,
) {
    let mut silent = Silent::default();
    while let Some(accepted) = listener.accept().await {
        while clients.load(Ordering::Acquire) >= CLIENTS_MAX {
            if silent.make_room() {
                future::yield_now().await;
            } else {
                Timer::after(Duration::from_millis(100)).await;
            }
        }
        let guard = ClientGuard::new(&clients);
        let leave = silent.enter();
        let (commands, listener) = (commands.clone(), listener.clone());
        let task = async move {
            let _guard = guard;
            match Async::new(accepted.fd) {
                Ok(stream) => {
                    let stream = Stream(stream);
                    if client(&stream, leave, &commands).await == Leave::WithTheProcess {
                        // The kernel closes it when the process ends, and no sooner.
                        std::mem::forget(stream);
                    }
                }
                Err(error) => log::warn!("cannot serve a control client: {error}"),
            }
            // At once, before others take what the client has left.
            listener.renew_spare();
        };
        executor.spawn(task).detach();
        // Clients may come without end, and others want something meanwhile.
        future::yield_now().await;
    }
}

/// Clients that have not sent their request yet, in the order in which they came. Each leaves when its sender is gone,
/// and drops its receiver when it has sent it.
#[derive(Default)]
struct Silent(VecDeque<Sender<()>>);

impl Silent {
    fn enter(&mut self) -> Receiver<()> {
        self.0.retain(|client| !client.is_closed());
        let (client, leave) = bounded(1);
        self.0.push_back(client);
        leave
    }

    /// Has the first of them leave; false where there is none.
    fn make_room(&mut self) -> bool {
        self.0.retain(|client| !client.is_closed());
        self.0.pop_front().is_some()
    }
}

struct ClientGuard(Clients);

impl ClientGuard {
    fn new(clients: &Clients) -> ClientGuard {
        clients.fetch_add(1, Ordering::AcqRel);
        ClientGuard(Arc::clone(clients))
    }
}

impl Drop for ClientGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// When a client's connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leave {
    Now,
    /// Who asked for a stop sees by it that the service has ended: its files are gone, its addresses free.
    WithTheProcess,
}

/// Serves one client: one request, its answer, and, after a stop, silence until the process ends.
async fn client(stream: &Stream, leave: Receiver<()>, commands: &Sender<Command>) -> Leave {
    if let Err(reason) = stream.check_peer() {
        log::warn!("a control client was refused: {reason}");
        stream.reply(&Reply::Error { reason }).await;
        return Leave::Now;
    }
    let evicted = async {
        let _ = leave.recv().await;
        Ok(None)
    };
    let request = match future::or(stream.request(), future::or(evicted, timeout(CLIENT_TIMEOUT))).await {
        Ok(Some(request)) => request,
        Ok(None) => return Leave::Now,
        Err(reason) => {
            stream.reply(&Reply::Error { reason }).await;
            return Leave::Now;
        }
    };
    drop(leave);
    if stream.is_gone() {
        // It has told its caller that it failed, or will not tell anybody how it ended.
        log::debug!("a command is not carried out: its client has gone ({request:?})");
        return Leave::Now;
    }
    let (reply, answers) = bounded(1);
    if commands.send(Command { request, reply }).await.is_err() {
        return Leave::Now;
    }
    let mut leave = Leave::Now;
    loop {
        let pending = async {
            Timer::after(PENDING_EVERY).await;
            Ok(Reply::Pending)
        };
        match future::or(answers.recv(), pending).await {
            // The driver has nothing more to say, or ended without an answer; the client sees the connection end.
            Err(_) => return leave,
            Ok(answer) => {
                if answer == Reply::Stopping {
                    leave = Leave::WithTheProcess;
                }
                if !stream.reply(&answer).await {
                    return Leave::Now;
                }
            }
        }
    }
}

async fn timeout<T>(after: Duration) -> Result<T, String> {
    Timer::after(after).await;
    Err(format!("no request came within {after:?}"))
}

struct Stream(Async<OwnedFd>);

impl Stream {
    /// Only the same user and root may command this process (`SO_PEERCRED`, `unix(7)`).
    fn check_peer(&self) -> Result<(), String> {
        let peer = sys::peer_uid(self.0.get_ref().as_fd()).map_err(|error| error.to_string())?;
        let own = rustix::process::geteuid().as_raw();
        if peer == own || peer == 0 {
            return Ok(());
        }
        Err(format!("uid {peer} may not command a process of uid {own}"))
    }

    /// Whether the client has closed its connection; one that only sends no more has not.
    fn is_gone(&self) -> bool {
        let mut polled = [PollFd::new(self.0.get_ref(), PollFlags::empty())];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let gone = PollFlags::HUP | PollFlags::ERR;
        poll(&mut polled, Some(&now)).is_ok_and(|_| polled[0].revents().intersects(gone))
    }

    async fn request(&self) -> Result<Option<Request>, String> {
        let mut line = Vec::new();
        let mut part = [0; 512];
        while !line.contains(&b'\n') {
            let room = (REQUEST_BYTES_MAX - line.len()).min(part.len());
            if room == 0 {
                return Err(format!("a request has at most {REQUEST_BYTES_MAX} bytes and ends with a line feed"));
            }
            let read = self.0.read_with(|fd| Ok(rustix::io::read(fd, &mut part[..room])?)).await;
            match read.map_err(|error| error.to_string())? {
                0 => return Ok(None),
                read => line.extend_from_slice(&part[..read]),
            }
        }
        let end = line.iter().position(|&byte| byte == b'\n').unwrap_or(line.len());
        serde_json::from_slice(&line[..end]).map(Some).map_err(|error| {
            format!("the request cannot be read: {error}; known commands are status, reload, outcome and stop")
        })
    }

    /// Writes a reply; false where the client is gone or does not take it.
    async fn reply(&self, reply: &Reply) -> bool {
        let Ok(mut line) = serde_json::to_vec(reply) else { return false };
        line.push(b'\n');
        let write = async {
            let mut rest = line.as_slice();
            while !rest.is_empty() {
                let flags = rustix::net::SendFlags::NOSIGNAL;
                match self.0.write_with(|fd| Ok(rustix::net::send(fd, rest, flags)?)).await {
                    Ok(written) => rest = &rest[written..],
                    Err(_) => return false,
                }
            }
            true
        };
        let give_up = async {
            Timer::after(CLIENT_TIMEOUT).await;
            false
        };
        future::or(write, give_up).await
    }
}
