//! The effective configuration as text: what `reborn check` prints.
//!
//! The text is a configuration file itself, with where each value came from as a comment. It checks nothing.

use std::fmt::Write as _;

use clap::Arg;

use super::{Origin, ServeArgs, command, file};

/// Comments begin in this column, or behind what is longer.
const COMMENT_COLUMN: usize = 40;

/// Each key of the configuration with its value and its origin, a line each.
pub(crate) fn effective(args: &ServeArgs) -> String {
    let command = command();
    let serve = command.find_subcommand("serve").expect("serve is a command");
    let mut text = String::new();
    for flag in file::keys(serve) {
        let line = match value(args, flag) {
            Some(value) => format!("{} = {value}", key(flag)),
            None => format!("# {}: {}", key(flag), unset(flag)),
        };
        // Writing to a String cannot fail.
        _ = writeln!(text, "{line:<COMMENT_COLUMN$} # {}", origin(args, flag));
    }
    text
}

fn key(flag: &Arg) -> &str {
    flag.get_long().expect("a key is the name of a long flag")
}

/// The value as TOML; none where nothing, or the empty text, was given.
fn value(args: &ServeArgs, flag: &Arg) -> Option<String> {
    let id = flag.get_id().as_str();
    if id == "listen" {
        let listen: Vec<String> = args.listen.iter().map(|text| quoted(text)).collect();
        return (!listen.is_empty()).then(|| format!("[{}]", listen.join(", ")));
    }
    let text = args.origins.text(id)?;
    Some(match text.as_str() {
        "true" | "false" => text,
        text => quoted(text),
    })
}

fn origin(args: &ServeArgs, flag: &Arg) -> String {
    let id = flag.get_id().as_str();
    match args.origins.get(id) {
        Origin::Default => "default".to_owned(),
        Origin::File(place) => place.to_string(),
        given @ (Origin::Flag | Origin::Variable) => given.name(id),
    }
}

/// What holds where nothing was given: the help says it.
fn unset(flag: &Arg) -> String {
    let help = flag.get_help().map(ToString::to_string).unwrap_or_default();
    let default = help.split_once("[default: ").and_then(|(_, default)| default.strip_suffix(']'));
    default.unwrap_or("none").to_owned()
}

/// A JSON string is a TOML string, but for DEL, which TOML wants escaped.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string().replace('\u{7f}', "\\u007F")
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::fs;

    use super::super::{Command, parse};
    use super::*;
    use crate::config::Config;

    fn args(words: &[&str]) -> ServeArgs {
        let words = ["reborn", "check"].iter().chain(words).map(OsString::from);
        let Command::Check(args) = parse(words).unwrap() else { panic!("check is a command") };
        *args
    }

    #[test]
    fn each_value_is_shown_with_where_it_came_from() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("reborn.toml");
        fs::write(&file, "\nidle-timeout = \"5s\"\nprobation = \"0s\"\nlisten = [\"a=@a\", \"b=@b\"]\n").unwrap();
        let shown = effective(&args(&["--config", file.to_str().unwrap(), "--probation=2s", "--demo"]));
        let has = |left: &str, origin: &str| {
            let found = shown.lines().any(|line| {
                line.split_once(" # ").is_some_and(|(value, from)| value.trim_end() == left && from == origin)
            });
            assert!(found, "{left} # {origin} in\n{shown}");
        };
        has("idle-timeout = \"5s\"", &format!("{}:2", file.display()));
        has("probation = \"2s\"", "--probation");
        has("demo = true", "--demo");
        has("listen = [\"a=@a\", \"b=@b\"]", &format!("{}:4", file.display()));
        has("drain-timeout = \"10m\"", "default");
        has("# threads: one for each core", "default");
        has("# root: none", "default");
    }

    #[test]
    fn what_is_shown_is_a_configuration_that_means_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("reborn.toml");
        let words = ["--demo", "--listen=a=unix:/run/a\"\\\u{7f}", "--connections=7", "--pid-file=x y"];
        let first = args(&words);
        fs::write(&file, effective(&first)).unwrap();
        let second = args(&["--config", file.to_str().unwrap()]);
        assert_eq!(Config::new(&first).unwrap(), Config::new(&second).unwrap());
        fs::write(&file, effective(&args(&[]))).unwrap();
        let third = args(&["--config", file.to_str().unwrap()]);
        assert_eq!(Config::new(&args(&[])).unwrap(), Config::new(&third).unwrap());
    }
}
