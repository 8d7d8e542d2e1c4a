//! The command line: which commands and flags there are, their environment variables, their keys in the configuration
//! file, and the help that teaches them.
//!
//! It decides nothing about values. Each stays the text that was typed, together with where it came from, so that
//! `config` can refuse it by the name that the user knows. Two conveniences live here: without a command `serve` is
//! meant, and a leading `-g`, which a reload inserts as the first argument, belongs to the command behind it.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt::{self, Write as _};
use std::path::Path;
use std::time::Duration;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, Args, Command as Clap, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::program::exit;

mod effective;
mod file;

pub(crate) use effective::effective;
use file::File;
pub use file::{Place, keys};

/// What comes before the name of a flag in the name of its environment variable.
const VARIABLE_PREFIX: &str = "REBORN_";

/// Reads a command line, the program's name first, the environment, and the configuration file where one is named.
///
/// The error holds what to print and its exit code, also for `--help` and `--version`: `error.exit()` does it all.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, clap::Error> {
    let arguments = with_default_command(arguments);
    let matches = command().try_get_matches_from(&arguments).map_err(with_tip)?;
    match configuration(&matches) {
        Some((name, path)) => with_file(&arguments, name, |serve| File::read(Path::new(&path), serve)),
        None => understood(&matches, None),
    }
}

/// Adds what was probably meant, where other servers have another word for it.
fn with_tip(mut error: clap::Error) -> clap::Error {
    let invalid =
        [ContextKind::InvalidArg, ContextKind::InvalidSubcommand].into_iter().find_map(|kind| error.get(kind));
    let Some(ContextValue::String(word)) = invalid else { return error };
    let ends_in_a_port = word.rsplit(':').next().is_some_and(|port| port.parse::<u16>().is_ok());
    let tip = match word.as_str() {
        "--port" | "-p" | "--bind" | "-b" | "--host" | "--addr" | "--address" | "-l" => {
            "to listen elsewhere, write --listen 127.0.0.1:8081".to_owned()
        }
        "--dir" | "--directory" | "-d" | "--docroot" | "--document-root" => "the flag is --root DIR".to_owned(),
        "-c" | "--conf" => "the flag is --config FILE".to_owned(),
        "restart" | "upgrade" => "to run the new version, write reborn reload".to_owned(),
        "start" | "run" => "to serve, write reborn serve".to_owned(),
        folder if Path::new(folder).is_dir() => format!("to serve a directory, write reborn --root {folder}"),
        _ if ends_in_a_port => "to listen elsewhere, write --listen 127.0.0.1:8081".to_owned(),

        _ => return error,
    };
    error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
    error
}

/// Reads the command line `reborn serve` with a configuration file of this text.
#[cfg(any(test, fuzzing))]
pub(crate) fn parse_with_file(text: &str) -> Result<Command, clap::Error> {
    with_file(&["reborn".into(), "serve".into()], "serve".into(), |serve| File::parse("reborn.toml", text, serve))
}

/// Reads a command line anew, with a configuration file for the command of this name.
fn with_file(
    arguments: &[OsString],
    name: String,
    read: impl FnOnce(&Clap) -> Result<File, String>,
) -> Result<Command, clap::Error> {
    let plain = command();
    let file = read(plain.find_subcommand(&name).expect("clap has matched it"));
    let file = file.map_err(|reason| clap::Error::raw(ErrorKind::ValueValidation, reason + "\n"))?;
    let matches = plain.mut_subcommand(name, |serve| file.applied(serve)).try_get_matches_from(arguments)?;
    understood(&matches, Some(file))
}

/// The command, which knows where its values came from.
fn understood(matches: &ArgMatches, file: Option<File>) -> Result<Command, clap::Error> {
    let mut command = Cli::from_arg_matches(matches)?.command;
    if let (Command::Serve(serve) | Command::Check(serve), Some((_, given))) = (&mut command, matches.subcommand()) {
        serve.origins = Origins { matches: given.clone(), file };
        if serve.origins.get("listen") == Origin::Variable {
            let texts = serve.listen.iter().flat_map(|text| text.split(','));
            serve.listen = texts.map(|text| text.trim().to_owned()).collect();
        }
    }
    Ok(command)
}

