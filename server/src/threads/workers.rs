//! The threads that serve connections, in teams, and the main thread beside them.
//!
//! A connection is accepted by a thread of any team, is dealt to that team, or to the one that has least to do, and stays
//! there: its queue, its poller, and what is counted of it are that team's, and no other team's threads touch them. Up to
//! four threads are one team, which share the work with the least waking; more would meet at its one queue.
//!
//! The main thread serves nobody but who asks for metrics. It waits in async-io for everything that is no client, so that
//! no reload is held up by requests. Whether the teams still work it finds out by a probe: in each a task like any other,
//! but the next one.

use std::future::Future;
use std::io;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::process;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use smol::future::FutureExt;
use smol::{Executor, Timer};

use crate::per_team;
use crate::threads::team::{Place, Team};

/// The most threads that have one queue and one poller.
const TEAM_THREADS_MAX: usize = 4;

/// A team whose thread accepts a connection keeps it as long as it has no more than the team that has least, and a thread
/// each: of those that wait for their first turn, and of all, where this part of them is added.
const ABOUT: usize = 16;

/// How many threads are started when the first thread of each team is there: of timers, and of files.
const THREADS_LATER: usize = 2;

/// A team that works takes the next task within this time.
pub(super) const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Workers {
    main: Executor<'static>,
    /// At least one.
    pub(super) teams: Vec<Arc<Team>>,
    /// Why there are not as many as there should be.
    refused: Option<io::Error>,
}

/// Threads that are there, and wait for the word to serve.
#[derive(Default)]
struct Starting {
    threads: Vec<(SyncSender<()>, JoinHandle<()>)>,
    /// Why there can be no more.
    refused: Option<io::Error>,
}

/// How many teams so many threads are.
pub(crate) fn teams(threads: usize) -> usize {
    threads.div_ceil(TEAM_THREADS_MAX).max(1)
}

/// How many threads each team has, as equal as can be.
pub(super) fn sizes(threads: usize) -> impl Iterator<Item = usize> {
    let teams = teams(threads);
    (0..teams).map(move |team| threads / teams + usize::from(team < threads % teams))
}

impl Workers {
    /// Makes the teams for so many threads, and starts the first thread of each. The threads outlive the value, until the
    /// process ends. Fewer teams if there can be no more threads, but never none.
    pub(crate) fn start(threads: usize) -> io::Result<Workers> {
        let (mut teams, mut leaders, mut before) = (Vec::new(), Starting::default(), 0);
        for size in sizes(threads) {
            match Team::new(size).map(Arc::new) {
                Ok(team) if leaders.start(&team, (teams.len(), 0), before) => teams.push(team),
                Ok(_) => break,
                Err(error) => {
                    leaders.refused = Some(error);
                    break;
                }
            }
            before += size;
        }
        let (serve, refused) = leaders.serve(1);
        teams.truncate(serve);
        match refused {
            Some(error) if teams.is_empty() => Err(error),
            refused => Ok(Workers { main: Executor::new(), teams, refused }),
        }
    }

    /// Starts the other threads of each team. Fewer if there can be no more.
    pub(crate) fn start_helpers(&self) {
        let (mut helpers, mut before) = (Starting::default(), 0);
        for (number, team) in self.teams.iter().enumerate() {
            if !(1..team.size()).all(|member| helpers.start(team, (number, member), before)) {
                break;
            }
            before += team.size();
        }
        let (serve, refused) = helpers.serve(0);
        if let Some(error) = self.refused.as_ref().or(refused.as_ref()) {
            log::warn!("only {} threads serve: {error}", self.teams() + serve);
        }
    }

    /// How many teams there are.
    pub(crate) fn teams(&self) -> usize {
        self.teams.len()
    }

    /// Runs a future, and what is no connection, on the main thread, until the future ends.
    pub(crate) fn run<T>(&self, future: impl Future<Output = T>) -> T {
        // Pinned here, it stays where it is: what runs it would be made with copies of it, on a stack of 70 KiB.
        let future = pin!(future);
        smol::block_on(self.main.run(future))
    }

    /// Adds work that is no connection.
    pub(crate) fn spawn_on_main(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.main.spawn(task).detach();
    }

    /// Whether in each team a thread takes a task within a second. None does where handlers block or compute on all of them.
    /// However many tasks wait: a team that has much to do works.
    pub(crate) async fn probe(&self) -> bool {
        let asked: Vec<_> = self.teams.iter().map(Team::probe).collect();
        let ran = async {
            for over in asked {
                over.await;
            }
            true
        };
        let late = async {
            Timer::after(PROBE_TIMEOUT).await;
            false
        };
        ran.or(late).await
    }

    /// Adds a task that is no connection to each team, made with the team's number. What serves everybody must not end
    /// unnoticed: if it panics, the process ends.
    pub(crate) fn spawn_in_each<F: Future<Output = ()> + Send + 'static>(&self, make: impl Fn(usize) -> F) {
        for (number, team) in self.teams.iter().enumerate() {
            let task = AssertUnwindSafe(make(number)).catch_unwind();
            team.spawn(async {
                if task.await.is_err() {
                    process::abort();
                }
            });
        }
    }

    /// Adds a connection, to the team that has least to do: of which the fewest connections wait for their first turn, as they
    /// do where handlers hang, and then the one that has the fewest. Who adds it from a team's thread adds it there, which wakes
    /// nobody, unless that team has a good deal more to do. It has to keep its place as long as it lives. If it
    /// panics while it runs, only it ends.
    pub(crate) fn spawn<F: Future<Output = ()> + Send + 'static>(&self, connection: impl FnOnce(Place) -> F) {
        let least = self.teams.iter().min_by_key(|team| team.load()).expect("start has made one at least");
        let own = per_team::current().and_then(|number| self.teams.get(number));
        let team = own.filter(|own| is_about_least(own.load(), least.load())).unwrap_or(least);
        team.spawn(connection(team.place()));
    }
}

/// Whether a team with such a load has hardly more to do than the one that has least.
fn is_about_least(own: (usize, usize), least: (usize, usize)) -> bool {
    own.0 <= least.0 + TEAM_THREADS_MAX && own.1 <= least.1 + least.1 / ABOUT + TEAM_THREADS_MAX
}

impl Starting {
    /// Starts a thread of a team, by their numbers, of which teams before it have so many. Whether there can be one.
    fn start(&mut self, team: &Arc<Team>, (number, member): (usize, usize), before: usize) -> bool {
        let (team, (word, said)) = (Arc::clone(team), sync_channel(1));
        let serve = move || {
            if said.recv().is_ok() {
                per_team::join(number);
                team.serve(member)
            }
        };
        match thread::Builder::new().name(format!("reborn-{}", before + member)).spawn(serve) {
            Ok(thread) => self.threads.push((word, thread)),
            Err(error) => self.refused = Some(error),
        }
        self.refused.is_none()
    }

    /// Has them serve, and says how many do. Where there could be no more, the last ones end instead, but for the `least`
    /// number, so that the threads can be had that are started when they are needed.
    fn serve(mut self, least: usize) -> (usize, Option<io::Error>) {
        let kept = if self.refused.is_some() { THREADS_LATER } else { 0 };
        let serve = self.threads.len().saturating_sub(kept).max(least).min(self.threads.len());
        for (word, thread) in self.threads.drain(serve..) {
            drop(word);
            // It does nothing that could panic.
            let _ended = thread.join();
        }
        for (word, _) in &self.threads {
            // It waits for nothing else.
            let _ = word.send(());
        }
        (serve, self.refused)
    }
}
