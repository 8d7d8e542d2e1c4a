//! A value as it was given: its text, where it came from, and what the user calls it.
//!
//! A flag is declared in one place, as a field of this type: clap's parser fills in all of it, so that a refusal needs no
//! second name for the flag. Nothing is decided about the text here; `values` reads it.

use std::any::TypeId;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::sync::Arc;

use clap::builder::{OsStringValueParser, StringValueParser, TypedValueParser, ValueParserFactory};
use clap::parser::ValueSource as ClapSource;
use clap::{Arg, Command};

/// The text that was given for a flag, by itself, by its variable or by its key in the file, or that is its default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given<T = String> {
    text: T,
    source: ValueSource,
    name: String,
}

/// Where a value came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ValueSource {
    /// Nobody said anything: the default.
    #[default]
    Default,
    /// A flag on the command line.
    Flag,
    /// An environment variable.
    Variable,
    /// The configuration file.
    File(FilePosition),
}

/// Where in the configuration file a value stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilePosition {
    path: Arc<str>,
    line: usize,
}

/// Reads a value as clap has found it.
#[derive(Clone, Debug)]
pub struct GivenParser<P> {
    text: P,
    /// Of what stands in the place of the default.
    position: Option<FilePosition>,
    /// Of each text there, if it has a place of its own.
    positions: Arc<[(String, FilePosition)]>,
}

impl<T> Given<T> {
    /// Its text, which may be empty.
    pub fn text(&self) -> &T {
        &self.text
    }

    /// Where it came from.
    pub fn source(&self) -> &ValueSource {
        &self.source
    }

    /// What the user calls it: `--head-bytes`, `REBORN_HEAD_BYTES` or `reborn.toml:3: head-bytes`.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Given {
    /// The values of a list, of which a variable holds several.
    pub(crate) fn items(self, separator: char) -> Vec<Given> {
        let Given { text, source, name } = &self;
        if *source != ValueSource::Variable {
            return vec![self];
        }
        let item = |text: String| Given { text, source: source.clone(), name: name.clone() };
        items(text, separator).into_iter().map(item).collect()
    }
}

/// What stands between the values of this flag in its variable: a comma, unless they may have commas themselves.
pub(crate) fn separator(id: &str) -> char {
    if ["headers", "redirect"].contains(&id) { '\n' } else { ',' }
}

/// The values of a list in one variable.
pub(crate) fn items(variable: &str, separator: char) -> Vec<String> {
    let texts = variable.split(separator).map(|text| text.trim().to_owned());
    texts.filter(|text| separator == ',' || !text.is_empty()).collect()
}

impl<T: AsRef<OsStr>> Given<T> {
    /// Refuses the value, with the cause and with what would be right.
    pub(crate) fn refuse(&self, cause: impl Into<String>, advice: impl Into<String>) -> Error {
        self.refuse_as(&self.text, cause, advice)
    }

    /// Refuses what the value is a part of, such as a list.
    pub(crate) fn refuse_as(
        &self,
        value: impl AsRef<OsStr>,
        cause: impl Into<String>,
        advice: impl Into<String>,
    ) -> Error {
        let value = value.as_ref().to_string_lossy().into_owned();
        Error { name: self.name.clone(), value, cause: cause.into(), advice: advice.into() }
    }
}

/// The value, unless its text is empty: that says nothing, so that `--root=` undoes `REBORN_ROOT`.
pub(crate) fn non_empty<T: AsRef<OsStr>>(given: Option<&Given<T>>) -> Option<&Given<T>> {
    given.filter(|given| !given.text.as_ref().is_empty())
}

impl ValueSource {
    /// Where a value came from that clap has found there, when what is in the place of the default stands at `position`.
    pub(crate) fn of(found: Option<ClapSource>, position: Option<FilePosition>) -> ValueSource {
        match found {
            Some(ClapSource::CommandLine) => ValueSource::Flag,
            Some(ClapSource::EnvVariable) => ValueSource::Variable,
            _ => position.map_or(ValueSource::Default, ValueSource::File),
        }
    }

