//! The configuration file: TOML, whose keys are the flags of `serve` without their dashes.
//!
//! It owns how the file is read and where each value stands in it. What clap knows as a flag is a key here, so that a
//! flag cannot lack one; a value becomes the text that would have been typed, and is checked like one. A `[[site]]` table is a
//! file within the file, whose keys are those flags that say what a site is.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use clap::{Arg, Args, Command as Clap, FromArgMatches};
use toml::de::{DeTable, DeValue};

use super::tables::{self, Placed};
use crate::config::{FilePosition, HostedArgs, ServeArgs, with_file_value};
use crate::program::configuration::cause;
use crate::program::package::Package;

/// A longer file is no configuration.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// The tables that are a site each.
const SITES: &str = "site";

/// How alike an unknown key and a known one must be for a suggestion (`strsim::jaro_winkler`).
const ALIKE: f64 = 0.8;

/// What a configuration file says.
#[derive(Clone, Debug, Default)]
pub(super) struct File {
    /// By clap's id.
    values: BTreeMap<String, Entry>,
    /// The tables of sites, each with where it begins and as a file of its own.
    sites: Vec<(FilePosition, File)>,
}

/// What stands behind a key.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) position: FilePosition,
    pub(super) texts: Vec<Placed>,
}

/// A file that is being read: where it is, and its text.
struct Source<'a> {
    path: Arc<str>,
    text: &'a str,
    package: &'a Package,
}

impl File {
    /// Reads a file whose keys are the flags of `serve`. The error names the file, the line, the key, and what would be
    /// right.
    pub(super) fn read(path: &Path, serve: &Clap, package: &Package) -> Result<File, String> {
        let shown = path.display();
        let text = contents(path).map_err(|cause| format!("{shown}: {cause}"))?;
        File::parse(&shown.to_string(), &text, serve, package)
    }

    pub(super) fn parse(path: &str, text: &str, serve: &Clap, package: &Package) -> Result<File, String> {
        let source = Source { path: path.into(), text, package };
        let table = DeTable::parse(text).map_err(|error| {
            let position = source.position(error.span().map_or(0, |span| span.start));
            format!("{position}: {}; write KEY = VALUE, texts in quotes", one_line(error.message()))
        })?;
        source.file(table.get_ref(), serve)
    }

    /// Where the file gives the value with this id, if it does.
    pub(super) fn position(&self, id: &str) -> Option<FilePosition> {
        self.values.get(id).map(|entry| entry.position.clone())
    }

    /// Where the file gives this value for this id, if it does.
    pub(super) fn position_of(&self, id: &str, value: &str) -> Option<&FilePosition> {
        self.values.get(id)?.texts.iter().find(|(text, _)| text == value).map(|(_, position)| position)
    }

    /// `serve` with what the file says in the place of its defaults: flags and variables win over those by themselves.
    pub(super) fn applied(&self, serve: Clap) -> Clap {
        self.values.iter().fold(serve, |serve, (id, Entry { position, texts })| {
            serve.mut_arg(id, |flag| with_file_value(flag, texts.clone(), position))
        })
    }

    /// The sites that it has tables for.
    pub(super) fn sites(&self) -> Result<Vec<HostedArgs>, clap::Error> {
        let site = |(_, file): &(FilePosition, File)| {
            let matches = file.applied(site_command()).try_get_matches_from([SITES])?;
            HostedArgs::from_arg_matches(&matches)
        };
        self.sites.iter().map(site).collect()
    }

    /// The tables of sites, each with where it begins, and the keys in it with what stands behind them.
    pub(super) fn site_tables(&self) -> impl Iterator<Item = (&FilePosition, impl Iterator<Item = (Arg, &Entry)>)> {
        self.sites.iter().map(|(position, file)| {
            let keys: Vec<Arg> = keys(&site_command()).cloned().collect();
            let entries = keys.into_iter().filter_map(|key| {
                let entry = file.values.get(key.get_id().as_str())?;
                Some((key, entry))
            });
            (position, entries)
        })
    }
}

