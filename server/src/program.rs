//! What the program does: serve, check a configuration, or command a running server.
//!
//! Owns the order in which the parts start: the command line and the configuration before anything exists, the
//! generation before any thread, the log's writer after the signal handlers stand. Every way out passes through here,
//! with its exit code.

pub mod cli;
pub mod exit;
mod overview;
mod progress;

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use http_types::{Request, Response};
use restart_core::control::{self, Answer, Client, Place, Status};
use restart_core::{Builder, Endpoint, Generation};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::app::{App, AppConfig, Identity};
use crate::config::{Config, DEFAULT_LISTEN};
use crate::http::{Capacity, Handler};
use crate::logging::{Logs, is_to_journal};
use crate::moving;
use crate::service::access::{AccessLog, Reopener};
use crate::service::means;
use crate::service::metrics::Metrics;
use crate::service::{Service, serve};
use crate::threads::workers::Workers;
use crate::version::VERSION;
use cli::{ClientArgs, Command, Origin, ReloadArgs, ServeArgs, StatusArgs};
use overview::Overview;

/// The name of the control socket's folder.
const SERVICE_NAME: &str = "reborn";
/// How long the last lines of the log may take to be written; a terminal may be stopped.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// How often `reborn status --watch` looks.
const WATCH_EVERY: Duration = Duration::from_millis(500);

/// Runs a server whose requests are answered by `handler`, with all that the `reborn` program has: its command line,
/// its subcommands, listeners, reload, drain and log. `--root` and `--demo`, which choose between the applications of
/// `reborn` itself, are refused.
///
/// Call it first thing in `main`, before any thread exists, and return what it returns. It blocks until this process
/// has nothing left to do: the service was stopped, or a newer generation has taken over.
///
/// ```no_run
/// use http_types::{Request, Response};
///
/// fn main() -> std::process::ExitCode {
///     server::run(|request: Request| async move { Ok(Response::from(format!("{}\n", request.url().path()))) })
/// }
/// ```
pub fn run<H: Handler + 'static>(handler: H) -> ExitCode {
    let verify = |config: &Config| {
        let asked = config.files.is_some() || config.demo;
        let refused = "root and demo: this program has an application of its own; leave them out";
        if asked { Err(refused.to_owned()) } else { Ok(()) }
    };
    program(verify, |_, _| Ok(Service::new(handler)))
}

/// Runs the `reborn` program itself, with its default application.
pub fn run_default() -> ExitCode {
    program(
        |_| Ok(()),
        |config, generation| {
            let identity = Identity {
                pid: std::process::id(),
                generation: generation.number(),
                version: VERSION.to_owned(),
                started: Instant::now(),
            };
            let app = App::new(AppConfig { files: config.files.clone(), demo: config.demo, identity })?;
            let decorating = app.clone();
            let mut service = Service::new(move |request: Request| {
                let app = app.clone();
                async move { http_types::Result::<Response>::Ok(app.respond(request).await) }
            });
            if config.demo {
                service.decorate = Some(Box::new(move |request| decorating.signature(request)));
            }
            Ok(service)
        },
    )
}

/// Whether a configuration suits the program's application, and if not, why.
type Verify = fn(&Config) -> Result<(), String>;

fn program<H: Handler + 'static>(
    verify: Verify,
    application: impl FnOnce(&Config, &Generation) -> io::Result<Service<H>>,
) -> ExitCode {
    restart_core::follow_directory();
    let code = match cli::parse(std::env::args_os()) {
        Ok(Command::Serve(args)) => match configuration(&args, verify) {
            Ok(config) => serve_command(&config, &args, application),
            Err(reason) => refuse(&reason),
        },
        Ok(Command::Check(args)) => check(&args, verify),
        Ok(Command::Reload(args)) => reload_command(&args),
        Ok(Command::Status(StatusArgs { client, watch: true, .. })) => client_command(&client, watch),
        Ok(Command::Status(StatusArgs { client, json, .. })) => client_command(&client, |client| status(client, json)),
        Ok(Command::Stop(args)) => client_command(&args, stop),
        Err(error) => {
            if error.use_stderr() && tell_predecessor(&error) {
                exit::USAGE
            } else {
                error.exit()
            }
        }
    };
    ExitCode::from(code)
}

