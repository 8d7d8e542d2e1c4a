//! What the main process holds beyond what it serves: the pid file, the control socket and the listeners of its own, and
//! the word to the service manager.
//!
//! Every generation has it from its start on, and it is used by the one that is the main process; which one that is, it
//! does not know.

use std::future::Future;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use async_channel::Sender;
use async_executor::Task;

use super::sources;
use super::tasks::{INPUTS_MAX, Tasks, is_over};
use crate::control::{self, Clients, Reply};
use crate::drain::Drain;
use crate::error::Error;
use crate::listeners::{Listener, Origin, Socket, unlink_if_ours};
use crate::notify::Notifier;
use crate::pid_file::PidFile;

/// How often the service manager's line about this process is brought up to date.
const STATUS_EVERY: Duration = Duration::from_secs(5);
/// A pid file that could not be written is tried again so often.
const PID_FILE_EVERY: Duration = Duration::from_secs(1);

/// What a start has made of it.
pub(crate) struct MainParts {
    pub(crate) notifier: Notifier,
    pub(crate) pid_file: Option<PidFile>,
    pub(crate) control: Option<Socket>,
    /// Those on which only the main process accepts.
    pub(crate) listeners: Vec<Listener>,
    /// The names of the predecessor's sockets that this generation does not want.
    pub(crate) released: Vec<String>,
}

pub(super) struct MainRole {
    parts: MainParts,
    tasks: Tasks,
    /// The sources that live as long as the process.
    background: Vec<Task<()>>,
    clients: Clients,
    /// Whoever waits for the end of the service.
    stop_requesters: Vec<Sender<Reply>>,
    /// Asks the application whether it is well, for the watchdog.
    feeding: Option<Task<()>>,
    /// Tries the pid file again, until it is written.
    pid_file_due: Option<Task<()>>,
    /// What the service manager was last told about this process.
    told: String,
}

impl MainRole {
    pub(super) fn new(parts: MainParts, tasks: Tasks) -> MainRole {
        MainRole {
            parts,
            tasks,
            background: vec![],
            clients: Clients::default(),
            stop_requesters: vec![],
            feeding: None,
            pid_file_due: None,
            told: String::new(),
        }
    }

    /// Starts the sources that live as long as the process.
    pub(super) fn begin(&mut self) {
        if let Some(every) = self.parts.notifier.watchdog() {
            self.background.push(self.tasks.spawn(sources::watchdog(every, self.tasks.inputs())));
        }
        if self.is_managed() {
            self.background.push(self.tasks.spawn(sources::status(STATUS_EVERY, self.tasks.inputs())));
        }
        if let Some(control) = &self.parts.control {
            match Listener::new(control, &Drain::new(), false) {
                Ok(listener) => self.serve_control(listener.with_spare()),
                Err(error) => log::error!("the control socket cannot be served: {error}"),
            }
        }
    }

    fn serve_control(&mut self, listener: Listener) {
        self.parts.listeners.push(listener.clone());
        let (commands, received) = async_channel::bounded(INPUTS_MAX);
        let serve = control::serve(listener, self.tasks.executor(), commands, Arc::clone(&self.clients));
        self.background.push(self.tasks.spawn(serve));
        self.background.push(self.tasks.spawn(sources::commands(received, self.tasks.inputs())));
    }

    /// The clients of the control socket.
    pub(super) fn clients(&self) -> &Clients {
        &self.clients
    }

    pub(super) fn control(&self) -> Option<&Socket> {
        self.parts.control.as_ref()
    }

    /// The names of the predecessor's sockets that this generation does not want.
    pub(super) fn released(&self) -> &[String] {
        &self.parts.released
    }

    pub(super) fn keep_stop_requester(&mut self, requester: Sender<Reply>) {
        self.stop_requesters.push(requester);
    }

    /// The service has ended: whoever waits for that sees the connection close.
    pub(super) fn let_stop_requesters_go(&mut self) {
        self.stop_requesters.clear();
    }
}

/// Its listeners.
impl MainRole {
    pub(super) fn accept(&self) {
        self.parts.listeners.iter().for_each(Listener::open);
    }

    /// Takes commands, for a service whose application takes its time to get ready.
    pub(super) fn serve_commands(&self) {
        let name = self.parts.control.as_ref().map(|control| control.name.as_str());
        self.parts.listeners.iter().filter(|listener| Some(listener.name()) == name).for_each(Listener::open);
    }

    /// Leaves accepting to the successor.
    pub(super) fn pause(&self) {
        self.parts.listeners.iter().for_each(Listener::close);
    }

