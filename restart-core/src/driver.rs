//! The driver: the one task that turns signals, messages, commands and timers into events for the lifecycle, and
//! carries its actions out.
//!
//! It decides nothing that `lifecycle` could decide: raw facts in, actions out. What it has to keep for that is in three
//! values: the `chain` of generations, the `reload` that is under way, and what the main process holds (`main_role`).
//! All its waiting is done by the tasks in `sources`, on an executor of its own that is polled by the application's, so it
//! needs no particular runtime.

mod actions;
mod bounds;
mod chain;
mod cut;
mod cutting;
mod main_role;
mod messages;
mod record;
mod reload;
mod report;
mod sources;
mod standing;
mod tasks;
mod watching;

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::process::{ExitCode, Termination};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use async_channel::{Receiver, Sender};
use async_executor::Task;
use async_io::Timer as IoTimer;
use futures_lite::future;

use crate::begun::Stoppable;
use crate::connections::Connections;
use crate::control::{Command, GenerationId, Reply, Request};
use crate::counters::{Counts, Inherited};
use crate::drain::{Drain, Phase};
use crate::environment::Environment;
use crate::generation::{Ask, Generation, Shared};
use crate::lifecycle::{Ending, Event, Lifecycle, Manager, State, Trigger};
use crate::listeners::{self, Listener, Socket, unlink_if_ours};
use crate::lock::lock;
use crate::predecessor::Predecessor;
use crate::progress::{DRIVEN, ENDED, MAIN, Progress, READY};
use crate::settings::Settings;
use crate::signals::{Signals, Wish};

use bounds::Bounds;
use chain::Chain;
use cut::Cut;
pub(crate) use main_role::MainParts;
use main_role::MainRole;
use reload::Reload;
use sources::Input;
use tasks::Tasks;

/// How often a draining generation tells the newest one how it is doing.
const REPORT_EVERY: Duration = Duration::from_millis(500);
/// Its last report is given up where the newest generation reads nothing for so long.
const LAST_REPORT_TIMEOUT: Duration = Duration::from_secs(1);
/// Clients that are owed an answer get this long to take it before the process ends.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// A first generation that takes longer than this to get ready serves its control socket meanwhile.
const STARTS_SOON: Duration = Duration::from_millis(200);
/// What is live when the process is to end gets this long to end in order.
const CUT_TIMEOUT: Duration = Duration::from_secs(1);

/// Why a process ended, and who serves on.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Exit {
    /// The generation that ends.
    pub generation: u64,
    /// Who serves on: the number and the process of the newest generation that this one knows of.
    pub successor: Option<GenerationId>,
    /// True where the process did what it was to do: it drained, or the service was stopped. False where a service
    /// manager has to start the service anew.
    pub success: bool,
    /// Connections that were live at the drain's deadline, or when the process had to end without one.
    pub cut: usize,
    /// Why the application gave up before it was ready, where it did.
    pub failure: Option<String>,
}

impl fmt::Display for Exit {
    /// One line for people: that it ends, and where the service lives on.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Exit { generation, successor, success, cut, failure } = self;
        if let Some(reason) = failure {
            write!(out, "generation {generation} ends before it was ready: {reason}")?;
            return match successor {
                Some(predecessor) => write!(out, "; {predecessor} serves on"),
                None => Ok(()),
            };
        }
        write!(out, "generation {generation} ends")?;
        if *cut > 0 {
            write!(out, ", cutting {cut} connections at the deadline")?;
        }
        match successor {
            Some(successor) if *success => write!(out, "; {successor} serves on"),
            Some(successor) => write!(out, "; its successor, {successor}, is gone as well"),
            None => write!(out, "; the service has stopped"),
        }
    }
}

impl Termination for Exit {
    /// 0 where the process did what it was to do, else 1, with which a service manager starts the service anew. A failure
    /// that no logger could tell of is on standard error.
    fn report(self) -> ExitCode {
        if self.failure.is_some() && log::max_level() == log::LevelFilter::Off {
            eprintln!("{self}");
        }
        ExitCode::from(u8::from(!self.success))
    }
}

