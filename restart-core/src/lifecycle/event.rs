//! What can happen to a generation, as the state machine is told of it: bare facts.

/// The one deadline that a state may have; starting one replaces the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Timer {
    /// The successor has to say Ready.
    Ready,
    /// The probation's end.
    Probation,
    /// The successor has to answer the ping, or it is asked again.
    Pong,
    /// A successor that has given up has to exit by itself.
    Leave,
    /// A successor that was told to withdraw is told again, in case that could not be read.
    Withdraw,
    /// A successor that withdraws has to have finished what it has accepted.
    Withdrawal,
    /// A killed successor has to be reaped.
    Reap,
    /// The service manager has to have read all that was sent.
    Barrier,
    /// The successor has to say Committed, or is told again.
    Committed,
    /// What runs when the newest generation dies is finished by then, or cut.
    Grace,
    /// A predecessor that has closed its line without a commit has to be seen dead, or it lives and has given this
    /// generation up.
    Orphaned,
}

/// Who asked for something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Trigger {
    /// A client on the control socket, who waits for an answer.
    Command,
    /// A signal, or a draining generation that passes one on.
    Signal,
}

/// All that can happen to a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Event {
    /// The application is ready to serve.
    AppReady,
    /// The application gives up, and has not said that it is ready.
    AppFailed,
    /// Somebody wants a new generation.
    Reload(Trigger),
    /// Somebody wants the service to end.
    Stop(Trigger),
    /// Nothing is in flight any more.
    Drained,
    /// The drain's deadline has passed.
    DrainDeadline,
    /// The deadline of the present state has passed.
    Deadline(Timer),

    /// The successor could not be started.
    SpawnFailed,
    /// The successor said Ready. `withdraws`: it can be told to withdraw.
    SuccessorReady { withdraws: bool },
    /// The successor said Failed.
    SuccessorFailed,
    /// The successor answered the ping.
    SuccessorPong,
    /// The successor serves as the main process.
    SuccessorCommitted,
    /// The successor was told to stop before its commit.
    SuccessorStop,
    /// The successor said what it must not say now, or nothing that can be read.
    SuccessorBroke,
    /// The process that was started as the successor has ended.
    SuccessorExited,
    /// All other ends of the line to the newer generations are closed.
    NewerClosed,
    /// The process of the newest generation, as far as it is known, has ended.
    NewestDied,
    /// A generation has introduced itself as the newest. `ahead`: it is the one that is known as the newest, or comes
    /// after that one. One that comes before it can serve again only if that one is dead; if not, it is late.
    NewestIntroduced { ahead: bool },
    /// The newest generation stops, and the service with it.
    NewestStops,
    /// The service manager has been told of the new main process.
    Announced,
    /// It could not be told.
    AnnounceFailed,
    /// Commit is on its way to the successor.
    CommitSent,
    /// Commit could not be sent.
    CommitFailed,
    /// The service manager has read all that was sent.
    BarrierReturned,

    /// The predecessor hands the service over.
    Commit { settled: bool, reload: bool },
    /// The predecessor gives this generation up, and takes back what it has accepted. `stop`: the service stops.
    Withdraw { stop: bool },
    /// The predecessor's barrier has returned.
    Settled,
    /// The predecessor asks for a sign of life.
    Ping,
    /// All other ends of the line to an older generation are closed. `predecessor`: it is the one that started this one.
    OlderClosed { predecessor: bool },
    /// The predecessor's process has ended.
    PredecessorDied,
    /// A generation that drains has told how it is doing, and again what it once told: whether it is the predecessor,
    /// whether that one's barrier has returned, and whether it was told to stop the service.
    OlderReported { predecessor: bool, settled: bool, stop: bool },
}
