//! The commands and their flags, with the help that teaches them, as clap knows them.
//!
//! The flags of `serve` are declared in `config`, since what they mean is there; all others here.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt::{self, Write as _};
use std::path::Path;
use std::time::Duration;

use clap::{Args, Command as Clap, CommandFactory, Parser, Subcommand};

use crate::config::ServeArgs;
use crate::program::exit;

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
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
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

";

const STATUS_FOOTER: &str = "\
STATE        draining: it was replaced, and finishes what it has
CONNECTIONS  live ones
IN FLIGHT    requests that are being handled
HANDED OVER  connections that went on in the next generation
FROM         bound: by the server itself; activated: by systemd or systemfd

";

const STOP_FOOTER: &str = "\
Requests in flight are finished, for at most --drain-timeout; it returns when the server has ended. \
The signals TERM, INT, QUIT and PWR stop it as well.

";

const CLIENT_FOOTER: &str = "\
The server is looked for at --control, else in $RUNTIME_DIRECTORY, $XDG_RUNTIME_DIR/reborn, /run/reborn and, unless \
you are root, /tmp/reborn-UID; it obeys its own user and root. Folders that others could write to are passed over. \
Where none is found, the exit code is 3.";

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
    pub fn control(&self) -> Option<&Path> {
        self.control.as_deref().filter(|path| *path != OsStr::new("")).map(Path::new)
    }
}
