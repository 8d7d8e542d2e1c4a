//! README.md and deploy/README.md say nothing that was not tried: each command in them is run by a test, or the page
//! itself says what was tried in its place.
//!
//! An indented block of a page holds commands, with `$ ` before each where their output is shown as well; a block between
//! fences holds a file. Words between backticks that begin with a program's name are a command, too. The command lines of
//! `reborn` are run here; where each of the others is run stands in [`PROOFS`], unless one of the tests with systemd has it
//! between quotes.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use tests::{CommandOutput, DEADLINE, Process, Reborn, binary, certificates::Certificate, skip::skip};

/// The programs whose names begin a command.
const PROGRAMS: [&str; 18] = [
    "acme.sh",
    "apt-get",
    "cargo",
    "certbot",
    "curl",
    "dpkg",
    "install",
    "journalctl",
    "just",
    "kill",
    "kubectl",
    "ln",
    "mv",
    "podman",
    "reborn",
    "systemctl",
    "systemd-analyze",
    "systemfd",
];

/// Why a command is taken for tried.
enum Proof {
    /// This file has this text: it runs the command, or what the recipe runs; names the test that does; or was made by it.
    In(&'static str, &'static str),
    /// It is not run, and the page says so in these words.
    Said(&'static str),
}
use Proof::{In, Said};

const PROOFS: [(&str, Proof); 30] = [
    ("acme.sh", Said("acme.sh itself is not run by the tests")),
    ("cargo build --release", In("justfile", "cargo build --release --locked --bin reborn")),
    ("cargo doc --open -p restart-core", In("justfile", "cargo doc --workspace --all-features --no-deps --locked")),
    ("cargo doc --open -p server", In("justfile", "cargo doc --workspace --all-features --no-deps --locked")),
    ("cargo install cargo-deb", In(".ci/run", "need_tool cargo-deb")),
    ("cargo install just", In(".ci/run", "need_tool just")),
    (
        "cargo run -- reload",
        In("restart-core/tests/examples.rs", "fn the_axum_examples_connections_live_through_reloads()"),
    ),
    ("cargo run --release", In("justfile", "cargo run --release --locked -- --version")),
    ("cargo test --workspace", In("justfile", "cargo test --workspace")),
    ("curl", In("tests/tests/documentation.rs", "fn what_the_first_screen_shows_is_what_happens()")),
    ("just abuse", In("tests/tests/abuse.rs", "REBORN_TEST_ABUSE")),
    ("just bench", In("tests/BENCHMARKS.md", "`just bench throughput")),
    ("just ci", In(".ci/run", "exec just ci")),
    ("just deb", In("tests/tests/systemd_package.rs", "fn an_upgrade_of_the_package_reloads_under_load_and_")),
    ("just dev", In("tests/tests/dev.rs", "fn a_change_that_builds_takes_over_and_one_that_does_not_changes_")),
    ("just install", In("tests/tests/systemd_install.rs", "fn what_was_installed_serves_is_upgraded_and_is_removed_")),
    ("just install /usr", In("tests/tests/systemd_install.rs", "fn a_prefix_gets_the_binary_and_units_that_name_it_")),
    ("just test-systemd trixie", Said("which `just ci` leaves out")),
    ("just timeline", In("tests/timeline.svg", "<title>One reload")),
    ("just uninstall", In("tests/tests/systemd_install.rs", "fn a_prefix_gets_the_binary_and_units_that_name_it_")),
    ("kill -9", In("tests/tests/deaths.rs", "Signal::KILL")),
    ("kill -HUP", In("tests/tests/systemd_reload.rs", "fn a_plain_hangup_signal_reloads_as_well()")),
    ("kubectl apply --filename deploy/kubernetes/", Said("they are not run by the tests, which have no cluster")),
    ("kubectl exec POD -- /reborn reload", Said("they are not run by the tests, which have no cluster")),
    ("kubectl rollout restart deployment/reborn", Said("they are not run by the tests, which have no cluster")),
    ("ln -sfn releases/42 /srv/www.new", In("tests/tests/files.rs", "fn a_site_that_is_published_by_a_link_is_seen_")),
    ("mv -T /srv/www.new /srv/www", In("tests/tests/files.rs", "fn a_site_that_is_published_by_a_link_is_seen_")),
    ("podman", Said("These commands are not run by the project's tests")),
    ("systemctl --user", In("tests/tests/systemd_user.rs", r#"["enable", "--now", "reborn.socket"]"#)),
    (
        "systemfd --no-pid",
        In("tests/tests/dev.rs", "fn a_change_that_builds_takes_over_and_one_that_does_not_changes_"),
    ),
];

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A page: its text and the blocks between fences, each with its language in its first line.
struct Page {
    text: String,
    files: Vec<String>,
}

fn pages() -> [Page; 2] {
    ["README.md", "deploy/README.md"].map(|path| {
        let page = read(path);
        let parts: Vec<_> = page.split("\n```").map(str::to_owned).collect();
        assert!(parts.len() % 2 == 1, "{path}: a fence is open");
        let texts = parts.iter().step_by(2).cloned();
        Page { text: texts.collect::<Vec<_>>().join("\n\n"), files: parts.iter().skip(1).step_by(2).cloned().collect() }
    })
}

impl Page {
    fn commands(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for paragraph in self.text.split("\n\n") {
            let lines: Vec<_> = paragraph.lines().filter(|line| !line.is_empty()).collect();
            if lines.iter().all(|line| line.starts_with("    ")) {
                typed(&lines, &mut found);
            } else {
                quoted(paragraph, &mut found);
            }
        }
        found
    }

    fn says(&self, words: &str) -> bool {
        self.text.split_whitespace().collect::<Vec<_>>().join(" ").contains(words)
    }
}

/// The commands of an indented block.
fn typed(lines: &[&str], found: &mut BTreeSet<String>) {
    let has_output = lines.iter().any(|line| line.trim().starts_with("$ "));
    for line in lines.iter().map(|line| line.trim()) {
        let Some(line) = (if has_output { line.strip_prefix("$ ") } else { Some(line) }) else { continue };
        let (commands, comment) = line.split_once("  ").map_or((line, ""), |(commands, comment)| (commands, comment));
        quoted(comment, found);
        for command in commands.split(" && ").map(|command| command.trim_end_matches(" &")) {
            let command = command.strip_prefix("./target/release/").unwrap_or(command);
            let program = command.split(' ').next().unwrap_or_default();
            assert!(PROGRAMS.contains(&program), "is this a command? {line}");
            found.insert(command.to_owned());
        }
    }
}

/// The commands between backticks.
fn quoted(text: &str, found: &mut BTreeSet<String>) {
    let spans: Vec<_> = text.split('`').collect();
    assert!(spans.len() % 2 == 1, "a backtick is open: {text}");
    for span in spans.iter().skip(1).step_by(2) {
        let words: Vec<_> = span.split_whitespace().collect();
        if words.len() > 1 && PROGRAMS.contains(&words[0]) {
            found.insert(words.join(" "));
        }
    }
}

/// The part of the code map in ARCHITECTURE.md that is about this folder.
fn code_map(folder: &str) -> String {
    let page = read("ARCHITECTURE.md");
    let (_, map) = page.split_once("\n## Code map\n").expect("it has a code map");
    let mut lines = map.lines().skip_while(|line| line.trim() != folder);
    assert!(lines.next().is_some(), "the code map has no {folder}");
    lines.take_while(|line| line.starts_with("      ")).collect::<Vec<_>>().join("\n")
}

/// The modules below a folder of sources, by their paths without `.rs`. A folder's own file counts as the folder.
fn modules(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let of = |entry: fs::DirEntry| {
        let (path, name) = (entry.path(), entry.file_name().into_string().expect("a source's name is text"));
        let below = if path.is_dir() { modules(&path) } else { Vec::new() };
        let own = name.strip_suffix(".rs").filter(|name| !["lib", "main", "mod", "tests"].contains(name));
        let within = below.into_iter().map(|module| format!("{name}/{module}")).collect::<Vec<_>>();
        within.into_iter().chain(own.map(str::to_owned)).collect::<Vec<_>>()
    };
    entries.flat_map(|entry| of(entry.expect("a file"))).collect()
}

#[test]
fn every_module_stands_in_the_code_map_and_nothing_else() {
    for folder in ["restart-core/src/", "server/src/"] {
        let map = code_map(folder);
        let words: BTreeSet<_> = map.split(|char: char| !char.is_ascii_alphanumeric() && char != '_').collect();
        let modules = modules(&Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder));
        let name = |module: &str| module.rsplit('/').next().unwrap_or_default().to_owned();
        let missing: Vec<_> = modules.iter().filter(|module| !words.contains(name(module).as_str())).collect();
        assert!(missing.is_empty(), "the code map of {folder} lacks {missing:?}");
        // What a line begins with is a module or several; folders have a file of their own, or `mod.rs`.
        let heads = map.lines().filter_map(|line| line.trim_start_matches(' ').split("  ").next().zip(Some(line)));
        let heads = heads.filter(|(_, line)| line.find(|char| char != ' ').is_some_and(|indent| indent < 12));
        for head in heads.flat_map(|(head, _)| head.split(", ")) {
            let is_it = |module: &String| *module == head || module.ends_with(&format!("/{head}"));
            let is_folder = modules.iter().any(|module| module.split('/').any(|part| part == head));
            assert!(
                is_folder || modules.iter().any(is_it),
                "the code map of {folder} has {head:?}, which is not there"
            );
        }
    }
}

/// The tests of systemd, which run commands as they stand in the pages.
fn systemd_tests() -> String {
    ["page", "install", "package", "configuration", "https", "instances", "journal"]
        .map(|name| read(&format!("tests/tests/systemd_{name}.rs")))
        .concat()
}

#[test]
fn every_command_in_the_pages_is_run_or_said_not_to_be() {
    let systemd = systemd_tests();
    let mut used = BTreeSet::new();
    for page in pages() {
        for command in page.commands().iter().filter(|command| !command.starts_with("reborn ")) {
            if systemd.contains(&format!("\"{command}")) {
                continue;
            }
            let is_of = |name: &str| {
                command == name
                    || ["acme.sh", "curl", "podman", "systemctl --user"].contains(&name) && command.starts_with(name)
            };
            let Some((name, proof)) = PROOFS.iter().find(|(name, _)| is_of(name)) else {
                panic!("nothing runs `{command}`: add a test and a line to PROOFS");
            };
            used.insert(*name);
            match proof {
                In(file, text) => assert!(read(file).contains(text), "`{command}`: {text:?} is not in {file}"),
                Said(words) => assert!(page.says(words), "`{command}` is not run, but its page does not say {words:?}"),
            }
        }
    }
    for (name, _) in PROOFS {
        assert!(used.contains(name), "no page has `{name}`");
    }
}

#[test]
fn every_recipe_in_the_pages_exists() {
    let recipes = read("justfile");
    for command in pages().iter().flat_map(Page::commands) {
        let Some(name) = command.strip_prefix("just ").and_then(|rest| rest.split(' ').next()) else { continue };
        let starts = [format!("\n{name}:"), format!("\n{name} ")];
        assert!(starts.iter().any(|start| recipes.contains(start)), "there is no recipe {name:?}");
    }
}

/// A folder in which the files that the pages speak of have their place.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        let place = Place(tempfile::tempdir().expect("a temporary folder"));
        fs::create_dir(place.0.path().join("www")).expect("the test's own folder");
        let certificate = Certificate::new(&["example.org"]);
        for (name, text) in [("fullchain.pem", certificate.pem()), ("privkey.pem", certificate.key_pem())] {
            fs::write(place.0.path().join(name), text).expect("the test's own folder");
        }
        fs::write(place.0.path().join("www/index.html"), "a page").expect("the test's own folder");
        place
    }