fn configuration(args: &ServeArgs, verify: Verify) -> Result<Config, String> {
    let config = Config::new(args).map_err(|error| error.to_string())?;
    verify(&config).map(|()| config)
}

/// Says why nothing is started: to the predecessor, whose reload fails with it, or to the person who typed it.
fn refuse(reason: &str) -> u8 {
    if !restart_core::decline(reason) {
        eprintln!("reborn: {reason}");
    }
    exit::USAGE
}

/// A command line that this version does not understand, or a file that it cannot read, is the reason why a reload
/// fails; its first line says all.
fn tell_predecessor(error: &clap::Error) -> bool {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    restart_core::decline(line.strip_prefix("error: ").unwrap_or(line))
}

fn check(args: &ServeArgs, verify: Verify) -> u8 {
    match configuration(args, verify) {
        Ok(_) => print(&cli::effective(args)),
        Err(reason) => {
            eprintln!("reborn: {reason}");
            exit::USAGE
        }
    }
}

fn serve_command<H: Handler + 'static>(
    config: &Config,
    args: &ServeArgs,
    application: impl FnOnce(&Config, &Generation) -> io::Result<Service<H>>,
) -> u8 {
    let logs = Logs::install(config.log.as_deref());
    let must = restart_core::must_supervise();
    if !config.graceful && (config.foreground || must.is_some()) {
        if let (false, Some(why)) = (config.foreground, must) {
            log::info!("this process supervises the generations, as with --foreground: {why}");
        }
        return supervise(&logs);
    }
    if let Err(reason) = means::check(config.listen.len().max(1) + usize::from(config.metrics.is_some())) {
        let reason = format!("cannot serve: {reason}");
        if !restart_core::decline(&reason) {
            eprintln!("reborn: {reason}");
        }
        return exit::FAILED;
    }
    let capacity = Capacity::new(config.limits.requests.unwrap_or(usize::MAX));
    let metrics = Arc::new(Metrics::new(capacity));
    let (reopener, team) = (Reopener::default(), Team::default());
    let reopening = reopener.clone();
    let askers = Askers::new(config, args);
    let builder = builder(config, &metrics, &team).explain(move |error| askers.of(error));
    let code = match builder.reopen_logs(move || reopening.reopen()).start() {
        Ok(generation) => start_application(config, generation, &logs, (&metrics, &reopener, &team), application),
        Err(error) => {
            log::error!("cannot serve: {error}");
            let cause = std::error::Error::source(&error).and_then(|cause| cause.downcast_ref::<io::Error>());
            let is_refused = error.is_address() || error.is_inherited() || cause.is_some_and(is_lasting);
            if is_refused { exit::USAGE } else { exit::FAILED }
        }
    };
    logs.flush(FLUSH_TIMEOUT);
    code
}

/// Who asked for which address, for an error that names one.
struct Askers(Vec<(String, String)>);

impl Askers {
    fn new(config: &Config, args: &ServeArgs) -> Askers {
        let asker = |id: &str| match args.origins.get(id) {
            Origin::Default => "the default; choose another one with --listen".to_owned(),
            origin => format!("asked for by {}", origin.name(id)),
        };
        let default = DEFAULT_LISTEN.parse::<Endpoint>().expect("the default is an address");
        let listen = if config.listen.is_empty() { std::slice::from_ref(&default) } else { &config.listen };
        let all = listen.iter().map(|endpoint| (endpoint, "listen"));
        let all = all.chain(config.metrics.iter().map(|endpoint| (endpoint, "metrics")));
        Askers(all.map(|(endpoint, id)| (endpoint.address.to_string(), asker(id))).collect())
    }

    fn of(&self, error: &restart_core::Error) -> Option<String> {
        let text = error.is_socket().then(|| error.to_string())?;
        let (_, asker) = self.0.iter().find(|(address, _)| text.contains(&format!("cannot bind {address}")))?;
        Some(asker.clone())
    }
}

