//! The configuration file: TOML, whose keys are the flags of `serve` without their dashes.
//!
//! It owns how the file is read and where each value stands in it. What clap knows as a flag is a key here, so that a
//! flag cannot lack one; a value becomes the text that would have been typed, and is checked like one. Where two flags are
//! lists that belong together, a table for each pair says it better: `[[tls]]`.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use clap::{Arg, ArgAction, Command as Clap};
use toml::de::{DeTable, DeValue};

use crate::config::{FilePosition, with_file_value};
use crate::program::configuration::cause;
use crate::program::package::Package;

/// A longer file is no configuration.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// The tables that each give a certificate and its key, and the flags that their keys stand for.
const PAIRS: &str = "tls";
const PAIR: [(&str, &str); 2] = [("certificate", "tls_certificate"), ("key", "tls_key")];

/// How alike an unknown key and a known one must be for a suggestion (`strsim::jaro_winkler`).
const ALIKE: f64 = 0.8;

/// What a configuration file says, by clap's id.
#[derive(Clone, Debug)]
pub(super) struct File(BTreeMap<String, (FilePosition, Vec<String>)>);

impl File {
    /// Reads a file whose keys are the flags of `serve`. The error names the file, the line, the key, and what would be
    /// right.
    pub(super) fn read(path: &Path, serve: &Clap, package: &Package) -> Result<File, String> {
        let shown = path.display();
        let text = contents(path).map_err(|cause| format!("{shown}: {cause}"))?;
        File::parse(&shown.to_string(), &text, serve, package)
    }

    pub(super) fn parse(path: &str, text: &str, serve: &Clap, package: &Package) -> Result<File, String> {
        let path: Arc<str> = path.into();
        let position = |at: usize| FilePosition::new(Arc::clone(&path), 1 + text[..at].matches('\n').count());
        let table = DeTable::parse(text).map_err(|error| {
            let position = position(error.span().map_or(0, |span| span.start));
            format!("{position}: {}; write KEY = VALUE, texts in quotes", one_line(error.message()))
        })?;
        let mut values = BTreeMap::new();
        for (key, value) in table.get_ref() {
            let position = position(key.span().start);
            if key.get_ref() == PAIRS {
                let pairs = pairs(value.get_ref()).map_err(|cause| format!("{position}: {PAIRS}: {cause}"))?;
                for ((_, id), texts) in PAIR.into_iter().zip(pairs) {
                    if values.insert(id.to_owned(), (position.clone(), texts)).is_some() {
                        return Err(format!("{position}: {PAIRS}: {}", both_ways(id)));
                    }
                }
                continue;
            }
            let Some(flag) = keys(serve).find(|flag| flag.get_long() == Some(key.get_ref())) else {
                return Err(format!(
                    "{position}: unknown key {:?}; {}",
                    key.get_ref(),
                    suggestion(key.get_ref(), serve, package)
                ));
            };
            let texts =
                texts(flag, value.get_ref()).map_err(|cause| format!("{position}: {}: {cause}", key.get_ref()))?;
            let id = flag.get_id().to_string();
            if values.contains_key(&id) {
                return Err(format!("{position}: {}: {}", key.get_ref(), both_ways(&id)));
            }
            values.insert(id, (position, texts));
        }
        Ok(File(values))
    }

    /// Where the file gives the value with this id, if it does.
    pub(super) fn position(&self, id: &str) -> Option<FilePosition> {
        self.0.get(id).map(|(position, _)| position.clone())
    }

    /// Where the file gives this value for this id, if it does.
    pub(super) fn position_of(&self, id: &str, value: &str) -> Option<&FilePosition> {
        let (position, texts) = self.0.get(id)?;
        texts.iter().any(|text| text == value).then_some(position)
    }

    /// `serve` with what the file says in the place of its defaults: flags and variables win over those by themselves.
    pub(super) fn applied(&self, serve: Clap) -> Clap {
        self.0.iter().fold(serve, |serve, (id, (position, texts))| {
            serve.mut_arg(id, |flag| with_file_value(flag, texts.clone(), position))
        })
    }
}

