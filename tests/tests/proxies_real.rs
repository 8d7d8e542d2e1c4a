//! The configurations in deploy/PROXIES.md, each run with its program: clients are known by their own address whatever they
//! write, connections to the server are kept, and reloads cost no request.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tests::certificates::Certificate;
use tests::skip::skip;
use tests::{Reborn, Server};

/// Where the clients of these tests come from.
const CLIENT: &str = "127.0.0.9";

/// A proxy. Dropped, it is killed.
struct Proxy(Child);

impl Drop for Proxy {
    fn drop(&mut self) {
        // The master takes its workers along.
        let pid = rustix::process::Pid::from_child(&self.0);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.0.wait();
    }
}

/// The block of the page in this language, the first one that has these words.
fn block(language: &str, words: &str) -> String {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/PROXIES.md")).unwrap();
    let start = format!("\n```{language}\n");
    let blocks = page.split(&start).skip(1).map(|rest| rest.split("\n```").next().unwrap());
    blocks.into_iter().find(|block| block.contains(words)).expect("the page has it").to_owned()
}

/// A text with something else in the place of a part that has to be there.
fn with(text: &str, part: &str, other: &str) -> String {
    assert!(text.contains(part), "no {part:?} in {text}");
    text.replace(part, other)
}

fn is_there(program: &str, argument: &str) -> bool {
    let is_there = Command::new(program).arg(argument).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !is_there {
        skip(&format!("there is no {program} (Debian package {program})"));
    }
    is_there && {
        let has_curl = Command::new("curl").arg("--version").output().is_ok();
        if !has_curl {
            skip("there is no curl");
        }
        has_curl
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A server on a Unix socket in its folder that is configured as the page says.
fn serving() -> (Server, PathBuf) {
    let reborn = Reborn::new().demo().probation_ms(0);
    let (log, socket) = (reborn.folder().join("access.log"), reborn.folder().join("web.sock"));
    let file = reborn.folder().join("reborn.toml");
    fs::write(&file, with(&block("toml", "trusted-proxy = \"unix\""), "/srv/www", reborn.folder().to_str().unwrap()))
        .unwrap();
    let reborn = reborn.listen(&format!("local=unix:{}", socket.display())).arg("--config").arg(file);
    (reborn.arg("--access-log").arg(&log).args(["--access-log-format", "json"]).start(), socket)
}

fn start(server: &Server, command: &mut Command, port: u16) -> Proxy {
    let proxy = Proxy(command.stdin(Stdio::null()).spawn().unwrap());
    server.wait_until("the proxy listens", |_| std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    proxy
}

/// Asks so often over one connection, with these arguments. Each answer is whole.
fn ask(url: &str, times: usize, arguments: &[&str]) {
    let urls = (0..times).map(|number| format!("{url}?{number}"));
    let output = Command::new("curl")
        .args(["-sSk", "--fail", "--noproxy", "*", "-m", "20", "-w", "%{http_code}\n", "--interface", CLIENT])
        .args(arguments)
        .args(urls.flat_map(|url| ["-o".to_owned(), "/dev/null".to_owned(), url]))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text, "200\n".repeat(times), "{}", String::from_utf8_lossy(&output.stderr));
}

fn lines(server: &Server, count: usize) -> Vec<Value> {
    let mut lines = Vec::new();
    server.wait_until(&format!("{count} requests are logged"), |server| {
        let text = fs::read_to_string(server.folder().join("access.log")).unwrap_or_default();
        let whole = text.lines().filter(|line| line.ends_with('}'));
        lines = whole.map(|line| serde_json::from_str::<Value>(line).unwrap()).collect();
        lines.len() >= count
    });
    lines
}

/// What has to hold behind each proxy that speaks HTTP.
fn assert_clients_are_known(server: &Server, port: u16) {
    let url = format!("http://127.0.0.1:{port}/fast");
    let lies = [
        "-H",
        "X-Forwarded-For: 203.0.113.7",
        "-H",
        "Forwarded: for=203.0.113.8;host=liar.example",
        "-H",
        "X-Forwarded-Host: liar.example",
        "-H",
        "X-Forwarded-Proto: gopher",
    ];
    let mut asked = 0;
    for _ in 0..3 {
        ask(&url, 10, &[]);
        ask(&url, 10, &lies);
        asked += 20;
        server.reload_ok();
    }
    let lines = lines(server, asked);
    assert_eq!(lines.len(), asked);
    for line in &lines {
        let peer = line["peer"].as_str().unwrap_or_default();
        assert_eq!(peer.split(':').next(), Some(CLIENT), "{line}");
        assert_eq!(
            (&line["host"], &line["listener"]),
            (&Value::from(format!("127.0.0.1:{port}")), &Value::from("local"))
        );
    }
    // Connections are kept, and move: those that the last process has were accepted by the first one.
    let accepted = server.status()["application"]["accepted"].as_u64().unwrap();
    assert!(accepted <= 2, "{accepted} connections for the last 20 requests");
    server.assert_no_error();
}

#[test]
fn nginx_as_the_page_has_it() {
    if !is_there("nginx", "-v") {
        return;
    }
    let (server, socket) = serving();
    let (port, folder) = (free_port(), server.folder().display().to_string());
    let site = with(&block("nginx", "upstream"), "/run/reborn.sock", socket.to_str().unwrap());
    let site = with(&site, "listen 80;", &format!("listen 127.0.0.1:{port};"));
    let paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let paths = paths.map(|kind| format!("{kind}_temp_path {folder}/{kind};\n")).concat();
    let whole = format!(
        "daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx.log; user root root; worker_processes 1;\n\
         events {{}}\nhttp {{ access_log off;\n{paths}{site}\n}}\n"
    );
    let file = server.folder().join("nginx.conf");
    fs::write(&file, whole).unwrap();
    let mut command = Command::new("nginx");
    command.arg("-c").arg(&file).args(["-p", &folder, "-e", &format!("{folder}/nginx.log")]).stderr(Stdio::null());
    let _proxy = start(&server, &mut command, port);
    assert_clients_are_known(&server, port);
}

#[test]
fn caddy_as_the_page_has_it() {
    if !is_there("caddy", "version") {
        return;
    }
    let (server, socket) = serving();
    let port = free_port();
    let site =
        with(&block("caddyfile", "reverse_proxy"), "unix//run/reborn.sock", &format!("unix/{}", socket.display()));
    let site = with(&site, "\nexample.org {", &format!("\nhttp://127.0.0.1:{port} {{"));
    let file = server.folder().join("Caddyfile");
    fs::write(&file, format!("{{\nadmin off\n}}\n{site}\n")).unwrap();
    let mut command = Command::new("caddy");
    command.args(["run", "--adapter", "caddyfile", "--config"]).arg(&file);
    command.env("XDG_DATA_HOME", server.folder()).env("XDG_CONFIG_HOME", server.folder()).stderr(Stdio::null());
    let _proxy = start(&server, &mut command, port);
    assert_clients_are_known(&server, port);
}

#[test]
fn haproxy_as_the_page_has_it() {
    if !is_there("haproxy", "-v") {
        return;
    }
    let (server, socket) = serving();
    let port = free_port();
    let text = with(&block("haproxy", "mode http"), "/run/reborn.sock", socket.to_str().unwrap());
    let file = server.folder().join("haproxy.cfg");
    fs::write(&file, with(&text, "bind :80", &format!("bind 127.0.0.1:{port}")) + "\n").unwrap();
    let _proxy = start(&server, Command::new("haproxy").args(["-db", "-f"]).arg(&file).stderr(Stdio::null()), port);
    assert_clients_are_known(&server, port);
}

#[test]
fn haproxy_with_proxy_headers_before_tls_as_the_page_has_it() {
    if !is_there("haproxy", "-v") {
        return;
    }
    let reborn = Reborn::new().without_own_address().demo().probation_ms(0);
    let (port, inner, folder) = (free_port(), free_port(), reborn.folder().to_owned());
    let certificate = Certificate::new(&["example.org"]);
    fs::write(folder.join("fullchain.pem"), certificate.pem()).unwrap();
    fs::write(folder.join("privkey.pem"), certificate.key_pem()).unwrap();
    let text = with(&block("toml", "proxy-protocol"), "/etc/letsencrypt/live/example.org", folder.to_str().unwrap());
    let text = with(&with(&text, "/srv/www", folder.to_str().unwrap()), ":8443", &format!(":{inner}"));
    fs::write(folder.join("reborn.toml"), text).unwrap();
    let reborn =
        reborn.arg("--config").arg(folder.join("reborn.toml")).arg("--access-log").arg(folder.join("access.log"));
    let server = reborn.args(["--access-log-format", "json"]).start();
    let text = with(&block("haproxy", "mode tcp"), "bind :443", &format!("bind 127.0.0.1:{port}"));
    let file = folder.join("haproxy.cfg");
    fs::write(&file, with(&text, ":8443", &format!(":{inner}")) + "\n").unwrap();
    let _proxy = start(&server, Command::new("haproxy").args(["-db", "-f"]).arg(&file).stderr(Stdio::null()), port);
    for _ in 0..3 {
        ask(&format!("https://127.0.0.1:{port}/fast"), 10, &[]);
        server.reload_ok();
    }
    for line in lines(&server, 30) {
        let peer = line["peer"].as_str().unwrap_or_default();
        assert!(peer.starts_with(&format!("{CLIENT}:")) && line["tls"]["version"] == "TLSv1.3", "{line}");
    }
    server.assert_no_error();
}
