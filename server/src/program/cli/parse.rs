//! A command line, read: the flags, the variables, and the file where one is named.
//!
//! Two conveniences live here: without a command `serve` is meant, and a leading `-g`, which a reload inserts as the first
//! argument, belongs to the command behind it. What other servers call by another word is answered with the right one.

use std::ffi::OsString;
use std::path::Path;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgMatches, Command as Clap, FromArgMatches};

use super::command::{Cli, Command, command};
use super::effective::effective;
use super::file::File;
use crate::config::{Given, non_empty};

/// A command line with all that stood in it.
#[derive(Debug)]
pub(crate) struct CommandLine {
    pub(crate) command: Command,
    /// What clap has found, with the command's flags below its name.
    matches: ArgMatches,
    file: Option<File>,
}

impl CommandLine {
    /// The configuration that holds, as a file with where each value came from: what `reborn check` prints.
    pub(crate) fn effective(&self) -> String {
        let known = command();
        let (name, matches) = self.matches.subcommand().expect("each command line has a command");
        let serve = known.find_subcommand(name).expect("clap has matched it");
        effective(serve, matches, self.file.as_ref())
    }
}

/// Reads a command line, the program's name first, the environment, and the configuration file where one is named.
///
/// The error holds what to print and its exit code, also for `--help` and `--version`: `error.exit()` does it all.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, clap::Error> {
    read(arguments).map(|line| line.command)
}

/// Reads a command line as [`parse`] does, and keeps all that stood in it.
pub(crate) fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<CommandLine, clap::Error> {
    let arguments = with_default_command(arguments);
    let matches = command().try_get_matches_from(&arguments).map_err(with_tip)?;
    let line = understood(matches, None)?;
    let (Command::Serve(serve) | Command::Check(serve)) = &line.command else { return Ok(line) };
    match non_empty(serve.config.as_ref()) {
        Some(path) => {
            with_file(&arguments, &line.command.to_string(), |serve| File::read(Path::new(path.text()), serve))
        }
        None => Ok(line),
    }
}

/// Reads the command line `reborn serve` with a configuration file of this text.
#[cfg(any(test, fuzzing))]
pub(crate) fn parse_with_file(text: &str) -> Result<Command, clap::Error> {
    let arguments = ["reborn".into(), "serve".into()];
    with_file(&arguments, "serve", |serve| File::parse("reborn.toml", text, serve)).map(|line| line.command)
}

/// Reads a command line anew, with a configuration file for the command of this name.
fn with_file(
    arguments: &[OsString],
    name: &str,
    read: impl FnOnce(&Clap) -> Result<File, String>,
) -> Result<CommandLine, clap::Error> {
    let plain = command();
    let file = read(plain.find_subcommand(name).expect("clap has matched it"));
    let file = file.map_err(|reason| clap::Error::raw(ErrorKind::ValueValidation, reason + "\n"))?;
    let matches = plain.mut_subcommand(name, |serve| file.applied(serve)).try_get_matches_from(arguments)?;
    understood(matches, Some(file))
}

fn understood(matches: ArgMatches, file: Option<File>) -> Result<CommandLine, clap::Error> {
    let mut command = Cli::from_arg_matches(&matches)?.command;
    if let Command::Serve(serve) | Command::Check(serve) = &mut command {
        serve.listen = std::mem::take(&mut serve.listen).into_iter().flat_map(Given::items).collect();
    }
    Ok(CommandLine { command, matches, file })
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