/// The command that takes a configuration, and the file that is to be read for it.
fn configuration(matches: &ArgMatches) -> Option<(String, OsString)> {
    let (name, given) = matches.subcommand().filter(|(name, _)| ["serve", "check"].contains(name))?;
    let path = given.get_one::<OsString>("config").filter(|path| !path.is_empty())?;
    Some((name.to_owned(), path.clone()))
}

/// The whole command line as clap knows it, for parsing, and for whoever makes man pages and completions of it.
pub fn command() -> Clap {
    let mut command = Cli::command().after_help(help_footer()).mut_args(adapt);
    let names = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect::<Vec<_>>();
    for name in names {
        command = command.mut_subcommand(name, |sub| sub.mut_args(adapt));
    }
    command
}

/// A server that is replaced while it serves: `reborn reload` starts the new version beside the old one, moves the
/// service to it when it is ready, and no client notices.
#[derive(Debug, Parser)]
#[command(name = "reborn", version = crate::version::VERSION, subcommand_required = true)]
#[command(override_usage = "reborn [serve] [FLAGS]\n       reborn check|reload|status|stop [FLAGS]")]
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
    /// Check the configuration and print it, with where each value came from; touches nothing
    #[command(after_help = CHECK_FOOTER)]
    Check(Box<ServeArgs>),
    /// Replace the running server by the program that is now on disk, and tell the outcome
    #[command(after_help = [RELOAD_FOOTER, CLIENT_FOOTER].concat())]
    Reload(ReloadArgs),
    /// Show what runs: generations, listeners, the last reloads
    #[command(after_help = [STATUS_FOOTER, CLIENT_FOOTER].concat())]
    Status(StatusArgs),
    /// Stop the running server gracefully
    #[command(after_help = [STOP_FOOTER, CLIENT_FOOTER].concat())]
    Stop(ClientArgs),
}

const SERVE_FOOTER: &str = "\
Values:
  ADDR      127.0.0.1:8080  [::1]:8080  unix:/run/web.sock  /run/web.sock  @abstract
            unix:/run/web.sock?mode=0660 has these permissions, whatever the umask
            [::]:80 serves IPv4 as well, unless an IPv4 address of the same port is listened on
  DURATION  300ms  10s  2m  1m30s
  BYTES     16384  16KiB  1MiB  1GiB

Environment: each flag but -g is also a variable, and the flag wins.
  --idle-timeout 5s is REBORN_IDLE_TIMEOUT=5s, --demo is REBORN_DEMO=true.
  An empty value is as good as none: --root= undoes REBORN_ROOT.

