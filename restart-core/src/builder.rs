//! How a process takes its place in the chain of generations: what the application asks for, and the order of the start.
//!
//! Inherited descriptors come first, then signals, then the predecessor, then sockets. What happens after that is the
//! driver's.

use std::future::Future;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_channel::Receiver;

use crate::address::{Address, Endpoint};
use crate::begun::{Begun, Stoppable};
use crate::connections::Connections;
use crate::control::{self, Place};
use crate::counters::{Counts, Inherited};
use crate::drain::Drain;
use crate::driver::{Driver, MainParts, Parts};
use crate::environment::{Environment, forget_handed, is_successor, must_supervise, refuse_threads};
use crate::error::Error;
use crate::formats::Formats;
use crate::generation::{Ask, Generation, Shared, asking};
use crate::handover::{Channel, Message};
use crate::listeners::{
    self, BindStage, Binding, Listener, Resolved, Socket, bind_control, from_fd_3, from_listen_fds, has_lost_its_path,
    spare_names,
};
use crate::notify::Notifier;
use crate::pid_file::PidFile;
use crate::predecessor::{self, Predecessor};
use crate::progress::Progress;
use crate::settings::{MAX_DRAINING_MAX, Settings, TIMEOUT_MAX};
use crate::signals::{Reopen, Signals};
use crate::sys;
use crate::waiting::Waiting;

/// The name under which the control socket travels from generation to generation; no listener can have it.
pub(crate) const CONTROL_NAME: &str = "control";

type Explain = Box<dyn Fn(&Error) -> Option<String> + Send>;

/// How a process takes its place in the chain of generations.
///
/// The same program is started by a person, by a service manager, and by its own predecessor; the builder says what it
/// wants, and [`start`](Builder::start) finds out what is already there.
#[must_use = "nothing happens before start() is called"]
pub struct Builder {
    wanted: Vec<Endpoint>,
    wanted_as_main: Vec<Endpoint>,
    default: Option<Endpoint>,
    control: Place,
    pid_file: Option<PathBuf>,
    reload_signal: Option<i32>,
    reopen_logs: Option<Reopen>,
    explain: Option<Explain>,
    binding: Binding,
    settings: Settings,
}

impl Default for Builder {
    fn default() -> Builder {
        Builder::new()
    }
}

impl Builder {
    /// A service without listeners, control socket or pid file, with the default deadlines.
    pub fn new() -> Builder {
        Builder {
            wanted: vec![],
            wanted_as_main: vec![],
            default: None,
            control: Place::None,
            pid_file: None,
            reload_signal: None,
            reopen_logs: None,
            explain: None,
            binding: Binding::default(),
            settings: Settings::default(),
        }
    }

    /// Wants a socket: handed over by the predecessor or given by a service manager under its name, else bound. A Unix
    /// socket that an earlier generation bound, and whose path somebody has removed, is bound anew; the old one is served
    /// until the commit, and closed once its queue is empty.
    pub fn listen(mut self, endpoint: Endpoint) -> Builder {
        self.wanted.push(endpoint);
        self
    }

    /// Wants a socket on which only the main process accepts, as on the control socket, and until it ends: for what
    /// speaks of the service as a whole, such as metrics. Its connections do not count as live: a drain does not wait
    /// for them. The listener is to be had by its name only.
    pub fn listen_as_main(mut self, endpoint: Endpoint) -> Builder {
        self.wanted_as_main.push(endpoint);
        self
    }

    /// What to bind where nothing is given by anybody and [`listen`](Builder::listen) was never called.
    pub fn default_listen(mut self, endpoint: Endpoint) -> Builder {
        self.default = Some(endpoint);
        self
    }

    /// Where the control socket lies; by default there is none.
    #[cfg(feature = "control")]
    pub fn control(mut self, place: Place) -> Builder {
        self.control = place;
        self
    }

    /// A file that names the main process.
    pub fn pid_file(mut self, path: impl Into<PathBuf>) -> Builder {
        self.pid_file = Some(path.into());
        self
    }

