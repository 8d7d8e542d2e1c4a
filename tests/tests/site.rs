//! Sites through the real binary: hosts, redirects, headers, pages for errors and types, all of them from a configuration that
//! reloads change under load, and that changes nothing where it is refused.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use smol::block_on;
use tests::certificates::Certificate;
use tests::load::{Answer, Connection, Limits, Target};
use tests::skip::skip;
use tests::{CommandOutput, DEADLINE, Reborn, Server};

const FILE: &str = "sites.toml";

/// The most of the one site's large file that a client has before the last reload.
const LARGE_BYTES: usize = 3_000_000;

fn connect(server: &Server) -> Connection {
    let limits = Limits { answer: DEADLINE, ..Limits::default() };
    block_on(Connection::open(&Target::Tcp(server.address()), limits)).unwrap()
}

/// One request on a connection that stays open.
#[track_caller]
fn ask(connection: &mut Connection, line: &str, host: &str, headers: &[&str]) -> Answer {
    let (line, host) = (format!("{line} HTTP/1.1"), format!("host: {host}"));
    let request = [&[&*line, &*host], headers, &["", ""]].concat().join("\r\n");
    block_on(connection.send(request.as_bytes())).unwrap();
    block_on(connection.answer()).unwrap_or_else(|lost| panic!("{line}: {lost:?}"))
}

/// Configuration `n`: everything about both sites is another one.
fn publish(folder: &Path, n: u64) {
    for site in ["one", "two"] {
        let root = folder.join(format!("{site}-{n}"));
        fs::create_dir_all(&root).unwrap();
        fs::write(root.join("index.html"), format!("{site} {n}")).unwrap();
        fs::write(root.join("404.html"), format!("{site} {n} has no such page")).unwrap();
        fs::write(root.join("a.kind"), format!("{site} {n}")).unwrap();
        fs::write(root.join("large.bin"), format!("{n:07}\n").repeat(LARGE_BYTES / 8)).unwrap();
    }
    let text = format!(
        r#"
demo = true
probation = "0s"
root = "one-{n}"
redirect = ["/old/* /one-{n}/:splat 302"]

[types]
kind = "text/x-{n}"

[[headers]]
path = "/*"
set = {{ X-Site = "all {n}" }}

[[headers]]
path = "/*.kind"
set = {{ Cache-Control = "max-age={n}" }}
remove = ["X-Content-Type-Options"]

[[site]]
host = ["two.example", "*.two.example"]
root = "two-{n}"
fallback = "index.html"

[[site.redirect]]
from = "/old/:name"
to = "https://{n}.example/:name"
status = 308

[[site.headers]]
path = "/index.html"
set = {{ X-Site = "two {n}" }}
"#
    );
    fs::write(folder.join(FILE), text).unwrap();
}

fn serving() -> Server {
    let reborn = Reborn::new();
    publish(reborn.folder(), 1);
    reborn.args(["--config", FILE]).start()
}

/// Asks for all that configurations differ in. Each answer must be of the configuration that its generation was started with.
fn browse(connection: &mut Connection) -> u64 {
    let html = ["accept: text/html"];
    let requests: [(&str, &str, &[&str]); 8] = [
        ("GET /index.html", "one.example", &[]),
        ("GET /old/a%20b/c?d=e", "one.example", &[]),
        ("GET /a.kind", "one.example", &[]),
        ("GET /missing", "one.example", &["range: bytes=0-1", "if-none-match: *"]),
        ("GET /index.html", "www.TWO.example:80", &[]),
        ("POST /old/a", "two.example", &["content-length: 0"]),
        ("GET /missing", "two.example", &html),
        ("GET /missing", "two.example", &[]),
    ];
    let mut newest = 0;
    for (index, (line, host, headers)) in requests.into_iter().enumerate() {
        let answer = ask(connection, line, host, headers);
        let n = answer.generation().unwrap();
        assert!(n >= newest, "generations come in their order");
        newest = n;
        let of = |name: &str| answer.header(name).unwrap_or_else(|| panic!("no {name} in {answer:?}")).to_owned();
        let all = format!("all {n}");
        match index {
            0 => assert_eq!((answer.status, answer.text(), of("x-site")), (200, format!("one {n}"), all)),
            1 => assert_eq!((answer.status, of("location"), of("x-site")), (302, format!("/one-{n}/a%20b/c?d=e"), all)),
            2 => {
                assert_eq!((answer.status, answer.text()), (200, format!("one {n}")));
                assert_eq!(of("content-type"), format!("text/x-{n}; charset=utf-8"));
                assert_eq!(of("cache-control"), format!("max-age={n}"));
                assert_eq!(answer.header("x-content-type-options"), None);
            }
            3 => {
                let expected = (404, format!("one {n} has no such page"), "text/html".to_owned(), all);
                assert_eq!((answer.status, answer.text(), of("content-type"), of("x-site")), expected);
                assert_eq!((answer.header("etag"), answer.header("last-modified")), (None, None));
            }
            4 => {
                assert_eq!((answer.status, answer.text(), of("x-site")), (200, format!("two {n}"), format!("two {n}")));
            }
            5 => assert_eq!((answer.status, of("location")), (308, format!("https://{n}.example/a"))),
            6 => assert_eq!((answer.status, answer.text(), of("x-site")), (200, format!("two {n}"), all)),
            7 => assert_eq!((answer.status, answer.text()), (404, format!("two {n} has no such page"))),
            _ => unreachable!(),
        }
    }
    newest
}

