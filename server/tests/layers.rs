//! Dependencies between modules run one way, downwards: what ARCHITECTURE.md says of it, read from the sources.
//!
//! Each file is a module, and what its `use` declarations and paths lead to are its imports; a file that declares a module
//! is taken to use it. A file that has nothing for others, but a part of the implementation of its parent's types, counts as
//! its parent. Tests within a file may import what they like.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Each module at the top of the server, and the others of them that it may import.
const LAYERS: [(&str, &[&str]); 15] = [
    ("program", &["app", "config", "http", "logging", "moving", "service", "threads", "tls", "version"]),
    ("service", &["config", "http", "lock", "logging", "moving", "per_team", "threads", "tls", "waits"]),
    ("app", &["config", "http", "lock", "per_team"]),
    ("tls", &["config", "lock"]),
    ("config", &["http"]),
    ("http", &["lock", "per_team", "threads", "waits"]),
    ("lock", &[]),
    ("logging", &["lock", "per_team"]),
    ("moving", &["http"]),
    ("per_team", &[]),
    ("threads", &["lock", "per_team"]),
    ("version", &[]),
    ("waits", &["lock", "per_team"]),
    ("fuzzing", &["config", "http", "moving", "program"]),
    ("guide", &[]),
];

/// What a module of the server imports from nowhere: neither from another crate, nor by way of another module.
const FORBIDDEN: [(&str, &[&str]); 2] = [
    (
        "app",
        &["restart_core", "rustix::net", "rustix::process", "std::net", "crate::http::Drain", "crate::http::Phase"],
    ),
    // Names of signals are numbers, and no call.
    ("config", &["rustix", "std::fs", "std::thread", "std::env", "std::net", "std::process"]),
];

/// What is no call although it stands among calls.
const HARMLESS: [&str; 1] = ["rustix::process::Signal"];

/// The modules of a crate, each with the paths that it imports, and those that are parts of their parents.
struct Crate(BTreeMap<String, BTreeSet<String>>, BTreeSet<String>);

impl Crate {
    /// Reads the sources in a folder beside this crate's.
    fn read(folder: &str) -> Crate {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder).join("src");
        let mut texts = BTreeMap::new();
        let mut folders = vec![root.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).expect("a folder of sources") {
                let path = entry.expect("a file").path();
                match path.extension() {
                    _ if path.is_dir() => folders.push(path),
                    Some(kind) if kind == "rs" => {
                        texts.insert(module(&root, &path), fs::read_to_string(&path).expect("a source is text"));
                    }
                    _ => {}
                }
            }
        }
        texts.remove("main");
        let tests: Vec<_> = texts.iter().flat_map(|(name, text)| test_modules(name, text)).collect();
        let is_test = |name: &str| tests.iter().any(|test| name == test || name.starts_with(&format!("{test}::")));
        let shows = |text: &str| text.lines().any(|line| line.starts_with("pub"));
        let is_part = |name: &str, text: &str| name.contains("::") && !shows(text);
        let parts = texts.iter().filter(|(name, text)| is_part(name, text)).map(|(name, _)| name.clone()).collect();
        let modules = texts.iter().filter(|(name, _)| !is_test(name));
        Crate(modules.map(|(name, text)| (name.clone(), imports(text))).collect(), parts)
    }

    /// The module that one counts as.
    fn whole<'a>(&self, mut name: &'a str) -> &'a str {
        while self.1.contains(name) {
            name = name.rsplit_once("::").map_or("", |(parent, _)| parent);
        }
        name
    }

    /// The module that a path in another one leads to, if it is one of this crate.
    fn target(&self, from: &str, path: &str) -> Option<String> {
        let mut segments = path.split("::").peekable();
        let mut at: Vec<&str> = match segments.peek()? {
            &"crate" => vec![],
            &("self" | "super") => from.split("::").filter(|name| !name.is_empty()).collect(),
            child if self.0.contains_key(&below(from, child)) => {
                from.split("::").filter(|name| !name.is_empty()).collect()
            }
            _ => return None,
        };
        for segment in segments {
            match segment {
                "crate" | "self" => {}
                "super" => _ = at.pop(),
                name if self.0.contains_key(&below(&at.join("::"), name)) => at.push(name),
                _ => break,
            }
        }
        Some(at.join("::"))
    }

    /// Each module with those that it imports.
    fn graph(&self) -> BTreeMap<&str, BTreeSet<String>> {
        let mut graph: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
        for (name, paths) in &self.0 {
            let from = self.whole(name);
            let targets = paths.iter().filter_map(|path| self.target(name, path));
            let targets = targets.map(|to| self.whole(&to).to_owned()).filter(|to| to != from);
            graph.entry(from).or_default().extend(targets);
        }
        graph
    }
}