/// What a generation has taken, and the driver goes on with.
pub(crate) struct Parts {
    pub(crate) number: u64,
    pub(crate) begun: Instant,
    pub(crate) environment: Environment,
    pub(crate) settings: Settings,
    pub(crate) signals: Arc<Signals>,
    /// Those of the application's handles as well.
    pub(crate) sockets: Arc<Mutex<Vec<Socket>>>,
    /// Those that this generation has bound itself, at its start.
    pub(crate) own: Vec<Socket>,
    pub(crate) drain: Drain,
    pub(crate) connections: Connections,
    pub(crate) inherited: Inherited,
    /// What the application sees of it all.
    pub(crate) progress: Arc<Progress>,
    /// What the application says; it closes when the last of its handles is dropped.
    pub(crate) asked: Receiver<Ask>,
    pub(crate) handle: Weak<Shared>,
    /// Hears of a stop until the driver does.
    pub(crate) stoppable: Option<Stoppable>,
}

/// What keeps a generation going: signals, the control socket, the service manager, reloads and the way of connections.
///
/// It has to be polled from the start, by [`run`](Driver::run) or [`run_with`](Driver::run_with), on any executor, for as
/// long as the process serves. Dropped, it leaves everything as a process that ends does.
#[must_use = "a generation serves only while its driver is polled: run() or run_with()"]
pub struct Driver {
    parts: Parts,
    lifecycle: Lifecycle,
    tasks: Tasks,
    received: Receiver<Input>,
    /// Events that carrying out an action brought about; they come before anything else.
    immediate: VecDeque<Event>,
    background: Vec<Task<()>>,
    deadline: Option<(u64, Task<()>)>,

    chain: Chain,
    reload: Reload,
    main: MainRole,

    listeners: Vec<Listener>,
    drain_watch: Option<(u64, Task<()>)>,
    drain_begun: Option<Instant>,
    bounds: Bounds,
    /// The last generation that was cut for a reload.
    cut: Option<Cut>,
    /// Tells the newest generation how this one is doing, while it drains.
    reporting: Option<Task<()>>,
    /// What this generation had counted at its commit, while it drains.
    counted_before: Option<Counts>,

    /// Whoever made the request that is being handled.
    requester: Option<Sender<Reply>>,
    /// The id that it gave its reload.
    requested_id: Option<String>,
    /// Looks whether the application takes long to get ready, until it is.
    getting_ready: Option<Task<()>>,
    /// Why the application gave up.
    failure: Option<String>,
    ending: Option<Ending>,
    /// Tells the application when nobody drives any more, at the latest.
    _ends: Ends,
}

/// Notes the end, whether the driver has come to it or was dropped.
struct Ends(Arc<Progress>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.note(MAIN, false);
        self.0.note(ENDED, true);
    }
}

impl fmt::Debug for Driver {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Driver").field("generation", &self.parts.number).finish_non_exhaustive()
    }
}

