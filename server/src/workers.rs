//! The threads that serve. Each has an executor and a poller of its own, and keeps the connections that it was given:
//! nothing of a request is then passed from one thread to another.
//!
//! The main thread serves nobody but who asks for metrics. It waits in async-io for everything that is no connection, so that a reload is not held
//! up by requests.

use std::future::{Future, pending};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use smol::Executor;

use crate::poller::Poller;

#[derive(Debug)]
pub(crate) struct Workers {
    main: Executor<'static>,
    /// Never none.
    all: Vec<Arc<Worker>>,
}

#[derive(Debug, Default)]
struct Worker {
    executor: Executor<'static>,
    connections: AtomicUsize,
}

impl Workers {
    /// Starts threads, which outlive the value, until the process ends. Fewer if there can be no more, but never none.
    pub(crate) fn start(threads: usize) -> io::Result<Workers> {
        let mut workers = Workers { main: Executor::new(), all: vec![Worker::start(0)?] };
        for number in 1..threads {
            match Worker::start(number) {
                Ok(worker) => workers.all.push(worker),
                Err(error) => {
                    log::warn!("only {number} threads serve: {error}");
                    break;
                }
            }
        }
        Ok(workers)
    }

    /// Runs a future, and what is no connection, on the main thread, until the future ends.
    pub(crate) fn run<T>(&self, future: impl Future<Output = T>) -> T {
        smol::block_on(self.main.run(future))
    }

    /// Adds work that is no connection.
    pub(crate) fn spawn_on_main(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.main.spawn(task).detach();
    }

    /// Adds a connection, to the thread that has the fewest.
    pub(crate) fn spawn(&self, connection: impl Future<Output = ()> + Send + 'static) {
        let fewest = self.all.iter().min_by_key(|worker| worker.connections.load(Ordering::Relaxed));
        let worker = fewest.unwrap_or(&self.all[0]);
        let counted = Counted::new(worker);
        let task = async move {
            let _counted = counted;
            connection.await;
        };
        worker.executor.spawn(task).detach();
    }
}

impl Worker {
    fn start(number: usize) -> io::Result<Arc<Worker>> {
        let worker = Arc::<Worker>::default();
        let (own, poller) = (Arc::clone(&worker), Poller::new()?);
        let run = move || poller.block_on(own.executor.run(pending::<()>()));
        thread::Builder::new().name(format!("reborn-{number}")).spawn(run)?;
        Ok(worker)
    }
}

/// One connection of a worker.
struct Counted(Arc<Worker>);

impl Counted {
    fn new(worker: &Arc<Worker>) -> Counted {
        worker.connections.fetch_add(1, Ordering::Relaxed);
        Counted(Arc::clone(worker))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::thread::ThreadId;

    use smol::channel::unbounded;

    use super::*;

    #[test]
    fn connections_are_spread_over_the_threads_and_those_that_end_make_room() {
        let workers = Workers::start(3).expect("threads");
        let (sender, receiver) = unbounded::<ThreadId>();
        // Connections live until what is returned is dropped.
        let spawn = |count: usize| {
            let (end, ended) = unbounded::<()>();
            for _ in 0..count {
                let (sender, ended) = (sender.clone(), ended.clone());
                workers.spawn(async move {
                    sender.send(thread::current().id()).await.expect("somebody listens");
                    let _ = ended.recv().await;
                });
            }
            end
        };
        let served_by = |count: usize| {
            let mut by = HashMap::<ThreadId, usize>::new();
            for _ in 0..count {
                *by.entry(workers.run(receiver.recv()).expect("it runs")).or_default() += 1;
            }
            by
        };
        let thirty = spawn(30);
        assert_eq!(served_by(30).into_values().collect::<Vec<_>>(), [10, 10, 10]);
        drop(thirty);
        let emptied = || workers.all.iter().all(|worker| worker.connections.load(Ordering::Relaxed) == 0);
        workers.run(async {
            while !emptied() {
                smol::future::yield_now().await;
            }
        });
        let _three = spawn(3);
        assert_eq!(served_by(3).len(), 3);
    }
}