impl Source<'_> {
    fn position(&self, at: usize) -> FilePosition {
        FilePosition::new(Arc::clone(&self.path), 1 + self.text[..at].matches('\n').count())
    }

    /// What the table of the file, or of a site, says: its keys are the flags of this command.
    fn file(&self, table: &DeTable<'_>, command: &Clap) -> Result<File, String> {
        let mut file = File::default();
        for (key, value) in table {
            let (name, position) = (key.get_ref(), self.position(key.span().start));
            let refuse = |cause: String| format!("{position}: {name}: {cause}");
            let placed = |at: usize| self.position(at);
            if name == tables::PAIRS && command.get_name() != SITES {
                for (id, texts) in tables::pairs(value.get_ref(), placed).map_err(refuse)? {
                    let entry = Entry { position: position.clone(), texts };
                    if file.values.insert(id.to_owned(), entry).is_some() {
                        return Err(refuse(tables::both_ways(id)));
                    }
                }
            } else if name == SITES && command.get_name() != SITES && self.package.has_default_app {
                file.sites = self.sites(value.get_ref()).map_err(|error| error.unwrap_or_else(refuse))?;
            } else if let Some(flag) = keys(command).find(|flag| flag.get_long() == Some(name)) {
                let texts = tables::texts(flag, value, placed).map_err(refuse)?;
                if file.values.insert(flag.get_id().to_string(), Entry { position: position.clone(), texts }).is_some()
                {
                    return Err(refuse(tables::both_ways(flag.get_id().as_str())));
                }
            } else {
                return Err(format!("{position}: unknown key {name:?}; {}", suggestion(name, command, self.package)));
            }
        }
        Ok(file)
    }

    /// The sites of an array of tables. An error says by itself where it is, or else why the array is none.
    fn sites(&self, value: &DeValue<'_>) -> Result<Vec<(FilePosition, File)>, Result<String, String>> {
        const ADVICE: &str = "write a [[site]] table for each, with host = [...] and root = DIR";
        let none = || Err(format!("no array of tables; {ADVICE}"));
        let DeValue::Array(tables) = value else { return Err(none()) };
        let mut sites = vec![];
        for table in tables {
            let position = self.position(table.span().start);
            let DeValue::Table(table) = table.get_ref() else { return Err(none()) };
            // One for no host at all would be answered for none, unless it is the first.
            if table.get("host").is_none_or(|hosts| matches!(hosts.get_ref(), DeValue::Array(all) if all.is_empty())) {
                return Err(Ok(format!("{position}: {SITES}: a table has no host; {ADVICE}")));
            }
            sites.push((position, self.file(table, &site_command()).map_err(Ok)?));
        }
        Ok(sites)
    }
}

/// The keys of a site's table, as the flags of a command that nobody can type: no variable speaks of them.
fn site_command() -> Clap {
    HostedArgs::augment_args(Clap::new(SITES)).mut_args(|flag| flag.env(None::<&'static str>))
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

fn suggestion(unknown: &str, serve: &Clap, package: &Package) -> String {
    let alike = |key: &str| strsim::jaro_winkler(unknown, key);
    let nearest = keys(serve).filter_map(Arg::get_long).max_by(|one, other| alike(one).total_cmp(&alike(other)));
    let is_common =
        |key: &str| keys(&ServeArgs::augment_args(Clap::new("serve"))).any(|flag| flag.get_long() == Some(key));
    match nearest.filter(|key| alike(key) >= ALIKE) {
        _ if serve.get_name() == SITES && is_common(unknown) => {
            "it is about the whole server: write it above the first table".to_owned()
        }
        Some(key) => format!("did you mean {key:?}?"),
        None if serve.get_name() == SITES => {
            format!("the keys of a site are {}", keys(serve).filter_map(Arg::get_long).collect::<Vec<_>>().join(", "))
        }
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

    fn joined(entry: &Entry) -> String {
        entry.texts.iter().map(|(text, _)| text.as_str()).collect::<Vec<_>>().join(" ")
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
            file.values.iter().map(|(id, entry)| (id.as_str(), entry.position.to_string(), joined(entry))).collect();
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
        let texts = |id: &str| joined(&file.values[id]);
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