impl Driver {
    /// `predecessor`: who started this process, where somebody did. `listeners`: those on which it accepts.
    pub(crate) fn new(
        parts: Parts,
        predecessor: Option<Predecessor>,
        main: MainParts,
        listeners: Vec<Listener>,
    ) -> Driver {
        let stored = parts.environment.listeners_are_stored();
        let ends = Ends(Arc::clone(&parts.progress));
        let held = lock(&parts.sockets).iter().all(|socket| stored || socket.origin == listeners::Origin::Activated);
        let manager = match (main.notifier.managed(), parts.environment.supervisor) {
            (false, _) => Manager::None,
            (true, None) => Manager::Restarts,
            (true, Some(_)) => Manager::Follows,
        };
        let older = predecessor.as_ref().map(|given| u8::try_from(given.older.len()).unwrap_or(u8::MAX));
        let (tasks, received) = Tasks::new();
        let hello = parts.settings.hello(parts.number);
        let (connections, drain) = (parts.connections.clone(), parts.drain.clone());
        Driver {
            lifecycle: Lifecycle::new(older, manager, parts.settings.max_draining).with_listeners_held(held),
            parts,
            chain: Chain::new(tasks.clone(), hello, connections, drain, predecessor),
            reload: Reload::new(tasks.clone()),
            main: MainRole::new(main, tasks.clone()),
            tasks,
            received,
            immediate: VecDeque::new(),
            background: vec![],
            deadline: None,
            listeners,
            drain_watch: None,
            drain_begun: None,
            bounds: Bounds::default(),
            cut: None,
            reporting: None,
            counted_before: None,
            requester: None,
            requested_id: None,
            getting_ready: None,
            failure: None,
            ending: None,
            _ends: ends,
        }
    }

    /// Serves signals, the control socket and the service manager, replaces this process when it is told to, and returns
    /// when the process has nothing left to do.
    ///
    /// Poll it from the start, in a task of its own or beside what the application does to get ready: a stop that comes
    /// meanwhile makes it return, unless this is a successor, which its predecessor ends then. Before it is first polled, a
    /// stop ends the process ([`Builder::start`](crate::Builder::start)). Clients are accepted from
    /// [`Generation::ready`] on. Where the application gives up ([`Generation::fail`], or all handles dropped before it was
    /// ready), it returns with [`Exit::failure`].
    ///
    /// When it returns, connections that have not ended by the drain's deadline are still open: ending the process cuts
    /// them.
    pub fn run(self) -> impl Future<Output = Exit> + Send {
        Box::new(self).drive_to_the_end()
    }

    /// Runs, and has the application get ready meanwhile: `set_up` is polled beside [`run`](Driver::run), and when it has
    /// come to its end the application is [`ready`](Generation::ready). Where it fails, or a listener has nobody who
    /// accepts, it gives up with that reason ([`Exit::failure`]).
    ///
    /// For a service that is ready at once `set_up` is [`Generation::ready`] itself. A stop drops it where it waits.
    pub fn run_with<E: fmt::Display>(self, set_up: impl Future<Output = Result<(), E>>) -> impl Future<Output = Exit> {
        let generation = Generation::upgrade(&self.parts.handle);
        let run = self.run();
        async move {
            let get_ready = async move {
                // Without a handle there is nothing that could be ready, and the driver knows.
                let Some(generation) = generation else { return };
                let reason = match set_up.await {
                    Ok(()) => generation.ready().await.map_err(|error| error.to_string()),
                    Err(error) => Err(error.to_string()),
                };
                if let Err(reason) = reason {
                    generation.fail(&reason);
                }
            };
            future::or(run, async {
                get_ready.await;
                future::pending().await
            })
            .await
        }
    }

    async fn drive_to_the_end(mut self: Box<Self>) -> Exit {
        let executor = self.tasks.executor();
        executor
            .run(async move {
                self.begin();
                let ending = self.drive().await;
                Box::pin(self.finish(ending)).await
            })
            .await
    }

    /// Starts the sources that live as long as the process.
    fn begin(&mut self) {
        self.parts.stoppable = None;
        self.parts.progress.note(DRIVEN, true);
        self.background.push(self.tasks.spawn(sources::asked(self.parts.asked.clone(), self.tasks.inputs())));
        self.getting_ready = Some(self.tasks.spawn(sources::getting_ready(STARTS_SOON, self.tasks.inputs())));
        let signals = Arc::clone(&self.parts.signals);
        self.background.push(self.tasks.spawn(sources::signals(signals, self.tasks.inputs())));
        self.main.begin();
        self.chain.meet_predecessor();
    }

