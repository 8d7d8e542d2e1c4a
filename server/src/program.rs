//! What the program does: serve, check a configuration, or command a running server.
//!
//! The command line and the configuration come before anything exists; what serves is `start`'s, what talks to a running
//! server `commands`'. Every way out passes through here, with its exit code.

pub mod cli;
mod commands;
pub(crate) mod configuration;
pub mod exit;
mod instances;
mod overview;
mod package;
mod progress;
mod start;
mod state;

use std::io;
use std::marker::PhantomData;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use restart_core::{Drain, State};

use crate::app::{App, AppConfig, Identity};
use crate::config::{Config, ServeArgs};
use crate::http::{Handler, Moves};
use crate::service::Service;
use crate::service::means::Trial;
use crate::threads::workers;
use crate::tls::Certificates;
use cli::{Command, CommandLine};
use package::Package;
use start::SaveState;

/// Runs a server whose requests are answered by `handler`, with all that the `reborn` program has: its command line,
/// its subcommands, listeners, reload, drain and log. `--root` and `--demo`, which choose between the applications of
/// `reborn` itself, are refused.
///
/// It is called `reborn`, and has this library's version: [`Program`] gives it a name, a version, flags and a state of its
/// own.
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
    Program::new("reborn").run(|_| Ok(handler))
}

/// Runs the `reborn` program itself, with its default application.
pub fn run_default() -> ExitCode {
    let answering = Arc::new(OnceLock::new());
    let (package, moves) = (Package::reborn(), App::moves(&answering));
    let program: Program = Program { package, moves, ..Program::new("reborn") };
    program.main(|config, startup, version| {
        let identity = Identity {
            pid: std::process::id(),
            generation: startup.generation,
            version: version.to_owned(),
            started: Instant::now(),
        };
        let identity = answering.get_or_init(|| identity).clone();
        let teams = workers::teams(config.threads);
        let app = App::of_teams(AppConfig { sites: config.sites.clone(), demo: config.demo, identity }, teams)?;
        let decorating = app.clone();
        let mut service = Service::new(app);
        if config.demo {
            service.decorate = Some(Box::new(move |request| decorating.signature(request)));
        }
        Ok(service)
    })
}

/// A program of one's own: a server with a name, a version, flags and a state, and with all that `reborn` has.
///
/// The name stands in the help and before each error of a command. The control socket lies in a folder of that name, and
/// the variables begin with it, in capitals: `--listen` of `shop` is `SHOP_LISTEN`.
///
/// ```no_run
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicU64, Ordering};
///
/// use http_types::{Request, Response};
/// use server::{Program, Startup};
///
/// #[derive(clap::Args)]
/// struct Flags {
///     /// How a customer is greeted
///     #[arg(long, default_value = "welcome")]
///     greeting: String,
/// }
///
/// fn main() -> std::process::ExitCode {
///     let customers = Arc::new(AtomicU64::new(0));
///     let saved = Arc::clone(&customers);
///     Program::new("shop")
///         .version("1.4.0")
///         .about("Sells things")
///         .flags::<Flags>()
///         .save_state(1, move || saved.load(Ordering::Relaxed).to_le_bytes().to_vec())
///         .run(move |startup: Startup<Flags>| {
///             // Of another format nothing is known: the customers are counted from 0.
///             if let Some(state) = startup.state.filter(|state| state.format == 1) {
///                 let bytes = state.bytes.try_into().map_err(|_| std::io::Error::other("the state has 8 bytes"))?;
///                 customers.store(u64::from_le_bytes(bytes), Ordering::Relaxed);
///             }
///             let greeting: Arc<str> = startup.flags.greeting.into();
///             Ok(move |_: Request| {
///                 let number = 1 + customers.fetch_add(1, Ordering::Relaxed);
///                 let text = format!("{greeting}, customer {number}\n");
///                 async move { Ok(Response::from(text)) }
///             })
///         })
/// }
/// ```
#[must_use = "a program does nothing before run() is called"]
pub struct Program<F = NoFlags> {
    package: Package,
    check: fn(&F) -> Result<(), String>,
    save_state: Option<SaveState>,
    moves: Moves,
    flags: PhantomData<fn() -> F>,
}

/// The flags of a program that has none of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::Args)]
pub struct NoFlags {}

/// What an application is made from: who it is, and what it goes on with.
#[derive(Debug)]
#[non_exhaustive]
pub struct Startup<F = NoFlags> {
    /// The program's own flags: as they were typed, or as their variables or the file have them. A reload starts the new
    /// generation with the same command line, and reads the file afresh.
    pub flags: F,
    /// What the generation before has saved, if there is one and it has saved something ([`Program::save_state`]). That
    /// one may be another version of the program: `format` says how to read it.
    pub state: Option<State>,
    /// This generation's number, from 1.
    pub generation: u64,
    /// By which the application learns that this generation is replaced or stops.
    pub drain: Drain,
}

