//! What can happen to a generation, as inputs of its driver: one small task for each source.
//!
//! Each task waits on one thing and reports it. None decides anything, and each ends when its task is dropped.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use async_channel::{Receiver, Sender};
use async_io::{Async, Timer as IoTimer};
use futures_lite::future;

use crate::connections::Connections;
use crate::control::Command;
use crate::drain::Drain;
use crate::error::Error;
use crate::handover::{Channel, Hello, Message, Received};
use crate::lifecycle::Timer;
use crate::listeners::Listener;
use crate::signals::{Signals, Wish};
use crate::successor::{Gift, Ungiven, give};

/// How long the last words of a process that has ended may take; its end of the channel closed with it.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_millis(500);

/// Something happened. Numbers tell a source that has been replaced meanwhile from the present one.
#[derive(Debug)]
pub(super) enum Input {
    Wish(Wish),
    Command(Command),
    Successor(u64, FromSuccessor),
    Older(u64, FromOlder),
    Deadline(u64, Timer),
    Drained(u64),
    DrainDeadline(u64),
    BarrierReturned,
    FeedWatchdog,
    RefreshStatus,
    /// It is time to tell the newest generation how this one is doing.
    ReportDue,
    /// The service stops, and the time is over in which whoever sends it clients should have noticed.
    StopDelayOver,
}

#[derive(Debug)]
pub(super) enum FromSuccessor {
    Hello(Hello),
    Message(Message),
    Broke(Error),
    /// No end is left on the other side.
    Closed,
    /// Our end was made deaf, and all that had been sent before is read. `Closed` still follows when it is true.
    Deaf,
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

/// Gives a successor everything, then reports what it says.
pub(super) async fn successor(number: u64, channel: Arc<Channel>, gift: Gift, inputs: Sender<Input>) {
    let report = |what| {
        let inputs = &inputs;
        async move { inputs.send(Input::Successor(number, what)).await.is_ok() }
    };
    match give(&channel, gift).await {
        Ok(hello) => {
            report(FromSuccessor::Hello(hello)).await;
        }
        Err(Ungiven::Closed) => {
            report(FromSuccessor::Closed).await;
            return;
        }
        Err(Ungiven::Reported(reason)) => {
            report(FromSuccessor::Message(Message::Failed { reason })).await;
            return;
        }
        Err(Ungiven::Broke(error)) => {
            report(FromSuccessor::Broke(error)).await;
            return;
        }
    }
    loop {
        let what = match channel.receive().await {
            Ok(Some(received)) => FromSuccessor::Message(received.message),
            // Decided here and only once: the end may be made deaf at any moment, also after it was closed.
            Ok(None) if channel.is_deaf() => FromSuccessor::Deaf,
            Ok(None) => FromSuccessor::Closed,
            Err(error) => FromSuccessor::Broke(error),
        };
        let (more, deaf) = (matches!(what, FromSuccessor::Message(_)), matches!(what, FromSuccessor::Deaf));
        if !report(what).await {
            return;
        }
        if deaf {
            match channel.hung_up().await {
                Ok(()) => report(FromSuccessor::Closed).await,
                Err(error) => {
                    report(FromSuccessor::Broke(Error::handover_io("cannot watch the successor", error))).await
                }
            };
        }
        if !more {
            return;
        }
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
    let _ = inputs.send(Input::Successor(number, FromSuccessor::Exited)).await;
}

/// Reports what the predecessor or a draining generation says, and keeps the connections that it hands over.
pub(super) async fn older(
    number: u64,
    channel: Arc<Channel>,
    (connections, drain): (Connections, Drain),
    inputs: Sender<Input>,
) {
    loop {
        let what = match channel.receive().await {
            Ok(Some(received)) if matches!(received.message, Message::Connections(_)) => {
                connections.receive(&channel, received, &drain);
                connections.caught_up().await;
                continue;
            }
            Ok(Some(received)) => FromOlder::Message(Box::new(received)),
            Ok(None) => FromOlder::Closed,
            Err(error) => {
                log::error!("an older generation said what cannot be read; it is not listened to any more: {error}");
                FromOlder::Closed
            }
        };
        let closed = matches!(what, FromOlder::Closed);
        if inputs.send(Input::Older(number, what)).await.is_err() || closed {
            return;
        }
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

/// Reports the hang-up of a barrier's pipe: the service manager has closed its end.
pub(super) async fn barrier(reader: OwnedFd, inputs: Sender<Input>) {
    let hung_up = async { Async::new(reader)?.readable().await };
    if let Err(error) = hung_up.await {
        log::warn!("the service manager's barrier cannot be waited for: {error}");
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
