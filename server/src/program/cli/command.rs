//! The commands and their flags, with the help that teaches them, as clap knows them.
//!
//! The flags of `serve` are declared in `config`, since what they mean is there; all others here.

use std::collections::HashSet;
use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt::{self, Write as _};
use std::path::Path;
use std::time::Duration;

use clap::{Arg, ArgAction, Args, Command as Clap, CommandFactory, Id, Parser, Subcommand};

use crate::config::{AppArgs, ServeArgs};
use crate::program::exit;
use crate::program::package::Package;

/// The whole command line of `reborn` as clap knows it, for parsing, and for whoever makes man pages and completions of it.
pub fn command() -> Clap {
    command_of(&Package::reborn())
}

/// The whole command line of a program. Panics where a flag of its own has the name of one that every server has.
pub(crate) fn command_of(package: &Package) -> Clap {
    let mut command = Cli::command()
        .name(package.name.clone())
        .version(package.version.clone())
        .override_usage(package.named(USAGE))
        .after_help(package.named(&help_footer(package)))
        .mut_args(|flag| adapt(flag, package));
    command = match &package.about {
        Some(about) => command.about(about.clone()),
        None => command,
    };
    for (name, footer) in footers(package) {
        command = command.mut_subcommand(name, |sub| {
            let sub = sub.after_help(package.named(&footer));
            let is_server = TAKES_CONFIGURATION.contains(&name);
            let sub = if is_server { with_app_flags_hidden(with_own_flags(sub, package), package) } else { sub };
            sub.mut_args(|flag| adapt(flag, package))
        });
    }
    command
}

/// The command line of a program that is asked to serve, as far as it takes to read one that is right: without other
/// commands, and without what stands in the help only. A start waits for it.
pub(crate) fn command_to_serve(package: &Package) -> Clap {
    let serve = with_own_flags(ServeArgs::augment_args(Clap::new(SERVE)), package);
    let stays =
        |flag: &Arg| flag.get_env().is_none_or(|name| own_variable(name, package).is_some_and(|own| name == &*own));
    // To change flags, clap makes its list of them anew, which takes as long as to declare them.
    let serve = if serve.get_arguments().all(stays) { serve } else { serve.mut_args(|flag| adapt(flag, package)) };
    Clap::new(package.name.clone()).subcommand_required(true).subcommand(serve)
}

/// The command of a command line that names none.
pub(crate) const SERVE: &str = "serve";

/// The commands that take the flags of `serve`, and the program's own.
const TAKES_CONFIGURATION: [&str; 2] = [SERVE, "check"];

/// The command with the program's own flags.
fn with_own_flags(command: Clap, package: &Package) -> Clap {
    let own = (package.flags)(Clap::new("own"));
    if own.get_arguments().next().is_none() {
        return command;
    }
    let (ours, theirs) = (names(&command), names(&own));
    if let Some(taken) = theirs.iter().find(|name| ours.contains(name)) {
        panic!("{}: the flag {taken:?} is one that every server has: give it another name", package.name);
    }
    // A comment on the struct of flags is none on the command.
    let (about, heading) = (command.get_about().cloned().unwrap_or_default(), format!("Flags of {}", package.name));
    let mut command = (package.flags)(command.next_help_heading(heading)).about(about).long_about(None::<&'static str>);
    for id in own.get_arguments().map(Arg::get_id) {
        command = command.mut_arg(id, |flag| as_key(flag, package));
    }
    command
}

/// The command whose help is without the flags of an application that the program does not have.
fn with_app_flags_hidden(command: Clap, package: &Package) -> Clap {
    if package.has_default_app {
        return command;
    }
    // All in one pass: to change one flag by its name, clap moves all that stand behind it, twice.
    let of_app = AppArgs::augment_args(Clap::new("app"));
    let of_app: HashSet<&Id> = of_app.get_arguments().map(Arg::get_id).collect();
    command.mut_args(|flag| if of_app.contains(flag.get_id()) { flag.hide(true) } else { flag })
}

/// Each flag's id, and what is typed for it.
fn names(of: &Clap) -> Vec<String> {
    let names = |flag: &Arg| {
        let long = flag.get_long().map(|long| format!("--{long}"));
        let short = flag.get_short().map(|short| format!("-{short}"));
        [Some(flag.get_id().to_string()), long, short]
    };
    of.get_arguments().flat_map(names).flatten().collect()
}

/// A flag of the program's own as one of the server's: it has a variable, and takes a value, so that the file can give it.
fn as_key(flag: Arg, package: &Package) -> Arg {
    let flag = match flag.get_action() {
        ArgAction::SetTrue => {
            let flag = flag.action(ArgAction::Set).value_name("BOOL").num_args(0..=1).require_equals(true);
            flag.default_missing_value("true").default_value("false")
        }
        _ => flag,
    };
    let has_variable = flag.get_env().is_some() || flag.get_long().is_none() || !flag.get_action().takes_values();
    let variable = package.variable(flag.get_id().as_str());
    if has_variable { flag } else { flag.env(variable) }
}

const USAGE: &str = "reborn [serve] [FLAGS]\n       reborn check|reload|status|stop [FLAGS]";

/// A server that is replaced while it serves: `reborn reload` starts the new version beside the old one, moves the
/// service to it when it is ready, and no client notices.
#[derive(Debug, Parser)]
#[command(subcommand_required = true)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
}

