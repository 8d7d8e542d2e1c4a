//! The command line: which commands and flags there are, their environment variables, and the help that teaches them.
//!
//! It decides nothing about values. Each stays the text that was typed, together with where it came from, so that
//! `config` can refuse it by the name that the user knows. Two conveniences live here: without a command `serve` is
//! meant, and a leading `-g`, which a reload inserts as the first argument, belongs to the command behind it.

use std::collections::BTreeMap;
use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt::{self, Write as _};

use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, Args, Command as Clap, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::exit;

/// What comes before the name of a flag in the name of its environment variable.
const VARIABLE_PREFIX: &str = "REBORN_";

/// Reads a command line, the program's name first, and the environment.
///
/// The error holds what to print and its exit code, also for `--help` and `--version`: `error.exit()` does it all.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, clap::Error> {
    let matches = command().try_get_matches_from(with_default_command(arguments))?;
    let mut command = Cli::from_arg_matches(&matches)?.command;
    if let (Command::Serve(serve), Some((_, given))) = (&mut command, matches.subcommand()) {
        serve.origins = Origins::of(given);
    }
    Ok(command)
}

/// The whole command line as clap knows it, for parsing, and for whoever makes man pages and completions of it.
pub fn command() -> Clap {
    let mut command = Cli::command().after_help(help_footer()).mut_args(ignore_empty_variable);
    let names = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect::<Vec<_>>();
    for name in names {
        command = command.mut_subcommand(name, |sub| sub.mut_args(ignore_empty_variable));
    }
    command
}

/// A server that is replaced while it serves: `reborn reload` starts the new version beside the old one, moves the
/// service to it when it is ready, and no client notices.
#[derive(Debug, Parser)]
#[command(name = "reborn", version, subcommand_required = true, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// What the user wants done.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve; this is what happens without a command
    #[command(after_help = SERVE_FOOTER)]
    Serve(Box<ServeArgs>),
    /// Replace the running server by the version that is now on disk; returns when the outcome is known
    Reload(ClientArgs),
    /// Show what runs: generations, listeners, the last reload
    Status(StatusArgs),
    /// Stop the running server gracefully
    Stop(ClientArgs),
}

const SERVE_FOOTER: &str = "\
Values:
  ADDR      127.0.0.1:8080  [::1]:8080  unix:/run/web.sock  /run/web.sock  @abstract; NAME= in front names it
  DURATION  300ms  10s  2m  1m30s
  BYTES     16384  16KiB  1MiB  1GiB
An empty value is as good as none: --root= undoes REBORN_ROOT.

Signals: HUP and USR2 reload, TERM and INT stop gracefully.

Examples:
  reborn serve --root /srv/www --listen 0.0.0.0:80
  reborn serve --listen web=127.0.0.1:8080 --listen local=unix:/run/web.sock
  REBORN_DEMO=true REBORN_DRAIN_TIMEOUT=1m reborn serve";

/// The flags of `serve`, as typed.
#[derive(Args, Debug)]
pub struct ServeArgs {
    /// Serve the plain files in DIR
    #[arg(long, env = "REBORN_ROOT", value_name = "DIR", help_heading = "What is served")]
    pub root: Option<OsString>,

    /// Serve /, /fast, /slow and /echo to try reloads with; answers carry x-pid and x-generation
    #[arg(long, env = "REBORN_DEMO", value_name = "BOOL", help_heading = "What is served")]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub demo: Option<String>,

    /// Listen there; repeat it for more (the variable: with commas) [default: http=127.0.0.1:8080]
    #[arg(long, env = "REBORN_LISTEN", value_name = "[NAME=]ADDR", help_heading = "Where it listens")]
    pub listen: Vec<String>,

    /// Take commands on this Unix socket [default: in the runtime directory]
    #[arg(long, env = "REBORN_CONTROL", value_name = "PATH", help_heading = "Where it listens")]
    pub control: Option<OsString>,

