//! A site is moved from nginx as a new user would do it: the package is installed on a real systemd, its configuration is the
//! page's, and curl and wget crawl both servers, also while reloads change the configuration.
//!
//! nginx is at another address with the same port, so that the two differ in no header and no link.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use tests::lab::{DEADLINE, Lab, PROGRAM};
use tests::moved_site::{self, FILES, PAGES};
use tests::package::Package;
use tests::skip::skip;

const RELOADS: usize = 20;
const OURS: &str = "127.0.0.1";
const THEIRS: &str = "127.0.0.2";
const HOSTS: [&str; 4] = ["example.org", "app.example.org", "www.example.org", "a.old.example.org"];
/// The headers that a browser acts on. What only says when and by whom is left out, tags, which are each server's own, and
/// `X-Content-Type-Options`, which the page says that nginx has to be asked for.
const NOTICED: [&str; 7] = [
    "accept-ranges",
    "cache-control",
    "content-encoding",
    "content-type",
    "last-modified",
    "location",
    "x-frame-options",
];

/// Writes both roots, with a home page that leads to each file. Returns what a crawler asks for.
fn fill(lab: &Lab) -> Vec<String> {
    let link = |(number, path): (usize, &String)| format!("<a href=\"{path}\">{number}</a>\n");
    let others = ["/docs/", "/missing", "/blog/2024/3%20%C3%BC.json", "/docs"].map(str::to_owned);
    let home = |paths: &[String]| {
        let links: String = paths.iter().chain(&others).enumerate().map(link).collect();
        format!("<!doctype html><title>home</title>\n{links}")
    };
    let files = moved_site::fill(&lab.path("/"), home);
    // No site is as young as this: of a file that may change once more within its second an earlier date is told.
    lab.sh("chmod -R a+rX /srv && find /srv -type f -exec touch --date '2026-05-01 12:34:56 UTC' {} +");
    let asked = files.iter().map(|path| ("example.org", path.as_str())).chain(PAGES);
    asked.map(|(host, target)| format!("http://{host}{target}")).collect()
}

/// A lab with the package installed and both servers running; the URLs to crawl.
fn moved() -> Option<(Lab, Vec<String>)> {
    if !Path::new("/usr/sbin/nginx").exists() || !Path::new("/usr/bin/wget").exists() {
        skip("there is no nginx, or no wget");
        return None;
    }
    let package = Package::build()?;
    let lab = Lab::boot()?;
    let said = Package::install(&lab, &package.version(1, |program| program));
    assert!(said.status.success(), "{said:?}");
    let urls = fill(&lab);
    configure(&lab, 0);
    lab.edit("reborn.socket", "address", &format!("[Socket]\nListenStream=\nListenStream={OURS}:80\n"));
    lab.systemctl(["enable", "--now", "reborn.socket"]);
    lab.systemctl(["start", "reborn.service"]);
    let servers = moved_site::block("nginx").replace("listen 80", &format!("listen {THEIRS}:80"));
    let http = format!(
        "daemon off; error_log stderr crit; pid /run/nginx.pid; events {{ }}
         http {{ include /etc/nginx/mime.types; default_type application/octet-stream; access_log off; {servers} }}"
    );
    lab.write("/etc/nginx/moved.conf", http);
    lab.unit("moved.service", "[Service]\nExecStart=/usr/sbin/nginx -e stderr -c /etc/nginx/moved.conf\n");
    lab.systemctl(["start", "moved.service"]);
    let probe = format!("http://{THEIRS}/");
    lab.wait_until("nginx serves", DEADLINE, || lab.exec(["curl", "--silent", "--fail", &probe]).status.success());
    for address in [OURS, THEIRS] {
        let names = HOSTS.map(|host| format!("{address} {host}\n"));
        lab.write(format!("/root/hosts-{address}"), names.concat());
    }
    Some((lab, urls))
}

