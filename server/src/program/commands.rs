//! The commands to a running server: reload, status, stop; and what each of them says and exits with.
//!
//! A server is found by its control socket. What a command has to say of the outcome goes to standard output, what went
//! wrong to standard error; under the service manager neither repeats what the server itself has just logged.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::thread;
use std::time::{Duration, SystemTime};

use restart_core::control::{Answer, Client, Found, Status};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::logging::is_to_journal;
use crate::program::cli::{ClientArgs, ReloadArgs, StatusArgs};
use crate::program::instances::{self, Chosen};
use crate::program::overview::Overview;
use crate::program::package::Package;
use crate::program::{exit, progress};

/// How often `reborn status --watch` looks.
const WATCH_EVERY: Duration = Duration::from_millis(500);

/// `reborn reload`.
pub(super) fn reload(package: &Package, args: &ReloadArgs) -> u8 {
    let code = client_command(package, &args.client, |client| ask_to_reload(package, client, args));
    // A stop that overtakes a reload must not make the unit fail: not either where the server has ended already.
    if code == exit::NOT_RUNNING && has_main_process_ended() {
        say_outcome(&"the service has stopped; there is nothing to reload");
        return exit::OK;
    }
    code
}

/// `reborn status`.
pub(super) fn status(package: &Package, args: &StatusArgs) -> u8 {
    let StatusArgs { client, json, all, watch: goes_on } = args;
    match instances::choose(package, client, *all) {
        chosen if *goes_on => talk_to(package, client, chosen, |client| watch(package, client)),
        Ok(Chosen::Several(found)) => list(package, &found, *json),
        chosen => talk_to(package, client, chosen, |client| show_status(package, client, *json)),
    }
}

/// `reborn stop`.
pub(super) fn stop(package: &Package, args: &ClientArgs) -> u8 {
    client_command(package, args, |client| {
        client.stop()?;
        say_outcome(&"stopped");
        Ok(exit::OK)
    })
}

/// Finds the running server and talks to it. What went wrong is said on standard error.
fn client_command(
    package: &Package,
    args: &ClientArgs,
    talk: impl FnOnce(&mut Client) -> Result<u8, restart_core::Error>,
) -> u8 {
    talk_to(package, args, instances::choose(package, args, false), talk)
}

