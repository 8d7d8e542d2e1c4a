//! The driver: the one task that turns signals, messages, commands and timers into events for the lifecycle, and
//! carries its actions out.
//!
//! It decides nothing that `lifecycle` could decide. All its waiting is done by the tasks in `sources`, on an executor
//! of its own that is polled by the application's, so it needs no particular runtime.

mod actions;
mod bounds;
mod chain;
mod cut;
mod record;
mod report;
mod sources;
mod standing;

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use async_channel::{Receiver, Sender};
use async_executor::{Executor, Task};
use async_io::Timer as IoTimer;
use futures_lite::future;

use crate::control::{self, Clients, Command, GenerationId, Outcome, Reply, Request};
use crate::counters::Counts;
use crate::drain::{Drain, Phase};
use crate::generation::Parts;
use crate::lifecycle::{Ending, Event, Lifecycle, Manager, Origin};
use crate::listeners::{self, Listener, unlink_if_ours};
use crate::signals::Wish;
use crate::successor::Successor;

use bounds::Bounds;
use chain::Chain;
use cut::Cut;
use record::{History, Record};
use sources::Input;

/// How often the service manager's line about this process is brought up to date.
const STATUS_EVERY: Duration = Duration::from_secs(5);
/// A pid file that could not be written is tried again so often.
const PID_FILE_EVERY: Duration = Duration::from_secs(1);
/// How often a draining generation tells the newest one how it is doing.
const REPORT_EVERY: Duration = Duration::from_millis(500);
/// Its last report is given up where the newest generation reads nothing for so long.
const LAST_REPORT_TIMEOUT: Duration = Duration::from_secs(1);
/// Clients that are owed an answer get this long to take it before the process ends.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// What is live when the process is to end gets this long to end in order.
const CUT_TIMEOUT: Duration = Duration::from_secs(1);
/// Inputs that wait for the driver; a source that has more waits itself.
const INPUTS_MAX: usize = 256;

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
}

impl fmt::Display for Exit {
    /// One line for people: that it ends, and where the service lives on.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Exit { generation, successor, success, cut } = self;
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

/// The process that was started as the successor, or is being started, until the next one.
struct Active {
    number: u64,
    /// There is none while it is being started.
    process: Option<Successor>,
    /// It is to be killed as soon as there is one.
    doomed: bool,
    /// The names of our sockets that it does not want.
    released: BTreeSet<String>,
    /// What reports its start, then its messages and its end.
    sources: Vec<Task<()>>,
}

pub use standing::resident_memory;

pub(crate) struct Driver {
    parts: Parts,
    lifecycle: Lifecycle,
    executor: Arc<Executor<'static>>,
    inputs: Sender<Input>,
    received: Receiver<Input>,
    /// Events that carrying out an action brought about; they come before anything else.
    immediate: VecDeque<Event>,
    /// The last number given to a source; it tells a source that has been replaced from the present one.
    last_number: u64,
    background: Vec<Task<()>>,
    deadline: Option<(u64, Task<()>)>,
    drain_watch: Option<(u64, Task<()>)>,
    drain_begun: Option<Instant>,
    bounds: Bounds,

    listeners: Vec<Listener>,
    /// Those on which only the main process accepts: the control socket's, and the application's.
    main_listeners: Vec<Listener>,
    clients: Clients,
    /// Whoever made the request that is being handled.
    asker: Option<Sender<Reply>>,
    /// The id that it gave its reload.
    asked_id: Option<String>,
    /// Whoever waits for the end of the service.
    stop_askers: Vec<Sender<Reply>>,

    chain: Chain,
    /// The last generation that was cut for a reload.
    cut: Option<Cut>,
    successor: Option<Active>,
    record: Option<Record>,
    history: History,
    /// The reload that made this generation, as its predecessor told of it.
    own_reload: Option<Outcome>,
    /// What this generation had counted at its commit, while it drains.
    counted_before: Option<Counts>,
    reporting: Option<Task<()>>,
    /// Asks the application whether it is well: for the predecessor's ping, and for the watchdog.
    pong: Option<Task<()>>,
    feeding: Option<Task<()>>,
    /// Tries the pid file again, until it is written.
    pid_file_due: Option<Task<()>>,
    /// What the service manager was last told about this process.
    told: String,
    ending: Option<Ending>,
}

impl Driver {
    pub(crate) fn new(parts: Parts) -> Driver {
        let (inputs, received) = async_channel::bounded(INPUTS_MAX);
        let stored = parts.environment.listeners_are_stored();
        let held = parts.sockets.iter().all(|socket| stored || socket.origin == listeners::Origin::Activated);
        let manager = match (parts.notifier.managed(), parts.environment.supervisor) {
            (false, _) => Manager::None,
            (true, None) => Manager::Restarts,
            (true, Some(_)) => Manager::Follows,
        };
        let older = parts.predecessor.as_ref().map(|given| u8::try_from(given.older.len()).unwrap_or(u8::MAX));
        Driver {
            lifecycle: Lifecycle::new(older, manager, parts.settings.max_draining).with_listeners_held(held),
            parts,
            executor: Arc::new(Executor::new()),
            inputs,
            received,
            immediate: VecDeque::from([Event::AppReady]),
            last_number: 0,
            background: vec![],
            deadline: None,
            drain_watch: None,
            drain_begun: None,
            bounds: Bounds::default(),
            listeners: vec![],
            main_listeners: vec![],
            clients: Clients::default(),
            asker: None,
            asked_id: None,
            stop_askers: vec![],
            chain: Chain::default(),
            cut: None,
            successor: None,
            record: None,
            history: History::default(),
            own_reload: None,
            counted_before: None,
            reporting: None,
            pong: None,
            feeding: None,
            pid_file_due: None,
            told: String::new(),
            ending: None,
        }
    }

