//! What stands in the place of the way to a service manager where the feature `systemd` is off: none follows this process.
//!
//! It has the shape of the notifier that there is otherwise.

use std::future::Future;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use crate::environment::Environment;
use crate::error::Error;

/// The way to nobody.
#[derive(Debug)]
pub(crate) struct Notifier;

#[expect(clippy::unused_self, clippy::unused_async, reason = "the shape of the one that there is otherwise")]
impl Notifier {
    pub(crate) fn new(environment: &Environment) -> Result<Notifier, Error> {
        match &environment.notify_socket {
            Some(_) => Err(Error::refused(
                "NOTIFY_SOCKET is set, so that a service manager waits for word, and this program was built without the \
                 feature `systemd` of restart-core: build it with that, or start it without the variable",
            )),
            None => Ok(Notifier),
        }
    }

    pub(crate) fn managed(&self) -> bool {
        false
    }

    pub(crate) fn watchdog(&self) -> Option<Duration> {
        None
    }

    pub(crate) fn ready(&self, _: &str) {}

    pub(crate) fn took_over(&self, _: &str) {}

    pub(crate) fn status(&self, _: &str) {}

    pub(crate) fn reloading(&self, _: &str, _: Duration) {}

    pub(crate) fn stopping(&self, _: &str, _: Duration) {}

    pub(crate) fn store(&self, _: &str, _: BorrowedFd<'_>) {}

    pub(crate) fn unstore(&self, _: &str) {}

    pub(crate) fn feed_watchdog(&self) {}

    pub(crate) async fn announce(&self, _: u32, _: &str) -> Result<(), Error> {
        Ok(())
    }

    pub(crate) fn barrier(&self) -> impl Future<Output = Result<OwnedFd, Error>> + Send + use<> {
        let nobody = io::Error::from(io::ErrorKind::NotConnected);
        async move { Err(Error::system("there is no service manager", nobody)) }
    }
}
