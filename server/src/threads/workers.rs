//! The threads that serve connections, and the main thread beside them.
//!
//! The main thread serves nobody but who asks for metrics. It waits in async-io for everything that is no connection,
//! so that no reload is held up by requests. Whether the team still works it finds out by a probe: a task like any other,
//! but the next one.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use smol::future::FutureExt;
use smol::{Executor, Timer};

use crate::threads::team::Team;

/// A team that works takes the next task within this time.
pub(super) const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Workers {
    main: Executor<'static>,
    pub(super) team: Arc<Team>,
}

impl Workers {
    /// Starts threads, which outlive the value, until the process ends. Fewer if there can be no more, but never none.
    pub(crate) fn start(threads: usize) -> io::Result<Workers> {
        let team = Arc::new(Team::new(threads)?);
        for number in 0..threads {
            let own = Arc::clone(&team);
            match thread::Builder::new().name(format!("reborn-{number}")).spawn(move || own.serve(number)) {
                Ok(_) => {}
                Err(error) if number == 0 => return Err(error),
                Err(error) => {
                    log::warn!("only {number} threads serve: {error}");
                    break;
                }
            }
        }
        Ok(Workers { main: Executor::new(), team })
    }

    /// Runs a future, and what is no connection, on the main thread, until the future ends.
    pub(crate) fn run<T>(&self, future: impl Future<Output = T>) -> T {
        smol::block_on(self.main.run(future))
    }

    /// Adds work that is no connection.
    pub(crate) fn spawn_on_main(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.main.spawn(task).detach();
    }

    /// Whether a thread takes a task within a second. None does where handlers block or compute on all of them. However
    /// many tasks wait: a team that has much to do works.
    pub(crate) async fn probe(&self) -> bool {
        let ran = async {
            self.team.probe().await;
            true
        };
        let late = async {
            Timer::after(PROBE_TIMEOUT).await;
            false
        };
        ran.or(late).await
    }

    /// Adds a connection. If it panics while it runs, only it ends.
    pub(crate) fn spawn(&self, connection: impl Future<Output = ()> + Send + 'static) {
        self.team.spawn(connection);
    }
}