    /// The text with the places in it changed to those in this folder.
    fn moved(&self, text: &str) -> String {
        let folder = self.0.path().to_str().expect("a temporary folder's name is text");
        let text = text.replace("/srv/www", "DIR").replace("DIR", &format!("{folder}/www"));
        let text = text.replace("/etc/letsencrypt/live/example.org", folder);
        let file = format!("{folder}/reborn.toml");
        text.replace("/etc/reborn.toml", &file).replace("/etc/reborn/blog.toml", &file)
    }

    #[track_caller]
    fn check(&self, words: &str) {
        let words = self.moved(words);
        CommandOutput::of(Command::new(binary::reborn()).arg("check").args(words.split_whitespace())).assert_success();
    }

    /// Has each configuration of the pages checked; the last one stays.
    fn check_configurations(&self) -> usize {
        let pages = pages();
        let texts = pages.iter().flat_map(|page| &page.files).filter_map(|file| file.strip_prefix("toml\n"));
        let check = |text: &str| {
            fs::write(self.0.path().join("reborn.toml"), self.moved(text)).expect("the test's own folder");
            self.check("--config /etc/reborn.toml");
        };
        texts.map(check).count()
    }
}

#[test]
fn reborn_understands_its_command_lines_and_configurations_in_the_pages() {
    let place = Place::new();
    assert_eq!(place.check_configurations(), 4);
    let server = Reborn::new().demo().probation_ms(0).start();
    let (mut asked, mut checked) = (0, 0);
    let commands: BTreeSet<_> = pages().iter().flat_map(Page::commands).collect();
    for line in commands.iter().filter_map(|command| command.strip_prefix("reborn ")) {
        match line.split(' ').next().unwrap_or_default() {
            "stop" => {} // comes last
            "reload" | "status" => {
                server.command(line.split(' ')).assert_success();
                asked += 1;
            }
            "help" => _ = CommandOutput::of(Command::new(binary::reborn()).args(line.split(' '))).assert_success(),
            name @ ("serve" | "check") => place.check(&line[name.len()..]),
            _ => {
                place.check(line);
                checked += 1;
            }
        }
    }
    assert!(asked >= 4 && checked >= 3, "{commands:?}");
    server.command(["stop"]).assert_success();
}

