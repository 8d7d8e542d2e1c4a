//! Signals as events: signal-hook writes to a socket pair, and flags tell which ones came.
//!
//! Owns what each signal means, so that none kills a server by accident: those that nobody sends on purpose get a handler
//! that does nothing. They are handled, not ignored: a program that a handler of the application starts has them as ever,
//! since exec resets a handler, and keeps what is ignored.
//!
//! | signal | meaning |
//! |---|---|
//! | HUP, USR2 | reload; HUP of a terminal that closes: stop |
//! | TERM, INT, QUIT, PWR (the halt of an LXC container) | stop |
//! | USR1 | open the logs anew |
//! | XFSZ (the write fails with EFBIG), PIPE (with EPIPE), ALRM, VTALRM, PROF, IO, STKFLT | nothing |
//! | XCPU, real-time signals | the kernel's default, the end: a limit is meant to be one; nobody sends those by habit |
//! | ILL, FPE, SEGV, BUS, ABRT, SYS, TRAP | the kernel's default: the program is at fault |
//! | CHLD, CONT, TSTP, TTIN, TTOU, URG, WINCH | the kernel's default, which ends nothing |
//!
//! A successor is started with these signals blocked, so that none that comes early kills it; when the handlers stand it
//! unblocks all signals: another version, or another flag, may have blocked others than are handled here. SIGHUP that was
//! ignored at the start stays ignored (`nohup(1)`).
//!
//! The end of the supervisor comes as a stop, too: whoever follows its pid starts the service anew, and needs the address.
//!
//! A terminal that closes sends SIGHUP by the kernel to its foreground job; a shell passes it on to the other ones, when
//! the terminal is gone already. A SIGHUP of anybody else, and one that a shell sends while it has its terminal, is meant
//! for a reload, also where the terminal that this process was started in has long been closed.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_io::Async;
use libc::{
    SIGALRM, SIGCHLD, SIGFPE, SIGHUP, SIGILL, SIGINT, SIGIO, SIGKILL, SIGPIPE, SIGPROF, SIGPWR, SIGQUIT, SIGSEGV,
    SIGSTKFLT, SIGSTOP, SIGTERM, SIGUSR1, SIGUSR2, SIGVTALRM, SIGXFSZ,
};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags};
use signal_hook::low_level::pipe;

use crate::environment::Environment;
use crate::error::Error;
use crate::{sys, terminal};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    Reload,
    Stop,
}

/// What a signal means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    Wish(Wish),
    /// A reload, or a stop where a terminal hangs up.
    HangUp,
    /// The application is to open its logs anew.
    Reopen,
    Nothing,
}

const MEANINGS: [(i32, Meaning); 14] = [
    (SIGHUP, Meaning::HangUp),
    (SIGUSR2, Meaning::Wish(Wish::Reload)),
    (SIGTERM, Meaning::Wish(Wish::Stop)),
    (SIGINT, Meaning::Wish(Wish::Stop)),
    (SIGQUIT, Meaning::Wish(Wish::Stop)),
    (SIGPWR, Meaning::Wish(Wish::Stop)),
    (SIGUSR1, Meaning::Reopen),
    (SIGXFSZ, Meaning::Nothing),
    (SIGPIPE, Meaning::Nothing),
    (SIGALRM, Meaning::Nothing),
    (SIGVTALRM, Meaning::Nothing),
    (SIGPROF, Meaning::Nothing),
    (SIGIO, Meaning::Nothing),
    (SIGSTKFLT, Meaning::Nothing),
];

/// What the application does when its logs are to be opened anew.
pub(crate) type Reopen = Box<dyn Fn() + Send + Sync>;

/// SIGHUP, by what its senders mean.
pub(crate) struct HangUps(Arc<sys::Senders>);

impl HangUps {
    /// Notes each that comes from now on.
    pub(crate) fn watch() -> io::Result<HangUps> {
        // Without a terminal there is none that could close, and the leader no shell that tells of it.
        let shell = sys::session_leader().filter(|_| terminal::has_one());
        sys::note_senders(SIGHUP, shell).map(HangUps)
    }

    /// What those that came since the last call ask for.
    pub(crate) fn take(&self) -> Vec<Wish> {
        let sys::Senders { kernel, named: shell, others } = &*self.0;
        let [kernel, shell, others] = [kernel, shell, others].map(|flag| flag.swap(false, Ordering::AcqRel));
        let closed = kernel || (shell && terminal::is_gone());
        let reload = others || (shell && !closed);
        let wishes = [(closed, Wish::Stop), (reload, Wish::Reload)];
        wishes.into_iter().filter_map(|(is_meant, wish)| is_meant.then_some(wish)).collect()
    }
}