    async fn drive(&mut self) -> Ending {
        loop {
            let event = if let Some(event) = self.immediate.pop_front() {
                Some(event)
            } else {
                let input = self.received.recv().await.expect("the driver holds a sender itself");
                self.take(input)
            };
            if let Some(event) = event {
                let actions = self.lifecycle.on(event);
                log::trace!("{event:?} -> {:?}: {actions:?}", self.lifecycle.state());
                for action in actions {
                    self.perform(action).await;
                }
                self.note_progress();
            }
            self.parts.inherited.note_draining(self.chain.draining().count());
            self.requester = None;
            if let Some(ending) = self.ending {
                return ending;
            }
        }
    }

    /// Lets the application know how far this generation has come.
    fn note_progress(&mut self) {
        let progress = &self.parts.progress;
        progress.note(MAIN, self.lifecycle.is_main());
        if self.getting_ready.is_some() && !self.lifecycle.is_starting() {
            self.getting_ready = None;
            progress.note(READY, matches!(self.lifecycle.state(), State::Standby) || self.lifecycle.is_main());
        }
    }

    /// What the application says.
    fn take_asked(&mut self, asked: Option<Ask>) -> Option<Event> {
        let starts = self.lifecycle.is_starting();
        match asked {
            Some(Ask::Ready) => Some(Event::AppReady),
            Some(Ask::Command(command)) => self.take_command(command),
            Some(Ask::Fail(reason)) if starts => {
                self.failure.get_or_insert(reason);
                Some(Event::AppFailed)
            }
            Some(Ask::Fail(reason)) => {
                log::warn!("the application gives up, but it has said that it is ready, and serves on: {reason}");
                None
            }
            None if starts => {
                self.failure.get_or_insert_with(|| {
                    "the application gave up: it dropped the last handle on its generation before it was ready"
                        .to_owned()
                });
                Some(Event::AppFailed)
            }
            None => None,
        }
    }

    /// What an input means to the lifecycle, once what it carries has been kept.
    fn take(&mut self, input: Input) -> Option<Event> {
        let current = |slot: &Option<(u64, Task<()>)>, number| slot.as_ref().is_some_and(|(own, _)| *own == number);
        match input {
            Input::Wish(Wish::Reload) => Some(Event::Reload(Trigger::Signal)),
            Input::Wish(Wish::Stop) => Some(Event::Stop(Trigger::Signal)),
            Input::Command(command) => self.take_command(command),
            Input::Asked(asked) => self.take_asked(asked),
            Input::StillStarting => {
                if self.lifecycle.starts_alone() {
                    self.main.serve_commands();
                }
                None
            }
            Input::Spawned(number, spawned) => self.take_spawned(number, *spawned),
            Input::Successor(number, what) => {
                let current = self.reload.is_current(number);
                current.then(|| self.take_newer(what)).flatten()
            }
            Input::Older(number, what) => self.take_older(number, what),
            Input::PredecessorDied => Some(Event::PredecessorDied),
            Input::NewestDied(number) => self.chain.is_newest(number).then_some(Event::NewestDied),
            Input::Deadline(number, timer) => current(&self.deadline, number).then_some(Event::Deadline(timer)),
            Input::Drained(number) => current(&self.drain_watch, number).then_some(Event::Drained),
            Input::DrainDeadline(number) => current(&self.drain_watch, number).then_some(Event::DrainDeadline),
            Input::BarrierReturned => Some(Event::BarrierReturned),
            Input::RefreshStatus => {
                self.refresh_status();
                None
            }
            Input::PidFileDue => {
                self.main.retry_pid_file(self.lifecycle.is_main());
                None
            }
            Input::ReportDue => {
                self.send_report();
                None
            }
            Input::StopDelayOver => {
                self.begin_drain(Phase::Stopping);
                None
            }
            Input::FeedWatchdog => {
                self.feed_watchdog();
                None
            }
            Input::Well => {
                if self.lifecycle.is_main() {
                    self.main.feed_watchdog();
                }
                None
            }
        }
    }