/// Starts a command of the first screen, the one that asks for this, of a server at another address.
fn started(screen: &str, asks_for: &str, address: &str) -> Child {
    let is_it = |line: &&str| line.contains("$ curl") && line.contains(asks_for);
    let line = screen.lines().find(is_it).unwrap_or_else(|| panic!("the first screen asks for no {asks_for}"));
    let line = line.trim().trim_start_matches("$ ").trim_end_matches(" &").replace("127.0.0.1:8443", address);
    Command::new("sh").args(["-c", &line]).stdout(Stdio::piped()).spawn().expect("a shell")
}

/// A line with each number as one 0.
fn shape(line: &str) -> String {
    let mut shape = line.replace(|character: char| character.is_ascii_digit(), "0");
    while shape.contains("00") {
        shape = shape.replace("00", "0");
    }
    shape.trim().to_owned()
}

#[test]
fn what_the_first_screen_shows_is_what_happens() {
    if Command::new("curl").arg("--version").output().is_err() {
        return skip("there is no curl");
    }
    let page = &pages()[0];
    let (screen, _) = page.text.split_once("\n## ").expect("it has sections");
    let shown: BTreeSet<_> = screen.lines().map(shape).collect();
    let server = Reborn::new().demo().probation_ms(0).listen("https=127.0.0.1:0").arg("--tls-self-signed").start();
    let status = server.status();
    let is_https = |listener: &&serde_json::Value| listener["name"] == "https";
    let https = status["listeners"].as_array().and_then(|listeners| listeners.iter().find(is_https));
    let address = https.and_then(|https| https["address"].as_str()).expect("it listens").to_owned();
    let old = Process::open(server.pid()).expect("it runs");
    let mut download = started(screen, "/bytes", &address);
    let mut stream = started(screen, "/events", &address);
    let mut lines = BufReader::new(stream.stdout.take().expect("it is a pipe")).lines().map_while(Result::ok);
    let mut event = |id: u64, generation: u64| {
        let [first, second] = [(); 2].map(|()| lines.next().expect("the stream goes on"));
        assert!([&first, &second].iter().all(|line| shown.contains(&shape(line))), "{first} {second}");
        assert_eq!(first, format!("id: {id}"));
        assert!(second.starts_with(&format!("data: generation={generation} ")), "{second}");
    };
    event(1, 1);
    let reload = server.reload();
    reload.assert_success();
    assert!(shown.contains(&shape(&reload.stdout)), "{reload}");
    assert!(old.wait(DEADLINE), "the first process stays");
    assert_eq!(download.try_wait().expect("it is a child"), None, "the download was over before the first process was");
    event(2, 2);
    event(3, 2);
    let hash = |child: Child| {
        let output = child.wait_with_output().expect("it is a child");
        String::from_utf8(output.stdout).expect("a hash").trim().to_owned()
    };
    let went_through = hash(download);
    assert!(screen.contains(&went_through), "{went_through}");
    assert_eq!(went_through, hash(started(screen, "/bytes", &address)), "the hash without a reload");
    server.stop().assert_success();
    stream.wait().expect("it is a child");
}