    /// What the user calls the value of this flag that came from here.
    pub(crate) fn name(&self, flag: &Arg) -> String {
        let long = flag.get_long().unwrap_or_else(|| flag.get_id().as_str());
        match self {
            ValueSource::Variable => flag.get_env().unwrap_or_default().to_string_lossy().into_owned(),
            ValueSource::Flag | ValueSource::Default => format!("--{long}"),
            ValueSource::File(position) => format!("{position}: {long}"),
        }
    }
}

impl FilePosition {
    /// A line of a file, counted from 1.
    pub(crate) fn new(path: Arc<str>, line: usize) -> FilePosition {
        FilePosition { path, line }
    }
}

impl fmt::Display for FilePosition {
    /// `FILE:LINE`, which editors and terminals know how to open.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}", self.path, self.line)
    }
}

impl ValueParserFactory for Given {
    type Parser = GivenParser<StringValueParser>;

    fn value_parser() -> Self::Parser {
        GivenParser { text: StringValueParser::new(), position: None, positions: Arc::default() }
    }
}

impl ValueParserFactory for Given<OsString> {
    type Parser = GivenParser<OsStringValueParser>;

    fn value_parser() -> Self::Parser {
        GivenParser { text: OsStringValueParser::new(), position: None, positions: Arc::default() }
    }
}

impl<P> TypedValueParser for GivenParser<P>
where
    P: TypedValueParser + Clone + Send + Sync + 'static,
{
    type Value = Given<P::Value>;

    fn parse_ref(&self, command: &Command, flag: Option<&Arg>, text: &OsStr) -> Result<Self::Value, clap::Error> {
        self.parse_ref_(command, flag, text, ClapSource::CommandLine)
    }

    fn parse_ref_(
        &self,
        command: &Command,
        flag: Option<&Arg>,
        text: &OsStr,
        found: ClapSource,
    ) -> Result<Self::Value, clap::Error> {
        let own = self.positions.iter().find(|(of, _)| text == of.as_str()).map(|(_, position)| position);
        let source = ValueSource::of(Some(found), own.or(self.position.as_ref()).cloned());
        let text = self.text.parse_ref_(command, flag, text, found)?;
        let name = flag.map(|flag| source.name(flag)).unwrap_or_default();
        Ok(Given { text, source, name })
    }
}

/// Whether the values of a flag are lists of [`Given`].
pub(crate) fn is_given(flag: &Arg) -> bool {
    flag.get_value_parser().type_id() == TypeId::of::<Given>()
}

/// The flag with what stands in the file at `position` in the place of its default, each text with its own position: flags
/// and variables win over that by themselves.
pub(crate) fn with_file_value(flag: Arg, texts: Vec<(String, FilePosition)>, position: &FilePosition) -> Arg {
    let kind = flag.get_value_parser().type_id();
    let flag = flag.required(false).default_values(texts.iter().map(|(text, _)| text.clone()).collect::<Vec<_>>());
    let (position, positions) = (Some(position.clone()), texts.into());
    if kind == TypeId::of::<Given>() {
        flag.value_parser(GivenParser { position, positions, ..Given::<String>::value_parser() })
    } else if kind == TypeId::of::<Given<OsString>>() {
        flag.value_parser(GivenParser { position, positions, ..Given::<OsString>::value_parser() })
    } else {
        flag
    }
}

/// A value that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    name: String,
    value: String,
    cause: String,
    advice: String,
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, value, cause, advice } = self;
        write!(formatter, "{name} {value:?}: {cause}; {advice}")
    }
}

impl std::error::Error for Error {}

/// A value of a flag of this name, for tests of what reads it.
#[cfg(test)]
pub(crate) fn given(source: ValueSource, long: &'static str, text: &str) -> Given {
    let flag = Arg::new(long).long(long).env(format!("REBORN_{}", long.to_uppercase()));
    Given { text: text.to_owned(), name: source.name(&flag), source }
}
