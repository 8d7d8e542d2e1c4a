//! Makes the man pages and the shell completions of `reborn` from its command line, so that they cannot differ from it.
//!
//!     cargo run --package server --example pages -- DIR
//!
//! DIR gets `reborn.1` and a page for each command, `reborn.toml.5`, a `reborn.toml` that says what it could say, and
//! completions for bash, zsh and fish.

use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

use clap::Arg;
use clap_complete::Shell;
use clap_mangen::roff::{Roff, bold, italic, roman};
use server::cli;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = PathBuf::from(env::args_os().nth(1).ok_or("usage: pages DIR")?);
    fs::create_dir_all(&folder)?;
    clap_mangen::generate_to(cli::command(), &folder)?;
    fs::write(folder.join("reborn.toml.5"), configuration_page())?;
    fs::write(folder.join("reborn.toml"), configuration_file())?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut cli::command(), "reborn", &folder)?;
    }
    Ok(())
}

/// The page about the configuration file: each key with its flag's own words.
fn configuration_page() -> String {
    let command = cli::command();
    let serve = command.find_subcommand("serve").expect("it is the command that serves");
    let mut page = Roff::new();
    page.control("TH", ["reborn.toml", "5", "", &format!("reborn {}", server::VERSION), "File formats"]);
    page.control("SH", ["NAME"]);
    page.text([roman("reborn.toml - the configuration file of reborn(1)")]);
    page.control("SH", ["DESCRIPTION"]);
    page.text([
        roman("A TOML file, named by "),
        bold("--config"),
        roman(" or by the variable REBORN_CONFIG. Each key is a flag of "),
        bold("reborn serve"),
        roman(
            " without its dashes; a flag wins over its variable, and a variable over the file. Each generation reads",
        ),
        roman(" the file afresh, so a reload changes the configuration; a file that is refused fails the reload, and"),
        roman(" nothing else. "),
        bold("reborn check --config FILE"),
        roman(" shows what holds, and from where."),
    ]);
    page.control("SH", ["KEYS"]);
    let mut heading = None;
    for key in cli::keys(serve) {
        if key.get_help_heading() != heading {
            heading = key.get_help_heading();
            page.control("SS", heading);
        }
        let default = default_of(key).map(|default| format!(" [default: {default}]")).unwrap_or_default();
        page.control("TP", []);
        page.text([bold(key.get_long().unwrap_or_default()), roman(" = "), italic(value_of(key))]);
        page.text([roman(format!("{}{default}", help_of(key)))]);
    }
    page.control("SH", ["TABLES"]);
    for (head, about) in TABLES {
        page.control("TP", []);
        page.text([bold(head)]);
        page.text([roman(about)]);
    }
    page.control("SH", ["VALUES"]);
    page.text([roman(
        "Durations (\"300ms\", \"1m30s\"), sizes (\"16KiB\") and addresses (\"web=0.0.0.0:80\") are texts in quotes; numbers \
         and true or false may stand without them; keys that may be repeated take an array.",
    )]);
    page.control("SH", ["EXAMPLE"]);
    page.control("EX", []);
    for line in [
        "root = \"/srv/www\"",
        "listen = [\"web=0.0.0.0:80\", \"local=unix:/run/reborn/web.sock\"]",
        "drain-timeout = \"1h\"",
        "",
        "[[headers]]",
        "path = \"/assets/*\"",
        "set = { Cache-Control = \"max-age=31536000, immutable\" }",
        "",
        "[[redirect]]",
        "from = \"/old/*\"",
        "to = \"/new/:splat\"",
        "",
        "[[site]]",
        "host = [\"example.com\", \"*.example.com\"]",
        "root = \"/srv/example.com\"",
    ] {
        page.text([roman(line)]);
    }
    page.control("EE", []);
    page.control("SH", ["SEE ALSO"]);
    page.text([bold("reborn"), roman("(1)")]);
    page.render()
}

