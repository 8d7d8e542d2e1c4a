//! The start of a generation, in its order: the log, the generation before any thread, the log's writer after the signal
//! handlers stand, the application, the threads.
//!
//! What fails says why: to the predecessor, whose reload fails with it, or to the person who typed it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use restart_core::control::Place;
use restart_core::{Builder, Driver, Endpoint, Generation, Listener, State};

use crate::config::{Config, DEFAULT_LISTEN, Given, ServeArgs, ValueSource};
use crate::http::{Capacity, Handler, Handshakes, Moves};
use crate::logging::Logs;
use crate::moving;
use crate::program::exit;
use crate::program::package::Package;
use crate::program::state;
use crate::service::access::{AccessLog, Reopener};
use crate::service::means::{self, Trial};
use crate::service::metrics::Metrics;
use crate::service::{Service, serve};
use crate::threads::workers::{self, Workers};
use crate::tls::{Acceptors, Certificates};

/// How long the last lines of the log may take to be written; a terminal may be stopped.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// What saves the application's state, and the number of its format.
pub(super) type SaveState = (u32, Box<dyn FnMut() -> Vec<u8> + Send>);

/// Serves until this process has nothing left to do, and gives its exit code.
pub(super) fn start<H: Handler + 'static>(
    package: &Package,
    config: &Config,
    args: &ServeArgs,
    (save_state, moves, certificates, threads): (Option<SaveState>, Moves, Certificates, Trial),
    application: impl FnOnce(&Config, &Generation, Option<State>) -> io::Result<Service<H>>,
) -> u8 {
    let logs = Logs::install(config.log.as_deref());
    let must = restart_core::must_supervise();
    if !config.graceful && (config.foreground || must.is_some()) {
        if let (false, Some(why)) = (config.foreground, must) {
            log::info!("this process supervises the generations, as with --foreground: {why}");
        }
        // It begins with this thread alone.
        drop(threads);
        return supervise(package, &logs);
    }
    if let Err(reason) = means::check(config.listen.len().max(1) + usize::from(config.metrics.is_some()), threads) {
        refuse(package, &format!("cannot serve: {reason}"));
        return exit::FAILED;
    }
    let teams = workers::teams(config.threads);
    let capacity = Capacity::of_teams(teams, config.limits.requests.unwrap_or(usize::MAX));
    let handshakes = Handshakes::new(config.tls.handshakes, config.tls.handshake_timeout);
    let metrics = Arc::new(Metrics::new(teams, capacity, handshakes));
    let (reopener, later) = (Reopener::default(), Arc::<Later>::default());
    let reopening = reopener.clone();
    let sources = ListenSources::new(config, args);
    let builder = builder(package, config, &metrics, (&later, &moves)).explain(move |error| sources.explain(error));
    let save_state = if config.tls.has_certificate() { Some(with_tls(save_state, &later)) } else { save_state };
    let builder = match save_state {
        Some((format, save)) => builder.save_state(format, save),
        None => builder,
    };
    let code = match builder.reopen_logs(move || reopening.reopen()).start() {
        Ok(started) => {
            let made = (certificates, &metrics, &reopener, &*later);
            start_application((package, config), started, &logs, made, application)
        }
        Err(error) => {
            log::error!("cannot serve: {error}");
            let is_refused = error.is_address() || error.is_inherited() || error.io_error().is_some_and(is_lasting);
            if is_refused { exit::USAGE } else { exit::FAILED }
        }
    };
    logs.flush(FLUSH_TIMEOUT);
    code
}

/// Where each address came from, for an error that names one.
struct ListenSources(Vec<(String, String)>);

impl ListenSources {
    fn new(config: &Config, args: &ServeArgs) -> ListenSources {
        let default = DEFAULT_LISTEN.parse::<Endpoint>().expect("the default is an address");
        let listen = if config.listen.is_empty() { std::slice::from_ref(&default) } else { &config.listen };
        let all = listen.iter().map(|endpoint| (endpoint, args.listen.first()));
        let all = all.chain(config.metrics.iter().map(|endpoint| (endpoint, args.metrics.as_ref())));
        ListenSources(all.map(|(endpoint, given)| (endpoint.address.to_string(), source(given))).collect())
    }

    fn explain(&self, error: &restart_core::Error) -> Option<String> {
        let text = error.is_socket().then(|| error.to_string())?;
        let (_, source) = self.0.iter().find(|(address, _)| text.contains(&format!("cannot bind {address}")))?;
        Some(source.clone())
    }
}

fn source(given: Option<&Given>) -> String {
    match given.filter(|given| *given.source() != ValueSource::Default) {
        Some(given) => format!("asked for by {}", given.name()),
        None => "the default; choose another one with --listen".to_owned(),
    }
}

/// Says why nothing is started: to the predecessor, whose reload fails with it, or to the person who typed it.
pub(super) fn refuse(package: &Package, reason: &str) {
    if !restart_core::decline(reason) {
        eprintln!("{}: {reason}", package.name);
    }
}