impl HangUps {
    /// Whether one of those that came asks for a stop; they are left for `take`.
    fn is_stop_asked(&self) -> bool {
        let sys::Senders { kernel, named: shell, .. } = &*self.0;
        kernel.load(Ordering::Acquire) || (shell.load(Ordering::Acquire) && terminal::is_gone())
    }
}

/// The signals of this process.
pub(crate) struct Signals {
    wakes: Async<UnixStream>,
    flags: Vec<(Meaning, Arc<AtomicBool>)>,
    numbers: Vec<i32>,
    hang_ups: Option<HangUps>,
    /// Readable once the supervisor has ended.
    supervisor: Option<Async<OwnedFd>>,
    is_orphan: AtomicBool,
    reopen: Option<Reopen>,
}

impl fmt::Debug for Signals {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Signals").field("numbers", &self.numbers).finish_non_exhaustive()
    }
}

impl Signals {
    /// Installs the handlers, then unblocks the signals: all of them in a successor. `extra` is one more signal that
    /// asks for a reload, whatever else it means.
    pub(crate) fn install(
        extra: Option<i32>,
        reopen: Option<Reopen>,
        environment: &Environment,
    ) -> Result<Signals, Error> {
        if let Some((number, fault)) = extra.and_then(|number| Some((number, fault(number)?))) {
            return Err(Error::refused(format!("the signal {number} cannot ask for a reload: {fault}")));
        }
        let install = || -> io::Result<Signals> {
            sys::restore_sigchld()?;
            let (reader, writer) = UnixStream::pair()?;
            writer.set_nonblocking(true)?;
            let wakes = Async::new(reader)?;
            let mut signals = Signals {
                wakes,
                flags: vec![],
                numbers: vec![],
                hang_ups: None,
                supervisor: environment.supervisor.map(watch).transpose()?.flatten(),
                is_orphan: AtomicBool::new(false),
                reopen,
            };
            for (number, meaning) in meanings(extra) {
                // What is ignored already needs no handler, and nohup(1) has its way.
                if (number == SIGHUP || meaning == Meaning::Nothing) && sys::is_ignored(number)? {
                    continue;
                }
                let flag = Arc::new(AtomicBool::new(false));
                // Flags come first: a wake-up must find them set.
                if meaning == Meaning::HangUp {
                    signals.hang_ups = Some(HangUps::watch()?);
                }
                signal_hook::flag::register(number, Arc::clone(&flag))?;
                if meaning != Meaning::Nothing {
                    pipe::register(number, writer.try_clone()?)?;
                }
                signals.flags.push((meaning, flag));
                signals.numbers.push(number);
            }
            if environment.succeeds() {
                sys::unblock_all_signals()?;
            } else {
                sys::unblock_signals(&signals.numbers)?;
            }
            Ok(signals)
        };
        install().map_err(|error| Error::system("cannot install the signal handlers", error))
    }

    /// The signals that are handled; they are blocked while a successor is started.
    pub(crate) fn numbers(&self) -> Vec<i32> {
        self.numbers.clone()
    }

    /// Waits for signals, and returns what they ask for; many of a kind count as one. The end of the supervisor is
    /// told once, as a stop.
    pub(crate) async fn next(&self) -> io::Result<Vec<Wish>> {
        futures_lite::future::or(self.sent(), self.orphaned()).await
    }

    async fn orphaned(&self) -> io::Result<Vec<Wish>> {
        match &self.supervisor {
            Some(supervisor) if !self.is_orphan.load(Ordering::Relaxed) => {
                supervisor.readable().await?;
                self.is_orphan.store(true, Ordering::Relaxed);
                log::warn!("the supervisor has ended: the service stops, for whoever starts it anew");
                Ok(vec![Wish::Stop])
            }
            _ => futures_lite::future::pending().await,
        }
    }

    /// Waits for a signal that asks for a stop, or the end of the supervisor, and leaves them and all others to `next`.
    pub(crate) async fn stop_asked(&self) -> io::Result<()> {
        let sent = async {
            while !self.is_stop_asked() {
                self.woken().await?;
            }
            Ok(())
        };
        let orphaned = async {
            match &self.supervisor {
                Some(supervisor) => supervisor.readable().await,
                None => futures_lite::future::pending().await,
            }
        };
        futures_lite::future::or(sent, orphaned).await
    }