/// Says where systemd's sockets have the last word.
fn warn_of_overridden(config: &Config, generation: &Generation) {
    for listener in
        generation.listeners().iter().filter(|listener| listener.origin() == restart_core::Origin::Activated)
    {
        let asked = config.listen.iter().find(|endpoint| endpoint.name == listener.name());
        if let Some(asked) = asked.filter(|asked| asked.address != *listener.address()) {
            let (name, address) = (listener.name(), listener.address());
            log::warn!("listen: {asked} has no effect: systemd (or systemfd) gave the listener {name:?} on {address}");
        }
    }
}

/// Whether a cause stays what it is until somebody changes something: a restart by itself is of no use.
fn is_lasting(cause: &io::Error) -> bool {
    use io::ErrorKind::{IsADirectory, NotADirectory, NotFound, PermissionDenied, ReadOnlyFilesystem};
    [IsADirectory, NotADirectory, NotFound, PermissionDenied, ReadOnlyFilesystem].contains(&cause.kind())
}

/// Stays as the supervisor of a server that is started with the same arguments, but for this one wish.
fn supervise(logs: &Logs) -> u8 {
    let wish = |arg: &OsStr| {
        let text = arg.to_string_lossy();
        ["--foreground", "--supervise"].contains(&text.split_once('=').map_or(&*text, |(flag, _)| flag))
    };
    // The flag wins over REBORN_FOREGROUND, and is handed down to all generations, which must not supervise again.
    let off = OsString::from("--foreground=false");
    let given: Vec<OsString> = std::env::args_os().skip(1).filter(|arg| !wish(arg)).collect();
    let at = usize::from(given.first().is_some_and(|arg| arg == "serve"));
    let (command, flags) = given.split_at(at);
    let args = command.iter().cloned().chain([off]).chain(flags.iter().cloned()).collect();
    if let Err(error) = logs.start_writer() {
        eprintln!("reborn: the log cannot be written: {error}");
    }
    let code = restart_core::supervise(args).unwrap_or_else(|error| {
        log::error!("{error}");
        exit::FAILED
    });
    logs.flush(FLUSH_TIMEOUT);
    code
}

fn start_application<H: Handler + 'static>(
    config: &Config,
    generation: Generation,
    logs: &Logs,
    (metrics, reopener, team): (&Arc<Metrics>, &Reopener, &Team),
    application: impl FnOnce(&Config, &Generation) -> io::Result<Service<H>>,
) -> u8 {
    if let Err(error) = logs.start_writer() {
        // Without its thread the log is silent; that is no reason not to serve.
        eprintln!("reborn: the log cannot be written: {error}");
    }
    warn_of_overridden(config, &generation);
    let opened = application(config, &generation)
        .and_then(|service| Ok((service, access_log(config, &generation)?, Workers::start(config.threads)?)));
    match opened {
        Ok((mut service, access_log, workers)) => {
            if let Some(log) = &access_log {
                reopener.leads_to(log);
            }
            service.observers.extend(access_log.iter().map(AccessLog::observer));
            let exit = serve(config, generation, team.get_or_init(|| Arc::new(workers)), service, metrics);
            access_log.inspect(|log| log.flush(FLUSH_TIMEOUT));
            if exit.success { exit::OK } else { exit::FAILED }
        }
        Err(error) => {
            log::error!("cannot serve: {error}");
            generation.fail(&error.to_string());
            if is_lasting(&error) { exit::USAGE } else { exit::FAILED }
        }
    }
}

fn access_log(config: &Config, generation: &Generation) -> io::Result<Option<AccessLog>> {
    config.access_log.as_ref().map(|config| AccessLog::open(config, generation.number())).transpose()
}

/// The threads that serve, from their start on: the builder has to know of them before they exist.
type Team = Arc<OnceLock<Arc<Workers>>>;