Configuration file: with --config FILE, each flag but -g is also a key of a TOML file, below both.
  idle-timeout = \"5s\"
  listen = [\"web=0.0.0.0:80\", \"local=unix:/run/web.sock\"]
  A reload reads it afresh. `reborn check` shows what holds, and from where.

Signals: HUP and USR2 reload, but a terminal that closes stops. TERM, INT, QUIT and PWR stop gracefully. USR1 opens the access log anew. \
PIPE, XFSZ, ALRM, VTALRM, PROF, IO and STKFLT do nothing.

Examples:
  reborn serve --root /srv/www --listen 0.0.0.0:80
  reborn serve --listen web=127.0.0.1:8080 --listen local=unix:/run/web.sock
  REBORN_DEMO=true REBORN_DRAIN_TIMEOUT=1m reborn serve";

const CHECK_FOOTER: &str = "\
It takes what `reborn serve` takes; run it with the new program, as the server's user, before a reload. It refuses what \
`reborn serve` would, but for what only binding shows: an address that another process has. What it prints is a configuration \
file: each value, and behind it the flag, the variable or the line of the file that it came from.";

const RELOAD_FOOTER: &str = "\
The program is the file at the path by which the server was started: put the new one there by rename, and reload. \
Until it is ready and has lived through its probation, every failure leaves the old one serving.

It prints one line and exits with 0 when the new version serves; with 1 and the reason when the old one still does. \
The signals HUP and USR2 reload as well; their outcome is in the log and in `reborn status`.

Where --max-draining old versions still finish what they have, it starts none, and says what each of them waits for. --cut-oldest ends the oldest then, which the outcome names; where there are fewer it does nothing.

";

const STATUS_FOOTER: &str = "\
STATE        draining: it was replaced, and finishes what it has
CONNECTIONS  live ones
IN FLIGHT    requests that are being handled
HANDED OVER  connections that went on in the next generation
WAITS FOR    what a draining generation still has to finish: requests (a handler runs), uploads (with a body), other
             connections; with the oldest of each, and how long it may still take
FROM         bound: by the server itself; activated: by systemd or systemfd

";

const STOP_FOOTER: &str = "\
Requests in flight are finished, those of old versions as well, for at most --stop-timeout; it returns when the server has ended. \
The signals TERM, INT, QUIT and PWR stop it as well.

";

const CLIENT_FOOTER: &str = "\
The server is looked for at --control, else in $RUNTIME_DIRECTORY, $XDG_RUNTIME_DIR/reborn, /run/reborn and, unless \
you are root, /tmp/reborn-UID; it obeys its own user and root. Folders that others could write to are passed over. \
Where none is found, the exit code is 3.";

/// The flags of `serve`, as typed.
#[derive(Args, Debug)]
pub struct ServeArgs {
    /// Read what is neither a flag nor a variable from this TOML file; a reload reads it afresh
    #[arg(long, env = "REBORN_CONFIG", value_name = "FILE", help_heading = "Configuration")]
    pub config: Option<OsString>,

    /// Serve the plain files in DIR
    #[arg(long, env = "REBORN_ROOT", value_name = "DIR", help_heading = "What is served")]
    pub root: Option<OsString>,

    /// Follow symlinks in DIR, also out of it; else what is behind one is not served (DIR itself may be one)
    #[arg(long, env = "REBORN_FOLLOW_SYMLINKS", value_name = "BOOL", help_heading = "What is served")]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub follow_symlinks: Option<String>,

    /// Make entity tags of a file's state (inode, size, times), or of what replicas have in common: size-mtime
    #[arg(long, env = "REBORN_ETAG", value_name = "KIND", help_heading = "What is served")]
    #[arg(default_value = "state")]
    pub etag: String,

    /// Serve /, /fast, /slow and /echo to try reloads with; answers carry x-pid and x-generation
    #[arg(long, env = "REBORN_DEMO", value_name = "BOOL", help_heading = "What is served")]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub demo: Option<String>,

    /// Listen there; repeat it, in the variable with commas, for more [default: http=127.0.0.1:8080]
    #[arg(long, env = "REBORN_LISTEN", value_name = "[NAME=]ADDR", help_heading = "Where it listens")]
    pub listen: Vec<String>,

    /// Take commands on this Unix socket [default: in the runtime directory]
    #[arg(long, env = "REBORN_CONTROL", value_name = "PATH", help_heading = "Where it listens")]
    pub control: Option<OsString>,

    /// Serve /metrics, /healthz and /readyz there
    #[arg(long, env = "REBORN_METRICS", value_name = "ADDR", help_heading = "Where it listens")]
    pub metrics: Option<String>,

    /// Keep the pid of the serving process in this file
    #[arg(long, env = "REBORN_PID_FILE", value_name = "PATH", help_heading = "Where it listens")]
    pub pid_file: Option<OsString>,

    /// Stay in the foreground as a small supervisor of the generations: for terminals, containers, runit, s6
    #[arg(long, alias = "supervise", env = "REBORN_FOREGROUND", value_name = "BOOL", help_heading = "Reloading")]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub foreground: Option<String>,

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

    /// After a reload the old version may finish its requests for this long; 0s cuts them, and whoever has not moved yet
    #[arg(long, env = "REBORN_DRAIN_TIMEOUT", value_name = "DURATION", help_heading = "Reloading")]
    #[arg(default_value = "10m")]
    pub drain_timeout: String,

    /// When told to stop, finish requests for this long, those of old versions as well; 0s cuts them
    #[arg(long, env = "REBORN_STOP_TIMEOUT", value_name = "DURATION", help_heading = "Reloading")]
    #[arg(default_value = "20s")]
    pub stop_timeout: String,

    /// When told to stop, go on accepting for this long while /readyz fails
    #[arg(long, env = "REBORN_STOP_DELAY", value_name = "DURATION", help_heading = "Reloading")]
    #[arg(default_value = "0s")]
    pub stop_delay: String,

    /// So many old versions may finish at the same time, each in a process of its own
    #[arg(long, env = "REBORN_MAX_DRAINING", value_name = "N", help_heading = "Reloading")]
    #[arg(default_value = "16")]
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

    /// The most connections of one IPv4 address or IPv6 /64 [default: half of --connections; none for loopback]
    #[arg(long, env = "REBORN_CONNECTIONS_PER_CLIENT", value_name = "N", help_heading = "Limits")]
    pub connections_per_client: Option<String>,

    /// The most requests that are handled at a time; further ones are answered with 503 [default: no limit]
    #[arg(long, env = "REBORN_REQUESTS", value_name = "N", help_heading = "Limits")]
    pub requests: Option<String>,

    /// Worker threads [default: one for each core]
    #[arg(long, env = "REBORN_THREADS", value_name = "N", help_heading = "Limits")]
    pub threads: Option<String>,

    /// A connection may wait this long between two requests; longer than a load balancer in front keeps it
    #[arg(long, env = "REBORN_IDLE_TIMEOUT", value_name = "DURATION", help_heading = "Limits")]
    #[arg(default_value = "75s")]
    pub idle_timeout: String,

    /// A request head must be complete after this time
    #[arg(long, env = "REBORN_HEAD_TIMEOUT", value_name = "DURATION", help_heading = "Limits")]
    #[arg(default_value = "10s")]
    pub head_timeout: String,

    /// A request body may be waited for this long; 500 bytes a second earn the time back
    #[arg(long, env = "REBORN_BODY_TIMEOUT", value_name = "DURATION", help_heading = "Limits")]
    #[arg(default_value = "20s")]
    pub body_timeout: String,

    /// A client may take this long to make room for its response; 500 bytes a second earn the time back
    #[arg(long, env = "REBORN_WRITE_TIMEOUT", value_name = "DURATION", help_heading = "Limits")]
    #[arg(default_value = "20s")]
    pub write_timeout: String,

    /// Log from off, error, warn, info, debug, trace on, or by module: info,server=debug [default: info]
    #[arg(long, env = "REBORN_LOG", value_name = "LEVEL", help_heading = "Logging")]
    pub log: Option<String>,

    /// Write a line for each request to this file, or with - to standard error; a reload opens the file anew
    #[arg(long, env = "REBORN_ACCESS_LOG", value_name = "PATH", help_heading = "Logging")]
    pub access_log: Option<OsString>,

    /// How the access log looks: common or json
    #[arg(long, env = "REBORN_ACCESS_LOG_FORMAT", value_name = "FORMAT", help_heading = "Logging")]
    #[arg(default_value = "common")]
    pub access_log_format: String,

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

/// The flags of `reload`.
#[derive(Args, Debug)]
pub struct ReloadArgs {
    /// Which server.
    #[command(flatten)]
    pub client: ClientArgs,

    /// Where no reload can start now (one runs, or too many generations drain), wait for it [without a value: 60s]
    #[arg(long, value_name = "DURATION", num_args = 0..=1, require_equals = true, default_missing_value = "60s")]
    #[arg(value_parser = humantime::parse_duration)]
    pub wait: Option<Duration>,

    /// Where as many old versions finish as may, end the oldest of them at once, with what it still has, and reload
    #[arg(long)]
    pub cut_oldest: bool,
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

    /// Show it anew each half second, on a terminal, until the server ends
    #[arg(long, conflicts_with = "json")]
    pub watch: bool,
}

/// Where a value came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// Nobody said anything: the default.
    #[default]
    Default,
    /// A flag on the command line.
    Flag,
    /// An environment variable.
    Variable,
    /// The configuration file.
    File(Place),
}

impl Origin {
    /// How the user calls the value that clap knows by this id: `--head-bytes`, `REBORN_HEAD_BYTES` or
    /// `reborn.toml:3: head-bytes`.
    pub fn name(&self, id: &str) -> String {
        let name = id.replace('_', "-");
        match self {
            Self::Variable => format!("{VARIABLE_PREFIX}{}", id.to_uppercase()),
            Self::Flag | Self::Default => format!("--{name}"),
            Self::File(place) => format!("{place}: {name}"),
        }
    }
}

/// Where the values of one command line came from, by clap's id.
#[derive(Clone, Debug, Default)]
pub struct Origins {
    matches: ArgMatches,
    file: Option<File>,
}

impl Origins {
    /// Where the value with this id came from.
    pub fn get(&self, id: &str) -> Origin {
        match self.matches.value_source(id) {
            Some(ValueSource::CommandLine) => Origin::Flag,
            Some(ValueSource::EnvVariable) => Origin::Variable,
            _ => self.file.as_ref().and_then(|file| file.place(id)).map_or(Origin::Default, Origin::File),
        }
    }

    /// The one text that was given for this id, or is its default; none where it is empty.
    fn text(&self, id: &str) -> Option<String> {
        let text = self.matches.get_raw(id)?.next()?.to_string_lossy().into_owned();
        (!text.is_empty()).then_some(text)
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

/// What holds for every argument. An empty environment variable counts as unset, as users of units and containers
/// expect; and one rule in the help names all variables, instead of each flag its own.
fn adapt(argument: clap::Arg) -> clap::Arg {
    let empty = argument.get_env().and_then(env::var_os).is_some_and(|value| value.is_empty());
    // A number such as -1 reaches the validation this way, which says more than "unexpected argument".
    let takes_value = argument.get_action().takes_values();
    let argument = argument.allow_negative_numbers(takes_value).hide_env(true);
    if empty { argument.env(None::<&'static str>) } else { argument }
}

/// What stands below the list of commands.
fn help_footer() -> String {
    let mut footer = "\
Without a command it serves, with all flags of `reborn serve --help`:
  reborn                                  a page about itself on http://127.0.0.1:8080
  reborn --root /srv/www --listen 0.0.0.0:80
  reborn --demo                           something to try reloads with
  reborn --config /etc/reborn.toml        all flags from a file

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
            Self::Check(_) => "check",
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

#[cfg(test)]
mod tests {
    use std::process;

    use super::*;
    use crate::config::Config;

    fn parse_words(words: &str) -> Result<Command, clap::Error> {
        parse(std::iter::once("reborn").chain(words.split_whitespace()).map(OsString::from))
    }

    fn serve(words: &str) -> ServeArgs {
        match parse_words(words).unwrap() {
            Command::Serve(serve) => *serve,
            other => panic!("{words} is {other}"),
        }
    }

    /// Parses in a process of its own, because the environment of this one belongs to all tests.
    fn parse_with_environment(words: &str, environment: &[(&str, &str)]) -> String {
        let output = process::Command::new(env::current_exe().unwrap())
            .args(["--exact", "program::cli::tests::child_that_parses", "--ignored", "--nocapture"])
            .env("TEST_WORDS", words)
            .envs(environment.iter().copied())
            .output()
            .unwrap();
        let stdout = String::from_utf8(output.stdout).unwrap();
        let (_, result) = stdout.split_once("RESULT ").unwrap_or_else(|| panic!("no result in {stdout}"));
        result.split_once(" END").unwrap().0.to_owned()
    }

    #[test]
    #[ignore = "other tests run it in a process of its own"]
    fn child_that_parses() {
        let words = env::var("TEST_WORDS").unwrap_or_default();
        match parse_words(&words) {
            Ok(Command::Serve(serve)) => match Config::new(&serve) {
                Ok(config) => println!("RESULT {config:?} END"),
                Err(error) => println!("RESULT {error} END"),
            },
            other => println!("RESULT {other:?} END"),
        }
    }

    #[test]
    fn clap_finds_no_fault_with_the_command_line() {
        command().debug_assert();
    }

    #[test]
    fn without_a_command_it_serves() {
        assert_eq!(serve("").demo, None);
        assert_eq!(serve("--demo").demo.as_deref(), Some("true"));
        assert_eq!(serve("serve --demo").demo.as_deref(), Some("true"));
        assert_eq!(serve("--demo --listen a=@b --listen c").listen, ["a=@b", "c"]);
    }

    #[test]
    fn g_is_taken_wherever_a_reload_or_a_person_puts_it() {
        for words in ["-g", "-g serve", "-g --demo", "-g serve --demo", "serve -g", "--demo -g", "-g -g serve -g"] {
            assert!(serve(words).graceful, "{words}");
        }
        assert!(!serve("--demo").graceful);
        assert!(parse_words("-g reload").is_err(), "a client command takes over nothing");
    }

    #[test]
    fn client_commands_have_their_flags() {
        let Command::Reload(reload) = parse_words("reload --control /run/a").unwrap() else { panic!() };
        assert_eq!((reload.client.control(), reload.wait), (Some(std::path::Path::new("/run/a")), None));
        for (words, seconds) in [("reload --wait", 60), ("reload --wait=2s", 2), ("reload --wait=0s", 0)] {
            let Command::Reload(reload) = parse_words(words).unwrap() else { panic!() };
            assert_eq!(reload.wait, Some(Duration::from_secs(seconds)), "{words}");
        }
        let Command::Stop(client) = parse_words("stop --control=").unwrap() else { panic!() };
        assert_eq!(client.control(), None);
        let Command::Status(status) = parse_words("status --json").unwrap() else { panic!() };
        assert!(status.json);
        assert!(parse_words("reload --demo").is_err());
    }

    #[test]
    fn a_usage_error_exits_with_its_code_and_help_with_success() {
        for words in [
            "reload --wait=soon",
            "reload --wait soon",
            "bogus",
            "--bogus",
            "serve bogus",
            "--root",
            "-g reload",
            "help bogus",
        ] {
            assert_eq!(parse_words(words).unwrap_err().exit_code(), i32::from(exit::USAGE), "{words}");
        }
        for words in [
            "--help",
            "-h",
            "--version",
            "-V",
            "serve --help",
            "--demo --help",
            "reload -h",
            "-g --help",
            "help",
            "help serve",
        ] {
            assert_eq!(parse_words(words).unwrap_err().exit_code(), i32::from(exit::OK), "{words}");
        }
    }

    #[test]
    fn words_of_other_servers_lead_to_the_right_ones() {
        let cases = [
            ("--port 8081", "--listen 127.0.0.1:8081"),
            ("serve -p 8081", "--listen 127.0.0.1:8081"),
            (":8081", "--listen 127.0.0.1:8081"),
            ("serve localhost:8081", "--listen 127.0.0.1:8081"),
            ("8081", "--listen 127.0.0.1:8081"),
            ("/tmp", "reborn --root /tmp"),
            ("serve .", "reborn --root ."),
            ("restart", "reborn reload"),
            ("--directory x", "--root DIR"),
        ];
        for (words, right) in cases {
            let error = parse_words(words).unwrap_err().to_string();
            assert!(error.contains("tip: ") && error.contains(right), "{words}: {error}");
            assert!(!error.contains("tip: to pass"), "{words}: {error}");
        }
    }

    #[test]
    fn an_argument_that_is_no_text_is_kept_where_a_path_may_be() {
        use std::os::unix::ffi::OsStringExt;
        let path = OsString::from_vec(vec![b'/', 0xff]);
        let arguments = ["reborn".into(), "--root".into(), path.clone()];
        let Command::Serve(serve) = parse(arguments).unwrap() else { panic!() };
        assert_eq!(serve.root, Some(path));
        assert!(parse(["reborn".into(), OsString::from_vec(vec![0xff])]).is_err());
    }

    #[test]
    fn the_help_teaches_the_first_steps_and_the_exit_codes() {
        let help = command().render_long_help().to_string();
        for part in ["reborn --demo", "reborn reload", "--root /srv/www"] {
            assert!(help.contains(part), "{part} in {help}");
        }
        for (code, meaning) in exit::TABLE {
            assert!(help.contains(&format!("{code}  {meaning}")), "{code} in {help}");
        }
    }

    #[test]
    fn every_flag_of_serve_has_its_variable_and_a_default_or_none_by_nature() {
        let mut command = command();
        let serve = command.find_subcommand_mut("serve").unwrap();
        let help = serve.render_help().to_string();
        assert!(help.lines().all(|line| line.chars().count() <= 100), "{help}");
        for flag in serve.get_arguments().filter(|flag| flag.get_long().is_some_and(|long| long != "help")) {
            let id = flag.get_id().as_str();
            assert_eq!(flag.get_env().unwrap().to_str().unwrap(), Origin::Variable.name(id));
            assert_eq!(format!("--{}", flag.get_long().unwrap()), Origin::Flag.name(id));
            let text = flag.get_help().unwrap().to_string();
            let off = [
                "config",
                "root",
                "follow_symlinks",
                "demo",
                "metrics",
                "pid_file",
                "reload_signal",
                "foreground",
                "access_log",
            ];
            let has_default = !flag.get_default_values().is_empty() || text.contains("[default: ");
            assert!(has_default != off.contains(&id), "{id}: {text}");
        }
    }

    #[test]
    fn a_variable_is_as_good_as_its_flag_and_the_flag_wins() {
        let environment = [
            ("REBORN_DEMO", "1"),
            ("REBORN_LISTEN", "a=127.0.0.1:1, b=@two"),
            ("REBORN_HEAD_BYTES", "2KiB"),
            ("REBORN_IDLE_TIMEOUT", "3s"),
        ];
        let config = parse_with_environment("--idle-timeout 4s", &environment);
        for part in [
            "demo: true",
            r#"name: "a", address: Tcp(127.0.0.1:1)"#,
            r#"name: "b", address: UnixAbstract("two")"#,
            "head_bytes: 2048",
            "idle_timeout: 4s",
            "graceful: false",
        ] {
            assert!(config.contains(part), "{part} in {config}");
        }
        assert!(parse_with_environment("reload", &[("REBORN_CONTROL", "/run/c")]).contains("/run/c"));
    }

    #[test]
    fn an_empty_variable_counts_as_unset() {
        let environment =
            ["ROOT", "DEMO", "LISTEN", "IDLE_TIMEOUT", "THREADS", "LOG", "CONTROL", "PID_FILE", "RELOAD_SIGNAL"]
                .map(|name| format!("REBORN_{name}"));
        let environment = environment.each_ref().map(|name| (name.as_str(), ""));
        let empty = parse_with_environment("", &environment);
        assert_eq!(empty, format!("{:?}", Config::new(&serve("")).unwrap()));
        assert!(parse_with_environment("stop", &[("REBORN_CONTROL", "")]).contains("None"));
    }

    #[test]
    fn a_bad_variable_is_named_and_an_empty_flag_undoes_it() {
        let bad = parse_with_environment("", &[("REBORN_ROOT", "/nonexistent")]);
        assert!(bad.starts_with(r#"REBORN_ROOT "/nonexistent": No such file"#), "{bad}");
        let bad = parse_with_environment("", &[("REBORN_LISTEN", "a=@a,")]);
        assert!(bad.starts_with(r#"REBORN_LISTEN "a=@a,": "" is no address"#), "{bad}");
        let bad = parse_with_environment("", &[("REBORN_DEMO", "maybe")]);
        assert!(bad.starts_with(r#"REBORN_DEMO "maybe": neither true nor false"#), "{bad}");
        let undone = parse_with_environment("--root=", &[("REBORN_ROOT", "/nonexistent")]);
        assert!(undone.contains("files: None"), "{undone}");
        let undone = parse_with_environment("--demo=false", &[("REBORN_DEMO", "true")]);
        assert!(undone.contains("demo: false"), "{undone}");
    }

    #[test]
    fn a_flag_wins_over_a_variable_over_the_file_over_the_default() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("reborn.toml");
        std::fs::write(&file, "idle-timeout = \"1s\"\nhead-timeout = \"1s\"\nbody-timeout = \"1s\"\n").unwrap();
        let environment =
            [("REBORN_CONFIG", file.to_str().unwrap()), ("REBORN_IDLE_TIMEOUT", "2s"), ("REBORN_HEAD_TIMEOUT", "2s")];
        let config = parse_with_environment("--idle-timeout 3s", &environment);
        for part in ["idle_timeout: 3s", "head_timeout: 2s", "body_timeout: 1s", "write_timeout: 20s"] {
            assert!(config.contains(part), "{part} in {config}");
        }
    }

    #[test]
    fn a_refused_value_of_the_file_is_named_by_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("reborn.toml");
        std::fs::write(&file, "demo = true\nidle-timeout = 10\n").unwrap();
        let words = format!("--config {}", file.display());
        let error = Config::new(&serve(&words)).unwrap_err().to_string();
        let expected = format!(r#"{}:2: idle-timeout "10": not a duration"#, file.display());
        assert!(error.starts_with(&expected) && error.contains("such as 300ms"), "{error}");
        std::fs::write(&file, "deno = true\n").unwrap();
        let error = parse_words(&words).unwrap_err();
        let expected = format!("error: {}:1: unknown key \"deno\"; did you mean \"demo\"?\n", file.display());
        assert_eq!((error.to_string(), error.exit_code()), (expected, i32::from(exit::USAGE)));
        assert!(serve("--config=").config.is_some(), "an empty path names no file");
    }

    #[test]
    fn every_flag_of_serve_but_those_about_the_start_is_a_key_of_the_file() {
        let command = command();
        let serve = command.find_subcommand("serve").unwrap();
        let is_key = |flag: &clap::Arg| file::keys(serve).any(|key| key.get_id() == flag.get_id());
        let others: Vec<_> = serve.get_arguments().filter(|flag| !is_key(flag)).map(clap::Arg::get_id).collect();
        assert_eq!(others, ["config", "graceful"], "no other flag lacks a key");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("reborn.toml");
        for key in file::keys(serve) {
            let (id, long) = (key.get_id().as_str(), key.get_long().unwrap());
            std::fs::write(&path, format!("\n\n{long} = \"7\"\n")).unwrap();
            let given = self::serve(&format!("--config {}", path.display())).origins;
            assert_eq!(given.get(id).name(id), format!("{}:3: {long}", path.display()));
            assert_eq!(given.text(id).as_deref(), Some("7"));
        }
    }
}
