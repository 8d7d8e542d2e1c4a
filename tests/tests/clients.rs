//! Real clients stay connected across reloads: each fetches, uploads and asks for ranges without a pause while the
//! server is replaced twenty times, and neither sees an error nor opens a second connection. So it is over plain HTTP and
//! over TLS, there with another certificate at each reload and without another handshake.
//!
//! A client goes on until the file `go-on` is taken away, and tells each generation that answers it; the next reload
//! waits for that. That the client stayed connected is read from the server's ledger as well: no generation but the
//! first accepts a connection.

#![allow(clippy::unwrap_used)]

use std::{
    ffi::OsStr,
    fmt::Write as _,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use tests::{CommandOutput, DEADLINE, Ended, Process, Reborn, Server, Signal, skip::skip};

const RELOADS: u64 = 20;

/// What the clients speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    Plain,
    Tls,
}

/// A server of files and of the demonstration, with what clients fetch.
fn serving(over: Over) -> Server {
    let mut reborn = Reborn::new().demo().probation_ms(0);
    let site = reborn.folder().join("site");
    fs::create_dir(&site).unwrap();
    let data: Vec<u8> = (0..250_000_u32).flat_map(u32::to_le_bytes).collect();
    fs::write(site.join("data.bin"), data).unwrap();
    fs::write(site.join("go-on"), "go on\n").unwrap();
    if over == Over::Tls {
        reborn = reborn.https().tells_handshakes();
    }
    reborn.arg("--root").arg(site).start()
}

/// Where the clients begin.
fn base(server: &Server, over: Over) -> String {
    match over {
        Over::Plain => format!("http://{}", server.address()),
        // The name that the certificate is for.
        Over::Tls => format!("https://localhost:{}", server.https_address().port()),
    }
}

/// Where the clients' programs are.
fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(name)
}

/// Whether there is such a client: a command that succeeds. Skips if not.
fn is_there(command: &[&str]) -> bool {
    let mut probe = Command::new(command[0]);
    let is_there = probe.args(&command[1..]).output().is_ok_and(|output| output.status.success());
    if !is_there {
        skip(&format!("`{}` does not work", command.join(" ")));
    }
    is_there
}

/// A client at work. Dropped, it is killed.
struct Client {
    name: String,
    process: Process,
    log: PathBuf,
}

impl Client {
    /// Starts a client; what it writes goes to a file of this name.
    fn start(server: &Server, name: &str, command: &mut Command) -> Self {
        let log = server.folder().join(name);
        let file = fs::File::create(&log).unwrap();
        command.current_dir(server.folder()).env("no_proxy", "*").stdin(Stdio::null());
        command.stdout(file.try_clone().unwrap()).stderr(file);
        let process = Process::spawn(command).unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        Self { name: name.to_owned(), process, log }
    }

    fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap()).into_owned()
    }

    /// Waits until a generation has answered it.
    fn wait_generation(&self, server: &Server, generation: u64) {
        let line = format!("x-generation: {generation}");
        let said = |text: &str| text.lines().any(|other| other.contains(&line) && !other.contains(&format!("{line}0")));
        server.wait_until(&format!("{} is answered by generation {generation}", self.name), |_| {
            let log = self.log();
            assert!(said(&log) || self.process.is_alive(), "{} has ended: {log}", self.name);
            said(&log)
        });
    }

    /// Waits for its end, which must be this one, and returns what it wrote.
    #[track_caller]
    fn finish(&self, expected: Ended) -> String {
        assert!(self.process.wait(DEADLINE), "{} goes on: {}", self.name, self.log());
        assert_eq!(self.process.ended(), Some(expected), "{}: {}", self.name, self.log());
        self.log()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.process.signal(Signal::KILL);
    }
}

