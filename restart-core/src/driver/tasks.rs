//! What every part of the driver starts its tasks with: the executor, the way of inputs to the driver, and the numbers
//! that tell a source that has been replaced from the present one.
//!
//! It knows nothing of what the tasks do.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_channel::{Receiver, Sender};
use async_executor::{Executor, Task};

use super::sources::Input;

/// Inputs that wait for the driver; a source that has more waits itself.
pub(super) const INPUTS_MAX: usize = 32;

/// Clones share everything.
#[derive(Clone)]
pub(super) struct Tasks {
    executor: Arc<Executor<'static>>,
    inputs: Sender<Input>,
    last_number: Arc<AtomicU64>,
}

impl Tasks {
    /// With the end at which the driver takes the inputs.
    pub(super) fn new() -> (Tasks, Receiver<Input>) {
        let (inputs, received) = async_channel::bounded(INPUTS_MAX);
        (Tasks { executor: Arc::new(Executor::new()), inputs, last_number: Arc::default() }, received)
    }

    pub(super) fn executor(&self) -> Arc<Executor<'static>> {
        Arc::clone(&self.executor)
    }

    /// Where a source reports what has happened.
    pub(super) fn inputs(&self) -> Sender<Input> {
        self.inputs.clone()
    }

    /// A task that ends when it is dropped.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> Task<()> {
        self.executor.spawn(task)
    }

    /// A number that no source has had.
    pub(super) fn next_number(&self) -> u64 {
        self.last_number.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// Whether nothing is left to be done of a task that may have been started.
pub(super) fn is_over(task: Option<&Task<()>>) -> bool {
    task.is_none_or(Task::is_finished)
}
