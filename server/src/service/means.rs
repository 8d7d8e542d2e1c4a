//! What the operating system lets this process have: descriptors and threads. Whether it is enough to serve is looked
//! at before anything is opened, so that a limit that is too low is named instead of being met by chance.
//!
//! It also says how many connections there is room for. It knows nothing of what they are.

use std::sync::{Arc, RwLock};
use std::thread::{Builder, JoinHandle};
use std::{fs, io};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// How many descriptors are not for connections that are accepted, but for what a server has open, for the operator's
/// commands, for a reload, for clients of the metrics, and for what the handler opens. Where there are few, half of them.
const DESCRIPTORS_KEPT: usize = 64;

/// How many of them are free at the least, beside those that are open when it begins to serve: a command and a reload
/// take fewer.
const DESCRIPTORS_FREE_MIN: usize = 16;

/// How many a server has open that serves nobody, without its listeners.
const DESCRIPTORS_OPEN: usize = 20;

/// How many threads have to be had beside the main one: of async-io, of the log, of timers, of files, and one that serves.
const THREADS_MIN: usize = 5;

/// Threads that only have to be there need no more.
const THREAD_STACK_BYTES: usize = 64 * 1024;

/// Finds out whether as many threads can be had at a time as there have to be. They come and go while the command line is
/// read, which takes as long.
#[derive(Debug)]
pub(crate) struct Trial {
    threads: Vec<JoinHandle<()>>,
    /// Why there are not as many.
    error: Option<io::Error>,
}

impl Trial {
    /// Starts the threads, each of which ends as soon as all are there, or one could not be started.
    pub(crate) fn begin() -> Trial {
        let over = Arc::new(RwLock::new(()));
        let _held = over.write();
        let mut trial = Trial { threads: Vec::with_capacity(THREADS_MIN), error: None };
        for _ in 0..THREADS_MIN {
            let over = Arc::clone(&over);
            match Builder::new().stack_size(THREAD_STACK_BYTES).spawn(move || drop(over.read())) {
                Ok(thread) => trial.threads.push(thread),
                Err(error) => {
                    trial.error = Some(error);
                    break;
                }
            }
        }
        trial
    }

    /// Waits until none is left, and says why they could not all be had.
    fn end(mut self) -> io::Result<()> {
        self.error.take().map_or(Ok(()), Err)
    }
}

/// Waits until none is left: what follows may have to be the only thread.
impl Drop for Trial {
    fn drop(&mut self) {
        for thread in self.threads.drain(..) {
            // It has nothing to panic about.
            let _ended = thread.join();
        }
    }
}

/// Why there is not enough to serve with that many listeners, naming the limit and what is needed.
pub(crate) fn check(listeners: usize, threads: Trial) -> Result<(), String> {
    let needed = DESCRIPTORS_OPEN + listeners + DESCRIPTORS_FREE_MIN + 2;
    if let Some(limit) = getrlimit(Resource::Nofile).maximum
        && limit < needed as u64
    {
        return Err(format!(
            "the limit of open files (RLIMIT_NOFILE) is {limit}, and a server needs at least {needed}: raise it \
             (`ulimit -n`, LimitNOFILE=)"
        ));
    }
    threads.end().map_err(|error| {
        let limit = getrlimit(Resource::Nproc).current.map_or("unlimited".to_owned(), |limit| limit.to_string());
        format!(
            "a server needs at least {THREADS_MIN} threads beside its main one, and they cannot be started: {error}; the \
             limit of this user's threads (RLIMIT_NPROC) is {limit}: raise it (`ulimit -u`, LimitNPROC=), or that of the \
             service or the container (TasksMax=, --pids-limit)"
        )
    })
}

/// Has the soft limit of open files follow the hard one. A connection needs a descriptor each: the soft limit is for
/// programs that use select(2), which this one does not.
pub(crate) fn raise_file_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        log::warn!("the limit of open files stays at {current:?}: {error}");
    }
}

/// How many connections may be accepted: as many as are configured, but some descriptors are kept. Each takes `each`.
pub(crate) fn room(configured: usize, each: usize) -> usize {
    let Some(limit) = getrlimit(Resource::Nofile).current.and_then(|limit| usize::try_from(limit).ok()) else {
        return configured;
    };
    let room = within(limit, open(), each);
    if room < configured {
        log::debug!("room for {room} connections, not {configured}: the limit of open files (RLIMIT_NOFILE)");
    }
    configured.min(room)
}

/// How many descriptors are open. Linux says it as the size of the directory of all from 6.2 on; before, that is 0.
fn open() -> usize {
    let said = fs::metadata("/proc/self/fd").ok().and_then(|all| usize::try_from(all.len()).ok());
    let listed = || fs::read_dir("/proc/self/fd").map_or(DESCRIPTORS_OPEN, Iterator::count);
    said.filter(|count| *count > 0).unwrap_or_else(listed)
}

/// How many connections that take `each` descriptors fit beside so many that are open.
fn within(limit: usize, open: usize, each: usize) -> usize {
    let kept = DESCRIPTORS_KEPT.min(limit / 2).max(open + DESCRIPTORS_FREE_MIN);
    (limit.saturating_sub(kept) / each).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_reload_takes_is_kept_free_however_few_there_are() {
        for (limit, open, connections) in
            [(40, 20, 4), (48, 18, 14), (100, 18, 50), (128, 18, 64), (1_024, 18, 960), (1_024, 100, 908), (16, 18, 1)]
        {
            assert_eq!(within(limit, open, 1), connections, "{limit}");
        }
        assert_eq!(within(1_024, 18, 2), 480, "files take a descriptor each as well");
    }

    #[test]
    fn threads_can_be_had_here_and_none_is_left() {
        Trial::begin().end().expect("the tests run on several themselves");
    }
}
