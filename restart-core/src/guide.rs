//! How to make a server of your own reloadable: a walk from `main` to a test that replaces the server.
//!
//! This module is documentation only. The servers in it are this crate's examples as they stand, which its tests
//! reload under load; the smaller pieces are compiled.
//!
//! # The order in `main`
//!
//! 1. Read the command line. A reload starts the same program with the same arguments and `-g` in front of them:
//!    [`arguments`](crate::arguments) are those without it, and [`Builder::handover_word`](crate::Builder::handover_word)
//!    chooses another word, or none. What is wrong with the configuration goes to [`decline`](crate::decline).
//! 2. [`Builder::start`](crate::Builder::start), before any thread exists, so before a runtime is made: it adopts what was
//!    inherited, and signals must reach handlers that stand.
//! 3. Poll the [`Driver`](crate::Driver) that it gives, from the start: it serves signals, commands and the service
//!    manager, also while the application gets ready. When it returns, return from `main`.
//! 4. Beside it, take listeners, state, and the [`Drain`](crate::Drain) from the [`Generation`](crate::Generation); start
//!    the application and its accept loops. They accept nothing yet.
//! 5. Say [`Generation::ready`](crate::Generation::ready). That is refused while nobody accepts on a listener. Where all
//!    is ready at once, steps 3 and 5 are one: [`driver.run_with(generation.ready())`](crate::Driver::run_with).
//!
//! # An axum server
//!
//! It takes the feature `axum`, and this is all of it. At a reload idle connections go on in the new process, and requests in
//! flight are answered where they began.
//!
//! ```toml
//! [dependencies]
//! axum = "0.8"
//! restart-core = { path = "../reborn/restart-core", features = ["axum", "websocket"] } # a clone of this repository
//! tokio = { version = "1", features = ["time"] }
//! ```
//!
//! ```no_run
#![doc = include_str!("../examples/axum.rs")]
//! ```
//!
//! From a plain axum program it differs in its `main` alone, which is no longer async and has no `#[tokio::main]`: a runtime
//! has threads, and a successor is received before there is one. So [`Program::run`] makes it, and asks for the router in
//! it: what can fail at a start is done there, and fails the reload ([below](self#ready-or-failed)). Timeouts, a version and
//! [a state](self#state-that-is-handed-over) are set by [`Program::set`].
//!
//! In a terminal, as under `cargo run`, the prompt comes back at the first reload: the process that was started there has
//! ended, and Ctrl-C does not reach the next one. `status` tells which one serves, and `stop` ends it. In a container or
//! another place where the first process must last, it does: it follows the others.
//!
//! WebSockets and event streams go on in the new process as well, if they are registered by a name, with what is known of
//! them as their state (feature `websocket`):
//!
//! ```no_run
#![doc = include_str!("../examples/axum_chat.rs")]
//! ```
//!
//! | of a plain axum program | becomes | which is registered by |
//! |---|---|---|
//! | `Sse::new(events)` | [`stream`], a response whose body is made from a state | [`endless_stream`], with a function from a state to the next event and its state |
//! | `upgrade.on_upgrade(talk)` | [`websocket::switch`], with the first state | [`web_socket`], with `talk`, which begins at any state and leaves with one |
//!
//! A WebSocket by axum's own `ws` stays in its process for as long as it lasts, at most for the drain timeout; it is counted,
//! and its handler can learn of the end (`Extension<restart_core::hyper::Shutdown>`). `examples/tonic.rs` is a gRPC server
//! by the same `Program`, and `examples/hyper.rs` one of a hyper service without it.
//!
//! | client | at a reload |
//! |---|---|
//! | idle, over HTTP/1 | goes on in the new process |
//! | waits for an answer | gets it from the old process; then the connection goes on in the new one |
//! | a registered stream or WebSocket | goes on in the new process, also within a message |
//! | another upgrade, a body without end | stays in the old process, up to the drain timeout |
//! | HTTP/2, gRPC | is told to connect anew (GOAWAY) when it is quiet; what it has sent is answered |
//!
//! A client over HTTP/2 is told when it is quiet: no call is open, and there was none for 100 ms. One that is never quiet
//! stays in the old process, and is told shortly before the drain's deadline. hyper's client, which is tonic's, gives up
//! the next call (`Cancelled`) where it is told while others are open; the server has seen nothing of that one, and it can
//! safely be called again.
//!
//! # A protocol of your own, on smol, whose connections live on
//!
//! Between two messages a connection is a descriptor and what you know of it. [`Connections::offer`] sends both to the
//! newest generation, where [`Connections::take`] gets them; the blob's format is yours, and so is reading that of an
//! older version. Give each format a name ([`Formats`]), and a new one when its meaning changes: a connection moves only
//! to a generation that takes its formats ([`Builder::take_connections`]), so that an older version, to which you have
//! gone back, never misreads it. Whatever your process has read and not used must be in it. An offer that comes back is yours to serve on.
//!
//! ```no_run
#![doc = include_str!("../examples/echo.rs")]
//! ```
//!
//! # Moving in the middle
//!
//! A connection need not wait for a moment between two messages: `examples/tunnel.rs`, a TCP forwarder, moves in the middle
//! of what flows through it, with the socket to its target as a companion, and nothing of it is cut at a reload. What it
//! takes is the same for any protocol:
//!
//! 1. All that is known of the connection stands in one value: what is read and not used, what is to be written, how far
//!    each end has come. Each step of the work reads or writes and notes it there without an await in between, so that the
//!    work can be dropped wherever it waits.
//! 2. The value has a bound, so that it always fits into a blob ([`BLOB_BYTES_MAX`](crate::BLOB_BYTES_MAX)).
//! 3. [`Phases::until_change`](crate::Phases::until_change) does the work until the phase is set. In a drain the value is
//!    packed, with its sockets taken out of the event loop, and offered.
//! 4. What is unpacked goes on as if nothing had been, in the newest generation or, where nobody takes it, in this one.
//!
//! ```no_run
//! use restart_core::{Connection, Connections, Drain, Phase};
//!
//! # struct Tunnel;
//! # impl Tunnel {
//! #     async fn forward(&mut self) -> std::io::Result<()> { Ok(()) }
//! #     fn reset(self) {}
//! #     fn pack(self) -> Connection { unimplemented!() }
//! #     fn unpack(_: Connection) -> Tunnel { Tunnel }
//! # }
//! async fn serve(mut tunnel: Tunnel, drain: Drain, way: Connections) {
//!     let mut phases = drain.phases();
//!     loop {
//!         match phases.until_change(tunnel.forward()).await {
//!             Ok(Ok(())) => return,
//!             Ok(Err(_)) | Err(Phase::Over) => return tunnel.reset(),
//!             Err(Phase::Serving | Phase::Stopping) => {}
//!             Err(Phase::Draining) => match way.offer(tunnel.pack()).await {
//!                 Ok(_guard) => return,
//!                 Err(back) => tunnel = Tunnel::unpack(back),
//!             },
//!         }
//!     }
//! }
//! ```
//!
//! One that comes back is offered again in the next drain, not before. While an offer is answered nothing flows: a few
//! milliseconds, and at the most the 5 s after which it comes back.
//!
//! # Ready, or failed
//!
//! Do what can fail before you are ready: read files, connect to the database, fill the cache. Until then the old process
//! serves everybody, for at most the ready timeout. If it fails, say why; whoever asked for the reload reads it.
//!
//! ```no_run
//! use std::process::ExitCode;
//! use restart_core::{Builder, Error};
//!
//! fn main() -> ExitCode {
//!     let Ok(settings) = std::fs::read_to_string("settings") else {
//!         restart_core::decline("cannot read the file settings"); // nobody to tell at a first start
//!         return ExitCode::FAILURE;
//!     };
//!     let (generation, driver) = match Builder::new().start() {
//!         Ok(started) => started,
//!         Err(error) => {
//!             eprintln!("{error}"); // a predecessor has been told
//!             return ExitCode::FAILURE;
//!         }
//!     };
//!     let set_up = async {
//!         if settings.is_empty() {
//!             return Err("the file settings is empty".to_owned()); // told as well, and in Exit::failure
//!         }
//!         // Connect to the database, start the accept loops of generation.listeners(): signals are obeyed meanwhile.
//!         generation.ready().await.map_err(|error| error.to_string())
//!     };
//!     let exit = smol::block_on(driver.run_with(set_up));
//!     ExitCode::from(u8::from(!exit.success))
//! }
//! ```
//!
//! What only one process may do, such as a timed job, begins behind
//! [`Generation::committed`](crate::Generation::committed), and ends when the phase is no longer `Serving`.
//!
//! # Draining
//!
//! | [`Phase`](crate::Phase) | what a connection does |
//! |---|---|
//! | `Serving` | serves |
//! | `Draining` | finishes its request; then moves ([`Connections::offer`]) or closes |
//! | `Stopping` | finishes its request, then closes |
//! | `Over` | ends at once: the deadline has passed, and the process ends a second later |
//!
//! Hold each connection's [`Guard`](crate::Guard) for as long as it lives: the process ends when the last one is dropped.
//! What does not end soon keeps its process, for at most [`drain_timeout`](crate::Builder::drain_timeout); say what it is
//! ([`Builder::waits`](crate::Builder::waits)), and the status and refused reloads do. A stop leaves all generations
//! [`stop_timeout`](crate::Builder::stop_timeout): one in `Draining` sees `Stopping` then.
//!
//! Wait for a change together with the next read ([`Drain::phases`](crate::Drain::phases) tells
//! each change once). `Draining` may become `Serving` again, where the new process dies while this one still drains.
//!
//! # State that is handed over
//!
//! ```no_run
//! use std::sync::{Arc, Mutex};
//! use restart_core::{Builder, Error, Exit, State};
//!
//! fn main() -> Result<Exit, Error> {
//!     let visitors = Arc::new(Mutex::new(0_u64));
//!     let saved = Arc::clone(&visitors);
//!     let save = move || saved.lock().map_or(vec![], |count| count.to_le_bytes().to_vec());
//!     let (generation, driver) = Builder::new().save_state(1, save).start()?;
//!     match generation.take_state() {
//!         Some(State { format: 1, bytes, .. }) => {
//!             *visitors.lock().unwrap() = u64::from_le_bytes(bytes.try_into().unwrap_or_default());
//!         }
//!         Some(State { format, .. }) => eprintln!("the state has the unknown format {format}: starting without it"),
//!         None => {}
//!     }
//!     Ok(smol::block_on(driver.run_with(generation.ready())))
//! }
//! ```
//!
//! It is saved when the new process is started, and the old one serves on until the commit: what changes in between is not
//! in it. Totals that must not lose a count are [`Builder::count`](crate::Builder::count)'s; what must survive a crash
//! belongs into a file.
//!
//! # Commands of your own
//!
//! With [`Builder::control`](crate::Builder::control) the service takes commands from the same user and root. Where its
//! command line has nothing else, [`cli::obey`](crate::cli::obey) gives it `reload`, `status`, `stop` and `--control PATH`,
//! as the examples have them, and a log on standard error where no other one is installed. `reborn reload --control PATH`
//! works for any service. With a command line of your own:
//!
//! ```no_run
//! use restart_core::control::{self, Answer, Client};
//!
//! fn reload() -> Result<(), Box<dyn std::error::Error>> {
//!     match Client::connect(&control::find(None, "my-server")?)?.reload()? {
//!         Answer::Outcome(outcome) if outcome.failure.is_none() => println!("{outcome}"),
//!         Answer::Outcome(outcome) => return Err(outcome.to_string().into()),
//!         Answer::Refused(reason) => return Err(reason.into()),
//!         other => println!("nothing was reloaded: {other:?}"),
//!     }
//!     Ok(())
//! }
//! # fn main() { let _ = reload(); }
//! ```
//!
//! SIGHUP and SIGUSR2 reload without telling the outcome, SIGTERM and SIGINT stop. A SIGHUP that was ignored at the start
//! (`nohup`) stays ignored.
//!
//! A server that gets ready for long, as one that waits for its database, is stopped by them meanwhile: the driver returns,
//! or, before its first poll, the process ends at once, with status 0; what the start has made is removed. Its control
//! socket answers `status` and `stop`, and refuses a reload, until it is ready. A successor that is told to stop stops the
//! service, as one that is ready does; to give up a reload alone, have it call [`fail`](crate::Generation::fail), or let
//! the ready timeout pass. The same three commands are to be had from within:
//! [`Generation::reload`](crate::Generation::reload), [`stop`](crate::Generation::stop) and
//! [`status`](crate::Generation::status).
//!
//! # Under systemd, and under others
//!
//! ```ini
//! [Service]
//! Type=notify
//! NotifyAccess=main
//! ExecStart=/usr/bin/my-server
//! ExecReload=/usr/bin/my-server reload
//! RuntimeDirectory=my-server
//! ```
//!
//! The library sends READY, RELOADING, MAINPID, STOPPING, STATUS and the watchdog's pings; there is nothing else to do.
//! Sockets of a socket unit are found by their `FileDescriptorName=`, which is the endpoint's name. Those that the service
//! binds itself survive a crash with `FileDescriptorStoreMax=`.
//!
//! Where relative paths may be given in flags, call [`follow_directory`](crate::follow_directory) before all else: a server
//! that was started below a `current` link to a release finds the next release's files then.
//!
//! Where somebody follows one pid (a terminal, a container, runit, s6), start as a supervisor of yourself: call
//! [`supervise`](crate::supervise) with arguments that make the program serve, and exit with what it returns. Do so too
//! where [`must_supervise`](crate::must_supervise) tells that the end of this process would be the end of the service, as
//! PID 1 and in a plain systemd unit: the first reload would be the last.
//!
//! # Testing it
//!
//! Start the real program, and reload it while clients are at work:
//!
//! ```no_run
//! use restart_core::control::{Answer, Client};
//! use std::{io::Read, net::TcpStream, path::Path, process::Command};
//!
//! # fn wait_until_it_answers(_: &Path) {}
//! let control = Path::new("/tmp/my-test/control.sock"); // Builder::control(Place::Path(..)), by a flag of yours
//! let mut server = Command::new("target/debug/my-server").arg("--control").arg(control).spawn().unwrap();
//! wait_until_it_answers(control);
//! let mut busy = TcpStream::connect("127.0.0.1:7000").unwrap();
//! let Answer::Outcome(outcome) = Client::connect(control).unwrap().reload().unwrap() else { panic!("refused") };
//! assert_eq!(outcome.failure, None);
//! busy.read_exact(&mut [0; 1]).unwrap(); // still answered
//! Client::connect(control).unwrap().stop().unwrap();
//! server.wait().unwrap();
//! ```
//!
//! Then test what must not work: put a version at the program's path that exits, hangs, or dies right after it is ready,
//! and see that `failure` gives the reason and the old process answers.
//!
//! # Pitfalls
//!
//! - **Two processes live side by side.** What only one may hold (a lock file, a database that is opened exclusively, a
//!   timed job) is given up by the old one in `Draining`, and begun by the new one behind
//!   [`committed`](crate::Generation::committed).
//! - **The path is the program.** A reload runs what lies at the path by which the service was started: replace the file
//!   by rename. A symlink that is switched to another release is followed.
//! - **The environment is inherited**, with what you changed in it, and so is the working directory: relative paths in
//!   arguments mean something else after a `chdir`. Settings that a reload is to change belong into a file.
//! - **Standard output may be gone.** `println!` panics when the terminal or the pipe behind it is closed, maybe hours
//!   later; log with something that does not, and never block on it.
//! - **Standard input is not yours.** It is `/dev/null` in each generation but the first.
//! - **Descriptors stay yours.** A successor gets the sockets and nothing else. Never make a handed socket blocking:
//!   `O_NONBLOCK` belongs to the socket, which both processes have open.
//! - **Do not block the executor** that polls the driver: the watchdog, the ping at the end of the probation and everything
//!   that a reload waits for are answered there.
//! - **An accept loop need not look after errors.** [`Listener::accept`](crate::Listener::accept) waits by itself where
//!   there is no descriptor left or the network fails. It ends with `None`, when the listener is given up; an adapter for a
//!   server that knows no end of its listener waits for ever then. On tokio it is [`tokio::Listener`](crate::tokio::Listener),
//!   which does the same in the runtime's own event loop, and is a stream as well (`incoming`).
//!
//! # Versions
//!
//! Semantic versioning: within `0.x` a new minor version may change the interface, a patch does not. Two generations of
//! different versions understand each other as long as their handover protocols overlap; a reload between two that do not
//! fails with that reason, and nothing else happens. The minimum Rust version is `rust-version` in `Cargo.toml`; raising it
//! takes a minor version, and it stays at least two releases behind the newest stable one.
//!
//! [`Program::run`]: crate::axum::Program::run
//! [`Program::set`]: crate::axum::Program::set
//! [`stream`]: crate::hyper::stream
//! [`endless_stream`]: crate::moves::Moves::endless_stream
//! [`websocket::switch`]: crate::hyper::websocket::switch
//! [`web_socket`]: crate::hyper::Moves::web_socket
//! [`Connections::offer`]: crate::Connections::offer
//! [`Connections::take`]: crate::Connections::take
//! [`Formats`]: crate::Formats
//! [`Builder::take_connections`]: crate::Builder::take_connections
