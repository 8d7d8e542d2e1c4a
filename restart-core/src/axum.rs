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
//! `ConnectInfo<SocketAddr>` is the client's address, also after a move. A client on a Unix socket has none: a handler that
//! serves both takes `Extension<restart_core::Address>`.
//!
//! Whoever wants `axum::serve` itself has [`tokio::Listener`](crate::tokio::Listener) as an `axum::serve::Listener`, whose
//! connections are counted for as long as they live. Its graceful shutdown is for good, though: a generation that serves
//! again, since its successor has died, needs another call of it.

use std::convert::Infallible;
use std::error::Error;
use std::fmt;
use std::future::{Future, pending};
use std::io;
use std::process::{ExitCode, Termination};

use ::axum::Router;
use ::axum::extract::ConnectInfo;
use ::axum::extract::connect_info::Connected;
use ::axum::serve::IncomingStream;
use ::hyper::Request;
use ::hyper::service::Service;
use ::tokio::runtime::{Handle, Runtime};
use hyper_util::service::TowerToHyperService;

use crate::address::{Address, Endpoint};
use crate::builder::Builder;
use crate::cli::{self, Serve};
use crate::driver::Exit;
use crate::generation::Generation;
use crate::hyper::{Moves, RequestBody, Server};
use crate::predecessor::decline;
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
    /// Runs the program, as `main` does nothing else: call it before any thread exists, so never within a runtime, which it
    /// makes by itself: `main` is a plain `fn`, without `#[tokio::main]`.
    ///
    /// With the argument `reload`, `status` or `stop` it tells the running service so, and prints the answer
    /// ([`cli`]). With no argument, or addresses in the place of those of [`listen`](Program::listen), it
    /// serves: it takes over from a process that started it, makes a multi-threaded runtime, asks `routes` for the router,
    /// and is ready when it has that. What `routes` fails with fails a reload, and the old process serves on; so does a
    /// runtime whose workers are all blocked ([`Builder::probe`]).
    ///
    /// Where the end of the first process would be the end of the service, as in a container, it stays and follows the
    /// others (feature `supervisor`, on by default; [`must_supervise`](crate::must_supervise)).
    ///
    /// The log goes to standard error, unless a logger has been set before. Returned is 0, 1 where it cannot serve, and 2
    /// where the command line cannot be understood.
    pub fn run(self, routes: impl AsyncFnOnce(Generation) -> Result<Router, Failure>) -> ExitCode {
        let name = self.name.clone();
        let serve = cli::obey(&name);
        if asks_for_help(&serve) {
            cli::print(&self.usage());
            return ExitCode::SUCCESS;
        }
        let failed = |code: u8, error: Failure| {
            cli::complain(&name, &error);
            // A predecessor knows already what start() has failed with, and then nothing is said here.
            decline(&error.to_string());
            ExitCode::from(code)
        };
        #[cfg(feature = "supervisor")]
        if let Some(why) = crate::environment::must_supervise() {
            log::info!("this process supervises the generations: {why}");
            let ended = crate::supervisor::supervise(crate::environment::arguments());
            return ended.map_or_else(|error| failed(cli::FAILED, error.into()), ExitCode::from);
        }
        let given = !serve.arguments.is_empty();
        match self.builder(&serve) {
            Ok((builder, moves)) => {
                serve_with(builder, moves, routes).map_or_else(|error| failed(cli::FAILED, error), Exit::report)
            }
            Err(error) if given => {
                failed(cli::USAGE, format!("{error}; or, to a running service, reload, status or stop").into())
            }
            Err(error) => failed(cli::FAILED, error),
        }
    }

    /// How it takes its place, and what moves. Fails where an address is none.
    fn builder(self, serve: &Serve) -> Result<(Builder, Moves), Failure> {
        let Program { listen, moves, set, .. } = self;
        let builder = Builder::new().control(serve.control.clone()).take_connections(moves.formats());
        let mut builder = builder.probe(workers_answer);
        for address in if serve.arguments.is_empty() { &listen } else { &serve.arguments } {
            builder = builder.listen(Endpoint::parse(address, "http")?);
        }
        Ok((set.into_iter().fold(builder, |builder, set| set(builder)), moves))
    }

    fn usage(&self) -> String {
        let Program { name, listen, .. } = self;
        format!(
            "{name} [--control PATH] [ADDRESS...]    serves: {}, or these addresses\n\
             {name} reload|stop [--control PATH]     replaces the running one by what is on disk now, or stops it\n\
             {name} status [--json] [--control PATH]\n",
            listen.join(" ")
        )
    }
}

fn asks_for_help(serve: &Serve) -> bool {
    matches!(serve.arguments.first().map(String::as_str), Some("-h" | "--help" | "help"))
}

fn serve_with(
    builder: Builder,
    moves: Moves,
    routes: impl AsyncFnOnce(Generation) -> Result<Router, Failure>,
) -> Result<Exit, Failure> {
    if Handle::try_current().is_ok() {
        let why = "run() makes a runtime of its own, and was called within one: let main be a plain fn, without \
                   #[tokio::main] and async; routes are made in a runtime";
        return Err(why.into());
    }
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

/// Whether a task still gets its turn. The driver is not polled by a worker of the runtime, so it would answer where all
/// of them are blocked, and nobody is served.
fn workers_answer() -> impl Future<Output = bool> + Send {
    let turn = ::tokio::spawn(async {});
    async { turn.await.is_ok() }
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

    #[test]
    fn a_runtime_whose_workers_are_all_blocked_does_not_answer_before_they_are_free() {
        let runtime = ::tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let (release, blocked) = std::sync::mpsc::channel::<()>();
        let (begins, has_begun) = std::sync::mpsc::channel();
        runtime.spawn(async move {
            begins.send(()).unwrap();
            let _ = blocked.recv();
        });
        has_begun.recv().unwrap();
        runtime.block_on(async {
            let mut answer = std::pin::pin!(workers_answer());
            for _ in 0..100 {
                ::tokio::task::yield_now().await;
                assert!(futures_lite::future::poll_once(&mut answer).await.is_none());
            }
            release.send(()).unwrap();
            assert!(answer.await);
        });
    }

    #[::tokio::test]
    async fn a_program_that_is_run_within_a_runtime_says_how_main_has_to_look() {
        let failed = serve_with(Builder::new(), Moves::new(), async |_| Ok(Router::new())).unwrap_err().to_string();
        assert!(failed.contains("plain fn, without #[tokio::main]"), "{failed}");
    }

    #[test]
    fn an_address_that_is_none_is_named() {
        let serve = |words: &[&str]| Serve {
            control: crate::control::Place::Named("shop".to_owned()),
            arguments: words.iter().map(|word| (*word).to_owned()).collect(),
        };
        let program = || Program::new("shop").listen("http=127.0.0.1:0");
        assert!(program().builder(&serve(&[])).is_ok());
        let failed = program().builder(&serve(&["relod"])).err().unwrap().to_string();
        assert!(failed.starts_with("\"relod\" is no address"), "{failed}");
        assert!(asks_for_help(&serve(&["--help"])) && program().usage().contains("shop reload|stop"));
    }

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