    /// Gives up what the successor does not want, and returns the listeners whose queues are still to be served.
    pub(super) fn release(&mut self, is_released: impl Fn(&str) -> bool) -> Vec<Listener> {
        self.parts.control.iter().filter(|socket| is_released(&socket.name)).for_each(unlink_if_ours);
        self.parts.listeners.extract_if(.., |listener| is_released(listener.name())).collect()
    }

    /// Removes the paths of the service's sockets, and the service manager's copies of those.
    pub(super) fn clear_up(&self, sockets: &[Socket]) {
        sockets.iter().chain(&self.parts.control).for_each(unlink_if_ours);
        // A copy of a socket whose path is gone would come back where nobody finds it.
        for socket in sockets.iter().filter(|socket| socket.inode.is_some()) {
            self.parts.notifier.unstore(&socket.name);
        }
    }
}

/// Its pid file.
impl MainRole {
    pub(super) fn write_pid_file(&mut self) {
        if let Some(pid_file) = &self.parts.pid_file
            && let Err(error) = pid_file.write()
        {
            log::error!("{error}; it is tried again every {PID_FILE_EVERY:?}");
            self.pid_file_due = Some(self.tasks.spawn(sources::pid_file(PID_FILE_EVERY, self.tasks.inputs())));
        }
    }

    /// A full disk gets room again, and whoever follows the pid file finds nobody until then. `is_main`: it is still
    /// this process that the file is to name.
    pub(super) fn retry_pid_file(&mut self, is_main: bool) {
        let Some(pid_file) = &self.parts.pid_file else { return };
        if !is_main {
            self.pid_file_due = None;
        } else if pid_file.write().is_ok() {
            log::info!("the pid file is written now");
            self.pid_file_due = None;
        }
    }

    pub(super) fn remove_pid_file(&self) {
        self.parts.pid_file.iter().for_each(PidFile::remove);
    }
}

/// Its word to the service manager.
impl MainRole {
    pub(super) fn is_managed(&self) -> bool {
        self.parts.notifier.managed()
    }

    pub(super) fn say_reloading(&self, status: &str, within: Duration) {
        self.parts.notifier.reloading(status, within);
    }

    pub(super) fn say_stopping(&self, status: &str, within: Duration) {
        self.parts.notifier.stopping(status, within);
    }

    /// This process is ready, for the first time or again.
    pub(super) fn say_ready(&mut self, status: String) {
        self.parts.notifier.ready(&status);
        self.told = status;
    }

    /// The first words of a successor that has taken over.
    pub(super) fn say_took_over(&mut self, status: String) {
        self.parts.notifier.took_over(&status);
        self.told = status;
    }

    /// Tells how things are, if that has changed.
    pub(super) fn say_status(&mut self, status: String) {
        if status != self.told {
            self.parts.notifier.status(&status);
            self.told = status;
        }
    }

    /// Says that another process is the main one from now on.
    pub(super) async fn announce(&mut self, pid: u32, status: &str) -> Result<(), Error> {
        self.parts.notifier.announce(pid, status).await
    }

    /// Has it reported that everything so far has been read.
    pub(super) fn await_barrier(&mut self) {
        let barrier = sources::barrier(self.parts.notifier.barrier(), self.tasks.inputs());
        self.background.push(self.tasks.spawn(barrier));
    }

    /// Leaves copies of the listeners that this service bound with the service manager, so that they outlive a process
    /// that is killed. One whose store has no room for them refuses; it takes the same socket only once. Copies of the
    /// predecessor's that are not wanted any more go first: their names may have become others'.
    pub(super) fn store(&mut self, sockets: &[Socket]) {
        for name in std::mem::take(&mut self.parts.released) {
            self.parts.notifier.unstore(&name);
        }
        let is_main = |name: &str| self.parts.listeners.iter().any(|listener| listener.name() == name);
        let sockets = sockets.iter().filter(|socket| socket.origin == Origin::Bound);
        for socket in sockets.filter(|socket| !is_main(&socket.name)) {
            self.parts.notifier.store(&socket.name, socket.fd.as_fd());
        }
    }

    /// Asks the application whether it is well, unless it is still being asked.
    pub(super) fn ask_for_watchdog(&mut self, is_well: impl Future<Output = bool> + Send + 'static) {
        if is_over(self.feeding.as_ref()) {
            self.feeding = Some(self.tasks.spawn(sources::well(is_well, self.tasks.inputs())));
        }
    }

    pub(super) fn feed_watchdog(&self) {
        self.parts.notifier.feed_watchdog();
    }
}
