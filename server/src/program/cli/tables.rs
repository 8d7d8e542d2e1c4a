//! Values of the configuration file as the texts that would have been typed, each with its place: single ones, arrays, and
//! the tables that say some of them better.
//!
//! `[[tls]]` has a certificate and its key, which are two lists of flags; `[[redirect]]` and `[[headers]]` have the words of one
//! rule, or of several, by name; `[types]` has a type behind each extension. Nothing is decided here about what they say.

use clap::{Arg, ArgAction};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::config::FilePosition;

/// A text with where it stands.
pub(super) type Placed = (String, FilePosition);

/// The tables that each give a certificate and its key, and the flags that their keys stand for.
pub(super) const PAIRS: &str = "tls";
const PAIR: [(&str, &str); 2] = [("certificate", "tls_certificate"), ("key", "tls_key")];

/// The texts that a value stands for. `position` knows the line of a place in the file.
pub(super) fn texts(
    flag: &Arg,
    value: &Spanned<DeValue<'_>>,
    position: impl Fn(usize) -> FilePosition,
) -> Result<Vec<Placed>, String> {
    let id = flag.get_id().as_str();
    let is_list = matches!(flag.get_action(), ArgAction::Append);
    match value.get_ref() {
        DeValue::Array(values) if is_list => {
            let mut texts = vec![];
            for value in values {
                let at = position(value.span().start);
                let more = match (value.get_ref(), id) {
                    (DeValue::Table(table), "redirect") => vec![redirect(table)?],
                    (DeValue::Table(table), "headers") => headers(table)?,
                    (value, _) => vec![text(value)?],
                };
                texts.extend(more.into_iter().map(|text| (text, at.clone())));
            }
            Ok(texts)
        }
        DeValue::Table(table) if id == "types" => {
            let of = |(key, value): (&Spanned<_>, &Spanned<DeValue<'_>>)| {
                let text = text(value.get_ref())?;
                Ok((format!("{}={text}", key.get_ref()), position(key.span().start)))
            };
            table.iter().map(of).collect()
        }
        value_ref => Ok(vec![(text(value_ref)?, position(value.span().start))]),
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

/// A rule of `from`, `to` and `status` in one line.
fn redirect(table: &DeTable<'_>) -> Result<String, String> {
    const ADVICE: &str = "write from = PATH, to = PATH or URL, and perhaps status = 301";
    known(table, &["from", "to", "status"], ADVICE)?;
    let word = |key: &str| table.get(key).map(|value| text(value.get_ref())).transpose();
    let needed = |key: &str| word(key)?.ok_or_else(|| format!("a table has no {key}; {ADVICE}"));
    let words = [Some(needed("from")?), Some(needed("to")?), word("status")?];
    Ok(words.into_iter().flatten().map(|word| unspaced(&word)).collect::<Vec<_>>().join(" "))
}

/// The rules of one `path`: what is removed, and what is set.
fn headers(table: &DeTable<'_>) -> Result<Vec<String>, String> {
    const ADVICE: &str = "write path = PATTERN, set = { NAME = VALUE }, remove = [NAME]";
    known(table, &["path", "set", "remove"], ADVICE)?;
    let path = table.get("path").ok_or_else(|| format!("a table has no path; {ADVICE}"))?;
    let path = unspaced(&text(path.get_ref())?);
    let mut rules = vec![];
    match table.get("remove").map(Spanned::get_ref) {
        None => {}
        Some(DeValue::Array(names)) => {
            for name in names {
                rules.push(format!("{path} ! {}", text(name.get_ref())?));
            }
        }
        Some(name) => rules.push(format!("{path} ! {}", text(name)?)),
    }
    match table.get("set").map(Spanned::get_ref) {
        None => {}
        Some(DeValue::Table(set)) => {
            for (name, value) in set {
                rules.push(format!("{path} {}: {}", name.get_ref(), text(value.get_ref())?));
            }
        }
        Some(_) => return Err(format!("set is no table; {ADVICE}")),
    }
    if rules.is_empty() { Err(format!("a table neither sets nor removes a header; {ADVICE}")) } else { Ok(rules) }
}

/// Refuses keys that a table does not have.
fn known(table: &DeTable<'_>, keys: &[&str], advice: &str) -> Result<(), String> {
    match table.keys().find(|key| !keys.contains(&&**key.get_ref())) {
        Some(key) => Err(format!("unknown key {:?}; {advice}", key.get_ref())),
        None => Ok(()),
    }
}

/// A word of a rule, in which a space is written as in a URL.
fn unspaced(word: &str) -> String {
    word.replace(' ', "%20")
}

/// What the tables give for each key of a pair, with the flag that it is.
pub(super) fn pairs(
    value: &DeValue<'_>,
    position: impl Fn(usize) -> FilePosition,
) -> Result<[(&'static str, Vec<Placed>); 2], String> {
    const ADVICE: &str = "write a [[tls]] table for each certificate, with certificate = FILE and key = FILE";
    let DeValue::Array(tables) = value else { return Err(format!("no array of tables; {ADVICE}")) };
    let mut pairs = PAIR.map(|(_, id)| (id, vec![]));
    for table in tables {
        let DeValue::Table(table) = table.get_ref() else { return Err(format!("no array of tables; {ADVICE}")) };
        known(table, &PAIR.map(|(key, _)| key), ADVICE)?;
        for ((name, _), (_, texts)) in PAIR.iter().zip(&mut pairs) {
            let value = table.get(*name).ok_or_else(|| format!("a table has no {name}; {ADVICE}"))?;
            texts.push((text(value.get_ref())?, position(value.span().start)));
        }
    }
    Ok(pairs)
}

/// Why a flag is refused that has a key of its own as well.
pub(super) fn both_ways(id: &str) -> String {
    format!(
        "there is {:?} as well as a [[{PAIRS}]] table; write all certificates in one of the two ways",
        id.replace('_', "-")
    )
}
