//! The effective configuration as text: what `reborn check` prints.
//!
//! The text is a configuration file itself, with where each value came from as a comment. It checks nothing.

use std::fmt::Write as _;

use clap::{Arg, ArgAction, ArgMatches, Command as Clap};

use super::file::{Entry, File, keys};
use crate::config::{ValueSource, is_given, items, separator};

/// Comments begin in this column, or behind what is longer.
const COMMENT_COLUMN: usize = 40;

/// Each key of the configuration of `serve` with its value and its source, a line each: what was matched, and what the
/// file said.
pub(super) fn effective(serve: &Clap, matches: &ArgMatches, file: Option<&File>) -> String {
    let mut text = String::new();
    for flag in keys(serve) {
        let position = file.and_then(|file| file.position(flag.get_id().as_str()));
        let source = ValueSource::of(matches.value_source(flag.get_id().as_str()), position);
        let line = match value(flag, matches, &source) {
            Some(value) => format!("{} = {value}", key(flag)),
            None => format!("# {}: {}", key(flag), unset(flag)),
        };
        // Writing to a String cannot fail.
        _ = writeln!(text, "{line:<COMMENT_COLUMN$} # {}", shown(&source, flag));
    }
    text + &sites(file)
}

/// The tables of the sites, which only the file can have.
fn sites(file: Option<&File>) -> String {
    let mut text = String::new();
    for (position, entries) in file.into_iter().flat_map(File::site_tables) {
        _ = writeln!(text, "\n{:<COMMENT_COLUMN$} # {position}", "[[site]]");
        for (flag, Entry { position, texts }) in entries {
            let texts: Vec<_> = texts.iter().map(|(text, _)| quoted(text)).collect();
            let is_list = matches!(flag.get_action(), ArgAction::Append);
            let value = if is_list { format!("[{}]", texts.join(", ")) } else { texts.concat() };
            let line = format!("{} = {value}", key(&flag));
            _ = writeln!(text, "{line:<COMMENT_COLUMN$} # {position}");
        }
    }
    text
}

fn key(flag: &Arg) -> &str {
    flag.get_long().expect("a key is the name of a long flag")
}

/// The value as TOML; none where nothing, or the empty text, was given.
fn value(flag: &Arg, matches: &ArgMatches, source: &ValueSource) -> Option<String> {
    let mut texts = matches.get_raw(flag.get_id().as_str())?.map(|text| text.to_string_lossy().into_owned());
    if matches!(flag.get_action(), ArgAction::Append) {
        let is_split = *source == ValueSource::Variable && is_given(flag);
        let separator = separator(flag.get_id().as_str());
        let items = texts.flat_map(|text| if is_split { items(&text, separator) } else { vec![text] });
        return Some(format!("[{}]", items.map(|text| quoted(&text)).collect::<Vec<_>>().join(", ")));
    }
    Some(match texts.next().filter(|text| !text.is_empty())?.as_str() {
        text @ ("true" | "false") => text.to_owned(),
        text => quoted(text),
    })
}

fn shown(source: &ValueSource, flag: &Arg) -> String {
    match source {
        ValueSource::Default => "default".to_owned(),
        ValueSource::File(position) => position.to_string(),
        ValueSource::Flag | ValueSource::Variable => source.name(flag),
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

    use super::super::parse::{CommandLine, read};
    use crate::config::Config;
    use crate::program::cli::Command;
    use crate::program::configuration::checked;
    use crate::program::package::Package;

    fn line(words: &[&str]) -> CommandLine {
        read(&Package::reborn(), ["reborn", "check"].iter().chain(words).map(OsString::from)).unwrap()
    }

    fn effective(line: &CommandLine) -> String {
        line.effective(&Package::reborn())
    }

    fn config(line: &CommandLine) -> Config {
        let Command::Check(args) = &line.command else { panic!("check is a command") };
        checked(args).unwrap()
    }

    #[test]
    fn each_value_is_shown_with_where_it_came_from() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("reborn.toml");
        fs::write(&file, "\nidle-timeout = \"5s\"\nprobation = \"0s\"\nlisten = [\"a=@a\", \"b=@b\"]\n").unwrap();
        let shown = effective(&line(&["--config", file.to_str().unwrap(), "--probation=2s", "--demo"]));
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
        let first = line(&words);
        fs::write(&file, effective(&first)).unwrap();
        let second = line(&["--config", file.to_str().unwrap()]);
        assert_eq!(config(&first), config(&second));
        fs::write(&file, effective(&line(&[]))).unwrap();
        let third = line(&["--config", file.to_str().unwrap()]);
        assert_eq!(config(&line(&[])), config(&third));
    }
}
