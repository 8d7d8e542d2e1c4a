//! A start that has begun can be stopped: between `Builder::start` and the first poll of its driver, while the
//! application gets ready and blocks, for as long as that takes.
//!
//! The signals are handled by then, and nobody else would hear of one. A thread waits for one that means a stop, takes back
//! what the start has made, and ends the process. It goes when `run` is polled, and leaves every other signal to it.

use std::io;
use std::process;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use async_channel::{Receiver, Sender};
use async_io::block_on;
use futures_lite::future;

use crate::handover::{Channel, Message};
use crate::listeners::{Socket, unlink_if_ours};
use crate::pid_file::PidFile;
use crate::signals::Signals;

/// What a start has made, and a stop takes back.
#[derive(Debug)]
pub(crate) struct Begun {
    pub(crate) generation: u64,
    /// Those that this generation has bound itself.
    pub(crate) sockets: Vec<Socket>,
    pub(crate) pid_file: Option<PidFile>,
    pub(crate) predecessor: Option<Arc<Channel>>,
}

/// Waits for a stop until it is dropped.
#[derive(Debug)]
pub(crate) struct Stoppable {
    /// The thread is over when it closes.
    wanted: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Stoppable {
    pub(crate) fn new(begun: Begun, signals: Arc<Signals>) -> io::Result<Stoppable> {
        let (wanted, over) = async_channel::bounded(1);
        let wait = move || {
            if block_on(is_stopped(&signals, over)) {
                begun.take_back();
                process::exit(0);
            }
        };
        let thread = Builder::new().name("begun".to_owned()).spawn(wait)?;
        Ok(Stoppable { wanted: Some(wanted), thread: Some(thread) })
    }
}

impl Drop for Stoppable {
    /// Waits for the thread: two that read the same wake-ups would take them from each other. One that has been told to
    /// stop ends the process.
    fn drop(&mut self) {
        self.wanted = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn is_stopped(signals: &Signals, over: Receiver<()>) -> bool {
    let over = async {
        let _ = over.recv().await;
        false
    };
    let stopped = async {
        if let Err(error) = signals.stop_asked().await {
            log::error!("a stop before the service is ready cannot be noticed: {error}");
            future::pending::<()>().await;
        }
        true
    };
    future::or(over, stopped).await
}

impl Begun {
    fn take_back(&self) {
        log::info!("generation {} was told to stop before it was ready, and ends", self.generation);
        // Whoever serves stops, as it does when it is told so by a successor that is ready.
        if let Some(Err(error)) = self.predecessor.as_ref().map(|channel| channel.try_send(&Message::Stop, &[])) {
            log::debug!("{error} to the predecessor");
        }
        self.sockets.iter().for_each(unlink_if_ours);
        self.pid_file.iter().for_each(PidFile::remove);
        log::logger().flush();
    }
}