fn builder(config: &Config, metrics: &Arc<Metrics>, team: &Team) -> Builder {
    let reload = &config.reload;
    let control = config.control.clone().map_or_else(|| Place::Named(SERVICE_NAME.to_owned()), Place::Path);
    let default = DEFAULT_LISTEN.parse().expect("the default is an address");
    let (reporting, waiting, team) = (Arc::clone(metrics), Arc::clone(metrics), Arc::clone(team));
    let mut builder = Builder::new()
        .default_listen(default)
        .control(control)
        .ready_timeout(reload.ready_timeout)
        .probation(reload.probation)
        .drain_timeout(reload.drain_timeout)
        .stop_timeout(reload.stop_timeout)
        .max_draining(reload.max_draining)
        .version(VERSION)
        .take_connections(moving::formats())
        .stop_delay(reload.stop_delay)
        .probe(move || {
            let team = team.get().cloned();
            async move {
                match team {
                    Some(workers) => workers.probe().await,
                    None => true,
                }
            }
        })
        .waits(move || waiting.waits.list(waiting.ledger.balance().live))
        .report(move || {
            let mut report = serde_json::to_value(reporting.ledger.balance()).expect("a balance is plain data");
            report["in_flight"] = reporting.in_flight().into();
            report
        });
    if let Some(endpoint) = &config.metrics {
        let metrics = Arc::clone(metrics);
        builder = builder.listen_as_main(endpoint.clone()).count(move || metrics.counts());
    }
    for endpoint in &config.listen {
        builder = builder.listen(endpoint.clone());
    }
    if let Some(path) = &config.pid_file {
        builder = builder.pid_file(path);
    }
    if let Some(signal) = reload.signal {
        builder = builder.reload_signal(signal);
    }
    builder
}

/// Finds the running server and talks to it. What went wrong is said on standard error.
fn client_command(args: &ClientArgs, talk: impl FnOnce(&mut Client) -> Result<u8, restart_core::Error>) -> u8 {
    let found = control::find(args.control(), SERVICE_NAME).and_then(|path| Client::connect(&path));
    match found.and_then(|mut client| talk(&mut client)) {
        Ok(code) => code,
        Err(error) => {
            if !error.is_not_running() {
                eprintln!("reborn: {error}");
                exit::FAILED
            } else if let Some(place) = hidden_server(args.control()) {
                let place = place.display();
                eprintln!(
                    "reborn: whether a server runs at {place} is not for this user to see; ask as root, or as its user"
                );
                exit::NOT_ALLOWED
            } else {
                eprintln!("reborn: {error}");
                exit::NOT_RUNNING
            }
        }
    }
}

/// The control socket that was asked for, or that of the system's own server, where this user may not connect to it.
fn hidden_server(control: Option<&Path>) -> Option<PathBuf> {
    let place = control.map_or_else(|| Path::new("/run").join(SERVICE_NAME).join("control.sock"), Path::to_owned);
    let error = UnixStream::connect(&place).err()?;
    (error.kind() == io::ErrorKind::PermissionDenied).then_some(place)
}

fn reload_command(args: &ReloadArgs) -> u8 {
    let code = client_command(&args.client, |client| reload(client, args));
    // A stop that overtakes a reload must not make the unit fail: not either where the server has ended already.
    if code == exit::NOT_RUNNING && has_main_process_ended() {
        say_outcome(&"the service has stopped; there is nothing to reload");
        return exit::OK;
    }
    code
}

/// Whether the process that systemd wants reloaded (MAINPID, systemd.exec(5)) has ended, or ends within a moment: it
/// removes its control socket first.
fn has_main_process_ended() -> bool {
    let named = std::env::var("MAINPID").ok().and_then(|text| Pid::from_raw(text.parse().ok()?));
    match named.map(|pid| pidfd_open(pid, PidfdFlags::empty())) {
        Some(Ok(process)) => {
            let moment = Timespec { tv_sec: 1, tv_nsec: 0 };
            poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&moment)).is_ok_and(|ended| ended > 0)
        }
        Some(Err(cause)) => cause == Errno::SRCH,
        None => false,
    }
}