    /// Keep the pid of the serving process in this file
    #[arg(long, env = "REBORN_PID_FILE", value_name = "PATH", help_heading = "Where it listens")]
    pub pid_file: Option<OsString>,

    /// Take the sockets over from the predecessor, or one from fd 3 (a reload inserts it)
    #[arg(short = 'g', action = ArgAction::SetTrue, overrides_with = "graceful", help_heading = "Reloading")]
    pub graceful: bool,

    /// A new version must be ready within this time
    #[arg(long, env = "REBORN_READY_TIMEOUT", value_name = "DURATION", help_heading = "Reloading")]
    #[arg(default_value = "10s")]
    pub ready_timeout: String,

    /// A new version must live this long before the old one lets go; 0s is allowed
    #[arg(long, env = "REBORN_PROBATION", value_name = "DURATION", help_heading = "Reloading")]
    #[arg(default_value = "1s")]
    pub probation: String,

    /// An old version may finish its requests for this long; 0s cuts them
    #[arg(long, env = "REBORN_DRAIN_TIMEOUT", value_name = "DURATION", help_heading = "Reloading")]
    #[arg(default_value = "20s")]
    pub drain_timeout: String,

    /// So many old versions may finish at the same time
    #[arg(long, env = "REBORN_MAX_DRAINING", value_name = "N", help_heading = "Reloading")]
    #[arg(default_value = "4")]
    pub max_draining: String,

    /// Reload on this signal too, for example INT (then Ctrl-C reloads)
    #[arg(long, env = "REBORN_RELOAD_SIGNAL", value_name = "NAME", help_heading = "Reloading")]
    pub reload_signal: Option<String>,

    /// The largest request head
    #[arg(long, env = "REBORN_HEAD_BYTES", value_name = "BYTES", help_heading = "Limits")]
    #[arg(default_value = "16KiB")]
    pub head_bytes: String,

    /// The most headers in a request
    #[arg(long, env = "REBORN_MAX_HEADERS", value_name = "N", help_heading = "Limits")]
    #[arg(default_value = "100")]
    pub max_headers: String,

    /// The largest request body
    #[arg(long, env = "REBORN_BODY_BYTES", value_name = "BYTES", help_heading = "Limits")]
    #[arg(default_value = "1GiB")]
    pub body_bytes: String,

    /// The most connections at a time
    #[arg(long, env = "REBORN_CONNECTIONS", value_name = "N", help_heading = "Limits")]
    #[arg(default_value = "16384")]
    pub connections: String,

    /// Worker threads [default: one for each core]
    #[arg(long, env = "REBORN_THREADS", value_name = "N", help_heading = "Limits")]
    pub threads: Option<String>,

    /// A connection may wait this long between two requests
    #[arg(long, env = "REBORN_IDLE_TIMEOUT", value_name = "DURATION", help_heading = "Limits")]
    #[arg(default_value = "60s")]
    pub idle_timeout: String,

    /// A request head must be complete after this time
    #[arg(long, env = "REBORN_HEAD_TIMEOUT", value_name = "DURATION", help_heading = "Limits")]
    #[arg(default_value = "10s")]
    pub head_timeout: String,

    /// A request body must make progress within this time
    #[arg(long, env = "REBORN_BODY_TIMEOUT", value_name = "DURATION", help_heading = "Limits")]
    #[arg(default_value = "20s")]
    pub body_timeout: String,

    /// A client must take something of its response within this time
    #[arg(long, env = "REBORN_WRITE_TIMEOUT", value_name = "DURATION", help_heading = "Limits")]
    #[arg(default_value = "20s")]
    pub write_timeout: String,

    /// Log from off, error, warn, info, debug, trace on, or by module: info,server=debug [default: info]
    #[arg(long, env = "REBORN_LOG", value_name = "LEVEL", help_heading = "Logging")]
    pub log: Option<String>,

    /// Where each value came from.
    #[arg(skip)]
    pub origins: Origins,
}

