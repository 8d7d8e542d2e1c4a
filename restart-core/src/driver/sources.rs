//! What can happen to a generation, as inputs of its driver: one small task for each source.
//!
//! Each task waits on one thing and reports it. None decides anything, and each ends when its task is dropped.

use std::future::Future;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use async_channel::{Receiver, Sender};
use async_io::{Async, Timer as IoTimer};
use futures_lite::future;
use zeroize::Zeroizing;

use crate::connections::Connections;
use crate::control::Command;
use crate::drain::Drain;
use crate::error::Error;
use crate::generation::Ask;
use crate::handover::{Channel, Heard, Hello, Line, Message, Received, own_pidfd};
use crate::lifecycle::Timer;
use crate::listeners::Listener;
use crate::signals::{Signals, Wish};
use crate::successor::{Handover, HandoverFailure, Spawned, give, meet};

/// How long the last words of a process that has ended may take; its end of the line closed with it.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_millis(500);
/// A greeting that is not answered is said again after this time, so often in all.
const GREETING_EVERY: Duration = Duration::from_millis(500);
const GREETINGS_MAX: u32 = 20;

/// Something happened. Numbers tell a source that has been replaced meanwhile from the present one.
#[derive(Debug)]
pub(super) enum Input {
    Wish(Wish),
    Command(Command),
    /// What the application says; nothing any more, once its last handle is dropped.
    Asked(Option<Ask>),
    /// The application takes its time to get ready.
    StillStarting,
    /// The successor's process has been started, or could not be.
    Spawned(u64, Box<Spawned>),
    Successor(u64, FromNewer),
    Older(u64, FromOlder),
    PredecessorDied,
    NewestDied(u64),
    Deadline(u64, Timer),
    Drained(u64),
    DrainDeadline(u64),
    BarrierReturned,
    FeedWatchdog,
    /// The application is well.
    Well,
    RefreshStatus,
    /// The pid file could not be written, and may be by now.
    PidFileDue,
    /// It is time to tell the newest generation how this one is doing.
    ReportDue,
    /// The service stops, and the time is over in which whoever sends it clients should have noticed.
    StopDelayOver,
}

#[derive(Debug)]
pub(super) enum FromNewer {
    /// The successor has introduced itself: its line, and its pidfd.
    Met(Line, Async<OwnedFd>),
    Message(Box<Received>),
    /// Something that cannot be read; what comes next has nothing to do with it.
    Unreadable(Error),
    /// It cannot be given what it needs.
    Broke(Error),
    /// No other end of the line is left.
    Closed,
    /// The process that was started has ended.
    Exited,
}

#[derive(Debug)]
pub(super) enum FromOlder {
    Message(Box<Received>),
    Closed,
}

pub(super) async fn signals(signals: Arc<Signals>, inputs: Sender<Input>) {
    loop {
        match signals.next().await {
            Ok(wishes) => {
                for wish in wishes {
                    let _ = inputs.send(Input::Wish(wish)).await;
                }
            }
            Err(error) => {
                log::error!("signals cannot be read any more: {error}");
                return;
            }
        }
    }
}

pub(super) async fn commands(commands: Receiver<Command>, inputs: Sender<Input>) {
    while let Ok(command) = commands.recv().await {
        let _ = inputs.send(Input::Command(command)).await;
    }
}

pub(super) async fn asked(asked: Receiver<Ask>, inputs: Sender<Input>) {
    while let Ok(ask) = asked.recv().await {
        let _ = inputs.send(Input::Asked(Some(ask))).await;
    }
    let _ = inputs.send(Input::Asked(None)).await;
}

pub(super) async fn getting_ready(every: Duration, inputs: Sender<Input>) {
    loop {
        IoTimer::after(every).await;
        let _ = inputs.send(Input::StillStarting).await;
    }
}

/// Reports what came of the start of a successor's process.
pub(super) async fn spawned(number: u64, spawned: Receiver<Spawned>, inputs: Sender<Input>) {
    let lost = || Err(Error::handover("the thread that was to start the successor has ended"));
    let spawned = spawned.recv().await.unwrap_or_else(|_| lost());
    let _ = inputs.send(Input::Spawned(number, Box::new(spawned))).await;
}