    fn take_command(&mut self, command: Command) -> Option<Event> {
        let Command { request, reply } = command;
        match request {
            Request::Status => {
                let status = self.status();
                let _ = reply.try_send(Reply::Status(Box::new(status)));
                None
            }
            Request::Outcome { id } => {
                self.tell_outcome(&id, reply);
                None
            }
            Request::Reload { id, cut_oldest } => {
                let (id, reply) = if cut_oldest { self.cut_oldest(id, reply)? } else { (id, reply) };
                self.requester = Some(reply);
                self.requested_id = Some(id);
                Some(Event::Reload(Trigger::Command))
            }
            Request::Stop => {
                self.requester = Some(reply);
                Some(Event::Stop(Trigger::Command))
            }
        }
    }

    /// Has what is live end in order, lets those who wait have their answers, clears up what only the last process clears
    /// up, and says how it ended.
    async fn finish(&mut self, ending: Ending) -> Exit {
        let cut = self.cut().await;
        // Before anybody is told: a client that waits for the end of the service finds nothing left of it.
        if matches!(ending, Ending::Stopped | Ending::NeverServed) {
            self.main.clear_up(&lock(&self.parts.sockets));
        }
        if ending == Ending::GaveUp {
            self.parts.own.iter().for_each(unlink_if_ours);
        }
        // A successor that keeps the same file has replaced it by its own.
        if !matches!(ending, Ending::Abandoned | Ending::GivenUp) {
            self.main.remove_pid_file();
        }
        if ending == Ending::Drained {
            self.send_last_report().await;
        }
        if ending == Ending::Abandoned {
            self.chain.hold_until_the_end();
        }
        self.main.let_stop_requesters_go();
        self.reload.forget();
        self.see_clients_off().await;
        let exit = Exit {
            generation: self.parts.number,
            successor: match (ending, self.chain.predecessor()) {
                (Ending::GivenUp | Ending::GaveUp, Some(predecessor)) => Some(record::id_of(&predecessor.line.peer)),
                _ => self.chain.newest(),
            },
            success: !matches!(ending, Ending::Abandoned | Ending::GaveUp),
            cut,
            failure: self.failure.take().filter(|_| ending == Ending::GaveUp),
        };
        let level = if exit.failure.is_some() { log::Level::Error } else { log::Level::Info };
        log::log!(level, "{exit}{}", self.drain_time());
        exit
    }

    /// Waits until those who asked have their answers. Whoever asks now gets none, and asks again whoever serves by then;
    /// but for a reload, which is asked for only once.
    async fn see_clients_off(&mut self) {
        let received = self.received.clone();
        let gone = async {
            while self.main.clients().load(Ordering::Acquire) > 0 {
                IoTimer::after(Duration::from_millis(1)).await;
            }
        };
        let turned_away = async {
            while let Ok(input) = received.recv().await {
                if let Input::Command(Command { request: Request::Reload { .. }, reply }) = input {
                    let reason = format!("generation {} has just ended; ask again", self.parts.number);
                    let _ = reply.try_send(Reply::Refused { reason });
                }
            }
        };
        let late = async {
            IoTimer::after(ANSWER_TIMEOUT).await;
        };
        future::or(gone, future::or(turned_away, late)).await;
    }

    /// Tells all connections that they end now, takes back those that are on their way to a successor that has not
    /// acknowledged them, and waits until nothing is live, so that each can be booked. Returns how many there were.
    async fn cut(&mut self) -> usize {
        let drain = self.parts.drain.clone();
        let live = drain.live();
        drain.set_phase(Phase::Over);
        self.chain.stop_moving();
        let late = async {
            IoTimer::after(CUT_TIMEOUT).await;
        };
        future::or(drain.empty(), late).await;
        live
    }

    fn drain_time(&self) -> String {
        let time = |begun: Instant| format!(" (drained for {:.1} ms)", begun.elapsed().as_secs_f64() * 1000.0);
        self.drain_begun.map_or_else(String::new, time)
    }
}