/// Without its thread the log is silent; that is no reason not to serve.
fn log_fails(package: &Package, error: &io::Error) {
    eprintln!("{}: the log cannot be written: {error}", package.name);
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
fn supervise(package: &Package, logs: &Logs) -> u8 {
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
        log_fails(package, &error);
    }
    let code = restart_core::supervise(args).unwrap_or_else(|error| {
        log::error!("{error}");
        exit::FAILED
    });
    logs.flush(FLUSH_TIMEOUT);
    code
}

fn start_application<H: Handler + 'static>(
    (package, config): (&Package, &Config),
    (generation, driver): (Generation, Driver),
    logs: &Logs,
    (certificates, metrics, reopener, later): (Certificates, &Arc<Metrics>, &Reopener, &Later),
    application: impl FnOnce(&Config, &Generation, Option<State>) -> io::Result<Service<H>>,
) -> u8 {
    if let Err(error) = logs.start_writer() {
        log_fails(package, &error);
    }
    warn_of_overridden(config, &generation);
    if let Some(warning) = config.proxies.unused(generation.listeners().iter().map(Listener::name)) {
        log::warn!("proxy-protocol: {warning}");
    }
    let (state, saved) = generation.take_state().map_or((None, None), state::split);
    let opened =
        acceptors(config, certificates, saved.as_ref().map(|saved| saved.as_slice()), &generation).and_then(|tls| {
            let service = application(config, &generation, state)?;
            Ok((tls, service, access_log(config, &generation)?, Workers::start(config.threads)?))
        });
    match opened {
        Ok((tls, mut service, access_log, workers)) => {
            if let Some(tls) = tls {
                service.tls = Some(Arc::clone(later.acceptors.get_or_init(|| tls)));
            }
            if let Some(log) = &access_log {
                reopener.leads_to(log);
            }
            service.observers.extend(access_log.iter().map(AccessLog::observer));
            logs.serves(generation.number());
            let exit =
                serve(config, (generation, driver), later.workers.get_or_init(|| Arc::new(workers)), service, metrics);
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
    let teams = workers::teams(config.threads);
    config.access_log.as_ref().map(|config| AccessLog::open(config, generation.number(), teams)).transpose()
}

/// What TLS needs, with the certificates as they are now. What should be looked at is in the log.
fn acceptors(
    config: &Config,
    certificates: Certificates,
    saved: Option<&[u8]>,
    generation: &Generation,
) -> io::Result<Option<Arc<Acceptors>>> {
    let listeners = generation.listeners();
    let names = || listeners.iter().map(Listener::name);
    for warning in certificates.warnings().iter().map(String::as_str).chain(certificates.unused(names())) {
        log::warn!("of TLS: {warning}");
    }
    Ok(Acceptors::open(&config.tls, certificates, saved, names())?.map(Arc::new))
}

/// What the builder has to know of before it exists: the threads that serve, and what TLS needs.
#[derive(Default)]
struct Later {
    workers: OnceLock<Arc<Workers>>,
    acceptors: OnceLock<Arc<Acceptors>>,
}

/// Saves what TLS goes on with beside the application's state.
fn with_tls(save_state: Option<SaveState>, later: &Arc<Later>) -> SaveState {
    let (format, mut save) = save_state.map_or((0, None), |(format, save)| (format, Some(save)));
    let later = Arc::clone(later);
    let save = move || {
        let tls = later.acceptors.get().map(|acceptors| acceptors.save());
        state::join(save.as_mut().map(|save| save()), tls.as_ref().map(|tls| tls.as_slice()))
    };
    (format, Box::new(save))
}

/// What the status says of TLS.
fn tls_report(metrics: &Metrics, acceptors: &Acceptors) -> serde_json::Value {
    let handshakes: BTreeMap<_, _> = metrics.handshakes.counts().into();
    let not_after = acceptors.not_after().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    serde_json::json!({ "handshakes": handshakes, "certificate_not_after_unix": not_after.as_secs() })
}

fn builder(
    package: &Package,
    config: &Config,
    metrics: &Arc<Metrics>,
    (later, moves): (&Arc<Later>, &Moves),
) -> Builder {
    let reload = &config.reload;
    let control = config.control.clone().map_or_else(|| Place::Named(package.name.clone()), Place::Path);
    let default = DEFAULT_LISTEN.parse().expect("the default is an address");
    let (reporting, waiting) = (Arc::clone(metrics), Arc::clone(metrics));
    let (probed, reported) = (Arc::clone(later), Arc::clone(later));
    let mut builder = Builder::new()
        .default_listen(default)
        .control(control)
        .ready_timeout(reload.ready_timeout)
        .probation(reload.probation)
        .drain_timeout(reload.drain_timeout)
        .stop_timeout(reload.stop_timeout)
        .max_draining(reload.max_draining)
        .version(&package.version)
        .take_connections(moving::formats(moves))
        .stop_delay(reload.stop_delay)
        .probe(move || {
            let workers = probed.workers.get().cloned();
            async move {
                match workers {
                    Some(workers) => workers.probe().await,
                    None => true,
                }
            }
        })
        .waits(move || waiting.waits.list(waiting.ledger.balance().live))
        .report(move || {
            let mut report = serde_json::to_value(reporting.ledger.balance()).expect("a balance is plain data");
            report["in_flight"] = reporting.in_flight().into();
            if let Some(acceptors) = reported.acceptors.get() {
                report["tls"] = tls_report(&reporting, acceptors);
            }
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