/// Meets a successor, gives it everything, then reports what comes over its line, from whoever is the newest.
pub(super) async fn successor(number: u64, bootstrap: Channel, handover: Handover, inputs: Sender<Input>) {
    let report = |what| {
        let inputs = &inputs;
        async move { inputs.send(Input::Successor(number, what)).await.is_ok() }
    };
    let failed = |failure| match failure {
        HandoverFailure::Closed => FromNewer::Closed,
        HandoverFailure::Reported(reason) => FromNewer::Message(Box::new(Received {
            message: Message::Failed { reason },
            tail: Zeroizing::default(),
            fds: vec![],
            truncated: false,
        })),
        HandoverFailure::Broke(error) => FromNewer::Broke(error),
    };
    let channel = match meet(&bootstrap, handover.hello.clone()).await {
        Ok((line, pidfd)) => {
            let channel = Arc::clone(&line.channel);
            report(FromNewer::Met(line, pidfd)).await;
            channel
        }
        Err(failure) => {
            report(failed(failure)).await;
            return;
        }
    };
    drop(bootstrap);
    if let Err(failure) = give(&channel, handover).await {
        report(failed(failure)).await;
        return;
    }
    loop {
        let what = match channel.receive().await {
            Ok(Heard::Message(received)) => FromNewer::Message(Box::new(received)),
            Ok(Heard::Unreadable(error)) => FromNewer::Unreadable(error),
            Ok(Heard::Closed) => FromNewer::Closed,
            Err(error) => {
                watch_broken(&channel, &error).await;
                FromNewer::Closed
            }
        };
        let closed = matches!(what, FromNewer::Closed);
        if !report(what).await || closed {
            return;
        }
    }
}

/// Nothing can be received any more: says so, lets the other side say nothing more, and waits until all other ends are
/// closed.
async fn watch_broken(channel: &Channel, error: &Error) {
    log::error!("a line to another generation is broken, and only its end is watched for: {error}");
    channel.deafen();
    if let Err(error) = channel.hung_up().await {
        log::error!("nor can that be: {error}");
        future::pending::<()>().await;
    }
}

/// Reports the end of a successor's process, once what it said before has been reported: `talking` closes then.
pub(super) async fn exit(number: u64, pidfd: Arc<Async<OwnedFd>>, talking: Receiver<()>, inputs: Sender<Input>) {
    if let Err(error) = pidfd.readable().await {
        log::error!("the successor's end cannot be noticed: {error}");
    }
    let heard_out = async {
        let _ = talking.recv().await;
    };
    future::or(heard_out, async {
        IoTimer::after(LAST_WORDS_TIMEOUT).await;
    })
    .await;
    let _ = inputs.send(Input::Successor(number, FromNewer::Exited)).await;
}

/// Reports what the predecessor or a draining generation says.
pub(super) async fn older(number: u64, channel: Arc<Channel>, inputs: Sender<Input>) {
    loop {
        let what = match channel.receive().await {
            Ok(Heard::Message(received)) => FromOlder::Message(Box::new(received)),
            Ok(Heard::Unreadable(error)) => {
                log::warn!("an older generation's line: {error}; it was passed over");
                continue;
            }
            Ok(Heard::Closed) => FromOlder::Closed,
            Err(error) => {
                watch_broken(&channel, &error).await;
                FromOlder::Closed
            }
        };
        let closed = matches!(what, FromOlder::Closed);
        if inputs.send(Input::Older(number, what)).await.is_err() || closed {
            return;
        }
    }
}

/// Introduces this generation to an older one, until that answers, and takes the connections that come from there.
/// `answered`: tells that it has, or that its line has closed.
pub(super) async fn greet(
    channel: Arc<Channel>,
    hello: Hello,
    (connections, drain): (Connections, Drain),
    answered: Receiver<()>,
) {
    let takes = !hello.formats.is_empty();
    let descriptors = || -> io::Result<(OwnedFd, Option<(Channel, OwnedFd)>)> {
        Ok((own_pidfd()?, if takes { Some(Channel::pair()?) } else { None }))
    };
    let mut told = false;
    let (pidfd, moving) = loop {
        match descriptors() {
            Ok(made) => break made,
            Err(error) => {
                if answered.is_closed() {
                    return;
                }
                if !std::mem::replace(&mut told, true) {
                    log::warn!("an older generation cannot be greeted: {error}; trying again");
                }
                IoTimer::after(GREETING_EVERY).await;
            }
        }
    };
    let (ours, theirs) = moving.unzip();
    let greeting = Message::Greeting(hello);
    let repeat = async move {
        let fds: Vec<BorrowedFd<'_>> =
            [Some(pidfd.as_fd()), theirs.as_ref().map(AsFd::as_fd)].into_iter().flatten().collect();
        for _ in 0..GREETINGS_MAX {
            if let Err(error) = channel.send(&greeting, &fds).await {
                return log::debug!("{error} to an older generation");
            }
            let over = async {
                let _ = answered.recv().await;
                true
            };
            let pause = async {
                IoTimer::after(GREETING_EVERY).await;
                false
            };
            if future::or(over, pause).await {
                return;
            }
        }
        log::warn!("an older generation does not answer: its connections stay there");
    };
    let Some(ours) = &ours else { return repeat.await };
    // What comes on the socket is an answer, too. The other end has to be closed here before anything is acknowledged: what
    // is said to a process that is dead would look received.
    let arrival = async {
        if let Err(error) = ours.arrival().await {
            log::debug!("{error} on the socket on which connections come");
        }
    };
    future::or(repeat, arrival).await;
    connections.receive(ours, &drain).await;
}