/// The flags of `serve` that are keys of the file: all but the one that names the file, those without a value, and those
/// that the help does not show.
pub fn keys(serve: &Clap) -> impl Iterator<Item = &Arg> {
    serve
        .get_arguments()
        .filter(|flag| flag.get_long().is_some() && flag.get_action().takes_values())
        .filter(|flag| flag.get_id() != "config" && !flag.is_hide_set())
}

fn contents(path: &Path) -> Result<String, String> {
    const ADVICE: &str = "give a TOML file with --config, or leave it out";
    let refuse = |cause: String| format!("the configuration cannot be read: {cause}; {ADVICE}");
    // A pipe would wait for a writer, and the next generation would find it empty.
    if !fs::metadata(path).map_err(|error| refuse(cause(path, &error)))?.is_file() {
        return Err(refuse("it is no regular file".to_owned()));
    }
    let mut bytes = Vec::new();
    let read = fs::File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes));
    read.map_err(|error| refuse(cause(path, &error)))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(refuse(format!("it is longer than {FILE_BYTES_MAX} bytes")));
    }
    String::from_utf8(bytes).map_err(|error| refuse(format!("it is no text ({})", error.utf8_error())))
}

/// A value as it would have been typed.
fn texts(flag: &Arg, value: &DeValue<'_>) -> Result<Vec<String>, String> {
    let is_list = matches!(flag.get_action(), ArgAction::Append);
    match value {
        DeValue::Array(values) if is_list => values.iter().map(|value| text(value.get_ref())).collect(),
        value => text(value).map(|text| vec![text]),
    }
}

fn text(value: &DeValue<'_>) -> Result<String, String> {
    match value {
        DeValue::String(text) => Ok(text.to_string()),
        DeValue::Boolean(value) => Ok(value.to_string()),
        DeValue::Integer(number) => Ok(number.to_string()),
        other => {
            Err(format!("no value of type {} fits; write a text in quotes, a number, true or false", other.type_str()))
        }
    }
}

/// What the tables give for each key of a pair.
fn pairs(value: &DeValue<'_>) -> Result<[Vec<String>; 2], String> {
    const ADVICE: &str = "write a [[tls]] table for each certificate, with certificate = FILE and key = FILE";
    let DeValue::Array(tables) = value else { return Err(format!("no array of tables; {ADVICE}")) };
    let mut pairs = [vec![], vec![]];
    for table in tables {
        let DeValue::Table(table) = table.get_ref() else { return Err(format!("no array of tables; {ADVICE}")) };
        if let Some(key) = table.keys().find(|key| !PAIR.iter().any(|(name, _)| key.get_ref() == name)) {
            return Err(format!("unknown key {:?}; {ADVICE}", key.get_ref()));
        }
        for ((name, _), texts) in PAIR.iter().zip(&mut pairs) {
            let value = table.get(*name).ok_or_else(|| format!("a table has no {name}; {ADVICE}"))?;
            texts.push(text(value.get_ref())?);
        }
    }
    Ok(pairs)
}

/// Why a pair's flag is refused that has a key of its own as well.
fn both_ways(id: &str) -> String {
    format!(
        "there is {:?} as well as a [[{PAIRS}]] table; write all certificates in one of the two ways",
        id.replace('_', "-")
    )
}

fn suggestion(unknown: &str, serve: &Clap, package: &Package) -> String {
    let alike = |key: &str| strsim::jaro_winkler(unknown, key);
    let nearest = keys(serve).filter_map(Arg::get_long).max_by(|one, other| alike(one).total_cmp(&alike(other)));
    match nearest.filter(|key| alike(key) >= ALIKE) {
        Some(key) => format!("did you mean {key:?}?"),
        None => package.named("the keys are the flags of `reborn help serve` without their dashes"),
    }
}