    pub(crate) async fn run(mut self: Box<Self>, listeners: Vec<Listener>, main_listeners: Vec<Listener>) -> Exit {
        let executor = Arc::clone(&self.executor);
        (self.listeners, self.main_listeners) = (listeners, main_listeners);
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
        let signals = Arc::clone(&self.parts.signals);
        self.background.push(self.executor.spawn(sources::signals(signals, self.inputs.clone())));
        if let Some(every) = self.parts.notifier.watchdog() {
            self.background.push(self.executor.spawn(sources::watchdog(every, self.inputs.clone())));
        }
        if self.parts.notifier.managed() {
            self.background.push(self.executor.spawn(sources::status(STATUS_EVERY, self.inputs.clone())));
        }
        if let Some(control) = &self.parts.control {
            match Listener::new(control, &Drain::new(), false) {
                Ok(listener) => self.serve_control(listener.with_spare()),
                Err(error) => log::error!("the control socket cannot be served: {error}"),
            }
        }
        self.meet_predecessor();
    }

    fn serve_control(&mut self, listener: Listener) {
        self.main_listeners.push(listener.clone());
        let (commands, received) = async_channel::bounded(INPUTS_MAX);
        let (executor, clients) = (Arc::clone(&self.executor), Arc::clone(&self.clients));
        self.background.push(self.executor.spawn(control::serve(listener, executor, commands, clients)));
        self.background.push(self.executor.spawn(sources::commands(received, self.inputs.clone())));
    }

    fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
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
            }
            self.asker = None;
            if let Some(ending) = self.ending {
                return ending;
            }
        }
    }

    /// What an input means to the lifecycle, once what it carries has been kept.
    fn take(&mut self, input: Input) -> Option<Event> {
        let current = |slot: &Option<(u64, Task<()>)>, number| slot.as_ref().is_some_and(|(own, _)| *own == number);
        match input {
            Input::Wish(Wish::Reload) => Some(Event::Reload(Origin::Signal)),
            Input::Wish(Wish::Stop) => Some(Event::Stop(Origin::Signal)),
            Input::Command(command) => self.take_command(command),
            Input::Spawned(number, spawned) => self.take_spawned(number, *spawned),
            Input::Successor(number, what) => {
                let current = self.successor.as_ref().is_some_and(|active| active.number == number);
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
                self.retry_pid_file();
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
                    self.parts.notifier.feed_watchdog();
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
                self.asker = Some(reply);
                self.asked_id = Some(id);
                Some(Event::Reload(Origin::Command))
            }
            Request::Stop => {
                self.asker = Some(reply);
                Some(Event::Stop(Origin::Command))
            }
        }
    }

    /// Has what is live end in order, lets those who wait have their answers, clears up what only the last process clears
    /// up, and says how it ended.
    async fn finish(&mut self, ending: Ending) -> Exit {
        let cut = self.cut().await;
        // Before anybody is told: a client that waits for the end of the service finds nothing left of it.
        if matches!(ending, Ending::Stopped | Ending::NeverServed) {
            let own = self.parts.sockets.iter().chain(&self.parts.control);
            own.for_each(unlink_if_ours);
            // A copy of a socket whose path is gone would come back where nobody finds it.
            for socket in self.parts.sockets.iter().filter(|socket| socket.inode.is_some()) {
                self.parts.notifier.unstore(&socket.name);
            }
        }
        // A successor that keeps the same file has replaced it by its own.
        if let Some(pid_file) =
            self.parts.pid_file.as_ref().filter(|_| !matches!(ending, Ending::Abandoned | Ending::GivenUp))
        {
            pid_file.remove();
        }
        if ending == Ending::Drained {
            self.send_last_report().await;
        }
        if ending == Ending::Abandoned {
            self.chain.hold_until_the_end();
        }
        self.stop_askers.clear();
        self.record = None;
        self.see_clients_off().await;
        let exit = Exit {
            generation: self.parts.number,
            successor: match (ending, &self.parts.predecessor) {
                (Ending::GivenUp, Some(predecessor)) => Some(predecessor.line.peer.to_id()),
                _ => self.chain.newest(),
            },
            success: ending != Ending::Abandoned,
            cut,
        };
        log::info!("{exit}{}", self.drain_time());
        exit
    }

    /// Waits until those who asked have their answers. Whoever asks now gets none, and asks again whoever serves by then;
    /// but for a reload, which is asked for only once.
    async fn see_clients_off(&mut self) {
        let received = self.received.clone();
        let gone = async {
            while self.clients.load(Ordering::Acquire) > 0 {
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