/// The flags of a command to a running server.
#[derive(Args, Debug)]
pub struct ClientArgs {
    /// The control socket of the server [default: looked for where servers put it]
    #[arg(long, env = "REBORN_CONTROL", value_name = "PATH")]
    pub control: Option<OsString>,
}

/// The flags of `status`.
#[derive(Args, Debug)]
pub struct StatusArgs {
    /// Which server.
    #[command(flatten)]
    pub client: ClientArgs,

    /// Print JSON, for programs
    #[arg(long)]
    pub json: bool,
}

/// Where a value came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// Nobody said anything: the default.
    #[default]
    Default,
    /// A flag on the command line.
    Flag,
    /// An environment variable.
    Variable,
}

impl Origin {
    /// How the user calls the value that clap knows by this id: `--head-bytes` or `REBORN_HEAD_BYTES`.
    pub fn name(self, id: &str) -> String {
        match self {
            Self::Variable => format!("{VARIABLE_PREFIX}{}", id.to_uppercase()),
            Self::Flag | Self::Default => format!("--{}", id.replace('_', "-")),
        }
    }
}

/// Where the values of one command line came from, by clap's id.
#[derive(Clone, Debug, Default)]
pub struct Origins(BTreeMap<String, Origin>);

impl Origins {
    fn of(matches: &ArgMatches) -> Self {
        let origin = |id: &str| match matches.value_source(id) {
            Some(ValueSource::CommandLine) => Origin::Flag,
            Some(ValueSource::EnvVariable) => Origin::Variable,
            _ => Origin::Default,
        };
        Self(matches.ids().map(|id| (id.to_string(), origin(id.as_str()))).collect())
    }

    /// Where the value with this id came from.
    pub fn get(&self, id: &str) -> Origin {
        self.0.get(id).copied().unwrap_or_default()
    }
}

/// Puts `serve` where no command was given, and leading `-g` flags behind the command.
fn with_default_command(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments = arguments.into_iter().peekable();
    let mut complete = vec![arguments.next().unwrap_or_else(|| "reborn".into())];
    let mut graceful = false;
    while arguments.next_if(|argument| argument == "-g").is_some() {
        graceful = true;
    }
    match arguments.peek().and_then(|argument| argument.to_str()) {
        Some("-h" | "--help" | "-V" | "--version") => return complete.into_iter().chain(arguments).collect(),
        Some(first) if !first.starts_with('-') => complete.extend(arguments.next()),
        _ => complete.push("serve".into()),
    }
    complete.extend(graceful.then(|| "-g".into()));
    complete.extend(arguments);
    complete
}

/// Lets an empty environment variable count as unset, as users of units and containers expect.
fn ignore_empty_variable(argument: clap::Arg) -> clap::Arg {
    let empty = argument.get_env().and_then(env::var_os).is_some_and(|value| value.is_empty());
    // A number such as -1 reaches the validation this way, which says more than "unexpected argument".
    let argument = argument.allow_negative_numbers(true);
    if empty { argument.env(None::<&'static str>) } else { argument }
}

/// What stands below the list of commands.
fn help_footer() -> String {
    let mut footer = "\
Without a command it serves, with all flags of `reborn serve --help`:
  reborn                                  a page about itself on http://127.0.0.1:8080
  reborn --root /srv/www --listen 0.0.0.0:80
  reborn --demo                           something to try reloads with

Replace it while it serves, from another terminal:
  reborn reload

Exit codes:"
        .to_owned();
    for (code, meaning) in exit::TABLE {
        // Writing to a String cannot fail.
        _ = write!(footer, "\n  {code}  {meaning}");
    }
    footer
}

impl fmt::Display for Command {
    /// The command's name, as typed.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Serve(_) => "serve",
            Self::Reload(_) => "reload",
            Self::Status(_) => "status",
            Self::Stop(_) => "stop",
        })
    }
}

impl ClientArgs {
    /// The control socket that was asked for; an empty path is none.
    pub fn control(&self) -> Option<&std::path::Path> {
        self.control.as_deref().filter(|path| *path != OsStr::new("")).map(std::path::Path::new)
    }
}