#[test]
fn a_reload_changes_everything_about_sites_under_load_and_each_answer_is_of_one_configuration() {
    let server = serving();
    let (stop, rounds) = (AtomicBool::new(false), AtomicU64::new(0));
    // It takes nothing while all of it changes.
    let mut slow = connect(&server);
    block_on(slow.send(b"GET /large.bin HTTP/1.1\r\nhost: two.example\r\n\r\n")).unwrap();
    thread::scope(|scope| {
        let browsing = || {
            let mut connection = connect(&server);
            while !stop.load(Ordering::Relaxed) {
                browse(&mut connection);
                rounds.fetch_add(1, Ordering::Relaxed);
            }
            assert!(!connection.went_back());
        };
        let clients: Vec<_> = (0..4).map(|_| scope.spawn(browsing)).collect();
        for n in 2..=21 {
            publish(server.folder(), n);
            server.reload_ok();
            assert_eq!(browse(&mut connect(&server)), n);
            let (before, end) = (rounds.load(Ordering::Relaxed), Instant::now() + DEADLINE);
            while rounds.load(Ordering::Relaxed) < before + 4 {
                assert!(Instant::now() < end && !clients.iter().any(thread::ScopedJoinHandle::is_finished), "{n}");
                thread::sleep(Duration::from_millis(1));
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    let answer = block_on(slow.answer()).unwrap();
    assert!(
        answer.body == "0000001\n".repeat(LARGE_BYTES / 8).as_bytes(),
        "a download is of the site that it began with"
    );
    server.assert_no_error();
}

#[test]
fn a_configuration_that_cannot_be_served_is_refused_by_its_line_and_changes_nothing() {
    let server = serving();
    let text = fs::read_to_string(server.folder().join(FILE)).unwrap();
    for (right, wrong, reason) in [
        ("root = \"two-1\"", "root = \"nowhere\"", "sites.toml:21: root \"nowhere\": No such file or directory"),
        ("fallback = \"index.html\"", "fallback = \"app.html\"", "sites.toml:22: fallback \"app.html\": in "),
        ("/old/* /one-1/", "/old/* //one-1/", "sites.toml:5: redirect \"/old/* //one-1/:splat 302\": "),
        (
            "X-Site = \"two 1\"",
            "Content-Length = 1",
            "headers \"/index.html Content-Length: 1\": content-length cannot be set",
        ),
        ("\"*.two.example\"", "\"two.example\"", "host \"two.example\": sites.toml:20: host has it as well"),
    ] {
        assert!(text.contains(right), "{right}");
        fs::write(server.folder().join(FILE), text.replace(right, wrong)).unwrap();
        server.command(["check", "--config", FILE]).assert_code(2).assert_stderr(reason);
        server.reload().assert_code(1).assert_stderr(reason);
        assert_eq!(browse(&mut connect(&server)), 1);
    }
    fs::remove_dir_all(server.folder().join("two-1")).unwrap();
    fs::write(server.folder().join("two-1"), "no directory").unwrap();
    fs::write(server.folder().join(FILE), text).unwrap();
    server.reload().assert_code(1).assert_stderr("sites.toml:21: root \"two-1\": not a directory");
    assert_eq!(ask(&mut connect(&server), "GET /index.html", "one.example", &[]).text(), "one 1");
}

#[test]
fn what_check_prints_of_sites_is_a_configuration_that_is_served_the_same() {
    let server = serving();
    let shown = server.command(["check", "--config", FILE]);
    shown.assert_success();
    for line in ["[[site]]", "host = [\"two.example\", \"*.two.example\"]", "types = [\"kind=text/x-1\"]"] {
        let is_it = |shown: &str| shown.split(" # ").next().unwrap_or_default().trim_end() == line;
        assert!(shown.stdout.lines().any(is_it), "{line} in {shown}");
    }
    fs::write(server.folder().join(FILE), &shown.stdout).unwrap();
    server.reload_ok();
    let mut connection = connect(&server);
    let answer = ask(&mut connection, "GET /old/x", "a.two.example", &[]);
    assert_eq!((answer.status, answer.header("location")), (308, Some("https://1.example/x")));
    let answer = ask(&mut connection, "GET /a.kind", "one.example", &[]);
    assert_eq!((answer.header("cache-control"), answer.header("x-site")), (Some("max-age=1"), Some("all 1")));
}

#[test]
fn flags_and_variables_say_what_the_tables_say() {
    let reborn = Reborn::new().probation_ms(0);
    fs::create_dir(reborn.folder().join("www")).unwrap();
    fs::write(reborn.folder().join("www/app.html"), "the application").unwrap();
    let server = reborn
        .args([
            "--root",
            "www",
            "--fallback",
            "app.html",
            "--redirect",
            "/a /b",
            "--types",
            "html=text/x-html",
            "--list",
        ])
        .env("REBORN_HEADERS", "/* A: one, two\n/b* ! X-Content-Type-Options\n")
        .start();
    let mut connection = connect(&server);
    let answer = ask(&mut connection, "GET /b", "any", &["accept: text/html"]);
    assert_eq!((answer.status, answer.text().as_str()), (200, "the application"));
    assert_eq!((answer.header("a"), answer.header("x-content-type-options")), (Some("one, two"), None));
    assert_eq!(answer.header("content-type"), Some("text/x-html; charset=utf-8"));
    let answer = ask(&mut connection, "GET /a", "any", &[]);
    assert_eq!((answer.status, answer.header("location")), (301, Some("/b")));
    let answer = ask(&mut connection, "GET /", "any", &["accept: */*"]);
    assert!(answer.status == 200 && answer.text().contains("<a href=\"app.html\">app.html</a>"), "{}", answer.text());
}

#[test]
fn over_tls_a_request_for_another_site_than_the_connection_was_opened_for_is_misdirected() {
    if Command::new("curl").arg("--version").output().is_err() {
        return skip("there is no curl");
    }
    let reborn = Reborn::new().listen("https=127.0.0.1:0");
    publish(reborn.folder(), 1);
    // One certificate for both, so that only the sites tell them apart.
    let certificate = Certificate::new(&["one.example", "two.example", "www.two.example"]);
    fs::write(reborn.folder().join("site.pem"), certificate.pem()).unwrap();
    fs::write(reborn.folder().join("site.key"), certificate.key_pem()).unwrap();
    let server = reborn.args(["--config", FILE, "--tls-certificate", "site.pem", "--tls-key", "site.key"]).start();
    let status = server.status();
    let https = status["listeners"].as_array().unwrap().iter().find(|listener| listener["name"] == "https").unwrap();
    let address = https["address"].as_str().unwrap().to_owned();
    let ask = |name: &str, host: &str| {
        let to = format!("{name}:443:{address}");
        let (host, url) = (format!("Host: {host}"), format!("https://{name}/index.html"));
        let arguments =
            ["-s", "-k", "--noproxy", "*", "-m", "20", "--connect-to", &to, "-w", " %{http_code}", "-H", &host];
        CommandOutput::of(Command::new("curl").args(arguments).arg(url)).stdout.clone()
    };
    for (name, host, expected) in [
        ("one.example", "one.example", "one 1 200"),
        ("two.example", "two.example", "two 1 200"),
        ("two.example", "www.two.example:443", "two 1 200"),
        ("one.example", "elsewhere.example", "one 1 200"),
    ] {
        assert_eq!(ask(name, host), expected, "{name} {host}");
    }
    for (name, host) in [("one.example", "two.example"), ("two.example", "one.example")] {
        assert!(ask(name, host).ends_with(" 421"), "{name} {host}");
    }
}
