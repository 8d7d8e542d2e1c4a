//! The world of the search: processes, channels, a service manager, and what may happen to them.
//!
//! Each process holds a real `Lifecycle` and what its driver would keep; the lines are queues whose end is seen when they
//! are empty and every holder of the other end is dead, and the death of a process is seen by its pidfd, before or after
//! that. What is said may arrive as garbage (another version, a lost descriptor), and a line may break for one side. It
//! enumerates what may happen next and carries it out; whether the result is any good is the search's matter. It is one
//! long file because each rule of the world touches all of its parts.

use crate::lifecycle::{self, Action, Ending, Event, Lifecycle, Stage, State, Timer, Trigger};

/// What is said on a channel. Every name is the one that the handover has for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Said {
    Ready,
    Failed,
    Pong,
    Committed,
    Stop,
    Garbage,
    Ping,
    Commit {
        settled: bool,
        reload: bool,
    },
    Settled,
    Reload,
    Stopping,
    /// The last report of a generation whose drain is over, which tells again that the service is to stop.
    LastReport,
    /// To a successor that has been given up.
    Withdraw {
        stop: bool,
    },
    /// From the newest generation, which it names.
    Greeting(usize),
    Greeted,
}

/// Both directions of the line between a process and its successor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Channel {
    to_newer: Vec<Said>,
    to_older: Vec<Said>,
    /// The older, and the newer side, cannot receive any more.
    older_deaf: bool,
    newer_deaf: bool,
}

/// A place in the chain of generations; a failed successor's is used again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Slot {
    Unused,
    /// `reaped`: its parent has taken its exit status, so a service manager never sees it.
    Dead {
        reaped: bool,
    },
    Live(Box<Process>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Gate {
    Closed,
    Open,
    LastCall,
}

/// Whether the end of a drain is being waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Watch {
    No,
    Yes,
    /// It has ended; its deadline still comes.
    DeadlineOnly,
}

/// The start of a successor's process, which takes a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Spawn {
    No,
    UnderWay,
    /// It is to be killed as soon as it exists.
    Doomed,
}

/// The reload that a process has under way, and whether somebody waits for its outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Record {
    None,
    Unasked,
    Asked,
}

/// What a driver keeps beside the lifecycle.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Process {
    pub(super) lifecycle: Lifecycle,
    pub(super) gate: Gate,
    has_been_main: bool,
    starting: bool,
    hangs: bool,
    timer: Option<Timer>,
    watch: Watch,
    barrier: bool,
    immediate: Vec<Event>,
    record: Record,
    spawn: Spawn,
    /// It holds its end of the line to its successor, and its pidfd.
    successor: bool,
    /// The line's end has not been reported yet.
    hears_successor: bool,
    /// The successor's end has not been reported yet.
    awaits_exit: bool,
    /// Who the newest generation is, as far as it knows.
    newest: Option<usize>,
    /// That one has ended, and it has not been told yet.
    newest_died: bool,
    /// The same of the predecessor.
    predecessor_died: bool,
    /// Who has introduced itself and is not welcomed yet.
    introduced: Option<usize>,
    /// The lines to older generations, one bit for each: those that it holds, those of them that it listens to, and
    /// those whose other side has answered its greeting.
    held: u8,
    open: u8,
    greeted: u8,
    /// The point of no return has been passed.
    committed: bool,
    /// It knows that the service was told to stop.
    told: bool,
}

/// The service manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Manager {
    main: usize,
    /// A new main process that it has been told of and has not read yet.
    announced: Option<usize>,
    main_died: bool,
}

/// How often what comes from outside may still come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Budget {
    pub(super) reloads: u8,
    pub(super) stops: u8,
    pub(super) crashes: u8,
    /// Messages that arrive as garbage.
    pub(super) garbage: u8,
    /// Lines that break.
    pub(super) breaks: u8,
    /// What makes the space large and has been walked with fewer generations is left out: actions that fail, deaths
    /// between two actions of one step, questions asked again that need not be, wishes at generations that drain.
    pub(super) plain: bool,
}

/// Everything.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct World {
    pub(super) slots: Vec<Slot>,
    channels: Vec<Channel>,
    follower: lifecycle::Manager,
    manager: Option<Manager>,
    pub(super) budget: Budget,
    /// The service was told to stop.
    pub(super) stop_wished: bool,
    /// Whoever knew of that was killed before it could tell anybody.
    pub(super) stop_excused: bool,
    /// Somebody was killed.
    killed: bool,
    /// The last main process was killed: nothing can go on.
    pub(super) death_excused: bool,
    /// The service manager has ended the unit, and starts it anew where it was not stopped.
    pub(super) unit_ended: bool,
}

