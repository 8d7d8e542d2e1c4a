//! A start that has begun can be stopped: between `Builder::start` and the first poll of its driver, while the
//! application gets ready and blocks, for as long as that takes.
//!
//! The signals are handled by then, and nobody else would hear of one. Whoever drives async-io's reactor meanwhile, which is
//! its own thread unless the application does, looks at each wake-up whether one means a stop; then it takes back what the
//! start has made, and ends the process. That is over when `run` is polled, and leaves every other signal to it. A thread
//! that waits would do as well, but a start would have to begin it and see it end.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::process;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::task::{Context, Poll, Wake, Waker};

use crate::handover::{Channel, Message};
use crate::listeners::{Socket, unlink_if_ours};
use crate::lock::lock;
use crate::pid_file::PidFile;
use crate::signals::Signals;

/// What a start has made, and a stop takes back.
#[derive(Debug)]
pub(crate) struct Begun {
    pub(crate) generation: u64,
    /// Those that this generation has bound itself.
    pub(crate) sockets: Vec<Socket>,
    pub(crate) pid_file: Option<PidFile>,
    pub(crate) predecessor: Option<Arc<Channel>>,
}

/// Waits for a stop until it is dropped.
#[derive(Debug)]
pub(crate) struct Stoppable(Arc<Watch>);

/// The wait, which goes on in whoever wakes it.
struct Watch {
    begun: Begun,
    /// Nothing once it is over.
    stop: Mutex<Option<Stop>>,
    /// A wake-up has not been looked at.
    is_woken: AtomicBool,
}

/// Ends when a stop is asked for, or with what keeps it from being noticed.
type Stop = Pin<Box<dyn Future<Output = io::Result<()>> + Send>>;

impl Stoppable {
    pub(crate) fn new(begun: Begun, signals: Arc<Signals>) -> Stoppable {
        let stop: Stop = Box::pin(async move { signals.stop_asked().await });
        let watch = Arc::new(Watch { begun, stop: Mutex::new(Some(stop)), is_woken: AtomicBool::new(false) });
        Arc::clone(&watch).wake();
        Stoppable(watch)
    }
}

impl Drop for Stoppable {
    /// Waits for who looks just now: two that read the same wake-ups would take them from each other. One that has found a
    /// stop ends the process.
    fn drop(&mut self) {
        *lock(&self.0.stop) = None;
    }
}

impl Wake for Watch {
    fn wake(self: Arc<Self>) {
        self.is_woken.store(true, Ordering::Release);
        // Whoever looks already looks again when it has let go of the lock: either it sees the flag, or this one gets the lock.
        // The fences keep both from being early.
        fence(Ordering::SeqCst);
        while self.is_woken.load(Ordering::Acquire) {
            let mut stop = match self.stop.try_lock() {
                Ok(stop) => stop,
                Err(TryLockError::Poisoned(error)) => PoisonError::into_inner(error),
                Err(TryLockError::WouldBlock) => return,
            };
            self.look(&mut stop);
            drop(stop);
            fence(Ordering::SeqCst);
        }
    }
}

impl Watch {
    fn look(self: &Arc<Self>, stop: &mut Option<Stop>) {
        let waker = Waker::from(Arc::clone(self));
        while self.is_woken.swap(false, Ordering::AcqRel) {
            let Some(waiting) = stop else { return };
            match waiting.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => {
                    self.begun.take_back();
                    process::exit(0);
                }
                Poll::Ready(Err(error)) => {
                    log::error!("a stop before the service is ready cannot be noticed: {error}");
                    *stop = None;
                }
            }
        }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Watch").field("begun", &self.begun).finish_non_exhaustive()
    }
}

impl Begun {
    fn take_back(&self) {
        log::info!("generation {} was told to stop before it was ready, and ends", self.generation);
        // Whoever serves stops, as it does when it is told so by a successor that is ready.
        if let Some(Err(error)) = self.predecessor.as_ref().map(|channel| channel.try_send(&Message::Stop, &[])) {
            log::debug!("{error} to the predecessor");
        }
        self.sockets.iter().for_each(unlink_if_ours);
        self.pid_file.iter().for_each(PidFile::remove);
        log::logger().flush();
    }
}
