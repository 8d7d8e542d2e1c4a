//! What stands in the place of the control socket where the feature `control` is off: there is none.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_channel::Sender;
use async_executor::Executor;

use super::command::{Clients, Command};
use crate::environment::Environment;
use crate::error::Error;
use crate::listeners::Listener;

/// Where a server's control socket lies: nowhere.
pub(crate) enum Place {
    None,
}

#[expect(clippy::unnecessary_wraps, reason = "the one in its place can fail")]
pub(crate) fn resolve(place: &Place, _: &Environment) -> Result<Option<PathBuf>, Error> {
    match place {
        Place::None => Ok(None),
    }
}

pub(crate) fn running_pid(_: &Path) -> Option<u32> {
    None
}

pub(crate) async fn serve(_: Listener, _: Arc<Executor<'static>>, _: Sender<Command>, _: Clients) {}
