//! A command line, read: the flags, the variables, and the file where one is named.
//!
//! Two conveniences live here: without a command `serve` is meant, and a leading `-g`, which a reload inserts as the first
//! argument, belongs to the command behind it. What other servers call by another word is answered with the right one.

use std::ffi::OsString;
use std::path::Path;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgMatches, Command as Clap, FromArgMatches};

use super::blame::blamed;
use super::command::{Cli, Command, SERVE, command_of, command_to_serve};
use super::effective::effective;
use super::file::File;
use crate::config::{Given, ServeArgs, SiteArgs, non_empty, separator};
use crate::program::package::Package;

/// A command line with all that stood in it.
#[derive(Debug)]
pub(crate) struct CommandLine {
    pub(crate) command: Command,
    /// What clap has found, with the command's flags below its name.
    matches: ArgMatches,
    file: Option<File>,
}

impl CommandLine {
    /// The program's own flags.
    pub(crate) fn flags<F: FromArgMatches>(&self) -> Result<F, clap::Error> {
        let (_, matches) = self.matches.subcommand().expect("each command line has a command");
        F::from_arg_matches(matches)
    }

    /// The configuration file that is named, if one is.
    fn file_path(&self) -> Option<&OsString> {
        let (Command::Serve(serve) | Command::Check(serve)) = &self.command else { return None };
        non_empty(serve.config.as_ref()).map(Given::text)
    }

    /// The configuration that holds, as a file with where each value came from: what `reborn check` prints.
    pub(crate) fn effective(&self, package: &Package) -> String {
        let known = command_of(package);
        let (name, matches) = self.matches.subcommand().expect("each command line has a command");
        let serve = known.find_subcommand(name).expect("clap has matched it");
        effective(serve, matches, self.file.as_ref())
    }
}

/// Reads a command line, the program's name first, the environment, and the configuration file where one is named.
///
/// The error holds what to print and its exit code, also for `--help` and `--version`: `error.exit()` does it all.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, clap::Error> {
    read(&Package::reborn(), arguments).map(|line| line.command)
}