/// Reports the end of another process.
pub(super) async fn death(pidfd: Arc<Async<OwnedFd>>, died: Input, inputs: Sender<Input>) {
    match pidfd.readable().await {
        Ok(()) => drop(inputs.send(died).await),
        Err(error) => log::error!("the end of another generation cannot be noticed: {error}"),
    }
}

pub(super) async fn deadline(number: u64, timer: Timer, after: Duration, inputs: Sender<Input>) {
    IoTimer::after(after).await;
    let _ = inputs.send(Input::Deadline(number, timer)).await;
}

/// Reports the end of the drain, and its deadline in any case: a stop waits for older generations beyond its own end.
/// `last_call`: listeners whose queues are to be emptied first.
pub(super) async fn drain(
    number: u64,
    drain: Drain,
    last_call: Vec<Listener>,
    timeout: Duration,
    inputs: Sender<Input>,
) {
    let drained = async {
        loop {
            let mut emptied = true;
            for listener in &last_call {
                emptied &= listener.queue_emptied().await;
            }
            // One that serves as many as it may accepts more when those are gone; one that has nothing to do and
            // accepts nothing holds nobody up.
            if emptied || drain.live() == 0 {
                break;
            }
            drain.empty().await;
        }
        drain.empty().await;
        let _ = inputs.send(Input::Drained(number)).await;
        future::pending::<()>().await;
    };
    let late = async {
        IoTimer::after(timeout).await;
    };
    future::or(drained, late).await;
    let _ = inputs.send(Input::DrainDeadline(number)).await;
}

/// Reports the hang-up of a barrier's pipe, once the barrier is sent: the service manager has closed its end.
pub(super) async fn barrier(sent: impl Future<Output = Result<OwnedFd, Error>>, inputs: Sender<Input>) {
    match sent.await {
        Ok(reader) => {
            let hung_up = async { Async::new(reader)?.readable().await };
            if let Err(error) = hung_up.await {
                log::warn!("the service manager's barrier cannot be waited for: {error}");
            }
        }
        Err(error) => log::warn!("{error}"),
    }
    let _ = inputs.send(Input::BarrierReturned).await;
}

pub(super) async fn status(every: Duration, inputs: Sender<Input>) {
    loop {
        IoTimer::after(every).await;
        let _ = inputs.send(Input::RefreshStatus).await;
    }
}

pub(super) async fn watchdog(every: Duration, inputs: Sender<Input>) {
    loop {
        IoTimer::after(every).await;
        let _ = inputs.send(Input::FeedWatchdog).await;
    }
}

/// Reports that the application is well, or says in the log that it is not.
pub(super) async fn well(well: impl Future<Output = bool>, inputs: Sender<Input>) {
    if well.await {
        let _ = inputs.send(Input::Well).await;
    } else {
        log::error!("the application does not answer its probe: the watchdog is not fed");
    }
}

pub(super) async fn pid_file(every: Duration, inputs: Sender<Input>) {
    loop {
        IoTimer::after(every).await;
        let _ = inputs.send(Input::PidFileDue).await;
    }
}

pub(super) async fn reports(every: Duration, inputs: Sender<Input>) {
    loop {
        IoTimer::after(every).await;
        let _ = inputs.send(Input::ReportDue).await;
    }
}

pub(super) async fn stop_delay(delay: Duration, inputs: Sender<Input>) {
    IoTimer::after(delay).await;
    let _ = inputs.send(Input::StopDelayOver).await;
}