/// What may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// An event reaches a process. `fails`: what can fail among its actions does. `killed_after`: so many actions are
    /// carried out, then the process is killed.
    Event { who: usize, event: Event, source: Source, fails: bool, killed_after: Option<usize> },
    /// A successor's process begins to exist.
    Spawned { who: usize },
    /// The next message on a line arrives as garbage.
    Garble { channel: usize, to_newer: bool },
    /// One side of a line cannot receive any more.
    Breaks { channel: usize, newer_side: bool },
    /// The newest generation greets one that has not answered.
    GreetAgain { who: usize, channel: usize },
    /// A successor that has not answered the ping does nothing any more.
    Hangs { who: usize },
    /// kill -9.
    Crash { who: usize },
    /// The service manager reads who is the main process now.
    ManagerReads,
    /// The service manager sees the end of the main process before that.
    ManagerSeesDeath,
}

/// Where an event comes from, so that it can be taken from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Immediate,
    App,
    AppFails,
    Timer,
    Drained,
    DrainDeadline,
    Barrier,
    Spawn,
    SuccessorSays,
    SuccessorGone,
    SuccessorExited,
    NewestDied,
    PredecessorDied,
    OlderSays(usize),
    OlderGone(usize),
    OlderReports,
    Wish,
}

impl Step {
    /// Whether it comes from outside, and so may never come.
    pub(super) fn is_wish(&self) -> bool {
        matches!(
            self,
            Step::Crash { .. }
                | Step::Hangs { .. }
                | Step::Breaks { .. }
                | Step::Garble { .. }
                | Step::Event { source: Source::Wish | Source::AppFails, .. }
                | Step::Event { killed_after: Some(_), .. }
        )
    }

    pub(super) fn is_drain_deadline(&self) -> bool {
        matches!(self, Step::Event { source: Source::DrainDeadline, .. })
    }

    /// Whether it takes time: a deadline, the end of requests, or the service manager's leisure.
    pub(super) fn takes_time(&self) -> bool {
        match self {
            Step::Event { source, .. } => {
                matches!(
                    source,
                    Source::Timer | Source::Drained | Source::DrainDeadline | Source::Barrier | Source::OlderReports
                )
            }
            Step::ManagerReads | Step::ManagerSeesDeath | Step::GreetAgain { .. } => true,
            _ => false,
        }
    }
}

impl Process {
    /// Whether it is the main process: not any more once its commit is on its way, also where it does not know yet.
    pub(super) fn is_main(&self) -> bool {
        self.lifecycle.is_main() && !(self.committed && self.successor)
    }

    /// Whether a main process counts those older ones that it listens to.
    pub(super) fn is_counted(&self) -> bool {
        !self.lifecycle.is_main()
            || !self.immediate.is_empty()
            || u32::from(self.lifecycle.older()) == self.open.count_ones()
    }
}

fn bits(mask: u8) -> impl Iterator<Item = usize> {
    (0..8).filter(move |bit| mask & (1 << bit) != 0)
}

impl Process {
    /// `given`: the predecessor, and the lines that came from it.
    fn new(given: Option<(usize, u8)>, manager: lifecycle::Manager, max_draining: u8) -> Process {
        let older = given.map(|(_, lines)| u8::try_from(lines.count_ones()).expect("few lines"));
        let own_line = given.map_or(0, |(predecessor, _)| 1 << predecessor);
        Process {
            lifecycle: Lifecycle::new(older, manager, max_draining),
            gate: Gate::Closed,
            has_been_main: false,
            starting: true,
            hangs: false,
            timer: None,
            watch: Watch::No,
            barrier: false,
            immediate: vec![],
            record: Record::None,
            spawn: Spawn::No,
            successor: false,
            hears_successor: false,
            awaits_exit: false,
            newest: None,
            newest_died: false,
            predecessor_died: false,
            introduced: None,
            held: own_line | given.map_or(0, |(_, lines)| lines),
            open: own_line,
            greeted: 0,
            committed: false,
            told: false,
        }
    }
}

impl World {
    /// One process that is being started, and room for `generations` at a time.
    pub(super) fn new(generations: usize, follower: lifecycle::Manager, max_draining: u8, budget: Budget) -> World {
        let mut slots = vec![Slot::Unused; generations];
        slots[0] = Slot::Live(Box::new(Process::new(None, follower, max_draining)));
        World {
            slots,
            channels: vec![Channel::default(); generations],
            follower,
            manager: (follower != lifecycle::Manager::None).then_some(Manager {
                main: 0,
                announced: None,
                main_died: false,
            }),
            budget,
            stop_wished: false,
            stop_excused: false,
            killed: false,
            death_excused: false,
            unit_ended: false,
        }
    }