    /// The word that the next generation gets in front of its arguments; `-g` by default, and none where it is empty. A
    /// successor does not need it to know what it is: it looks at its standard input, and its environment names that. What
    /// it is good for is for people to see, in a list of processes, and for versions of this library up to 0.1, which know
    /// nothing else: going back to one by a reload takes `-g`. The program has to take the word, or to get its arguments
    /// from [`arguments`](crate::arguments).
    pub fn handover_word(mut self, word: impl Into<String>) -> Builder {
        self.settings.handover_word = Some(word.into()).filter(|word| !word.is_empty());
        self
    }

    /// A signal that asks for a reload, beside SIGHUP and SIGUSR2. It may be SIGINT, which otherwise asks for a stop.
    /// [`start`](Builder::start) fails where there is no such signal, or it cannot be handled.
    pub fn reload_signal(mut self, number: i32) -> Builder {
        self.reload_signal = Some(number);
        self
    }

    /// What is done on SIGUSR1, which asks for the logs to be opened anew; without it the signal does nothing. It is
    /// called on the task that runs [`Driver::run`], and must not block.
    pub fn reopen_logs(mut self, reopen: impl Fn() + Send + Sync + 'static) -> Builder {
        self.reopen_logs = Some(Box::new(reopen));
        self
    }

    /// What the application knows about an error of [`start`](Builder::start), such as who asked for the address that
    /// cannot be bound: it stands behind the error, also where a predecessor is told of it.
    pub fn explain(mut self, explain: impl Fn(&Error) -> Option<String> + Send + 'static) -> Builder {
        self.explain = Some(Box::new(explain));
        self
    }