/// Replaces the server twenty times while the clients are at work, and takes `go-on` away.
#[track_caller]
fn reload_under(server: &Server, over: Over, clients: &[Client]) {
    let mut handshakes = 0;
    for generation in 1..=RELOADS + 1 {
        for client in clients {
            client.wait_generation(server, generation);
        }
        if generation == 1 {
            handshakes = server.handshakes();
            assert_eq!(handshakes >= clients.len(), over == Over::Tls, "{handshakes} handshakes");
        }
        if generation > 1 {
            let books = &server.status()["application"];
            assert_eq!(books["accepted"], 0, "generation {generation} was handed every connection: {books}");
            assert!(books["received"].as_u64() >= Some(clients.len() as u64), "{books}");
            assert!(books["closed_by_us"].as_object().unwrap().is_empty(), "{books}");
        }
        if generation <= RELOADS {
            if over == Over::Tls {
                server.renew_certificate();
            }
            server.reload_ok();
        }
    }
    fs::remove_file(server.folder().join("site/go-on")).unwrap();
    assert_eq!(server.handshakes(), handshakes, "of the first generation alone");
    let log = server.log();
    assert!(!log.contains(" ERROR "), "{log}");
}

/// A client of our own making that ends by itself.
fn stays_connected(name: &str, over: Over, command: impl FnOnce(&Server) -> Command) {
    let server = serving(over);
    let client = Client::start(&server, name, command(&server).arg(base(&server, over)));
    reload_under(&server, over, std::slice::from_ref(&client));
    let log = client.finish(Ended::Code(0));
    assert!(log.contains("done: "), "{log}");
}

#[test]
fn python_http_client_stays_connected_across_twenty_reloads() {
    if is_there(&["python3", "-c", "import ssl"]) {
        for over in [Over::Plain, Over::Tls] {
            stays_connected("http.client", over, |_| program("python3", &[source("http_client.py")]));
        }
    }
}

#[test]
fn python_requests_stays_connected_across_twenty_reloads() {
    if is_there(&["python3", "-c", "import requests"]) {
        for over in [Over::Plain, Over::Tls] {
            stays_connected("requests", over, |_| program("python3", &[source("requests_client.py")]));
        }
    }
}

/// Go's net/http, which is compiled first.
fn go(server: &Server) -> Command {
    let built = server.folder().join("client");
    let mut build = Command::new("go");
    build.args(["build", "-o"]).arg(&built).arg(source("client.go"));
    build.env("GOCACHE", server.folder().join("go-cache")).env("GO111MODULE", "off").env("GOFLAGS", "");
    CommandOutput::within(DEADLINE * 4, &mut build).assert_success();
    Command::new(built)
}

#[test]
fn a_pool_of_go_net_http_stays_connected_across_twenty_reloads() {
    if is_there(&["go", "version"]) {
        stays_connected("net.http", Over::Plain, go);
    }
}

#[test]
fn a_pool_of_go_net_http_over_tls_stays_connected_across_twenty_reloads() {
    if is_there(&["go", "version"]) {
        stays_connected("net.http", Over::Tls, go);
    }
}

#[test]
fn java_http_client_stays_connected_across_twenty_reloads() {
    // It runs a source as it is from version 11 on; CI does without it, as it is large.
    if !Command::new("java").arg("--version").output().is_ok_and(|output| output.status.success()) {
        eprintln!("there is no Java; its HttpClient is not tried");
        return;
    }
    for over in [Over::Plain, Over::Tls] {
        stays_connected("HttpClient", over, |_| program("java", &[source("Client.java")]));
    }
}

fn program<T: AsRef<OsStr>>(name: &str, arguments: &[T]) -> Command {
    let mut command = Command::new(name);
    command.args(arguments);
    command
}

#[test]
fn curl_stays_connected_across_twenty_reloads() {
    if !is_there(&["curl", "--version"]) {
        return;
    }
    for over in [Over::Plain, Over::Tls] {
        curl_stays_connected(over);
    }
}