    pub(super) fn live(&self) -> impl Iterator<Item = (usize, &Process)> {
        self.slots.iter().enumerate().filter_map(|(at, slot)| match slot {
            Slot::Live(process) => Some((at, &**process)),
            _ => None,
        })
    }

    /// Whether somebody accepts.
    pub(super) fn is_served(&self) -> bool {
        self.live().any(|(_, process)| process.gate == Gate::Open)
    }

    /// Whether somebody cannot be told anything: it hangs, or its line is broken.
    pub(super) fn anybody_is_deaf(&self) -> bool {
        self.live().any(|(_, process)| process.hangs)
            || self.channels.iter().any(|line| line.older_deaf || line.newer_deaf)
    }

    fn get(&self, who: usize) -> Option<&Process> {
        match self.slots.get(who) {
            Some(Slot::Live(process)) => Some(process),
            _ => None,
        }
    }

    fn at(&mut self, who: usize) -> &mut Process {
        match &mut self.slots[who] {
            Slot::Live(process) => process,
            other => panic!("process {who} is not alive but {other:?}"),
        }
    }

    /// Whether the older end of a channel is held.
    fn older_end_held(&self, channel: usize) -> bool {
        self.get(channel).is_some_and(|process| process.successor)
    }

    /// Whether the newer end of a channel is held: by the successor, and by those that it was passed on to.
    fn newer_end_held(&self, channel: usize) -> bool {
        self.live().any(|(_, process)| process.held & (1 << channel) != 0)
    }