fn reload(client: &mut Client, args: &ReloadArgs) -> Result<u8, restart_core::Error> {
    let (path, wait) = (client.path().to_owned(), args.wait);
    if args.cut_oldest {
        client.cut_oldest()?;
    }
    progress::say_if_interrupted("the reload goes on without this command; `reborn status` tells its outcome");
    let answer = progress::shown(&path, || match wait {
        Some(patience) => client.reload_in_turn(patience, |reason| progress::say(&format!("waiting: {reason}"))),
        None => client.reload(),
    });
    Ok(match answer? {
        Answer::Outcome(outcome) if outcome.failure.is_none() => {
            say_outcome(&outcome);
            exit::OK
        }
        Answer::Outcome(outcome) => {
            if !is_to_journal(io::stderr()) {
                eprintln!("reborn: {outcome}");
            }
            exit::FAILED
        }
        Answer::Refused(reason) => {
            match wait {
                Some(patience) => eprintln!("reborn: no reload was started within {patience:?}: {reason}"),
                None => eprintln!("reborn: no reload was started: {}", with_way_out(&reason)),
            }
            exit::FAILED
        }
        // A stop that overtakes a reload must not make the unit fail.
        _ if std::env::var_os("MAINPID").is_some() => {
            say_outcome(&"the service is stopping; there is nothing to reload");
            exit::OK
        }
        _ => {
            eprintln!("reborn: no reload happened: the service is stopping");
            exit::FAILED
        }
    })
}

/// A refusal, with what can be done about it behind its first line; below stands what each generation waits for.
fn with_way_out(reason: &str) -> String {
    match reason.split_once('\n') {
        Some((first, each)) => {
            let each = each.replace('\n', "\n  ");
            format!(
                "{first} (`reborn reload --wait` does), or cut the oldest with `reborn reload --cut-oldest`\n  {each}"
            )
        }
        None => format!("{reason} (`reborn reload --wait` does)"),
    }
}

fn status(client: &mut Client, json: bool) -> Result<u8, restart_core::Error> {
    let status = client.status()?;
    Ok(print(&if json {
        serde_json::to_string_pretty(&status).expect("a status is plain data") + "\n"
    } else {
        overview(&status)
    }))
}

/// It ends with a line feed.
fn overview(status: &Status) -> String {
    Overview { status, now: SystemTime::now() }.to_string()
}

/// Shows the status until the server ends.
fn watch(client: &mut Client) -> Result<u8, restart_core::Error> {
    if !io::stdout().is_terminal() {
        eprintln!("reborn: --watch is for a terminal; `reborn status --json` is for programs");
        return Ok(exit::USAGE);
    }
    let path = client.path().to_owned();
    let mut status = client.status()?;
    loop {
        // The cursor goes to the upper left corner, and the screen is cleared.
        let anew = if progress::takes_escapes(&io::stdout()) { "\x1b[H\x1b[2J" } else { "\n" };
        let code = print(&format!("{anew}{}", overview(&status)));
        if code != exit::OK {
            return Ok(code);
        }
        thread::sleep(WATCH_EVERY);
        match Client::connect(&path).and_then(|mut client| client.status()) {
            Ok(next) => status = next,
            Err(error) => {
                say(&format!("the server has ended: {error}"));
                return Ok(exit::OK);
            }
        }
    }
}

fn stop(client: &mut Client) -> Result<u8, restart_core::Error> {
    client.stop()?;
    say_outcome(&"stopped");
    Ok(exit::OK)
}

/// Tells how a command ended. Not to the journal, where the server itself has just told it.
fn say_outcome(text: &dyn fmt::Display) {
    if !is_to_journal(io::stdout()) {
        say(text);
    }
}

/// Prints a line; that it could not be printed makes no command fail that has done more than to look.
fn say(text: &dyn fmt::Display) {
    let _ = writeln!(io::stdout(), "{text}");
}

/// Prints what was asked for, and gives the exit code: what could not be written (a full disk) is a failure. Whoever reads
/// it may have gone (`reborn status | head -1`), which is none.
fn print(text: &str) -> u8 {
    let mut out = io::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            eprintln!("reborn: cannot write to standard output: {error}");
            exit::FAILED
        }
        _ => exit::OK,
    }
}