fn curl_stays_connected(over: Over) {
    let server = serving(over);
    let base = base(&server, over);
    fs::write(server.folder().join("upload"), vec![b'u'; 300_000]).unwrap();
    let report = r"x-generation: %header{x-generation}\nanswer: %{num_connects} %{http_code} %{size_download}\n";
    // Errors by the way of all else: curl's buffer would end within a line when another stream has something to say.
    let mut config = String::from("silent\nshow-error\nstderr = -\nfail-early\n");
    // More than it can do meanwhile: it ends with the first answer 404.
    for _ in 0..200 {
        for (path, output, more) in [
            ("go-on", "got-go-on", ""),
            ("data.bin?[1-50]", "got-whole", ""),
            ("data.bin?[1-50]", "got-part", "range = 1000-1999\n"),
            ("echo?[1-50]", "got-echo", "data-binary = \"@upload\"\n"),
        ] {
            writeln!(
                config,
                "url = \"{base}/{path}\"\noutput = {output}\nfail\ninsecure\n{more}write-out = \"{report}\"\nnext"
            )
            .unwrap();
        }
    }
    fs::write(server.folder().join("config"), config.trim_end_matches("next\n")).unwrap();
    let client = Client::start(&server, "curl", &mut program("curl", &["--config", "config"]));
    reload_under(&server, over, std::slice::from_ref(&client));
    let log = client.finish(Ended::Code(22));
    let answers: Vec<&str> = log.lines().filter_map(|line| line.strip_prefix("answer: ")).collect();
    let (last, good) = answers.split_last().unwrap();
    assert!(last.starts_with("0 404 "), "it ended because the file was gone: {last}");
    assert!(good[0].starts_with("1 200 "), "its first request opened its connection: {}", good[0]);
    for answer in &good[1..] {
        assert!(["0 200 6", "0 200 1000000", "0 206 1000", "0 200 300000"].contains(answer), "{answer}");
    }
    let read = |name: &str| fs::read(server.folder().join(name)).unwrap();
    assert!(read("got-part") == read("site/data.bin")[1000..2000] && read("got-echo") == read("upload"));
}

#[test]
fn wget_stays_connected_across_twenty_reloads() {
    if !is_there(&["wget", "--version"]) {
        return;
    }
    for over in [Over::Plain, Over::Tls] {
        wget_stays_connected(over);
    }
}

fn wget_stays_connected(over: Over) {
    let server = serving(over);
    let base = base(&server, over);
    fs::write(server.folder().join("upload"), vec![b'u'; 300_000]).unwrap();
    let clients: Vec<Client> = [
        ("wget.whole", "data.bin", vec![]),
        ("wget.part", "data.bin", vec!["--start-pos=999000"]),
        ("wget.upload", "echo", vec!["--post-file=upload"]),
    ]
    .into_iter()
    .map(|(name, path, more)| {
        let urls = server.folder().join(format!("{name}.urls"));
        fs::write(&urls, format!("{base}/{path}\n").repeat(50_000)).unwrap();
        let mut command = program("wget", &["--tries=1", "--timeout=30", "--wait=0.005", "--server-response", "-4"]);
        command
            .args(["--progress=dot:giga", "--output-document=/dev/null", "--no-check-certificate", "--input-file"])
            .arg(urls)
            .args(more);
        Client::start(&server, name, &mut command)
    })
    .collect();
    reload_under(&server, over, &clients);
    for client in &clients {
        // It has no other end than that of its list.
        assert!(client.process.signal(Signal::TERM));
        let log = client.finish(Ended::Signal(15));
        assert_eq!(log.matches("Connecting to ").count(), 1, "{log}");
        let answers = log.lines().filter(|line| line.trim_start().starts_with("HTTP/1.1 ")).count();
        assert!(answers as u64 > RELOADS && log.matches("Reusing existing connection").count() + 1 >= answers, "{log}");
        for word in ["Retrying", "ERROR", "failed", "closed", "HTTP/1.1 4", "HTTP/1.1 5"] {
            assert!(!log.contains(word), "{word} in {log}");
        }
    }
}