    /// What may happen next.
    pub(super) fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        if self.unit_ended {
            return steps;
        }
        if let Some(manager) = &self.manager
            && manager.announced.is_some()
        {
            steps.push(Step::ManagerReads);
            if manager.main_died {
                steps.push(Step::ManagerSeesDeath);
            }
        }
        for (who, process) in self.live() {
            if process.hangs {
                continue;
            }
            let mut events = Vec::new();
            self.internal_events(who, process, &mut events);
            if process.immediate.is_empty() {
                if process.spawn != Spawn::No && !self.is_full(who) {
                    steps.push(Step::Spawned { who });
                }
                self.wishes(who, process, &mut events, &mut steps);
            }
            for (event, source) in events {
                self.variants(who, process, event, source, &mut steps);
            }
            if self.budget.crashes > 0 {
                steps.push(Step::Crash { who });
            }
            self.greetings(who, process, &mut steps);
        }
        self.faults(&mut steps);
        steps
    }

    fn greetings(&self, who: usize, process: &Process, steps: &mut Vec<Step>) {
        for channel in bits(process.open & !process.greeted).filter(|_| process.is_main()) {
            let Channel { to_newer, to_older, older_deaf, newer_deaf } = &self.channels[channel];
            let on_its_way = to_older.contains(&Said::Greeting(who)) || to_newer.contains(&Said::Greeted);
            let can_answer = self.get(channel).is_some_and(|older| {
                older.successor
                    && !older.hangs
                    && older.introduced.is_none()
                    && matches!(older.lifecycle.state(), State::Draining { .. })
            });
            if can_answer && !on_its_way && !older_deaf && !newer_deaf {
                steps.push(Step::GreetAgain { who, channel });
            }
        }
    }

    fn faults(&self, steps: &mut Vec<Step>) {
        for (channel, line) in self.channels.iter().enumerate() {
            if self.budget.garbage > 0 {
                let garbled = |said: &[Said]| said.first().is_some_and(|said| *said != Said::Garbage);
                if garbled(&line.to_newer) {
                    steps.push(Step::Garble { channel, to_newer: true });
                }
                if garbled(&line.to_older) {
                    steps.push(Step::Garble { channel, to_newer: false });
                }
            }
            if self.budget.breaks > 0 && self.older_end_held(channel) && self.newer_end_held(channel) {
                if !line.older_deaf {
                    steps.push(Step::Breaks { channel, newer_side: false });
                }
                if !line.newer_deaf {
                    steps.push(Step::Breaks { channel, newer_side: true });
                }
            }
        }
    }

    fn internal_events(&self, who: usize, process: &Process, events: &mut Vec<(Event, Source)>) {
        if let Some(event) = process.immediate.first() {
            events.push((*event, Source::Immediate));
            return;
        }
        if process.starting {
            events.push((Event::AppReady, Source::App));
        }
        let fires = |timer: &Timer| match timer {
            // A death is seen within a moment.
            Timer::Orphaned => !process.predecessor_died,
            Timer::Committed if process.newest_died || !self.newer_end_held(who) => false,
            Timer::Pong | Timer::Committed if self.budget.plain => {
                let line = &self.channels[who];
                line.to_newer.is_empty() && line.to_older.is_empty()
            }
            _ => true,
        };
        if let Some(timer) = process.timer.filter(fires) {
            events.push((Event::Deadline(timer), Source::Timer));
        }
        if process.watch == Watch::Yes {
            events.push((Event::Drained, Source::Drained));
        }
        if process.watch != Watch::No {
            events.push((Event::DrainDeadline, Source::DrainDeadline));
        }
        if process.barrier && self.manager.is_some_and(|manager| manager.announced.is_none()) {
            events.push((Event::BarrierReturned, Source::Barrier));
        }
        if process.spawn != Spawn::No && (self.is_full(who) || !self.budget.plain) {
            events.push((Event::SpawnFailed, Source::Spawn));
        }
        if process.successor && process.hears_successor {
            match self.channels[who].to_older.first() {
                Some(said) => events.push((from_successor(*said, process.newest), Source::SuccessorSays)),
                None if !self.newer_end_held(who) => events.push((Event::NewerClosed, Source::SuccessorGone)),
                None => {}
            }
        }
        if process.awaits_exit && matches!(self.slots.get(who + 1), Some(Slot::Dead { .. })) {
            events.push((Event::SuccessorExited, Source::SuccessorExited));
        }
        // Before the commit its parent learns of its end, and this makes no difference.
        if process.newest_died && matches!(process.lifecycle.state(), State::Draining { .. }) {
            events.push((Event::NewestDied, Source::NewestDied));
        }
        if process.predecessor_died {
            events.push((Event::PredecessorDied, Source::PredecessorDied));
        }
        for channel in bits(process.open) {
            let predecessor = channel + 1 == who;
            match self.channels[channel].to_newer.first() {
                Some(said) => {
                    events.push((from_older(*said, predecessor), Source::OlderSays(channel)));
                }
                None if !self.older_end_held(channel) => {
                    events.push((Event::OlderClosed { predecessor }, Source::OlderGone(channel)));
                }
                None => self.reports(process, channel, predecessor, events),
            }
        }
    }

    /// What a draining generation says again twice a second, where it makes a difference.
    fn reports(&self, process: &Process, channel: usize, predecessor: bool, events: &mut Vec<(Event, Source)>) {
        let Some(older) = self.get(channel) else { return };
        if older.hangs || !matches!(older.lifecycle.state(), State::Draining { committed: true, .. }) {
            return;
        }
        let (settled, stop) = (older.lifecycle.is_settled(), older.lifecycle.stop_wanted());
        let state = process.lifecycle.state();
        let unsettled = predecessor && settled && *state == State::Serving { settled: false };
        let untold = stop && process.lifecycle.is_main() && !process.told;
        let stops = matches!(state, State::Stopping { .. }) && !stop && !self.channels[channel].older_deaf;
        let answered = self.channels[channel].to_older.contains(&Said::Stopping);
        if !self.channels[channel].newer_deaf && (unsettled || untold || stops && !answered) {
            events.push((Event::OlderReported { predecessor, settled, stop }, Source::OlderReports));
        }
    }

    fn wishes(&self, who: usize, process: &Process, events: &mut Vec<(Event, Source)>, steps: &mut Vec<Step>) {
        if self.budget.plain && !process.lifecycle.is_main() {
            return;
        }
        if self.budget.reloads > 0 {
            events.push((Event::Reload(Trigger::Signal), Source::Wish));
            if !self.budget.plain {
                events.push((Event::Reload(Trigger::Command), Source::Wish));
            }
        }
        if self.budget.stops > 0 {
            events.push((Event::Stop(Trigger::Signal), Source::Wish));
            if process.has_been_main || !self.budget.plain {
                events.push((Event::Stop(Trigger::Command), Source::Wish));
            }
        }
        if process.starting {
            events.push((Event::AppFailed, Source::AppFails));
        }
        let unproven = matches!(process.lifecycle.state(), State::Starting { .. } | State::Standby)
            && self.get(who.wrapping_sub(1)).is_some_and(|predecessor| {
                matches!(predecessor.lifecycle.state(), State::Reloading(stage) if *stage != Stage::Announcing)
            })
            && !self.channels[who - 1].to_older.contains(&Said::Pong);
        if unproven && self.budget.crashes > 0 {
            steps.push(Step::Hangs { who });
        }
    }

    /// An event with all ways in which its actions can go.
    fn variants(&self, who: usize, process: &Process, event: Event, source: Source, steps: &mut Vec<Step>) {
        let step = |fails, killed_after| Step::Event { who, event, source, fails, killed_after };
        let mut lifecycle = process.lifecycle.clone();
        let actions = lifecycle.on(event);
        let fallible = |action: &Action| matches!(action, Action::Announce | Action::SendCommit { .. });
        steps.push(step(false, None));
        if actions.iter().any(fallible) && !self.budget.plain {
            steps.push(step(true, None));
        }
        if self.budget.crashes > 0 && !self.budget.plain {
            steps.extend((1..actions.len()).map(|count| step(false, Some(count))));
        }
    }

    /// Carries a step out. An error says which promise it breaks.
    pub(super) fn take(&mut self, step: Step) -> Result<(), String> {
        match step {
            Step::Event { who, event, source, fails, killed_after } => {
                self.consume(who, event, source);
                self.event(who, event, source, fails, killed_after)?;
            }
            Step::Spawned { who } => self.spawned(who)?,
            Step::Garble { channel, to_newer } => {
                self.budget.garbage -= 1;
                let line = &mut self.channels[channel];
                let said = if to_newer { &mut line.to_newer } else { &mut line.to_older };
                // A greeting without its descriptors is passed over like garbage.
                said[0] = Said::Garbage;
            }
            Step::Breaks { channel, newer_side } => {
                self.budget.breaks -= 1;
                let line = &mut self.channels[channel];
                if newer_side {
                    line.newer_deaf = true;
                    line.to_newer.clear();
                } else {
                    line.older_deaf = true;
                    line.to_older.clear();
                }
            }
            Step::GreetAgain { who, channel } => self.greet(who, channel),
            Step::Hangs { who } => {
                self.at(who).hangs = true;
                // What survives a hanging successor and a kill at the same time is nobody's promise.
                self.budget.crashes = 0;
            }
            Step::Crash { who } => {
                self.crash(who);
            }
            Step::ManagerReads => {
                if let Some(manager) = &mut self.manager {
                    manager.main = manager.announced.take().expect("there is something to read");
                    manager.main_died = false;
                }
                self.look_at_main();
            }
            Step::ManagerSeesDeath => self.unit_ended = true,
        }
        self.settle();
        Ok(())
    }

    /// Takes an event from where it comes from.
    fn consume(&mut self, who: usize, event: Event, source: Source) {
        match source {
            Source::Immediate => {
                self.at(who).immediate.remove(0);
            }
            Source::App | Source::AppFails => self.at(who).starting = false,
            Source::Timer => self.at(who).timer = None,
            Source::Drained => self.at(who).watch = if self.budget.plain { Watch::No } else { Watch::DeadlineOnly },
            Source::DrainDeadline => self.at(who).watch = Watch::No,
            Source::Barrier => self.at(who).barrier = false,
            Source::Spawn => self.at(who).spawn = Spawn::No,
            Source::SuccessorSays => {
                if let Said::Greeting(newest) = self.channels[who].to_older.remove(0) {
                    self.at(who).introduced = Some(newest);
                }
            }
            Source::SuccessorGone => self.at(who).hears_successor = false,
            Source::SuccessorExited => self.at(who).awaits_exit = false,
            Source::NewestDied => self.at(who).newest_died = false,
            Source::PredecessorDied => self.at(who).predecessor_died = false,
            Source::OlderSays(channel) => {
                if self.channels[channel].to_newer.remove(0) == Said::Greeted {
                    self.at(who).greeted |= 1 << channel;
                }
            }
            Source::OlderGone(channel) => {
                let process = self.at(who);
                process.open &= !(1 << channel);
                process.held &= !(1 << channel);
            }
            Source::OlderReports => {}
            Source::Wish => match event {
                Event::Reload(_) => self.budget.reloads -= 1,
                _ => self.budget.stops -= 1,
            },
        }
    }

    fn event(
        &mut self,
        who: usize,
        event: Event,
        source: Source,
        fails: bool,
        killed_after: Option<usize>,
    ) -> Result<(), String> {
        let state = self.at(who).lifecycle.state().clone();
        let means_only_this_one = matches!(state, State::Draining { settled: true, committed: true, .. });
        if let (Event::Stop(trigger), Source::Wish) = (event, source)
            && !(means_only_this_one && trigger == Trigger::Signal)
        {
            self.stop_wished = true;
            self.at(who).told = true;
        }
        if matches!(
            (event, source),
            (Event::Stop(_) | Event::SuccessorStop | Event::NewestStops, Source::OlderSays(_) | Source::SuccessorSays)
                | (Event::OlderReported { stop: true, .. } | Event::Withdraw { stop: true }, _)
        ) {
            self.at(who).told = true;
        }
        let mut requester =
            source == Source::Wish && matches!(event, Event::Reload(Trigger::Command) | Event::Stop(Trigger::Command));
        let actions = self.at(who).lifecycle.on(event);
        let mut exits = None;
        for (count, action) in actions.into_iter().enumerate() {
            if killed_after == Some(count) {
                self.crash(who);
                return Ok(());
            }
            if let Action::Exit(ending) = action {
                exits = Some(ending);
            }
            self.perform(who, action, fails, &mut requester)?;
        }
        if requester {
            return Err(format!("process {who} leaves a client without an answer to {event:?} in {state:?}"));
        }
        if let Some(ending) = exits {
            self.exit(who, ending)?;
        }
        Ok(())
    }

    fn perform(&mut self, who: usize, action: Action, fails: bool, requester: &mut bool) -> Result<(), String> {
        match action {
            Action::Accept => self.at(who).gate = Gate::Open,
            Action::Pause => self.at(who).gate = Gate::Closed,
            Action::TakeOver => {
                let process = self.at(who);
                process.open = process.held;
                (process.greeted, process.has_been_main) = (0, true);
                for channel in bits(self.at(who).open).collect::<Vec<_>>() {
                    self.greet(who, channel);
                }
            }
            Action::LetGo => self.at(who).open = 0,
            Action::Welcome => {
                let process = self.at(who);
                process.newest = process.introduced.take();
                // Its process may have ended before it is watched.
                let newest = process.newest.ok_or("nobody has introduced itself")?;
                process.newest_died = false;
                let died = self.get(newest).is_none();
                self.at(who).newest_died = died;
                self.say_to_newer(who, Said::Greeted);
            }
            Action::Reap => self.reap(who + 1),
            Action::Spawn => return self.spawn(who, requester),
            Action::Kill if self.at(who).successor => self.die(who + 1),
            Action::Kill if self.at(who).spawn == Spawn::UnderWay => self.at(who).spawn = Spawn::Doomed,
            Action::CloseLine => {
                // One that comes to exist all the same is killed at once.
                self.at(who).spawn = Spawn::No;
                if std::mem::take(&mut self.at(who).successor) {
                    self.reap(who + 1);
                    let process = self.at(who);
                    (process.hears_successor, process.awaits_exit) = (false, false);
                    (process.newest, process.newest_died, process.introduced) = (None, false, None);
                }
            }
            Action::Start(timer) => self.at(who).timer = Some(timer),
            Action::CancelTimer => self.at(who).timer = None,
            Action::Announce if fails => self.at(who).immediate.push(Event::AnnounceFailed),
            Action::Announce => {
                self.manager.as_mut().expect("only told where there is one").announced = Some(who + 1);
                self.at(who).committed = true;
                self.at(who).immediate.push(Event::Announced);
            }
            Action::AwaitBarrier => self.at(who).barrier = true,
            Action::SendCommit { settled, reload } => {
                let sent = !fails && self.say_to_newer(who, Said::Commit { settled, reload });
                self.at(who).committed |= sent;
                self.at(who).immediate.push(if sent { Event::CommitSent } else { Event::CommitFailed });
            }
            Action::AnswerDone | Action::AnswerFailed(_) => {
                if std::mem::replace(&mut self.at(who).record, Record::None) == Record::None {
                    return Err(format!("process {who} answers a reload that nobody has begun ({action:?})"));
                }
            }
            Action::Refuse(_) | Action::AnswerStopping | Action::CutOff => *requester = false,
            Action::BeginDrain | Action::BeginStop => return self.begin_drain(who, action),
            Action::BeginWithdrawal | Action::WatchDrain => self.at(who).watch = Watch::Yes,
            Action::Withdraw { stop } => drop(self.say_to_newer(who, Said::Withdraw { stop })),
            Action::BoundDrain if self.at(who).watch != Watch::No => self.at(who).watch = Watch::Yes,
            Action::BoundDrain => {}
            Action::EndDrain => self.at(who).watch = Watch::No,
            said => self.say(who, said),
        }
        Ok(())
    }

    /// What an action says on a line; what is told others makes no difference here.
    fn say(&mut self, who: usize, action: Action) {
        match action {
            Action::SendPing => drop(self.say_to_newer(who, Said::Ping)),
            Action::SendSettled => drop(self.say_to_newer(who, Said::Settled)),
            Action::ForwardReload => drop(self.say_to_newer(who, Said::Reload)),
            Action::ForwardStop => drop(self.say_to_newer(who, Said::Stop)),
            Action::TellOlder => {
                for channel in bits(self.at(who).open).filter(|channel| self.older_hears(*channel)).collect::<Vec<_>>()
                {
                    self.channels[channel].to_older.push(Said::Stopping);
                }
            }
            Action::SayReady => self.say_to_older(who, Said::Ready),
            Action::SayFailed => self.say_to_older(who, Said::Failed),
            Action::SayCommitted => self.say_to_older(who, Said::Committed),
            Action::SayPong => self.say_to_older(who, Said::Pong),
            Action::SayStop => self.say_to_older(who, Said::Stop),
            Action::Kill
            | Action::NotifyReloading
            | Action::NotifyReady
            | Action::NotifyStopping
            | Action::NotifyTakeover
            | Action::Exit(_) => {}
            other => panic!("{other:?} is carried out elsewhere"),
        }
    }

    fn spawn(&mut self, who: usize, requester: &mut bool) -> Result<(), String> {
        if self.at(who).record != Record::None {
            return Err(format!("process {who} begins a reload and forgets the one before"));
        }
        self.at(who).record = if std::mem::take(requester) { Record::Asked } else { Record::Unasked };
        self.at(who).spawn = Spawn::UnderWay;
        if self.budget.plain && !self.is_full(who) { self.spawned(who) } else { Ok(()) }
    }

    /// Whether there is no place for a successor of this one.
    fn is_full(&self, who: usize) -> bool {
        who + 1 == self.slots.len()
    }

    fn spawned(&mut self, who: usize) -> Result<(), String> {
        if matches!(self.slots[who + 1], Slot::Live(_)) {
            return Err(format!("process {who} starts a successor beside one that lives"));
        }
        let max_draining = self.at(who).lifecycle.max_draining;
        let successor = Process::new(Some((who, self.at(who).held)), self.follower, max_draining);
        self.slots[who + 1] = Slot::Live(Box::new(successor));
        self.channels[who] = Channel::default();
        let process = self.at(who);
        let doomed = std::mem::replace(&mut process.spawn, Spawn::No) == Spawn::Doomed;
        (process.successor, process.hears_successor, process.awaits_exit) = (true, !doomed, true);
        (process.newest, process.newest_died) = (Some(who + 1), false);
        process.committed = false;
        if doomed {
            self.die(who + 1);
        }
        Ok(())
    }

    fn begin_drain(&mut self, who: usize, action: Action) -> Result<(), String> {
        let process = self.at(who);
        if action == Action::BeginStop {
            process.gate = Gate::LastCall;
        } else if !process.committed {
            return Err(format!("process {who} drains before the point of no return"));
        }
        process.watch = Watch::Yes;
        Ok(())
    }

    fn exit(&mut self, who: usize, ending: Ending) -> Result<(), String> {
        let process = self.at(who);
        if process.record == Record::Asked {
            return Err(format!("process {who} ends ({ending:?}) and owes the outcome of a reload"));
        }
        if matches!(ending, Ending::Drained | Ending::Abandoned) && !process.committed {
            return Err(format!("process {who} ends ({ending:?}) before the point of no return"));
        }
        let told = process.told;
        if ending == Ending::Drained && process.lifecycle.stop_wanted() {
            self.say_to_newer(who, Said::LastReport);
        }
        self.die(who);
        if ending == Ending::GaveUp {
            self.excuse_death();
        }
        // Where a newer one has been killed a moment ago, a draining one could not know.
        let heirs = self.live().next().is_some() && !(ending != Ending::Stopped && self.killed);
        // Nor can one be told over a broken line.
        let heirs = heirs && !self.anybody_is_deaf();
        if told && heirs && !self.unit_ended && !self.stop_is_known() {
            return Err(format!("process {who} ends ({ending:?}), and nobody that lives knows that the service stops"));
        }
        Ok(())
    }

    /// The death of a process that nobody meant.
    fn crash(&mut self, who: usize) {
        self.budget.crashes -= 1;
        self.die(who);
        self.excuse_death();
        self.killed = true;
    }

    fn excuse_death(&mut self) {
        let main_lives = self.live().any(|(_, process)| process.lifecycle.is_main() && !process.committed);
        self.death_excused |= !main_lives;
    }

    fn stop_is_known(&self) -> bool {
        let on_its_way = |channel: &Channel| {
            channel
                .to_newer
                .iter()
                .any(|said| matches!(said, Said::Stop | Said::LastReport | Said::Withdraw { stop: true }))
                || channel.to_older.iter().any(|said| matches!(said, Said::Stop | Said::Stopping))
        };
        self.live().any(|(_, process)| process.told) || self.channels.iter().any(on_its_way)
    }

    fn die(&mut self, who: usize) {
        if !matches!(self.slots[who], Slot::Live(_)) {
            return;
        }
        self.slots[who] = Slot::Dead { reaped: false };
        for (at, slot) in self.slots.iter_mut().enumerate() {
            if let Slot::Live(process) = slot {
                process.newest_died |= process.newest == Some(who);
                process.predecessor_died |= at == who + 1 && process.held & (1 << who) != 0;
            }
        }
        self.settle();
        self.look_at_main();
    }

    fn reap(&mut self, who: usize) {
        if let Slot::Dead { reaped } = &mut self.slots[who] {
            *reaped = true;
        }
    }

    /// A service manager learns of the main process's death when it is its parent, and the status was left to it.
    fn look_at_main(&mut self) {
        let Some(manager) = self.manager.filter(|_| self.follower == lifecycle::Manager::Restarts) else { return };
        let parent_lives = manager.main > 0 && self.get(manager.main - 1).is_some();
        if parent_lives || !matches!(self.slots[manager.main], Slot::Dead { reaped: false }) {
            return;
        }
        if let (Some(manager), Some(_)) = (&mut self.manager, manager.announced) {
            manager.main_died = true;
        } else {
            self.unit_ended = true;
        }
    }

    /// What nobody can read any more is gone, and what makes no difference any more.
    fn settle(&mut self) {
        for slot in &mut self.slots {
            if let Slot::Live(process) = slot
                && !matches!(process.lifecycle.state(), State::Starting { .. } | State::Standby | State::Withdrawing)
            {
                process.predecessor_died = false;
            }
        }
        for channel in (0..self.channels.len()).rev() {
            if !self.newer_end_held(channel) {
                self.channels[channel].to_newer.clear();
            }
            if !self.older_end_held(channel) {
                self.channels[channel].to_older.clear();
            }
        }
        // What nobody knows of cannot be obeyed.
        self.stop_excused |= self.stop_wished && !self.stop_is_known();
    }

    fn greet(&mut self, who: usize, channel: usize) {
        if self.older_hears(channel) {
            self.channels[channel].to_older.push(Said::Greeting(who));
        }
    }

    fn older_hears(&self, channel: usize) -> bool {
        self.older_end_held(channel) && !self.channels[channel].older_deaf
    }

    fn say_to_newer(&mut self, who: usize, said: Said) -> bool {
        let heard = self.at(who).successor && self.newer_end_held(who) && !self.channels[who].newer_deaf;
        if heard {
            self.channels[who].to_newer.push(said);
        }
        heard
    }

    fn say_to_older(&mut self, who: usize, said: Said) {
        if who > 0 && self.older_hears(who - 1) {
            self.channels[who - 1].to_older.push(said);
        }
    }
}

