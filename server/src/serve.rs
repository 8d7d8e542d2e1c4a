//! One generation at work: threads, accept loops and connections.
//!
//! It knows neither the command line nor what answers a request. Which connections it may accept, and when it has to
//! end, is the generation's matter; what happens on a connection, the HTTP layer's.

use std::future;
use std::sync::Arc;
use std::thread;

use http_types::Request;
use restart_core::{Address, Exit, Generation, Listener};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use smol::Executor;
use smol::lock::Semaphore;

use crate::config::Config;
use crate::http::{self, Context, Decoration, Handler, Start};

/// What answers requests.
pub(crate) struct Service<H> {
    pub(crate) handler: H,
    /// Headers for every response.
    pub(crate) decorate: Option<Box<dyn Fn(Option<&Request>) -> Decoration + Send + Sync>>,
}

impl<H: Handler> Service<H> {
    pub(crate) fn new(handler: H) -> Service<H> {
        Service { handler, decorate: None }
    }
}

/// Serves until this process has nothing left to do.
pub(crate) fn serve<H: Handler + 'static>(config: &Config, generation: Generation, service: Service<H>) -> Exit {
    raise_file_limit();
    let context = Arc::new(Context {
        handler: service.handler,
        limits: config.limits.http.clone(),
        drain: generation.drain(),
        parks: false,
        decorate: service.decorate,
    });
    // The threads outlive this function, until the process ends.
    let executor: &'static Executor<'static> = Box::leak(Box::new(Executor::new()));
    let room = Arc::new(Semaphore::new(config.limits.connections));
    for listener in generation.listeners() {
        let accepting = accept(executor, listener.clone(), Arc::clone(&context), Arc::clone(&room));
        executor.spawn(accepting).detach();
    }
    for number in 1..config.threads {
        let thread = thread::Builder::new().name(format!("reborn-{number}"));
        if let Err(error) = thread.spawn(move || smol::block_on(executor.run(future::pending::<()>()))) {
            log::warn!("only {number} threads serve: {error}");
            break;
        }
    }
    smol::block_on(executor.run(generation.run()))
}

/// Accepts while there is room for another connection; further ones wait in the kernel's queue.
async fn accept<H: Handler + 'static>(
    executor: &'static Executor<'static>,
    listener: Listener,
    context: Arc<Context<H>>,
    room: Arc<Semaphore>,
) {
    loop {
        let permit = room.acquire_arc().await;
        match listener.accept().await {
            Ok(accepted) => {
                let peer = match &accepted.peer {
                    Address::Tcp(address) => Some(address.to_string()),
                    _ => None,
                };
                let start = Start::new(accepted.fd, peer, accepted.guard);
                let context = Arc::clone(&context);
                let connection = async move {
                    let end = http::serve(&context, start).await;
                    log::trace!("a connection ended: {end:?}");
                    drop(permit);
                };
                executor.spawn(connection).detach();
            }
            Err(error) => {
                log::error!("the listener {:?} cannot accept any more: {error}", listener.name());
                return;
            }
        }
    }
}

/// A connection needs a descriptor each: the soft limit is for programs that use select(2), which this one does not.
fn raise_file_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        log::warn!("the limit of open files stays at {current:?}: {error}");
    }
}