#[test]
fn every_field_of_the_status_is_explained() {
    let server = Reborn::new().demo().probation_ms(0).start();
    server.reload_ok();
    let status = server.status();
    let page = &pages()[1];
    let keys = |value: &serde_json::Value| value.as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
    for key in [keys(&status), keys(&status["application"]), keys(&status["listeners"][0])].concat() {
        assert!(page.says(&format!("`{key}`")) || page.says(&format!("`application.{key}`")), "{key}");
    }
}

/// All Rust sources below a folder of the repository.
fn sources(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("the folder exists").map(|entry| entry.expect("it is readable").path());
    let of = |path: std::path::PathBuf| match path.extension() {
        _ if path.is_dir() => sources(&path),
        Some(extension) if extension == "rs" => vec![fs::read_to_string(path).expect("a source is text")],
        _ => vec![],
    };
    entries.flat_map(of).collect()
}

/// The first fixed words of each warning and error that a source logs.
fn complaints(source: &str) -> Vec<&str> {
    let calls = ["log::warn!(", "log::error!("].iter().flat_map(|call| source.split(call).skip(1));
    let texts = calls.filter_map(|call| call.trim_start().strip_prefix('"')?.split_once('"')).map(|(text, _)| text);
    let fixed =
        texts.filter_map(|text| text.split(['{', '}']).step_by(2).map(str::trim).find(|part| part.contains(' ')));
    fixed.filter_map(|part| part.split([':', ';']).next()).collect()
}