/// Reads a command line of a program as [`parse`] does, and keeps all that stood in it.
pub(crate) fn read(
    package: &Package,
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<CommandLine, clap::Error> {
    let arguments = with_default_command(arguments);
    // Most command lines are those of servers, and right. All others go through all that can be said of them.
    let served = is_serve(&arguments).then(|| command_to_serve(package).try_get_matches_from(&arguments).ok());
    let matches = match served.flatten() {
        Some(matches) => matches,
        None => matched(package, &arguments)?,
    };
    let line = understood(matches, None)?;
    match line.file_path() {
        Some(path) => {
            let name = line.command.to_string();
            with_file(package, &arguments, &name, |serve| File::read(Path::new(path), serve, package))
        }
        None => Ok(line),
    }
}

/// Whether a command line is one of a server, if it is one at all.
pub(crate) fn serves(arguments: impl IntoIterator<Item = OsString>) -> bool {
    is_serve(&with_default_command(arguments))
}

/// The same of one with its command.
fn is_serve(arguments: &[OsString]) -> bool {
    arguments.get(1).is_some_and(|name| name == SERVE)
}

/// What clap makes of a command line. The error says what was probably meant.
fn matched(package: &Package, arguments: &[OsString]) -> Result<ArgMatches, clap::Error> {
    let matches = match command_of(package).try_get_matches_from(arguments) {
        // The file may have it.
        Err(error) if error.kind() == ErrorKind::MissingRequiredArgument => without_requirements(package)
            .try_get_matches_from(arguments)
            .ok()
            .and_then(|matches| understood(matches, None).ok())
            .filter(|line| line.file_path().is_some())
            .map(|line| line.matches)
            .ok_or(error),
        matches => matches,
    };
    matches.map_err(|error| with_tip(with_variable(error, package), package))
}

/// An error, with the variable whose value it is about, if it is about one.
fn with_variable(error: clap::Error, package: &Package) -> clap::Error {
    match command_of(package).find_subcommand(SERVE) {
        Some(serve) => blamed(error, serve, None),
        None => error,
    }
}

/// Reads the command line `reborn serve` with a configuration file of this text.
#[cfg(any(test, fuzzing))]
pub(crate) fn parse_with_file(text: &str) -> Result<Command, clap::Error> {
    let (package, arguments) = (Package::reborn(), ["reborn".into(), "serve".into()]);
    let read = |serve: &Clap| File::parse("reborn.toml", text, serve, &package);
    with_file(&package, &arguments, "serve", read).map(|line| line.command)
}

/// Reads a command line anew, with a configuration file for the command of this name.
fn with_file(
    package: &Package,
    arguments: &[OsString],
    name: &str,
    read: impl FnOnce(&Clap) -> Result<File, String>,
) -> Result<CommandLine, clap::Error> {
    let plain = command_of(package);
    let serve = plain.find_subcommand(name).expect("clap has matched it").clone();
    let file = read(&serve);
    let file = file.map_err(|reason| clap::Error::raw(ErrorKind::ValueValidation, reason + "\n"))?;
    let command = plain.mut_subcommand(name, |serve| file.applied(serve));
    let matches = command.try_get_matches_from(arguments).map_err(|error| blamed(error, &serve, Some(&file)))?;
    understood(matches, Some(file))
}

/// The command line of a program, of which nothing has to be there.
fn without_requirements(package: &Package) -> Clap {
    command_of(package).mut_subcommands(|sub| sub.mut_args(|flag| flag.required(false)))
}

fn understood(matches: ArgMatches, file: Option<File>) -> Result<CommandLine, clap::Error> {
    let mut command = Cli::from_arg_matches(&matches)?.command;
    if let Command::Serve(serve) | Command::Check(serve) = &mut command {
        let ServeArgs { listen, tls, proxies, app, .. } = &mut **serve;
        let of_proxies = [&mut proxies.trusted_proxy, &mut proxies.proxy_protocol];
        for list in [listen, &mut tls.tls_certificate, &mut tls.tls_key].into_iter().chain(of_proxies) {
            *list = std::mem::take(list).into_iter().flat_map(|given| given.items(',')).collect();
        }
        let SiteArgs { headers, redirect, types, .. } = &mut app.site;
        for (list, id) in [(headers, "headers"), (redirect, "redirect"), (types, "types")] {
            let items = std::mem::take(list).into_iter().flat_map(|given| given.items(separator(id)));
            *list = items.filter(|given| !given.text().is_empty()).collect();
        }
        if let Some(file) = &file {
            app.sites = file.sites()?;
        }
    }
    Ok(CommandLine { command, matches, file })
}

/// Adds what was probably meant, where other servers have another word for it.
fn with_tip(mut error: clap::Error, package: &Package) -> clap::Error {
    let invalid =
        [ContextKind::InvalidArg, ContextKind::InvalidSubcommand].into_iter().find_map(|kind| error.get(kind));
    let Some(ContextValue::String(word)) = invalid else { return error };
    let ends_in_a_port = word.rsplit(':').next().is_some_and(|port| port.parse::<u16>().is_ok());
    let tip = match word.as_str() {
        "--port" | "-p" | "--bind" | "-b" | "--host" | "--addr" | "--address" | "-l" => {
            "to listen elsewhere, write --listen 127.0.0.1:8081".to_owned()
        }
        "--dir" | "--directory" | "-d" | "--docroot" | "--document-root" if package.has_default_app => {
            "the flag is --root DIR".to_owned()
        }
        "-c" | "--conf" => "the flag is --config FILE".to_owned(),
        "restart" | "upgrade" => package.named("to run the new version, write reborn reload"),
        "start" | "run" => package.named("to serve, write reborn serve"),
        folder if package.has_default_app && Path::new(folder).is_dir() => {
            format!("to serve a directory, write reborn --root {folder}")
        }
        _ if ends_in_a_port => "to listen elsewhere, write --listen 127.0.0.1:8081".to_owned(),
        _ => return error,
    };
    error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
    error
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
        _ => complete.push(SERVE.into()),
    }
    complete.extend(graceful.then(|| "-g".into()));
    complete.extend(arguments);
    complete
}

#[cfg(test)]
mod tests {
    use super::super::file::keys;
    use super::*;

    /// What is understood of a command line of a server by what clap knows.
    fn understood_by(known: Clap, arguments: &[OsString]) -> String {
        let matches = known.try_get_matches_from(arguments).expect("it is right");
        format!("{:?}", understood(matches, None).expect("it has all that it takes").command)
    }

    #[test]
    fn what_is_read_to_serve_is_what_the_whole_command_line_makes_of_it() {
        let (reborn, shop) = (Package::reborn(), Package::new("shop"));
        let whole = command_of(&reborn);
        let flags: Vec<_> = keys(whole.find_subcommand(SERVE).expect("it is a command")).collect();
        let each = flags.iter().map(|flag| format!("--{}=7,8", flag.get_long().expect("a key has a name")));
        let lines =
            ["", "-g", "-g --demo --listen a=@b --listen c", "--root= --foreground --threads 2", "--hsts= -g -g"];
        for line in lines.into_iter().map(str::to_owned).chain(each) {
            let arguments: Vec<OsString> =
                ["reborn", SERVE].into_iter().chain(line.split_whitespace()).map(Into::into).collect();
            for package in [&reborn, &shop] {
                let [short, whole] = [command_to_serve, command_of].map(|of| understood_by(of(package), &arguments));
                assert_eq!(short, whole, "{line} of {}", package.name);
            }
        }
    }
}
