//! A whole program around an axum `Router`, which is replaced while it serves.
//!
//! It needs the feature `axum`. This is all of a `main.rs`:
//!
//! ```no_run
#![doc = include_str!("../examples/axum.rs")]
//! ```
//!
//! What happens to connections at a reload stands in [`hyper`](crate::hyper), whose [`Server`] serves the router: idle
//! ones move, requests in flight are answered, WebSockets by axum's `ws` stay in their process, counted and told
//! (`Extension<Shutdown>`), and registered streams and WebSockets go on in the new process ([`Program::moves`]).
//! `ConnectInfo<SocketAddr>` is the client's address, also after a move.
//!
//! Whoever wants `axum::serve` itself has [`tokio::Listener`](crate::tokio::Listener) as an `axum::serve::Listener`, whose
//! connections are counted for as long as they live. Its graceful shutdown is for good, though: a generation that serves again, since
//! its successor has died, needs another call of it.

use std::convert::Infallible;
use std::error::Error;
use std::fmt;
use std::future::pending;
use std::io;
use std::process::{ExitCode, Termination};

use ::axum::Router;
use ::axum::extract::ConnectInfo;
use ::axum::extract::connect_info::Connected;
use ::axum::serve::IncomingStream;
use ::hyper::Request;
use ::hyper::service::Service;
use ::tokio::runtime::Runtime;
use hyper_util::service::TowerToHyperService;

use crate::address::{Address, Endpoint};
use crate::builder::Builder;
use crate::cli::{self, Serve};
use crate::driver::Exit;
use crate::generation::Generation;
use crate::hyper::{Moves, RequestBody, Server};
use crate::tokio::{Listener, Stream};

/// What the function of the routes fails with.
pub type Failure = Box<dyn Error + Send + Sync>;

/// A program that serves a `Router`.
#[must_use = "nothing happens before run() is called"]
pub struct Program {
    name: String,
    listen: Vec<String>,
    moves: Moves,
    set: Vec<Box<dyn FnOnce(Builder) -> Builder>>,
}

impl Program {
    /// A program of this name, which its control socket has as well: two programs of one name cannot run side by side.
    pub fn new(name: &str) -> Program {
        Program { name: name.to_owned(), listen: vec![], moves: Moves::new(), set: vec![] }
    }

    /// Listens on an address, as `http=127.0.0.1:8080`, or without a name, `/run/shop.sock`. A service manager that gives a
    /// socket by this name comes first, and so do addresses on the command line.
    pub fn listen(mut self, endpoint: &str) -> Program {
        self.listen.push(endpoint.to_owned());
        self
    }

    /// Registers streams and protocols that go on in the next process.
    pub fn moves(mut self, moves: Moves) -> Program {
        self.moves = moves;
        self
    }

    /// Sets what else a [`Builder`] has: timeouts, a state, the version, a pid file.
    pub fn set(mut self, set: impl FnOnce(Builder) -> Builder + 'static) -> Program {
        self.set.push(Box::new(set));
        self
    }
}

impl Program {
    /// Runs the program, as `main` does nothing else: call it before any thread exists, so never within a runtime.
    ///
    /// With the argument `reload`, `status` or `stop` it tells the running service so, and prints the answer
    /// ([`cli`]). With no argument, or addresses in the place of those of [`listen`](Program::listen), it
    /// serves: it takes over from a process that started it, makes a multi-threaded runtime, asks `routes` for the router,
    /// and is ready when it has that. What `routes` fails with fails a reload, and the old process serves on.
    ///
    /// The log goes to standard error, unless a logger has been set before.
    pub fn run(self, routes: impl AsyncFnOnce(Generation) -> Result<Router, Failure>) -> ExitCode {
        let name = self.name.clone();
        match self.serve(cli::obey(&name), routes) {
            Ok(exit) => exit.report(),
            Err(error) => {
                eprintln!("{name}: {error}");
                ExitCode::FAILURE
            }
        }
    }

    fn serve(
        self,
        serve: Serve,
        routes: impl AsyncFnOnce(Generation) -> Result<Router, Failure>,
    ) -> Result<Exit, Failure> {
        let Program { listen, moves, set, .. } = self;
        let mut builder = Builder::new().control(serve.control).take_connections(moves.formats());
        for address in if serve.arguments.is_empty() { &listen } else { &serve.arguments } {
            builder = builder.listen(Endpoint::parse(address, "http")?);
        }
        let builder = set.into_iter().fold(builder, |builder, set| set(builder));
        // Before the runtime: no thread may exist yet.
        let (generation, driver) = builder.start()?;
        let runtime = Runtime::new()?;
        let exit = runtime.block_on(driver.run_with(async move {
            let router = routes(generation.clone()).await?;
            Server::new(&generation, moves, App::new(router)).spawn(&generation);
            Ok::<_, Failure>(())
        }));
        // What still runs has had its time, and nothing that blocks a thread may hold up the end.
        runtime.shutdown_background();
        Ok(exit)
    }
}

impl fmt::Debug for Program {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Program").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A router as a service of hyper's, whose handlers find `ConnectInfo<SocketAddr>`.
#[derive(Clone)]
struct App(TowerToHyperService<Router>);

impl App {
    fn new(router: Router) -> App {
        App(TowerToHyperService::new(router))
    }
}

impl Service<Request<RequestBody>> for App {
    type Response = ::axum::response::Response;
    type Error = Infallible;
    type Future = <TowerToHyperService<Router> as Service<Request<RequestBody>>>::Future;

    fn call(&self, request: Request<RequestBody>) -> Self::Future {
        self.0.call(with_client(request))
    }
}

/// The request, in which handlers find the client's address as axum has it.
fn with_client<B>(mut request: Request<B>) -> Request<B> {
    if let Some(Address::Tcp(peer)) = request.extensions().get() {
        let peer = ConnectInfo(*peer);
        request.extensions_mut().insert(peer);
    }
    request
}

impl ::axum::serve::Listener for Listener {
    type Io = Stream;
    type Addr = Address;

    async fn accept(&mut self) -> (Stream, Address) {
        let Some(stream) = Listener::accept(self).await else {
            // The listener is given up; axum learns of the end of the process by other ways.
            return pending().await;
        };
        let peer = stream.peer().clone();
        (stream, peer)
    }

    fn local_addr(&self) -> io::Result<Address> {
        Ok(self.get_ref().address().clone())
    }
}

/// The client's address, for `into_make_service_with_connect_info::<Address>()`.
impl Connected<IncomingStream<'_, Listener>> for Address {
    fn connect_info(stream: IncomingStream<'_, Listener>) -> Address {
        stream.remote_addr().clone()
    }
}

#[cfg(test)]
mod tests {
    use ::axum::body::Body;
    use ::axum::routing::get;
    use std::net::SocketAddr;

    use super::*;

    #[::tokio::test]
    async fn handlers_find_the_clients_address() {
        let app = App::new(
            Router::new().route("/", get(async |ConnectInfo(peer): ConnectInfo<SocketAddr>| peer.to_string())),
        );
        let peer: SocketAddr = "192.0.2.1:7".parse().unwrap();
        // A request's own body comes from a connection only, so one of axum's stands for it.
        let mut request = Request::get("/").body(Body::empty()).unwrap();
        request.extensions_mut().insert(Address::Tcp(peer));
        let response = app.0.call(with_client(request)).await.unwrap();
        let bytes = ::axum::body::to_bytes(response.into_body(), 100).await.unwrap();
        assert_eq!(bytes, "192.0.2.1:7");
    }
}