fn below(module: &str, name: &str) -> String {
    if module.is_empty() { name.to_owned() } else { format!("{module}::{name}") }
}

/// The name of the module in a file: `service::access` for `service/access.rs`, nothing for `lib.rs`.
fn module(root: &Path, path: &Path) -> String {
    let relative: PathBuf = path.strip_prefix(root).expect("it is in there").with_extension("");
    let mut names: Vec<_> = relative.iter().map(|name| name.to_str().expect("names are text")).collect();
    if matches!(names.last(), Some(&("mod" | "lib"))) {
        names.pop();
    }
    names.join("::")
}

/// The modules in files of their own that are declared for tests only.
fn test_modules(name: &str, text: &str) -> Vec<String> {
    let lines: Vec<_> = text.lines().collect();
    let declared = lines.windows(2).filter(|pair| pair[0].trim() == "#[cfg(test)]").filter_map(|pair| {
        let declared = pair[1].trim().trim_start_matches("pub(crate) ").trim_start_matches("pub(super) ");
        declared.strip_prefix("mod ")?.strip_suffix(';')
    });
    declared.map(|child| below(name, child)).collect()
}

/// The paths that a source imports or names: all of its declarations, each name in braces by itself.
fn imports(text: &str) -> BTreeSet<String> {
    let text = text.split("\nmod tests {").next().unwrap_or_default();
    let code: String = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .fold(String::new(), |code, line| code + line + "\n");
    let mut found = BTreeSet::new();
    for line in code.lines().filter(|line| line.ends_with(';')) {
        let declared =
            line.trim_start_matches("pub ").trim_start_matches("pub(crate) ").trim_start_matches("pub(super) ");
        found.extend(declared.strip_prefix("mod ").and_then(|rest| rest.strip_suffix(';')).map(str::to_owned));
    }
    let mut plain = String::new();
    let mut rest = code.as_str();
    while let Some((before, declared)) = next_declaration(rest) {
        plain.push_str(before);
        let (tree, after) = declared.split_once(';').unwrap_or((declared, ""));
        expand("", tree, &mut found);
        rest = after;
    }
    plain.push_str(rest);
    for root in ["crate::", "super::", "restart_core::", "rustix::", "std::"] {
        for (at, _) in plain.match_indices(root) {
            let path =
                plain[at..].split(|character: char| !character.is_alphanumeric() && !"_:".contains(character)).next();
            found.extend(path.map(|path| path.trim_end_matches(':').to_owned()));
        }
    }
    found
}

/// What comes before the next `use`, and what behind it.
fn next_declaration(code: &str) -> Option<(&str, &str)> {
    let starts = code.match_indices("use ").map(|(at, _)| at);
    let at = starts.into_iter().find(|at| {
        let line = code[..*at].rsplit('\n').next().unwrap_or_default().trim_start();
        line.is_empty() || line.starts_with("pub")
    })?;
    Some((&code[..at], &code[at + 4..]))
}