impl Program {
    /// A program of this name, with this library's version and without flags of its own.
    ///
    /// # Panics
    ///
    /// Unless the name is of ASCII letters, digits, dashes and underscores: it becomes a part of paths and variables.
    pub fn new(name: &str) -> Program {
        let is_fit = |character: char| character.is_ascii_alphanumeric() || "-_".contains(character);
        let is_name = !name.is_empty() && name.chars().all(is_fit);
        assert!(is_name, "{name:?} is no name of a program: use letters, digits, - and _");
        Program {
            package: Package::new(name),
            check: |_| Ok(()),
            save_state: None,
            moves: Moves::new(),
            flags: PhantomData,
        }
    }
}

impl<F: clap::Args> Program<F> {
    /// Its version: what `--version`, the status and the metrics say.
    pub fn version(mut self, version: impl Into<String>) -> Program<F> {
        self.package.version = version.into();
        self
    }

    /// What it is, in a sentence at the head of its help.
    pub fn about(mut self, about: impl Into<String>) -> Program<F> {
        self.package.about = Some(about.into());
        self
    }

    /// Gives it flags of its own, in place of those that were there: a struct that derives `clap::Args` (clap 4). Its checks
    /// are forgotten.
    ///
    /// They stand in the help below a heading of their own. As each flag of a server, one that has a long name is also a
    /// variable (`SHOP_GREETING`, unless it names another one) and a key of the configuration file, and `shop check` refuses
    /// what it does not take and shows what holds. A `bool` is given as `--open` or `--open=false`.
    ///
    /// [`run`](Program::run) panics where a flag has the name of one that every server has.
    pub fn flags<G: clap::Args>(self) -> Program<G> {
        let Program { package, save_state, moves, .. } = self;
        let package = Package { flags: |command| G::augment_args(command), ..package };
        Program { package, check: |_| Ok(()), save_state, moves, flags: PhantomData }
    }

    /// Refuses flags that do not suit each other, or the machine, beyond what clap knows of each: the reason, in one line, is
    /// what `serve` and `check` fail with, and a reload.
    pub fn check(mut self, check: fn(&F) -> Result<(), String>) -> Program<F> {
        self.check = check;
        self
    }

    /// Gives the next generation a state of at most 256 MiB ([`Startup::state`]). `save` is called at the beginning of each
    /// reload, on the thread that drives it: it should take milliseconds. Requests are served meanwhile, and until the new
    /// generation takes over: what they change is not in the state. `format` tells the reader, who may be a newer version,
    /// how to read it. What is saved for a reload that fails is dropped.
    pub fn save_state(mut self, format: u32, save: impl FnMut() -> Vec<u8> + Send + 'static) -> Program<F> {
        self.save_state = Some((format, Box::new(save)));
        self
    }

    /// Registers the streams and the upgraded protocols that go on in the next generation while they are under way.
    pub fn moves(mut self, moves: Moves) -> Program<F> {
        self.moves = moves;
        self
    }

    /// Its command line, for whoever makes man pages and completions of it.
    pub fn command(&self) -> clap::Command {
        cli::command_of(&self.package)
    }

