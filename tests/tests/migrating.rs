//! The site of deploy/MIGRATING.md, as nginx serves it and as reborn does: a browser that crawls both sees the same.
//!
//! Both configurations are taken from the page as they are, but for folders and addresses.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use smol::block_on;
use tests::load::{Answer, Connection, Limits, Target};
use tests::moved_site::{self, PAGES};
use tests::skip::skip;
use tests::{DEADLINE, Reborn, Server};

/// The folders that the page speaks of.
const FOLDERS: [&str; 2] = ["/srv/www", "/srv/app"];

const NGINX: &str = "/usr/sbin/nginx";
const MIME_TYPES: &str = "/etc/nginx/mime.types";

/// The block of this language in the page, with its folders below this one.
fn block(language: &str, folder: &Path) -> String {
    FOLDERS
        .iter()
        .fold(moved_site::block(language), |text, name| text.replace(name, &format!("{}{name}", folder.display())))
}

/// A running nginx. It is killed when it is dropped.
struct Nginx(Child, SocketAddr);

impl Nginx {
    fn start(folder: &Path) -> Nginx {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let servers = block("nginx", folder).replace("listen 80", &format!("listen {address}"));
        let configuration = format!(
            "daemon off; master_process off; pid {0}/nginx.pid; error_log stderr crit; events {{ }}
             http {{
                 include {MIME_TYPES}; default_type application/octet-stream; access_log off;
                 client_body_temp_path {0}/t1; proxy_temp_path {0}/t2; fastcgi_temp_path {0}/t3;
                 uwsgi_temp_path {0}/t4; scgi_temp_path {0}/t5; keepalive_requests 1000000;
                 {servers}
             }}",
            folder.display()
        );
        let path = folder.join("nginx.conf");
        fs::write(&path, configuration).unwrap();
        let mut command = Command::new(NGINX);
        command.arg("-p").arg(folder).args(["-e", "stderr", "-c"]).arg(&path).stdin(Stdio::null());
        let mut nginx = Nginx(command.spawn().unwrap(), address);
        let started = Instant::now();
        while TcpStream::connect(address).is_err() {
            let ended = nginx.0.try_wait().unwrap();
            assert!(ended.is_none() && started.elapsed() < DEADLINE, "nginx does not listen: {ended:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
        nginx
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn connect(address: SocketAddr) -> Connection {
    let limits = Limits { answer: DEADLINE, ..Limits::default() };
    block_on(Connection::open(&Target::Tcp(address), limits)).unwrap()
}

/// One request, as a browser makes it that goes to a page.
#[track_caller]
fn ask(connection: &mut Connection, (host, target): (&str, &str), headers: &[&str]) -> Answer {
    let (line, host) = (format!("GET {target} HTTP/1.1"), format!("host: {host}"));
    let request = [&[&*line, &*host, "accept: text/html,*/*;q=0.8"], headers, &["", ""]].concat().join("\r\n");
    block_on(connection.send(request.as_bytes())).unwrap();
    block_on(connection.answer()).unwrap_or_else(|lost| panic!("{target}: {lost:?}"))
}

/// What a browser notices of an answer.
fn noticed(answer: &Answer, (host, target): (&str, &str), address: SocketAddr) -> BTreeMap<&'static str, String> {
    let mut seen = BTreeMap::from([("status", answer.status.to_string())]);
    for name in ["cache-control", "x-frame-options", "content-range", "content-encoding"] {
        seen.extend(answer.header(name).map(|value| (name, value.to_owned())));
    }
    if let Some(location) = answer.header("location") {
        // nginx names itself, with its own port.
        let own = format!("http://{host}:{}", address.port());
        let location =
            location.strip_prefix(&own).or(location.strip_prefix(&format!("http://{host}"))).unwrap_or(location);
        seen.insert("location", location.to_owned());
        return seen;
    }
    if answer.status == 304 {
        return seen;
    }
    let kind = answer.header("content-type").unwrap_or_else(|| panic!("{target} has no type: {answer:?}"));
    // That all of JavaScript is text (RFC 9239), and what a font or XML is, is known by another year's list.
    let kind = kind.split(';').next().unwrap();
    let kind = match kind {
        "application/javascript" => "text/javascript",
        kind => kind,
    };
    seen.insert("type", kind.to_owned());
    let body = match answer.header("content-encoding") {
        Some("gzip") => {
            let mut text = vec![];
            flate2::read::GzDecoder::new(&*answer.body).read_to_end(&mut text).unwrap();
            text
        }
        _ => answer.body.clone(),
    };
    seen.insert("body", String::from_utf8_lossy(&body).into_owned());
    seen
}

fn serving(folder_of: Reborn) -> (Server, Vec<String>) {
    let folder = folder_of.folder().to_owned();
    let paths = moved_site::fill(&folder, |_| "home".to_owned());
    let text = block("toml", &folder);
    let listen = "listen = [\"http=0.0.0.0:80\"]\n";
    assert!(text.contains(listen), "{text}");
    // The harness has an address of its own.
    fs::write(folder.join("site.toml"), text.replace(listen, "")).unwrap();
    (folder_of.args(["--config", "site.toml"]).start(), paths)
}

#[test]
fn a_site_that_is_moved_from_nginx_is_the_same_to_a_browser_also_through_reloads() {
    if !Path::new(NGINX).exists() || !Path::new(MIME_TYPES).exists() {
        return skip("there is no nginx");
    }
    let (server, files) = serving(Reborn::new().probation_ms(0));
    let nginx = Nginx::start(server.folder());
    let all: Vec<_> = PAGES.into_iter().chain(files.iter().map(|path| ("example.org", path.as_str()))).collect();
    let (mut ours, mut theirs) = (connect(server.address()), connect(nginx.1));
    let mut differing = vec![];
    for (index, page) in all.iter().enumerate() {
        if index % 200 == 50 {
            server.reload_ok();
        }
        for headers in [&[][..], &["range: bytes=2-5"]] {
            let here = noticed(&ask(&mut ours, *page, headers), *page, server.address());
            let there = noticed(&ask(&mut theirs, *page, headers), *page, nginx.1);
            if here != there {
                differing.push(format!("{page:?} {headers:?}:\n  here  {here:?}\n  there {there:?}"));
            }
        }
    }
    let shown = differing.iter().take(20).cloned().collect::<Vec<_>>().join("\n");
    assert!(differing.is_empty(), "{} of {} differ:\n{shown}", differing.len(), all.len());
    server.assert_no_error();
}

#[test]
fn what_the_page_compresses_is_the_same_text_to_a_client_of_either() {
    if !Path::new(NGINX).exists() || !Path::new(MIME_TYPES).exists() {
        return skip("there is no nginx");
    }
    let (server, files) = serving(Reborn::new().probation_ms(0));
    let nginx = Nginx::start(server.folder());
    let (mut ours, mut theirs) = (connect(server.address()), connect(nginx.1));
    for path in files.iter().step_by(7) {
        let page = ("example.org", path.as_str());
        let answers =
            [ask(&mut ours, page, &["accept-encoding: gzip"]), ask(&mut theirs, page, &["accept-encoding: gzip"])];
        let [mut here, mut there] = [noticed(&answers[0], page, server.address()), noticed(&answers[1], page, nginx.1)];
        // Which of them are worth it is each server's to say.
        here.remove("content-encoding");
        there.remove("content-encoding");
        assert_eq!(here, there, "{path}");
    }
}