#[test]
fn every_warning_and_error_in_the_log_is_explained() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let sources = ["server/src", "restart-core/src"].map(|folder| sources(&root.join(folder))).concat();
    let complaints: BTreeSet<_> = sources.iter().flat_map(|source| complaints(source)).collect();
    assert!(complaints.len() > 25, "{complaints:?}");
    let page = &pages()[1];
    let missing: Vec<_> = complaints.iter().filter(|complaint| !page.says(complaint)).collect();
    assert!(missing.is_empty(), "deploy/README.md does not say what to do about these: {missing:#?}");
}

#[test]
fn the_programs_in_readme_are_compiled_elsewhere() {
    let page = &pages()[0];
    let mut programs = page.files.iter().filter_map(|file| file.strip_prefix("rust,no_run\n"));
    let handler = programs.next().expect("README has a handler");
    let documented: Vec<String> =
        handler.trim_end().lines().map(|line| format!("/// {line}").trim_end().to_owned()).collect();
    assert!(read("server/src/program.rs").contains(&documented.join("\n")), "{handler}");
    let axum = programs.next().expect("README has an axum server");
    assert!(read("restart-core/examples/axum.rs").ends_with(&format!("\n\n{}\n", axum.trim_end())), "{axum}");
}

#[test]
fn every_signal_has_its_meaning_in_the_page_and_in_the_help() {
    let page = read("deploy/README.md");
    let (_, section) = page.split_once("\n## Signals\n").expect("it has a section");
    let (section, _) = section.split_once("\n## ").expect("it is not the last one");
    let words = |text: &str| -> BTreeSet<String> {
        text.split(|character: char| !character.is_ascii_alphanumeric()).map(str::to_owned).collect()
    };
    let rows: Vec<_> = section.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next()).collect();
    let explained = words(&rows.join(" "));
    let all = "HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CONT STOP TSTP TTIN TTOU \
               URG XCPU XFSZ VTALRM PROF WINCH IO PWR SYS";
    let missing: Vec<_> = all.split_whitespace().filter(|name| !explained.contains(*name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    // What is handled is in the help as well.
    let source = read("restart-core/src/signals.rs");
    let (_, table) = source.split_once("const MEANINGS").expect("the table");
    let (table, _) = table.split_once("];").expect("its end");
    let help = CommandOutput::of(Command::new(binary::reborn()).args(["help", "serve"])).stdout.clone();
    let (_, help) = help.split_once("Signals:").expect("they are in the help");
    let told = words(help);
    let handled: Vec<_> =
        table.lines().filter_map(|line| line.trim().strip_prefix("(SIG")?.split(',').next()).collect();
    assert!(handled.len() > 10 && handled.iter().all(|name| told.contains(*name)), "{handled:?} in {help}");
}