    /// What the application does to each socket that is bound for it, but the control socket: set options, or give a Unix
    /// socket's path to another owner. It is called at each [`BindStage`] of each socket, from [`start`](Builder::start);
    /// an error of it fails the start, and names the socket. What is handed over or given by a service manager was bound
    /// before, and stays as it is.
    ///
    /// ```no_run
    /// # use restart_core::{BindStage, Builder};
    /// let builder = Builder::new().on_bind(|stage, _fd, endpoint| match endpoint.address.path() {
    ///     Some(path) if stage == BindStage::Bound => std::os::unix::fs::chown(path, None, Some(33)),
    ///     _ => Ok(()),
    /// });
    /// ```
    pub fn on_bind(
        mut self,
        prepare: impl Fn(BindStage, BorrowedFd<'_>, &Endpoint) -> io::Result<()> + Send + 'static,
    ) -> Builder {
        self.binding.hook = Some(Box::new(prepare));
        self
    }

    /// How many connections may wait for being accepted on each listener that is bound; 4096 by default, and no more than
    /// `net.core.somaxconn`.
    pub fn backlog(mut self, connections: u16) -> Builder {
        self.binding.backlog = connections.into();
        self
    }

    /// How long a successor may take until it is ready; 10 s by default. When the time is over it is killed, and this
    /// generation serves on. This and the other times are at most [`TIMEOUT_MAX`].
    pub fn ready_timeout(mut self, timeout: Duration) -> Builder {
        self.settings.ready_timeout = timeout.min(TIMEOUT_MAX);
        self
    }

    /// How long a successor that is ready has to live before it takes over; 1 s by default, 0 is allowed.
    pub fn probation(mut self, probation: Duration) -> Builder {
        self.settings.probation = probation.min(TIMEOUT_MAX);
        self
    }

    /// How long this generation may finish what it has, after it has been replaced; 10 min by default. What cannot move
    /// stays in its process for so long: it costs the memory of a process, and a place among those that drain
    /// ([`max_draining`](Builder::max_draining)). A stop that comes meanwhile leaves it the
    /// [`stop_timeout`](Builder::stop_timeout) from then on. A successor that is given up after it was ready finishes
    /// what it has accepted within the same time.
    pub fn drain_timeout(mut self, timeout: Duration) -> Builder {
        self.settings.drain_timeout = timeout.min(TIMEOUT_MAX);
        self
    }

    /// How long the service may finish what it has, after it was told to stop; 20 s by default. It holds for all
    /// generations: those that drain end within the time that the newest one has. It begins when the
    /// [`stop_delay`](Builder::stop_delay) is over. Whatever ends the process for good (`TimeoutStopSec=`,
    /// `terminationGracePeriodSeconds`) has to wait for longer.
    pub fn stop_timeout(mut self, timeout: Duration) -> Builder {
        self.settings.stop_timeout = timeout.min(TIMEOUT_MAX);
        self
    }

    /// How long the service goes on accepting after it was told to stop ([`Drain::stop_announced`]), so that whoever
    /// sends it clients can notice; 0 by default.
    pub fn stop_delay(mut self, delay: Duration) -> Builder {
        self.settings.stop_delay = delay.min(TIMEOUT_MAX);
        self
    }

    /// How many replaced generations may still be finishing what they have; 16 by default, at least 1, at most
    /// [`MAX_DRAINING_MAX`]. Each is a process with its memory. Where so many drain, a reload is refused, unless it is
    /// asked to cut the oldest one ([`Client::cut_oldest`](control::Client::cut_oldest)).
    pub fn max_draining(mut self, generations: u8) -> Builder {
        self.settings.max_draining = generations.clamp(1, MAX_DRAINING_MAX);
        self
    }

    /// The program's version, for people.
    pub fn version(mut self, version: impl Into<String>) -> Builder {
        self.settings.version = version.into();
        self
    }

    /// Gives the next generation a state of at most 256 MiB. `save` is called at each reload, on the task that runs
    /// [`Driver::run`]; `format` tells the reader, who may be a newer version, how to read it.
    pub fn save_state(mut self, format: u32, save: impl FnMut() -> Vec<u8> + Send + 'static) -> Builder {
        self.settings.save_state = Some((format, Box::new(save)));
        self
    }

    /// Takes over connections of the generations before that are in one or more of these formats, and in no other: the
    /// application must [`take`](Connections::take) them for as long as it serves. At most 32 names of at most 64 bytes.
    pub fn take_connections(mut self, formats: impl Into<Formats>) -> Builder {
        self.settings.formats = formats.into();
        self
    }

    /// What the application has to say in the status, as [`Status::application`](control::Status::application).
    pub fn report(mut self, report: impl Fn() -> serde_json::Value + Send + 'static) -> Builder {
        self.settings.report = Some(Box::new(report));
        self
    }

    /// What the application still has to finish, an entry for each kind of it: the status shows it, twice a second for a
    /// generation that drains ([`DrainingReport::waits`](control::DrainingReport::waits)), and a reload that is refused
    /// because so many drain says it of each. `waits` is called on the task that runs [`Driver::run`], and must not
    /// block. Of at most 12 kinds names of 24 characters are kept, and 96 of what the oldest is.
    pub fn waits(mut self, waits: impl Fn() -> Vec<Waiting> + Send + 'static) -> Builder {
        self.settings.waits = Some(Box::new(waits));
        self
    }

    /// What this generation has counted so far: the next one inherits it ([`Generation::inherited`]). `count` is called
    /// on the task that runs [`Driver::run`], at a commit and twice a second while this generation drains. All
    /// names and numbers together must fit into a message of 64 KiB.
    pub fn count(mut self, count: impl Fn() -> Counts + Send + 'static) -> Builder {
        self.settings.count = Some(Box::new(count));
        self
    }

    /// How the application finds out whether it still serves, beyond the task that runs [`Driver::run`]: for an
    /// application that serves on other threads, a task that has to get its turn there.
    ///
    /// It is asked before this generation, when it is new, answers its predecessor's question whether it works, and before
    /// the service manager's watchdog is fed. Where it says no, or nothing for a second, there is no answer, and the
    /// reload fails once the predecessor has waited for it; or no feeding, and the service manager ends the service once
    /// its `WatchdogSec=` is over. By default the answer is yes.
    pub fn probe<F>(mut self, probe: impl Fn() -> F + Send + Sync + 'static) -> Builder
    where
        F: Future<Output = bool> + Send + 'static,
    {
        self.settings.probe = Some(Arc::new(move || Box::pin(probe())));
        self
    }

    /// Takes this process's place: adopts what it was started with, installs signal handlers, takes over from a
    /// predecessor, binds what is missing.
    ///
    /// Call it first thing in `main`, before any thread exists; it fails where one does, so a runtime is made afterwards, or
    /// has no threads of its own (`#[tokio::main(flavor = "current_thread")]`). It blocks, for at most 65 s where a predecessor is slow.
    /// Every descriptor but 0, 1 and 2 is close-on-exec afterwards. Fails where what was inherited is not what it
    /// claims to be, where a socket cannot be bound, or where another server has the control socket; a predecessor is
    /// then told why, and goes on serving. Sockets bound meanwhile are closed again.
    ///
    /// From then on, until the [`Driver`] is first polled, a signal that stops the service (SIGTERM, SIGINT, SIGQUIT,
    /// SIGPWR), or the end of the supervisor, ends the process, however long the application blocks: paths of sockets that
    /// it has bound and its pid file are removed, a predecessor stops as well, and the exit status is 0, as that of any
    /// service that was told to stop. No destructor of the application runs then. The thread that drives async-io waits for
    /// it; dropping the driver ends that, too.
    pub fn start(mut self) -> Result<(Generation, Driver), Error> {
        let stdin = if is_successor() { predecessor::take_channel()? } else { None };
        let (environment, signals, there) = match self.adopt(stdin.is_some()) {
            Ok(adopted) => adopted,
            Err(error) => {
                if let Some(Ok(channel)) = stdin.map(Channel::adopt) {
                    let _ = channel.try_send(&Message::failed(&error.to_string()), &[]);
                }
                return Err(error);
            }
        };
        let predecessor = match stdin {
            Some(socket) => Some(predecessor::receive(socket, |number| self.settings.hello(number))?),
            None => None,
        };
        let channel = predecessor.as_ref().map(|predecessor| Arc::clone(&predecessor.line.channel));
        let explain = self.explain.take();
        self.take_place(environment, signals, predecessor, there).map_err(|error| {
            let note = explain.and_then(|explain| explain(&error));
            let error = error.noted(note);
            if let Some(channel) = channel {
                let _ = channel.try_send(&Message::failed(&error.to_string()), &[]);
            }
            error
        })
    }

    /// What comes before any thread: the environment, the sockets that this process was started with (where there is a
    /// predecessor it gives them later), and the signals.
    fn adopt(&mut self, succeeds: bool) -> Result<(Environment, Signals, Vec<Socket>), Error> {
        refuse_threads()?;
        forget_handed();
        let environment = Environment::read()?;
        let mut names = spare_names(&self.wanted, self.default.as_ref());
        let there = match (succeeds, environment.handover_flag) {
            (true, _) => vec![],
            (false, true) => vec![from_fd_3(&names.next().unwrap_or_default())?],
            (false, false) => from_listen_fds(&environment, names)?,
        };
        sys::close_on_exec_from(3).map_err(|error| Error::system("cannot mark descriptors close-on-exec", error))?;
        if let (Some(why), None) = (must_supervise(), environment.supervisor) {
            log::warn!("the first reload will be the last: {why}; have it supervised (restart_core::supervise)");
        }
        let signals = Signals::install(self.reload_signal, self.reopen_logs.take(), &environment)?;
        Ok((environment, signals, there))
    }

    fn take_place(
        self,
        environment: Environment,
        signals: Signals,
        mut predecessor: Option<Predecessor>,
        mut there: Vec<Socket>,
    ) -> Result<(Generation, Driver), Error> {
        self.settings.formats.check()?;
        if let Some(predecessor) = &mut predecessor {
            there = std::mem::take(&mut predecessor.sockets);
        }
        let SocketSet { control, mut sockets, as_main, released, own } =
            self.find_sockets(&environment, there, predecessor.is_some())?;
        let notifier = Notifier::new(&environment)?;
        let drain = Drain::new();
        let watch = |sockets: &[Socket], drain: &Drain| -> Result<Vec<Listener>, Error> {
            let streams = sockets.iter().filter(|socket| socket.address.is_stream());
            let listeners = streams.map(|socket| {
                Listener::new(socket, drain, environment.listeners_may_last())
                    .map_err(|error| Error::socket(format!("cannot watch the listener {:?}", socket.name), error))
            });
            listeners.collect()
        };
        let (streams, main_streams) = (watch(&sockets, &drain)?, watch(&as_main, &Drain::new())?);
        sockets.extend(as_main);
        let pid_file = self.pid_file.as_deref().map(PidFile::new).transpose()?;
        if let (Some(pid_file), None) = (&pid_file, &predecessor) {
            pid_file.write()?;
        }
        let state = predecessor.as_mut().and_then(|predecessor| predecessor.state.take());
        let number = predecessor.as_ref().map_or(1, |predecessor| predecessor.line.peer.id.generation + 1);
        let signals = Arc::new(signals);
        let line = predecessor.as_ref().map(|predecessor| Arc::clone(&predecessor.line.channel));
        let begun =
            Begun { generation: number, sockets: own.clone(), pid_file: pid_file.clone(), predecessor: line.clone() };
        let stoppable = Stoppable::new(begun, Arc::clone(&signals));
        let (asks, asked) = asking();
        let shared = Shared {
            number,
            drain,
            connections: Connections::new(self.settings.formats.clone()),
            inherited: Inherited::default(),
            sockets: Arc::new(Mutex::new(sockets)),
            listeners: streams,
            main_listeners: main_streams,
            state: Mutex::new(state),
            predecessor: line.as_ref().map(Arc::downgrade).unwrap_or_default(),
            progress: Arc::new(Progress::default()),
            asks,
        };
        let main = MainParts { notifier, pid_file, control, listeners: shared.main_listeners.clone(), released };
        let rest = Rest { environment, settings: self.settings, signals, own, stoppable: Some(stoppable), asked };
        Ok(hand_out(shared, rest, predecessor, main))
    }

    /// Finds, takes over and binds the sockets that are wanted, from those that are there. `handed`: a predecessor gave
    /// them, its control socket among them.
    fn find_sockets(
        &self,
        environment: &Environment,
        mut there: Vec<Socket>,
        handed: bool,
    ) -> Result<SocketSet, Error> {
        let inodes: Vec<(u64, u64)> = there.iter().filter(|_| handed).filter_map(|socket| socket.inode).collect();
        let at = there.iter().position(|socket| handed && socket.name == CONTROL_NAME);
        let handed_control = at.map(|at| there.remove(at));
        let reserved = self.wanted.iter().chain(&self.default).map(|endpoint| endpoint.name.as_str());
        if reserved.chain(there.iter().map(|socket| socket.name.as_str())).any(|name| name == CONTROL_NAME) {
            return Err(Error::address(format!("no listener can be called {CONTROL_NAME:?}: choose another name")));
        }
        let handed_inode = handed_control.as_ref().map(|socket| socket.inode);
        let control = control_socket(&self.control, environment, handed_control)?;
        let wanted_as_main = |name: &str| self.wanted_as_main.iter().any(|endpoint| endpoint.name == name);
        if let Some(twice) = self.wanted.iter().find(|endpoint| wanted_as_main(&endpoint.name)) {
            return Err(Error::address(format!("two listeners are called {:?}: choose another name", twice.name)));
        }
        let (there_as_main, there) = there.into_iter().partition(|socket| wanted_as_main(&socket.name));
        let as_main = listeners::resolve(there_as_main, &self.wanted_as_main, None, &self.wanted, &self.binding)?;
        let Resolved { kept: sockets, released } =
            listeners::resolve(there, &self.wanted, self.default.as_ref(), &self.wanted_as_main, &self.binding)?;
        let released = released.into_iter().chain(as_main.released);
        let mut released: Vec<String> = released.map(|socket| socket.name).collect();
        if handed_inode.is_some() && handed_inode != control.as_ref().map(|socket| socket.inode) {
            released.push(CONTROL_NAME.to_owned());
        }
        let is_handed = |socket: &Socket| socket.inode.is_some_and(|inode| inodes.contains(&inode));
        let all = sockets.iter().chain(&as_main.kept).chain(&control);
        let own = all.filter(|socket| !is_handed(socket)).cloned().collect();
        Ok(SocketSet { control, sockets, as_main: as_main.kept, released, own })
    }
}

/// What only the driver has of a start.
struct Rest {
    environment: Environment,
    settings: Settings,
    signals: Arc<Signals>,
    own: Vec<Socket>,
    stoppable: Option<Stoppable>,
    asked: Receiver<Ask>,
}

/// The application's handle on a start, and the driver of the same.
fn hand_out(shared: Shared, rest: Rest, predecessor: Option<Predecessor>, main: MainParts) -> (Generation, Driver) {
    let Rest { environment, settings, signals, own, stoppable, asked } = rest;
    let listeners = shared.listeners.clone();
    let (drain, connections, inherited) = (shared.drain.clone(), shared.connections.clone(), shared.inherited.clone());
    let (number, sockets, progress) = (shared.number, Arc::clone(&shared.sockets), Arc::clone(&shared.progress));
    let generation = Generation::new(shared);
    let parts = Parts {
        number,
        begun: Instant::now(),
        environment,
        settings,
        signals,
        sockets,
        own,
        drain,
        connections,
        inherited,
        progress,
        asked,
        handle: generation.downgrade(),
        stoppable,
    };
    (generation, Driver::new(parts, predecessor, main, listeners))
}

/// The sockets of a generation.
struct SocketSet {
    control: Option<Socket>,
    sockets: Vec<Socket>,
    as_main: Vec<Socket>,
    /// The names of the predecessor's that it does not want.
    released: Vec<String>,
    /// Those that it has not taken over.
    own: Vec<Socket>,
}

/// The control socket: the predecessor's, if it lies where this generation wants it and can be reached there, else a new
/// one.
fn control_socket(place: &Place, environment: &Environment, handed: Option<Socket>) -> Result<Option<Socket>, Error> {
    let Some(path) = control::resolve(place, environment)? else { return Ok(None) };
    if let Some(handed) = handed.filter(|socket| socket.asked.path() == Some(&path) && !has_lost_its_path(socket)) {
        return Ok(Some(handed));
    }
    let address: Address = format!("unix:{}", path.display()).parse()?;
    let endpoint = Endpoint { name: CONTROL_NAME.to_owned(), address, mode: None };
    bind_control(&endpoint).map(Some).map_err(|error| match control::running_pid(&path) {
        Some(pid) => Error::control(format!(
            "another server (pid {pid}) already has the control socket {}; to run a second one beside it, give it a \
             place of its own with --control",
            path.display()
        )),
        None => error,
    })
}

#[cfg(test)]
mod tests {
    use async_io::block_on;
    use futures_lite::future;

    use super::*;

    #[test]
    fn an_application_is_well_unless_its_probe_says_otherwise_or_nothing() {
        let is_well = |builder: Builder| block_on(builder.settings.is_well());
        assert!(is_well(Builder::new()));
        assert!(is_well(Builder::new().probe(|| async { true })));
        assert!(!is_well(Builder::new().probe(|| async { false })));
        assert!(!is_well(Builder::new().probe(future::pending)));
    }

    #[test]
    fn no_number_is_too_large_for_the_bounds_of_a_reload() {
        let huge = Duration::MAX;
        let builder = Builder::new().ready_timeout(huge).probation(huge).drain_timeout(huge);
        let builder = builder.stop_timeout(huge).stop_delay(huge);
        let Settings { ready_timeout, probation, drain_timeout, stop_timeout, stop_delay, .. } = builder.settings;
        let sum = ready_timeout + probation + drain_timeout + stop_timeout + stop_delay;
        assert!(Instant::now().checked_add(sum).is_some() && u64::try_from(sum.as_micros()).is_ok());
        for (given, taken) in [(0, 1), (64, 64), (65, 64), (u8::MAX, 64)] {
            assert_eq!(Builder::new().max_draining(given).settings.max_draining, taken);
        }
        // The channels of all that drain, and of the one that has just been replaced.
        assert!(usize::from(MAX_DRAINING_MAX) < crate::handover::FDS_PER_MESSAGE_MAX);
    }
}