fn talk_to(
    package: &Package,
    args: &ClientArgs,
    chosen: Result<Chosen, restart_core::Error>,
    talk: impl FnOnce(&mut Client) -> Result<u8, restart_core::Error>,
) -> u8 {
    let found = match chosen {
        Ok(Chosen::One(path)) => Client::connect(&path),
        Ok(Chosen::Several(found)) => {
            complain(package, &instances::which(package, &found));
            return exit::USAGE;
        }
        Err(error) => Err(error),
    };
    match found.and_then(|mut client| talk(&mut client)) {
        Ok(code) => code,
        Err(error) => {
            if !error.is_not_running() {
                complain(package, &error);
                exit::FAILED
            } else if let Some(place) = instances::hidden(package, args) {
                let place = place.display();
                complain(
                    package,
                    &format!(
                        "whether a server runs at {place} is not for this user to see; ask as root, or as its user"
                    ),
                );
                exit::NOT_ALLOWED
            } else {
                complain(package, &error);
                exit::NOT_RUNNING
            }
        }
    }
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

fn ask_to_reload(package: &Package, client: &mut Client, args: &ReloadArgs) -> Result<u8, restart_core::Error> {
    let (path, wait) = (client.path().to_owned(), args.wait);
    if args.cut_oldest {
        client.cut_oldest()?;
    }
    let note = package.named("the reload goes on without this command; `reborn status` tells its outcome");
    progress::say_if_interrupted(package, note);
    let answer = progress::shown(&path, || match wait {
        Some(patience) => {
            client.reload_in_turn(patience, |reason| progress::say(package, &format!("waiting: {reason}")))
        }
        None => client.reload(),
    });
    Ok(match answer? {
        Answer::Outcome(outcome) if outcome.failure.is_none() => {
            say_outcome(&outcome);
            exit::OK
        }
        Answer::Outcome(outcome) => {
            if !is_to_journal(io::stderr()) {
                complain(package, &outcome);
            }
            exit::FAILED
        }
        Answer::Refused(reason) => {
            match wait {
                Some(patience) => complain(package, &format!("no reload was started within {patience:?}: {reason}")),
                None => complain(package, &format!("no reload was started: {}", with_way_out(package, &reason))),
            }
            exit::FAILED
        }
        // A stop that overtakes a reload must not make the unit fail.
        _ if std::env::var_os("MAINPID").is_some() => {
            say_outcome(&"the service is stopping; there is nothing to reload");
            exit::OK
        }
        _ => {
            complain(package, &"no reload happened: the service is stopping");
            exit::FAILED
        }
    })
}

/// A refusal, with what can be done about it behind its first line; below stands what each generation waits for.
fn with_way_out(package: &Package, reason: &str) -> String {
    let name = &package.name;
    match reason.split_once('\n') {
        Some((first, each)) => {
            let each = each.replace('\n', "\n  ");
            format!(
                "{first} (`{name} reload --wait` does), or cut the oldest with `{name} reload --cut-oldest`\n  {each}"
            )
        }
        None => format!("{reason} (`{name} reload --wait` does)"),
    }
}

fn list(package: &Package, found: &[Found], json: bool) -> u8 {
    let listed = instances::list(package, found, json);
    for failure in &listed.failures {
        complain(package, failure);
    }
    let printed = print(package, &if json { listed.text } else { plain(&listed.text) });
    if listed.failures.is_empty() { printed } else { exit::FAILED }
}

fn show_status(package: &Package, client: &mut Client, json: bool) -> Result<u8, restart_core::Error> {
    let status = client.status()?;
    Ok(print(
        package,
        &if json {
            serde_json::to_string_pretty(&status).expect("a status is plain data") + "\n"
        } else {
            overview(&status)
        },
    ))
}

/// It ends with a line feed.
fn overview(status: &Status) -> String {
    plain(&Overview { status, now: SystemTime::now() }.to_string())
}

/// What a server says, without what a terminal would obey: root asks servers of users that it does not trust so far.
fn plain(text: &str) -> String {
    let is_obeyed = |character: char| character.is_control() && !matches!(character, '\n' | '\t');
    text.replace(is_obeyed, "\u{fffd}")
}

/// Shows the status until the server ends.
fn watch(package: &Package, client: &mut Client) -> Result<u8, restart_core::Error> {
    if !io::stdout().is_terminal() {
        complain(package, &package.named("--watch is for a terminal; `reborn status --json` is for programs"));
        return Ok(exit::USAGE);
    }
    let path = client.path().to_owned();
    let mut status = client.status()?;
    loop {
        // The cursor goes to the upper left corner, and the screen is cleared.
        let anew = if progress::takes_escapes(&io::stdout()) { "\x1b[H\x1b[2J" } else { "\n" };
        let code = print(package, &format!("{anew}{}", overview(&status)));
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

/// Tells how a command ended. Not to the journal, where the server itself has just told it.
fn say_outcome(text: &dyn fmt::Display) {
    if !is_to_journal(io::stdout()) {
        say(&plain(&text.to_string()));
    }
}

/// Says on standard error what went wrong.
pub(super) fn complain(package: &Package, what: &dyn fmt::Display) {
    eprintln!("{}: {}", package.name, plain(&what.to_string()));
}

/// Prints a line; that it could not be printed makes no command fail that has done more than to look.
fn say(text: &dyn fmt::Display) {
    let _ = writeln!(io::stdout(), "{text}");
}

/// Prints what was asked for, and gives the exit code: what could not be written (a full disk) is a failure. Whoever reads
/// it may have gone (`reborn status | head -1`), which is none.
pub(super) fn print(package: &Package, text: &str) -> u8 {
    let mut out = io::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            complain(package, &format!("cannot write to standard output: {error}"));
            exit::FAILED
        }
        _ => exit::OK,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_moves_no_cursor_of_whoever_asks_it() {
        assert_eq!(plain("a\x1b[2Jb\r\x7f\u{9b}c\td\n"), "a\u{fffd}[2Jb\u{fffd}\u{fffd}\u{fffd}c\td\n");
    }
}
