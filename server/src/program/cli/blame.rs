//! Where a value came from that clap refuses: clap itself names the flag, also where nobody typed it.
//!
//! The server's own flags are texts to clap, which refuses none of them; this is for those that are a program's own.

use std::env;

use clap::error::{ContextKind, ContextValue};
use clap::{Arg, Command as Clap};

use super::file::File;

/// An error of clap, with the variable or the line of the file whose value it is about, if it is about one of `serve`'s.
pub(super) fn blamed(error: clap::Error, serve: &Clap, file: Option<&File>) -> clap::Error {
    let (Some(ContextValue::String(shown)), Some(ContextValue::String(value))) =
        (error.get(ContextKind::InvalidArg), error.get(ContextKind::InvalidValue))
    else {
        return error;
    };
    // It is shown as in the help: `--first <N>`.
    let long = shown.split([' ', '=', '[']).next().and_then(|long| long.strip_prefix("--"));
    let Some(flag) = serve.get_arguments().find(|flag| flag.get_long().is_some() && flag.get_long() == long) else {
        return error;
    };
    let from_file = || file.and_then(|file| file.position_of(flag.get_id().as_str(), value));
    let Some(source) = variable(flag, value).or_else(|| Some(from_file()?.to_string())) else { return error };
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    let reason = line.strip_prefix("error: ").unwrap_or(line);
    clap::Error::raw(error.kind(), format!("{source}: {reason}\n"))
}

/// The flag's variable, if it has this value.
fn variable(flag: &Arg, value: &str) -> Option<String> {
    let name = flag.get_env()?;
    let is_it = env::var_os(name).is_some_and(|given| given == value);
    is_it.then(|| name.to_string_lossy().into_owned())
}