fn one_line(text: &str) -> String {
    text.lines().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<File, String> {
        File::parse(
            "reborn.toml",
            text,
            super::super::command::command().find_subcommand("serve").unwrap(),
            &Package::reborn(),
        )
    }

    #[track_caller]
    fn assert_refused(text: &str, expected: &str) {
        let error = parse(text).unwrap_err();
        assert!(error.starts_with(expected) && error.contains("; "), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }

    #[test]
    fn values_become_what_would_have_been_typed_and_know_their_lines() {
        let file = parse(
            "# a comment\nroot = \"/srv/www\"\n\ndemo = true\nconnections = 1_000\nlisten = [\n  \"a=@a\",\n  'b=@b',\n]\n",
        )
        .unwrap();
        let found: Vec<_> =
            file.0.iter().map(|(id, (position, texts))| (id.as_str(), position.to_string(), texts.join(" "))).collect();
        let expected = [
            ("connections", "reborn.toml:5", "1000"),
            ("demo", "reborn.toml:4", "true"),
            ("listen", "reborn.toml:6", "a=@a b=@b"),
            ("root", "reborn.toml:2", "/srv/www"),
        ];
        assert_eq!(found, expected.map(|(id, place, texts)| (id, place.to_owned(), texts.to_owned())));
    }

    #[test]
    fn a_table_for_each_certificate_becomes_two_lists_in_their_order() {
        let file =
            parse("\n[[tls]]\ncertificate = \"a\"\nkey = \"b\"\n[[tls]]\nkey = \"d\"\ncertificate = \"c\"\n").unwrap();
        let texts = |id: &str| file.0[id].1.join(" ");
        assert_eq!((texts("tls_certificate").as_str(), texts("tls_key").as_str()), ("a c", "b d"));
        assert_eq!(file.position("tls_key").unwrap().to_string(), "reborn.toml:2");
        assert_refused("[tls]\nkey = \"x\"", "reborn.toml:1: tls: no array of tables");
        assert_refused("tls = [1]", "reborn.toml:1: tls: no array of tables");
        assert_refused("\n[[tls]]\nkey = \"x\"", "reborn.toml:2: tls: a table has no certificate");
        assert_refused("[[tls]]\ncert = \"x\"", "reborn.toml:1: tls: unknown key \"cert\"");
        assert_refused("tls-key = \"k\"\n[[tls]]\nkey = \"x\"\ncertificate = \"y\"", "reborn.toml:");
    }

    #[test]
    fn a_refusal_names_file_line_and_key_and_says_what_would_be_right() {
        assert_refused("a = 1\n", "reborn.toml:1: unknown key \"a\"; the keys are");
        assert_refused(
            "\ndrain_timeout = \"1s\"\n",
            "reborn.toml:2: unknown key \"drain_timeout\"; did you mean \"drain-timeout\"?",
        );
        assert_refused("probatoin = \"1s\"", "reborn.toml:1: unknown key \"probatoin\"; did you mean \"probation\"?");
        assert_refused("[limits]\nconnections = 1", "reborn.toml:1: unknown key \"limits\"");
        assert_refused("config = \"other.toml\"", "reborn.toml:1: unknown key \"config\"");
        assert_refused("graceful = true", "reborn.toml:1: unknown key \"graceful\"");
        assert_refused("idle-timeout = 1.5", "reborn.toml:1: idle-timeout: no value of type float fits");
        assert_refused("root = [\"a\", \"b\"]", "reborn.toml:1: root: no value of type array fits");
        assert_refused("demo = true\n\ndemo = false", "reborn.toml:3: ");
        assert_refused("root = /srv/www", "reborn.toml:1: ");
        assert_refused("demo = true\nlisten = [\"a\"", "reborn.toml:2: ");
    }

    #[test]
    fn what_is_no_text_file_is_refused_without_waiting_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let serve = super::super::command::command();
        let serve = serve.find_subcommand("serve").unwrap();
        let refused = |path: &Path| File::read(path, serve, &Package::reborn()).unwrap_err();
        let (missing, bytes) = (folder.path().join("missing"), folder.path().join("bytes"));
        fs::write(&bytes, [0xff]).unwrap();
        assert!(refused(&missing).contains("missing: the configuration cannot be read: No such file"));
        assert!(refused(folder.path()).contains("no regular file"));
        assert!(refused(&bytes).contains("no text"));
        assert!(refused(Path::new("/dev/zero")).contains("no regular file"));
        fs::write(&bytes, vec![b'\n'; 1024 * 1024 + 1]).unwrap();
        assert!(refused(&bytes).contains("longer than"));
    }
}