/// Splits a tree of `use` into its paths.
fn expand(prefix: &str, tree: &str, found: &mut BTreeSet<String>) {
    let tree = tree.trim();
    let Some((head, rest)) = tree.split_once('{') else {
        let path = tree.split(" as ").next().unwrap_or_default().trim();
        if !path.is_empty() {
            found.insert(format!("{prefix}{path}"));
        }
        return;
    };
    let inner = rest.rsplit_once('}').map_or(rest, |(inner, _)| inner);
    let (mut depth, mut start) = (0, 0);
    for (at, character) in inner.char_indices() {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                expand(&format!("{prefix}{head}"), &inner[start..at], found);
                start = at + 1;
            }
            _ => {}
        }
    }
    expand(&format!("{prefix}{head}"), &inner[start..], found);
}

/// All modules that one leads to, by any number of imports.
fn reached<'a>(graph: &'a BTreeMap<&str, BTreeSet<String>>, from: &str) -> BTreeSet<&'a str> {
    let mut found = BTreeSet::new();
    let mut next: Vec<&str> = graph[from].iter().map(String::as_str).collect();
    while let Some(name) = next.pop() {
        if found.insert(name) {
            next.extend(graph[name].iter().map(String::as_str));
        }
    }
    found
}

/// The imports that close a circle, each as `FROM -> TO`.
fn circles(code: &Crate) -> Vec<String> {
    let graph = code.graph();
    let all: BTreeMap<&str, BTreeSet<&str>> = graph.keys().map(|name| (*name, reached(&graph, name))).collect();
    let closing = |from: &str, to: &str| all[to].contains(from);
    let edges = graph.iter().flat_map(|(from, targets)| targets.iter().map(move |to| (*from, to)));
    edges.filter(|(from, to)| closing(from, to)).map(|(from, to)| format!("{from} -> {to}")).collect()
}

#[test]
fn no_module_of_the_server_imports_one_above_it() {
    let server = Crate::read("server");
    let top = |name: &str| name.split("::").next().unwrap_or_default().to_owned();
    let mut wrong = vec![];
    for (from, targets) in server.graph() {
        let layer = top(from);
        if layer.is_empty() {
            continue;
        }
        let (_, allowed) =
            LAYERS.iter().find(|(name, _)| *name == layer).unwrap_or_else(|| panic!("{layer} has no layer"));
        let others = targets.iter().filter(|to| top(to) != layer && !allowed.contains(&top(to).as_str()));
        wrong.extend(others.map(|to| format!("{from} -> {to}")));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn what_is_pure_imports_no_system_calls_and_the_application_no_generations() {
    let server = Crate::read("server");
    let is_below = |path: &str, forbidden: &str| path == forbidden || path.starts_with(&format!("{forbidden}::"));
    let mut wrong = vec![];
    for (layer, forbidden) in FORBIDDEN {
        for (name, paths) in server.0.iter().filter(|(name, _)| is_below(name, layer)) {
            let paths = paths.iter().filter(|path| forbidden.iter().any(|forbidden| is_below(path, forbidden)));
            let paths = paths.filter(|path| !HARMLESS.iter().any(|harmless| is_below(path, harmless)));
            wrong.extend(paths.map(|path| format!("{name} imports {path}")));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn no_modules_import_each_other() {
    let found = ["server", "restart-core"].map(|folder| circles(&Crate::read(folder))).concat();
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn what_a_source_imports_is_read_from_it() {
    let text = "//! crate::no\nmod one;\npub use a::{b, c::{self, D as E}};\nfn f() { crate::x::y() }\n#[cfg(test)]\nmod tests {\n    use no::No;\n}\n";
    let found: Vec<_> = imports(text).into_iter().collect();
    assert_eq!(found, ["a::b", "a::c::D", "a::c::self", "crate::x::y", "one"]);
    let circular = [("a", "super::b::X"), ("b", "crate::c"), ("c", "crate::a::Y"), ("d", "crate::a")];
    let modules = circular.map(|(name, path)| (name.to_owned(), BTreeSet::from([path.to_owned()])));
    assert_eq!(circles(&Crate(modules.into(), BTreeSet::new())), ["a -> b", "b -> c", "c -> a"]);
}