    fn is_stop_asked(&self) -> bool {
        self.flags.iter().any(|(meaning, flag)| match meaning {
            Meaning::Wish(Wish::Stop) => flag.load(Ordering::Acquire),
            Meaning::HangUp => self.hang_ups.as_ref().is_some_and(HangUps::is_stop_asked),
            Meaning::Wish(Wish::Reload) | Meaning::Reopen | Meaning::Nothing => false,
        })
    }

    /// Waits until a signal has come since the last call, or is about to be seen to have.
    async fn woken(&self) -> io::Result<()> {
        let mut bytes = [0; 256];
        let read = self.wakes.read_with(|stream| match rustix::io::read(stream, &mut bytes) {
            Err(Errno::INTR) => Ok(1),
            result => Ok(result?),
        });
        read.await.map(drop)
    }

    async fn sent(&self) -> io::Result<Vec<Wish>> {
        loop {
            let mut wishes: Vec<Wish> = Vec::new();
            for (meaning, flag) in &self.flags {
                if !flag.swap(false, Ordering::AcqRel) {
                    continue;
                }
                match (meaning, &self.reopen, &self.hang_ups) {
                    (Meaning::Wish(wish), ..) => wishes.push(*wish),
                    (Meaning::HangUp, _, Some(hang_ups)) => wishes.extend(hang_ups.take()),
                    (Meaning::Reopen, Some(reopen), _) => reopen(),
                    _ => {}
                }
            }
            // A stop comes first: a reload that is refused for it costs nothing.
            wishes.sort_by_key(|wish| *wish == Wish::Reload);
            wishes.dedup();
            if !wishes.is_empty() {
                return Ok(wishes);
            }
            // Only now: those that came before this is first called have woken somebody else.
            self.woken().await?;
        }
    }
}

/// What becomes readable with the end of a process; none where there is no such process, in this pid namespace.
fn watch(pid: Pid) -> io::Result<Option<Async<OwnedFd>>> {
    match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => Async::new(pidfd).map(Some),
        Err(Errno::SRCH) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Sees to it that what means nothing ends no process.
pub(crate) fn make_harmless() -> io::Result<()> {
    for (number, _) in MEANINGS.iter().filter(|(_, meaning)| *meaning == Meaning::Nothing) {
        if !sys::is_ignored(*number)? {
            signal_hook::flag::register(*number, Arc::default())?;
        }
    }
    Ok(())
}

fn meanings(extra: Option<i32>) -> Vec<(i32, Meaning)> {
    let mut all = MEANINGS.to_vec();
    if let Some(extra) = extra.filter(|extra| ![SIGHUP, SIGUSR2].contains(extra)) {
        all.retain(|(number, _)| *number != extra);
        all.push((extra, Meaning::Wish(Wish::Reload)));
    }
    all
}

/// Why a number cannot be a signal that asks for a reload.
fn fault(number: i32) -> Option<&'static str> {
    match number {
        SIGKILL | SIGSTOP => Some("the kernel lets no process catch it"),
        SIGILL | SIGFPE | SIGSEGV => Some("it reports a fault of the program itself"),
        SIGCHLD => Some("it reports the end of child processes"),
        1..=31 => None,
        number if (libc::SIGRTMIN()..=libc::SIGRTMAX()).contains(&number) => None,
        _ => Some("there is no such signal"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_extra_signal_takes_the_place_of_its_usual_meaning() {
        let reload = Meaning::Wish(Wish::Reload);
        for number in [SIGINT, SIGUSR1, SIGALRM] {
            assert!(meanings(Some(number)).contains(&(number, reload)));
            assert_eq!(meanings(Some(number)).len(), MEANINGS.len());
        }
        assert_eq!(meanings(Some(libc::SIGRTMAX())).len(), MEANINGS.len() + 1);
    }

    #[test]
    fn a_number_that_cannot_be_the_reload_signal_is_a_clear_error() {
        let environment = Environment::read().unwrap();
        for number in [SIGKILL, SIGSTOP, SIGILL, SIGFPE, SIGSEGV, SIGCHLD, 0, -1, 32, 33, 65, 12345] {
            let error = Signals::install(Some(number), None, &environment).unwrap_err().to_string();
            assert!(error.starts_with(&format!("the signal {number} cannot ask for a reload: ")), "{error}");
        }
    }

    #[test]
    fn no_signal_is_handled_that_cannot_be() {
        assert!(MEANINGS.iter().all(|(number, _)| fault(*number).is_none()));
    }
}
