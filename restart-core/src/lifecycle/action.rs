//! What the state machine can have the driver do, and the reasons that it gives for people.

use super::event::Timer;

/// All that the driver can be told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    /// Start accepting, or start again.
    Accept,
    /// Stop accepting and keep the listeners.
    Pause,
    /// Become the main process: control socket, pid file, the lines of draining generations, which are greeted.
    TakeOver,
    /// Leave the control socket and the older generations to the successor.
    LetGo,
    /// Take the one that has introduced itself for the newest: answer it, and let connections move to it.
    Welcome,
    /// Tell the service manager that a reload begins.
    NotifyReloading,
    /// Tell the service manager that this process is ready.
    NotifyReady,
    /// Tell the service manager that the service stops.
    NotifyStopping,
    /// Feed the watchdog at once, as the new main process, and tell how things are.
    NotifyTakeover,
    /// Start the next generation, and give it all that it needs.
    Spawn,
    /// Have the successor hand back what it has accepted, and end.
    Withdraw { stop: bool },
    /// Start the drain of a successor that withdraws.
    BeginWithdrawal,
    /// The service stops: the drain that is under way lasts no longer than the stop. Done again, it changes nothing.
    BoundDrain,
    /// Kill the successor.
    Kill,
    /// Take the exit status of the successor's process.
    Reap,
    /// Close the line to the successor, which is gone.
    CloseLine,
    /// Start the deadline of the state entered.
    Start(Timer),
    /// Cancel it.
    CancelTimer,
    /// Ask the successor for a sign of life.
    SendPing,
    /// Tell the service manager who is the main process now. Its success is the point of no return.
    Announce,
    /// Wait until the service manager has read that.
    AwaitBarrier,
    /// Send Commit. Without a service manager its success is the point of no return.
    SendCommit { settled: bool, reload: bool },
    /// Tell the successor that the barrier has returned.
    SendSettled,
    /// Pass a reload signal on to the newest generation.
    ForwardReload,
    /// Pass a stop on to the newest generation.
    ForwardStop,
    /// Tell the older generations that the service stops, so that none of them serves again when this one is gone.
    TellOlder,
    /// Say Ready to the predecessor.
    SayReady,
    /// Tell the predecessor that the application gives up, and why.
    SayFailed,
    /// Say Committed to the predecessor.
    SayCommitted,
    /// Answer the predecessor's ping.
    SayPong,
    /// Tell the predecessor that this process was told to stop.
    SayStop,
    /// Tell whoever asked for the present reload that it worked.
    AnswerDone,
    /// Tell whoever asked for the present reload, and the service manager, that it failed.
    AnswerFailed(Failure),
    /// Tell whoever asked for another reload why there is none now.
    Refuse(Refusal),
    /// Tell whoever asked for a stop that it is under way.
    AnswerStopping,
    /// Close the connection to whoever asked, who then asks the newest generation.
    CutOff,
    /// Start the drain: the deadline runs, connections are told.
    BeginDrain,
    /// Accept what waits and nothing more, and start the drain that ends the service.
    BeginStop,
    /// Wait for the end of that drain once more, up to the same deadline.
    WatchDrain,
    /// The drain is off: this generation serves again.
    EndDrain,
    /// End the process.
    Exit(Ending),
}

/// Why a reload is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Refusal {
    /// One is under way.
    InProgress,
    /// As many generations drain as may.
    TooManyDraining,
    /// The service manager has not read the last reload's messages yet.
    Unsettled,
    /// The service stops.
    Stopping,
    /// The application is not ready yet.
    NotReady,
    /// This generation is not the main one.
    NotMain,
}

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Ending {
    /// It finished its drain; a successor serves.
    Drained,
    /// The service has been stopped.
    Stopped,
    /// It was told to stop before it served.
    NeverServed,
    /// Its application gave up before it was ready.
    GaveUp,
    /// Its predecessor lives, and has given it up.
    GivenUp,
    /// Its successor vanished, and the service manager is to start anew.
    Abandoned,
}

/// Why a reload failed; the driver knows the details.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Failure {
    /// It could not be started.
    Spawn,
    /// It ended.
    Exited,
    /// It said Failed.
    Reported,
    /// It closed its line without a word.
    ChannelClosed,
    /// It does not speak our protocol, or broke it.
    Protocol,
    /// It was not ready in time.
    ReadyDeadline,
    /// It did not answer the ping in time.
    PongDeadline,
    /// The service manager could not be told.
    Announce,
    /// The service was told to stop meanwhile.
    Stopped,
    /// It vanished after the commit, and this generation serves again.
    DiedAfterCommit,
}
