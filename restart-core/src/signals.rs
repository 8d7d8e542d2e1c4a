//! Signals as events: signal-hook writes to a socket pair, and flags tell which ones came.
//!
//! A successor is started with these signals blocked; they are unblocked when the handlers stand, so that none that
//! comes early kills it. SIGHUP that was ignored at the start stays ignored (`nohup(1)`).

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_io::Async;
use rustix::io::Errno;
use signal_hook::consts::signal::{SIGHUP, SIGINT, SIGTERM, SIGUSR2};
use signal_hook::low_level::pipe;

use crate::error::Error;
use crate::sys;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    Reload,
    Stop,
}

/// The signals of this process.
#[derive(Debug)]
pub(crate) struct Signals {
    wakes: Async<UnixStream>,
    flags: Vec<(Wish, Arc<AtomicBool>)>,
    numbers: Vec<i32>,
}

impl Signals {
    /// Installs the handlers, then unblocks the signals. `extra` is one more signal that asks for a reload; it may be
    /// one of those that otherwise ask for a stop.
    pub(crate) fn install(extra: Option<i32>) -> Result<Signals, Error> {
        let install = || -> io::Result<Signals> {
            sys::restore_sigchld()?;
            let (reader, writer) = UnixStream::pair()?;
            writer.set_nonblocking(true)?;
            let mut signals = Signals { wakes: Async::new(reader)?, flags: vec![], numbers: vec![] };
            for (number, wish) in wishes(extra) {
                if number == SIGHUP && sys::is_ignored(number)? {
                    continue;
                }
                let flag = Arc::new(AtomicBool::new(false));
                // The flag comes first: a wake-up must find it set.
                signal_hook::flag::register(number, Arc::clone(&flag))?;
                pipe::register(number, writer.try_clone()?)?;
                signals.flags.push((wish, flag));
                signals.numbers.push(number);
            }
            sys::unblock_signals(&signals.numbers)?;
            Ok(signals)
        };
        install().map_err(|error| Error::system("cannot install the signal handlers", error))
    }

    /// The signals that are handled; they are blocked while a successor is started.
    pub(crate) fn numbers(&self) -> Vec<i32> {
        self.numbers.clone()
    }

    /// Waits for signals, and returns what they ask for; many of a kind count as one.
    pub(crate) async fn next(&self) -> io::Result<Vec<Wish>> {
        loop {
            let mut bytes = [0; 256];
            self.wakes
                .read_with(|stream| match rustix::io::read(stream, &mut bytes) {
                    Err(Errno::INTR) => Ok(1),
                    result => Ok(result?),
                })
                .await?;
            let mut wishes: Vec<Wish> = Vec::new();
            for (wish, flag) in &self.flags {
                if flag.swap(false, Ordering::AcqRel) && !wishes.contains(wish) {
                    wishes.push(*wish);
                }
            }
            if !wishes.is_empty() {
                return Ok(wishes);
            }
        }
    }
}

fn wishes(extra: Option<i32>) -> Vec<(i32, Wish)> {
    let mut all = vec![(SIGHUP, Wish::Reload), (SIGUSR2, Wish::Reload), (SIGTERM, Wish::Stop), (SIGINT, Wish::Stop)];
    if let Some(extra) = extra {
        all.retain(|(number, _)| *number != extra);
        all.push((extra, Wish::Reload));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_extra_signal_takes_the_place_of_its_usual_meaning() {
        assert!(wishes(Some(SIGINT)).contains(&(SIGINT, Wish::Reload)));
        assert_eq!(wishes(Some(SIGINT)).len(), 4);
        assert_eq!(wishes(Some(12345)).len(), 5);
    }
}