/// Tells crawlers that they may end, when it is dropped.
struct Finished<'a>(&'a AtomicBool);

impl Drop for Finished<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The page's configuration, with something of this round that no link leads to.
fn configure(lab: &Lab, round: usize) {
    let text = moved_site::block("toml");
    let (listen, first) = ("listen = [\"http=0.0.0.0:80\"]\n", "[[site.redirect]]\nfrom = \"/blog");
    assert!(text.contains(listen) && text.contains(first), "{text}");
    let own = format!(
        "[[site.headers]]\npath = \"/*\"\nset = {{ X-Round = \"{round}\" }}\n\n\
         [[site.redirect]]\nfrom = \"/round\"\nto = \"/rounds/{round}\"\n\n{first}"
    );
    // systemd has the socket, and keeps its name.
    let text = text.replace(listen, "probation = \"100ms\"\n").replacen(first, &own, 1);
    lab.write("/etc/reborn/reborn.toml", text);
}

/// What a browser notices of an answer: its status, its headers, its body.
type Noticed = (String, BTreeMap<String, String>, Vec<u8>);

/// Asks one of the servers for all URLs with curl, in the order in which they stand, over a few kept connections.
fn crawl(lab: &Lab, address: &str, urls: &[String], folder: &str) -> Result<Vec<Noticed>, String> {
    let head = format!("silent\nshow-error\ninclude\ncreate-dirs\nconnect-to = \"::{address}:80\"\n");
    let accept = "header = \"Accept: text/html,*/*;q=0.8\"\n";
    let each = urls.iter().enumerate();
    let each: Vec<_> = each.map(|(number, url)| format!("url = \"{url}\"\noutput = \"{folder}/{number}\"\n")).collect();
    lab.write(format!("{folder}.curl"), format!("{head}{accept}{}", each.concat()));
    let said = lab.exec(["curl", "--config", &format!("{folder}.curl")]);
    if !said.status.success() || !said.stderr.is_empty() {
        return Err(format!("curl: {}: {}", said.status, said.stderr));
    }
    let answer = |number: usize| fs::read(lab.path(format!("{folder}/{number}"))).unwrap();
    Ok(urls.iter().enumerate().map(|(number, url)| noticed(url, &answer(number))).collect())
}

fn noticed(url: &str, answer: &[u8]) -> Noticed {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").expect("an answer has a head");
    let head = String::from_utf8(answer[..end].to_vec()).unwrap();
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().to_owned();
    let headers = lines.filter_map(|line| line.split_once(": "));
    let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()));
    let mut headers: BTreeMap<_, _> = headers.filter(|(name, _)| NOTICED.contains(&&**name)).collect();
    if let Some(kind) = headers.get_mut("content-type") {
        // That all of JavaScript is text (RFC 9239) is known by another year's list; that texts are UTF-8 is said here.
        *kind = kind.split(';').next().unwrap().replace("application/javascript", "text/javascript");
    }
    if let Some(location) = headers.get_mut("location") {
        // nginx writes down what a browser makes of a path.
        let host = url.split('/').nth(2).unwrap_or_default();
        *location = location.trim_start_matches(&format!("http://{host}")).to_owned();
    }
    let mut body = answer[end + 4..].to_vec();
    if status.starts_with('3') {
        // What a browser follows it does not show.
        (body, _) = (vec![], headers.remove("content-type"));
    }
    (status, headers, body)
}

/// The URLs whose answers differ, with both.
fn differing(urls: &[String], ours: &[Noticed], theirs: &[Noticed]) -> Vec<String> {
    let shown = |(status, headers, body): &Noticed| format!("{status} {headers:?}, {} bytes", body.len());
    let pairs = urls.iter().zip(ours.iter().zip(theirs)).filter(|(_, (here, there))| here != there);
    pairs.map(|(url, (here, there))| format!("{url}\n  here  {}\n  there {}", shown(here), shown(there))).collect()
}