/// What the user wants done.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve; this is what happens without a command
    Serve(Box<ServeArgs>),
    /// Check the configuration and print it, with where each value came from; touches nothing
    Check(Box<ServeArgs>),
    /// Replace the running server by the program that is now on disk, and tell the outcome
    Reload(ReloadArgs),
    /// Show what runs: generations, listeners, the last reloads
    Status(StatusArgs),
    /// Stop the running server gracefully
    Stop(ClientArgs),
}

/// Each command with what stands below its flags.
fn footers(package: &Package) -> [(&'static str, String); 5] {
    let (environment, examples) =
        if package.has_default_app { (APP_ENVIRONMENT, APP_EXAMPLES) } else { (ENVIRONMENT, EXAMPLES) };
    [
        ("serve", [VALUES, environment, FILE_AND_SIGNALS, examples].concat()),
        ("check", CHECK_FOOTER.to_owned()),
        ("reload", [RELOAD_FOOTER, CLIENT_FOOTER].concat()),
        ("status", [STATUS_FOOTER, CLIENT_FOOTER].concat()),
        ("stop", [STOP_FOOTER, CLIENT_FOOTER].concat()),
    ]
}

const VALUES: &str = "\
Values:
  ADDR      127.0.0.1:8080  [::1]:8080  unix:/run/web.sock  /run/web.sock  @abstract
            unix:/run/web.sock?mode=0660 has these permissions, whatever the umask
            [::]:80 serves IPv4 as well, unless an IPv4 address of the same port is listened on
  DURATION  300ms  10s  2m  1m30s
  BYTES     16384  16KiB  1MiB  1GiB

Environment: each flag but -g is also a variable, and the flag wins.
";

const APP_ENVIRONMENT: &str = "\
\x20 --idle-timeout 5s is REBORN_IDLE_TIMEOUT=5s, --demo is REBORN_DEMO=true.
  An empty value is as good as none: --root= undoes REBORN_ROOT.
";

const ENVIRONMENT: &str = "\
\x20 --idle-timeout 5s is REBORN_IDLE_TIMEOUT=5s.
  An empty value is as good as none: --control= undoes REBORN_CONTROL.
";

const FILE_AND_SIGNALS: &str = "
Configuration file: with --config FILE, each flag but -g is also a key of a TOML file, below both.
  idle-timeout = \"5s\"
  listen = [\"web=0.0.0.0:80\", \"local=unix:/run/web.sock\"]
  A reload reads it afresh. `reborn check` shows what holds, and from where.

Signals: HUP and USR2 reload, but a terminal that closes stops. TERM, INT, QUIT and PWR stop gracefully. USR1 opens the access log anew. \
PIPE, XFSZ, ALRM, VTALRM, PROF, IO and STKFLT do nothing.

Examples:
";

const APP_EXAMPLES: &str = "\
\x20 reborn serve --root /srv/www --listen 0.0.0.0:80
  reborn serve --listen web=127.0.0.1:8080 --listen local=unix:/run/web.sock
  REBORN_DEMO=true REBORN_DRAIN_TIMEOUT=1m reborn serve";

const EXAMPLES: &str = "\
\x20 reborn serve --listen web=127.0.0.1:8080 --listen local=unix:/run/web.sock
  REBORN_DRAIN_TIMEOUT=1m reborn serve";

const CHECK_FOOTER: &str = "\
It takes what `reborn serve` takes; run it with the new program, as the server's user, before a reload. It refuses what \
`reborn serve` would, but for what only binding shows: an address that another process has. What it prints is a configuration \
file: each value, and behind it the flag, the variable or the line of the file that it came from.";

const RELOAD_FOOTER: &str = "\
The program is the file at the path by which the server was started: put the new one there by rename, and reload. \
Until it is ready and has lived through its probation, every failure leaves the old one serving.

It prints one line and exits with 0 when the new version serves; with 1 and the reason when the old one still does. \
The signals HUP and USR2 reload as well; their outcome is in the log and in `reborn status`.

Where --max-draining old versions still finish what they have, it starts none, and says what each of them waits for. \
--cut-oldest ends the oldest then, which the outcome names; where there are fewer it does nothing.

";

const STATUS_FOOTER: &str = "\
STATE        draining: it was replaced, and finishes what it has
CONNECTIONS  live ones
IN FLIGHT    requests that are being handled
HANDED OVER  connections that went on in the next generation: idle, within a response, a stream,
             or upgraded
WAITS FOR    what a draining generation still has to finish: requests (a handler runs), uploads
             (with a body), responses, streams (without a known end), upgraded connections, others;
             the oldest of each, and how long it may still take
FROM         bound: by the server itself; activated: by systemd or systemfd
TLS          handshakes that the newest generation has held, those that came to nothing by cause, and
             how long the first certificate is good for

";

const STOP_FOOTER: &str = "\
Requests in flight are finished, those of old versions as well, for at most --stop-timeout; it returns when the server has ended. \
The signals TERM, INT, QUIT and PWR stop it as well.

";

const CLIENT_FOOTER: &str = "\
The server is looked for at --control, else in $RUNTIME_DIRECTORY, $XDG_RUNTIME_DIR/reborn, /run/reborn and, unless \
you are root, /tmp/reborn-UID; and, for each instance, in reborn@NAME beside the second and the third. It obeys its own \
user and root. Folders that others could write to are passed over. Where none is found, the exit code is 3. \
Where several are, status lists them, and reload and stop have to be told which: --instance NAME, or --control PATH.";

/// The flags of a command to a running server.
#[derive(Args, Debug)]
pub struct ClientArgs {
    /// The control socket of the server [default: looked for where servers put it]
    #[arg(long, env = "REBORN_CONTROL", value_name = "PATH")]
    pub control: Option<OsString>,

    /// The instance of a template unit, which stands behind the @ in its name
    #[arg(long, value_name = "NAME", conflicts_with = "control")]
    pub instance: Option<String>,
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

    /// List all that run, also where it is one; with --json always an array
    #[arg(long, conflicts_with_all = ["control", "instance", "watch"])]
    pub all: bool,

    /// Show it anew each half second, on a terminal, until the server ends
    #[arg(long, conflicts_with = "json")]
    pub watch: bool,
}

/// What holds for every argument. Its variable is called after the program. An empty one counts as unset, as users of
/// units and containers expect; and one rule in the help names all variables, instead of each flag its own.
fn adapt(argument: Arg, package: &Package) -> Arg {
    // A number such as -1 reaches the validation this way, which says more than "unexpected argument".
    let takes_value = argument.get_action().takes_values();
    let argument = argument.allow_negative_numbers(takes_value).hide_env(true);
    let Some(variable) = argument.get_env() else { return argument };
    match own_variable(variable, package) {
        Some(variable) => argument.env(variable),
        None => argument.env(None::<&'static str>),
    }
}

/// The program's variable in the place of one of `reborn`'s, unless it is empty.
fn own_variable(variable: &OsStr, package: &Package) -> Option<String> {
    let own = package.own_variable(&variable.to_string_lossy());
    let is_empty = env::var_os(&own).is_some_and(|value| value.is_empty());
    (!is_empty).then_some(own)
}

const APP_FIRST_STEPS: &str = "\
Without a command it serves, with all flags of `reborn serve --help`:
  reborn                                  a page about itself on http://127.0.0.1:8080
  reborn --root /srv/www --listen 0.0.0.0:80
  reborn --demo                           something to try reloads with
  reborn --config /etc/reborn.toml        all flags from a file
";

const FIRST_STEPS: &str = "\
Without a command it serves, with all flags of `reborn serve --help`:
  reborn --listen 0.0.0.0:80
  reborn --config /etc/reborn.toml        all flags from a file
";

/// What stands below the list of commands.
fn help_footer(package: &Package) -> String {
    let mut footer = if package.has_default_app { APP_FIRST_STEPS } else { FIRST_STEPS }.to_owned();
    footer.push_str(
        "
Replace it while it serves, from another terminal:
  reborn reload

Exit codes:",
    );
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