#[test]
fn nginx_as_a_proxy_keeps_its_connections_across_twenty_reloads() {
    if !is_there(&["nginx", "-v"]) || !is_there(&["python3", "--version"]) {
        return;
    }
    let server = serving(Over::Plain);
    let own = SocketAddr::new(server.address().ip(), 19_999);
    let config = format!(
        "daemon off; master_process off; pid nginx.pid; error_log stderr info;
         events {{ worker_connections 256; }}
         http {{
             access_log off; client_max_body_size 0; keepalive_requests 1000000;
             client_body_temp_path temp; proxy_temp_path temp; fastcgi_temp_path temp; uwsgi_temp_path temp;
             scgi_temp_path temp;
             upstream reborn {{
                 server {} max_fails=0; keepalive 8; keepalive_requests 1000000;
             }}
             server {{
                 listen {own};
                 location / {{
                     proxy_pass http://reborn; proxy_http_version 1.1; proxy_set_header Connection \"\";
                     proxy_next_upstream off;
                 }}
             }}
         }}",
        server.address()
    );
    fs::write(server.folder().join("nginx.conf"), config).unwrap();
    server.wait_until("the harness's own connections are gone", |server| server.status()["connections"] == 0);
    let prefix = format!("{}/", server.folder().display());
    let nginx = Client::start(&server, "nginx", &mut program("nginx", &["-p", &prefix, "-c", "nginx.conf"]));
    server.wait_until("nginx listens", |_| {
        assert!(nginx.process.is_alive(), "{}", nginx.log());
        std::net::TcpStream::connect(own).is_ok()
    });
    let clients: Vec<Client> = (0..4)
        .map(|number| {
            let mut command = program("python3", &[source("http_client.py")]);
            Client::start(&server, &format!("behind-nginx-{number}"), command.arg(format!("http://{own}")))
        })
        .collect();
    server.wait_until("nginx has a connection for each client", |server| {
        server.status()["connections"].as_u64() >= Some(clients.len() as u64)
    });
    reload_under(&server, Over::Plain, &clients);
    for client in &clients {
        client.finish(Ended::Code(0));
    }
    let log = nginx.log();
    for word in ["[error]", "[alert]", "[crit]", "upstream"] {
        assert!(!log.contains(word), "{word} in {log}");
    }
}

#[test]
#[ignore = "Chromium is large: `just test-clients` runs it, with the others"]
fn chromium_stays_connected_across_twenty_reloads() {
    if is_there(&["chromium", "--version"]) {
        chromium_stays_connected(Over::Plain);
    }
}

#[test]
#[ignore = "Chromium is large: `just test-clients` runs it, with the others"]
fn chromium_over_tls_stays_connected_across_twenty_reloads() {
    if is_there(&["chromium", "--version"]) {
        chromium_stays_connected(Over::Tls);
    }
}

/// A page with an event stream, a WebSocket and downloads.
fn chromium_stays_connected(over: Over) {
    let server = serving(over);
    fs::copy(source("chromium.html"), server.folder().join("site/browser.html")).unwrap();
    let long: Vec<u8> = (0..8_000_000_u32).flat_map(u32::to_le_bytes).collect();
    fs::write(server.folder().join("site/long.bin"), long).unwrap();
    let mut command = program(
        "chromium",
        &[
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--ignore-certificate-errors",
            "--enable-logging=stderr",
            "--remote-debugging-port=0",
        ],
    );
    command.arg(format!("--user-data-dir={}", server.folder().join("profile").display()));
    command.arg(format!("{}/browser.html", base(&server, over)));
    let client = Client::start(&server, "chromium", &mut command);
    reload_under(&server, over, std::slice::from_ref(&client));
    server.wait_until("the page is done", |_| client.log().contains("done: "));
    let log = client.log();
    assert!(!log.contains("error: ") && !log.contains("net::ERR"), "{log}");
    println!("{}", log.lines().find(|line| line.contains("done: ")).unwrap_or_default());
    client.process.signal(Signal::TERM);
    assert!(client.process.wait(DEADLINE), "{log}");
}