    /// Does what the command line says: serve with the handler that `application` makes, or a command to a running server.
    ///
    /// `application` is called once in each generation, when it has its sockets and before it accepts anything; until it
    /// returns, the generation before serves. Its error fails the reload, or the start, with its text.
    ///
    /// Call it first thing in `main`, before any thread exists, and return what it returns. It blocks until this process
    /// has nothing left to do.
    pub fn run<H: Handler + 'static>(self, application: impl FnOnce(Startup<F>) -> io::Result<H>) -> ExitCode {
        self.main(|_, startup, _| application(startup).map(Service::new))
    }

    fn main<H: Handler + 'static>(
        self,
        application: impl FnOnce(&Config, Startup<F>, &str) -> io::Result<Service<H>>,
    ) -> ExitCode {
        restart_core::follow_directory();
        let threads = cli::serves(std::env::args_os()).then(Trial::begin);
        let read = cli::read(&self.package, std::env::args_os());
        let code = match read.and_then(|line| Ok((own_flags(&line)?, line))) {
            Ok((flags, line)) => self.obey(&line, flags, threads, application),
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

    fn obey<H: Handler + 'static>(
        self,
        line: &CommandLine,
        flags: Option<F>,
        threads: Option<Trial>,
        application: impl FnOnce(&Config, Startup<F>, &str) -> io::Result<Service<H>>,
    ) -> u8 {
        let package = &self.package;
        match (&line.command, flags) {
            (Command::Serve(args), Some(flags)) => match self.configuration(args, &flags) {
                Ok((config, certificates)) => {
                    let threads = threads.unwrap_or_else(Trial::begin);
                    let own = (self.save_state, self.moves.clone(), certificates, threads);
                    start::start(package, &config, args, own, |config, generation, state| {
                        let startup =
                            Startup { flags, state, generation: generation.number(), drain: generation.drain() };
                        let service = application(config, startup, &package.version)?;
                        Ok(Service { version: package.version.clone(), moves: self.moves, ..service })
                    })
                }
                Err(reason) => {
                    start::refuse(package, &reason);
                    exit::USAGE
                }
            },
            (Command::Check(args), Some(flags)) => match self.configuration(args, &flags) {
                Ok((config, certificates)) => {
                    for warning in warnings(&config, &certificates) {
                        commands::complain(package, &format!("warning: {warning}"));
                    }
                    commands::print(package, &line.effective(package))
                }
                Err(reason) => {
                    commands::complain(package, &reason);
                    exit::USAGE
                }
            },
            (Command::Reload(args), _) => commands::reload(package, args),
            (Command::Status(args), _) => commands::status(package, args),
            (Command::Stop(args), _) => commands::stop(package, args),
            (Command::Serve(_) | Command::Check(_), None) => unreachable!("these have the program's flags"),
        }
    }

    fn configuration(&self, args: &ServeArgs, flags: &F) -> Result<(Config, Certificates), String> {
        let config = configuration::checked(args).map_err(|error| error.to_string())?;
        let certificates = configuration::certificates(args, &config).map_err(|error| error.to_string())?;
        let has_app = !config.sites.is_empty() || config.demo;
        if has_app && !self.package.has_default_app {
            return Err("root and demo: this program has an application of its own; leave them out".to_owned());
        }
        (self.check)(flags).map(|()| (config, certificates))
    }
}

/// What `check` says of certificates and of PROXY headers. Where no listener is asked for, the service manager may give one
/// that uses them.
fn warnings(config: &Config, certificates: &Certificates) -> Vec<String> {
    let mut warnings = certificates.warnings().to_vec();
    if !config.listen.is_empty() {
        let names = || config.listen.iter().map(|endpoint| endpoint.name.as_str());
        warnings.extend(certificates.unused(names()).map(str::to_owned));
        warnings.extend(config.proxies.unused(names()).map(|warning| format!("proxy-protocol: {warning}")));
    }
    warnings
}

/// The program's own flags, of a command that has them.
fn own_flags<F: clap::Args>(line: &CommandLine) -> Result<Option<F>, clap::Error> {
    matches!(line.command, Command::Serve(_) | Command::Check(_)).then(|| line.flags()).transpose()
}

/// A command line that this version does not understand, or a file that it cannot read, is the reason why a reload
/// fails.
fn tell_predecessor(error: &clap::Error) -> bool {
    restart_core::decline(&reason(&error.to_string()))
}

/// What an error of clap says, without its advice for whoever types: its first paragraph, in one line.
fn reason(text: &str) -> String {
    let lines: Vec<_> = text.lines().take_while(|line| !line.is_empty()).map(str::trim).collect();
    let line = lines.join(" ");
    line.strip_prefix("error: ").unwrap_or(&line).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_why_a_command_line_is_refused_names_what_is_missing() {
        let text = "error: the following required arguments were not provided:\n  --first <N>\n\nUsage: shop";
        assert_eq!(reason(text), "the following required arguments were not provided: --first <N>");
        assert_eq!(reason("error: a.toml:1: unknown key\n"), "a.toml:1: unknown key");
    }

    #[test]
    #[should_panic(expected = "shop: the flag \"listen\" is one that every server has")]
    fn a_flag_that_every_server_has_cannot_be_one_of_a_programs_own() {
        #[derive(clap::Args)]
        struct Flags {
            #[arg(long)]
            listen: String,
        }
        let flags = Flags { listen: String::new() };
        assert_eq!(flags.listen, "");
        let _ = Program::new("shop").flags::<Flags>().command();
    }

    #[test]
    #[should_panic(expected = r#""a/b" is no name of a program"#)]
    fn a_name_that_would_lead_to_another_folder_is_none() {
        let _ = Program::new("a/b");
    }

    #[test]
    fn clap_finds_no_fault_with_the_command_line_of_a_program_of_ones_own() {
        #[derive(clap::Args)]
        struct Flags {
            #[arg(long)]
            open: bool,
            #[arg(short, long, required = true)]
            names: Vec<String>,
        }
        let program = Program::new("shop").flags::<Flags>();
        program.command().debug_assert();
        let words = ["shop", "serve", "--open", "--names=a", "-n", "b"].map(Into::into);
        let flags: Flags = cli::read(&program.package, words).unwrap().flags().unwrap();
        assert!(flags.open && flags.names == ["a", "b"]);
    }
}