/// Follows all links of the first host with wget. Gives how it ended, and each file with its date and its hash.
fn mirror(lab: &Lab, address: &str, folder: &str) -> (ExitStatus, String) {
    let wget = format!(
        "mount --bind /root/hosts-{address} /etc/hosts && rm -rf {folder} && mkdir {folder} && cd {folder} && \
         wget --quiet --recursive --level=inf --execute robots=off --tries=1 --domains example.org http://example.org/"
    );
    let said = lab.exec(["unshare", "--mount", "sh", "-c", &wget]);
    let listed = format!("cd {folder} && find . -type f -printf '%T@ ' -exec sha256sum {{}} \\; | sort --key=3");
    (said.status, lab.sh(&listed))
}

#[test]
fn a_crawl_of_a_site_that_was_moved_from_nginx_differs_in_nothing_also_through_reloads_that_change_it() {
    let Some((lab, urls)) = moved() else { return };
    let theirs = crawl(&lab, THEIRS, &urls, "/tmp/theirs").unwrap();
    let ours = crawl(&lab, OURS, &urls, "/tmp/ours").unwrap();
    let differ = differing(&urls, &ours, &theirs);
    assert!(differ.is_empty(), "{} of {}:\n{}", differ.len(), urls.len(), differ[..differ.len().min(20)].join("\n"));
    let mirrored = mirror(&lab, THEIRS, "/tmp/mirror-theirs");
    assert!(mirrored.1.lines().count() > FILES, "wget has followed the links: {}", mirrored.0);
    assert_same_mirror(&mirror(&lab, OURS, "/tmp/mirror-ours"), &mirrored);

    let done = AtomicBool::new(false);
    let (crawls, mirrors) = thread::scope(|scope| {
        let crawling = scope.spawn(|| {
            let (mut crawls, mut failures) = (0, vec![]);
            while !done.load(Ordering::Relaxed) || crawls == 0 {
                match crawl(&lab, OURS, &urls, "/tmp/again") {
                    Ok(again) => failures.extend(differing(&urls, &again, &theirs)),
                    Err(error) => failures.push(error),
                }
                crawls += 1;
            }
            assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
            crawls
        });
        let mirroring = scope.spawn(|| {
            let mut mirrors = 0;
            while !done.load(Ordering::Relaxed) || mirrors == 0 {
                assert_same_mirror(&mirror(&lab, OURS, "/tmp/mirror-again"), &mirrored);
                mirrors += 1;
            }
            mirrors
        });
        // The crawlers end also where this panics.
        let finished = Finished(&done);
        for round in 1..=RELOADS {
            configure(&lab, round);
            lab.systemctl(["reload", "reborn.service"]);
            let said = lab.sh(&format!("curl --silent --head --connect-to ::{OURS}:80 http://example.org/round"));
            assert!(said.contains(&format!("/rounds/{round}")), "the new configuration holds: {said}");
        }
        drop(finished);
        (crawling.join().unwrap(), mirroring.join().unwrap())
    });
    assert!(lab.sh(&format!("{PROGRAM} status")).contains(&format!("generation {} ", RELOADS + 1)));
    let answers = crawls * urls.len() + mirrors * mirrored.1.lines().count();
    println!("{RELOADS} reloads, {crawls} crawls, {mirrors} mirrors, more than {answers} answers: no difference");
}

#[track_caller]
fn assert_same_mirror(ours: &(ExitStatus, String), theirs: &(ExitStatus, String)) {
    // A broken link and the hosts that nobody serves: both crawls end as the other does.
    assert_eq!(ours.0, theirs.0);
    let differ: Vec<_> = ours.1.lines().zip(theirs.1.lines()).filter(|(here, there)| here != there).take(5).collect();
    assert!(ours.1 == theirs.1, "{} and {} files: {differ:#?}", ours.1.lines().count(), theirs.1.lines().count());
}