/// Tables that say some keys better, and sites, which only they can say.
const TABLES: [(&str, &str); 5] = [
    (
        "[[headers]]",
        "The same as headers: the answers for path (an asterisk stands for any characters, ** as well; {a,b} for either) get what \
         set = { NAME = \"VALUE\" } says, and lose what remove = [\"NAME\"] names. Tables are obeyed from the first to the last. What \
         is said of a file (Cache-Control, Expires, Content-Type and the like) is not said of an error.",
    ),
    (
        "[[redirect]]",
        "The same as redirect: a request for from is sent to to, a path of this site or a URL, with status (301; 302, 303, 307 \
         or 308), whatever file may be there. A :name in from stands for one name, * at its end for the rest, which is called \
         :splat in to. The query is kept. The first one that is about a path holds.",
    ),
    ("[types]", "The same as types: EXTENSION = \"TYPE/SUBTYPE\"."),
    (
        "[[site]]",
        "A site for the hosts in host = [\"example.org\", \"*.example.org\"], an exact one before those with an asterisk. Its keys \
         are root, redirect, fallback, headers, types, list, compress, etag and follow-symlinks, and its tables [[site.headers]], \
         [[site.redirect]] and [site.types]. Headers and types outside of sites hold for all of them, and so do list, \
         compress, etag and follow-symlinks where a site does not have its own. A root or a redirect outside is a site of its own, for all hosts \
         that no table names; without it these get the first table's.",
    ),
    ("[[tls]]", "A certificate and its key: certificate = FILE, key = FILE."),
];

/// The same, ready to be used, with what caches are best told.
const TABLES_COMMENT: &str = r#"
# ---- Tables, below all keys

# Headers by path, from the first to the last. What a browser may keep, and for how long, is the first that pays:
# - files whose names have a hash of their content never change: a year, without a question
# - pages change under their name: to be kept, and asked for again each time (304, a few hundred bytes)
# - without a word, as by default, browsers guess, from a tenth of a file's age on
#[[headers]]
#path = "/*"
#set = { Cache-Control = "no-cache" }
#[[headers]]
#path = "/assets/*"
#set = { Cache-Control = "public, max-age=31536000, immutable" }
#remove = []

# What has moved. A :name stands for one name, * for the rest, which is called :splat.
#[[redirect]]
#from = "/old/*"
#to = "/new/:splat"
#status = 301

# Media types by extension.
#[types]
#glb = "model/gltf-binary"

# Further sites, by host. What stands above is for all hosts that no table names.
#[[site]]
#host = ["example.org", "*.example.org"]
#root = "/srv/example.org"
#[[site.redirect]]
#from = "/a"
#to = "/b"

# Certificates: a table for each, in the place of tls-certificate and tls-key.
#[[tls]]
#certificate = "/etc/letsencrypt/live/NAME/fullchain.pem"
#key = "/etc/letsencrypt/live/NAME/privkey.pem"
"#;

/// A configuration that changes nothing yet: each key as a comment, with its default, or what it would be given.
fn configuration_file() -> String {
    let command = cli::command();
    let serve = command.find_subcommand("serve").expect("it is the command that serves");
    let mut text = "\
# The configuration of reborn, reborn.toml(5). After a change:
#   reborn check --config FILE      says what holds, and from where, or what is wrong
#   systemctl reload reborn         uses it; where it is refused, the running server goes on as it is
"
    .to_owned();
    let mut heading = None;
    for key in cli::keys(serve) {
        if key.get_help_heading() != heading {
            heading = key.get_help_heading();
            text += &format!("\n# ---- {}\n", heading.unwrap_or_default());
        }
        let value = default_of(key).unwrap_or_else(|| value_of(key));
        text += &format!("\n# {}\n#{} = {value:?}\n", help_of(key), key.get_long().unwrap_or_default());
    }
    text + TABLES_COMMENT
}

fn help_of(key: &Arg) -> String {
    key.get_help().map(ToString::to_string).unwrap_or_default()
}

/// What stands for its value in the help.
fn value_of(key: &Arg) -> String {
    key.get_value_names().into_iter().flatten().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

fn default_of(key: &Arg) -> Option<String> {
    key.get_default_values().first().map(|value| value.to_string_lossy().into_owned())
}