fn from_successor(said: Said, newest: Option<usize>) -> Event {
    match said {
        Said::Ready => Event::SuccessorReady { withdraws: true },
        Said::Failed => Event::SuccessorFailed,
        Said::Pong => Event::SuccessorPong,
        Said::Committed => Event::SuccessorCommitted,
        Said::Stop => Event::SuccessorStop,
        Said::Stopping => Event::NewestStops,
        Said::Greeting(who) => Event::NewestIntroduced { ahead: newest <= Some(who) },
        _ => Event::SuccessorBroke,
    }
}

/// What cannot be read means nothing: an event that changes nothing stands for it, for an answer to a greeting, and for
/// what was meant for the successor and is read by a later generation.
fn from_older(said: Said, predecessor: bool) -> Event {
    match said {
        Said::Ping if predecessor => Event::Ping,
        Said::Settled if predecessor => Event::Settled,
        Said::Commit { settled, reload } if predecessor => Event::Commit { settled, reload },
        Said::Withdraw { stop } if predecessor => Event::Withdraw { stop },
        Said::Reload => Event::Reload(Trigger::Signal),
        Said::Stop => Event::Stop(Trigger::Signal),
        Said::LastReport => Event::OlderReported { predecessor, settled: true, stop: true },
        Said::Garbage | Said::Greeted | Said::Ping | Said::Settled | Said::Commit { .. } | Said::Withdraw { .. } => {
            Event::OlderReported { predecessor: false, settled: false, stop: false }
        }
        other => panic!("nobody says {other:?} to a successor"),
    }
}
