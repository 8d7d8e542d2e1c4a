//! Plain files through the real binary: what a client gets over a socket, what it never gets, and that a site which is
//! published by switching a link is seen whole, the old one or the new one.

#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeSet,
    fs,
    io::{Read, Write},
    net::TcpStream,
    os::unix::fs::{FileExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use smol::block_on;
use tests::{
    CommandOutput, DEADLINE, Ended, Process, Reborn, Server,
    load::{Answer, Connection, Limits, Target},
    skip::{may_change_user, may_trace, skip},
};

const MIB: u64 = 1024 * 1024;

/// A server of the files in the folder `site`, which `fill` has filled before.
#[track_caller]
fn serving(fill: impl FnOnce(&Path)) -> Server {
    with_site(Reborn::new().probation_ms(0), fill).start()
}

fn with_site(reborn: Reborn, fill: impl FnOnce(&Path)) -> Reborn {
    let site = reborn.folder().join("site");
    fs::create_dir(&site).unwrap();
    fill(&site);
    reborn.arg("--root").arg(site)
}

fn site(server: &Server) -> PathBuf {
    server.folder().join("site")
}

fn connect(server: &Server) -> Connection {
    let limits = Limits { answer: DEADLINE, ..Limits::default() };
    block_on(Connection::open(&Target::Tcp(server.address()), limits)).unwrap()
}

/// One GET on a connection that stays open.
#[track_caller]
fn get(connection: &mut Connection, target: &str, headers: &[&str]) -> Answer {
    let line = format!("GET {target} HTTP/1.1");
    let request = [&[&*line, "host: localhost"], headers, &["", ""]].concat().join("\r\n");
    block_on(connection.send(request.as_bytes())).unwrap();
    block_on(connection.answer()).unwrap_or_else(|lost| panic!("{target}: {lost:?}"))
}

/// Sends a request that is the last one, and returns all that comes.
#[track_caller]
fn raw(server: &Server, start: &str) -> String {
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    write!(stream, "{start}\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn url(server: &Server, path: &str) -> String {
    format!("http://{}{path}", server.address())
}

/// Runs curl, where there is one.
fn curl<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Option<CommandOutput> {
    if Command::new("curl").arg("--version").output().is_err() {
        skip("there is no curl");
        return None;
    }
    Some(CommandOutput::of(Command::new("curl").args(["--silent", "--show-error", "--path-as-is"]).args(arguments)))
}

/// A server with a secret beside its root, and links to it.
fn beside_a_secret(reborn: Reborn) -> Server {
    let reborn = with_site(reborn.probation_ms(0), |site| {
        fs::write(site.parent().unwrap().join("secret.txt"), "the secret").unwrap();
        fs::create_dir_all(site.join("dir/.git")).unwrap();
        fs::write(site.join("dir/.git/config"), "the secret").unwrap();
        fs::write(site.join(".env"), "the secret").unwrap();
        fs::write(site.join("a.txt"), "a text").unwrap();
        symlink("../secret.txt", site.join("link")).unwrap();
        symlink("..", site.join("up")).unwrap();
        symlink("/", site.join("slash")).unwrap();
    });
    reborn.start()
}

#[test]
fn no_request_leads_out_of_the_root() {
    assert_no_way_out(&beside_a_secret(Reborn::new()));
}

/// What a shell runs in the place of the server, so that openat2 fails as under a filter for system calls.
fn without_openat2(error: &str) -> String {
    format!("exec strace -D -f -o /dev/null --trace=openat2 --inject=openat2:error={error} \"$0\" \"$@\"")
}

#[test]
fn no_request_leads_out_of_the_root_where_there_is_no_openat2() {
    if !may_trace() {
        return;
    }
    for error in ["ENOSYS", "EPERM"] {
        assert_no_way_out(&beside_a_secret(Reborn::new().prelude(&without_openat2(error))));
    }
}

#[track_caller]
fn assert_no_way_out(server: &Server) {
    let secret = server.folder().join("secret.txt");
    let absolute = secret.to_str().unwrap();
    let ups =
        ["..", "%2e%2e", "%2E%2E", ".%2e", "%2e.", "..%2f", "..%5c", "..\\", "%2e%2e%2f", "..%00", "..;", "....//"];
    let mut targets: Vec<String> = Vec::new();
    for up in ups {
        for prefix in ["/", "/dir/", "//", "/./", "/a.txt/", "http://localhost/", "/%2f"] {
            for depth in 1..4 {
                targets.push(format!("{prefix}{}/secret.txt", vec![up; depth].join("/")));
                targets.push(format!("{prefix}{}secret.txt", vec![up; depth].join("")));
            }
        }
        targets.push(format!("/{}{absolute}", [up; 12].join("/")));
    }
    let encoded = format!("/{}", absolute.replace('/', "%2f"));
    for path in [
        absolute,
        &encoded,
        "/link",
        "/link/",
        "/up/secret.txt",
        "/up/site/a.txt",
        "/slash/etc/passwd",
        "/dir/.git/config",
        "/.env",
        "/%2eenv",
        "/dir/%2egit/config",
        "/.env%00.txt",
        "/a.txt%00",
        "/a.txt/../.env",
        "/a.txt/",
        "/dir/",
    ] {
        targets.extend([path.to_owned(), format!("/{path}"), format!("http://localhost{path}")]);
    }
    let mut connection = connect(server);
    for target in &targets {
        let answer = get(&mut connection, target, &[]);
        assert_eq!(answer.status, 404, "{target}: {answer:?}");
        assert!(!answer.text().contains("secret") && !answer.text().contains("a text"), "{target}");
    }
    assert_eq!(get(&mut connection, "/a.txt", &[]).text(), "a text", "and the connection is a good one all the same");
}

#[test]
fn with_follow_symlinks_a_link_leads_where_it_points() {
    let reborn = with_site(Reborn::new().arg("--follow-symlinks"), |site| {
        fs::write(site.parent().unwrap().join("elsewhere.txt"), "from elsewhere").unwrap();
        symlink("../elsewhere.txt", site.join("link.txt")).unwrap();
    });
    let server = reborn.start();
    let mut connection = connect(&server);
    assert_eq!(get(&mut connection, "/link.txt", &[]).text(), "from elsewhere");
    assert_eq!(get(&mut connection, "/../elsewhere.txt", &[]).status, 404);
}

#[test]
fn what_the_user_may_not_read_is_forbidden_and_what_is_not_there_not_found() {
    if !may_change_user() {
        return;
    }
    let server = with_site(Reborn::new().as_nobody(), |site| {
        fs::create_dir(site.join("closed")).unwrap();
        for name in ["private.txt", "closed/a.txt", "open.txt"] {
            fs::write(site.join(name), name).unwrap();
        }
        for (name, mode) in [("private.txt", 0o600), ("closed", 0o700)] {
            fs::set_permissions(site.join(name), fs::Permissions::from_mode(mode)).unwrap();
        }
    })
    .start();
    let mut connection = connect(&server);
    for (path, status) in [("/private.txt", 403), ("/closed/a.txt", 403), ("/open.txt", 200), ("/missing.txt", 404)] {
        assert_eq!(get(&mut connection, path, &[]).status, status, "{path}");
    }
}

#[test]
fn other_methods_than_get_and_head_are_refused_and_head_has_no_body() {
    let server = serving(|site| fs::write(site.join("a.txt"), "a text").unwrap());
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        let answer = raw(&server, &format!("{method} /a.txt HTTP/1.1\r\ncontent-length: 0"));
        assert!(
            answer.starts_with("HTTP/1.1 405 ") && answer.contains("\r\nallow: GET, HEAD, OPTIONS\r\n"),
            "{answer}"
        );
    }
    let head = raw(&server, "HEAD /a.txt HTTP/1.1");
    assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "{head}");
    for line in ["content-length: 6", "content-type: text/plain; charset=utf-8", "accept-ranges: bytes"] {
        assert!(head.contains(&format!("\r\n{line}\r\n")), "{line} in {head}");
    }
    let head = raw(&server, "HEAD /a.txt HTTP/1.1\r\nif-none-match: *");
    assert!(head.starts_with("HTTP/1.1 304 Not Modified\r\n") && head.contains("\r\netag: "), "{head}");
    assert!(!head.contains("content-length: 0"), "a 304 does not speak of an empty file: {head}");
}

#[test]
fn curl_resumes_asks_again_takes_compressed_files_and_follows_redirects() {
    let content: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
    let server = serving(|site| {
        fs::write(site.join("data.bin"), &content).unwrap();
        fs::create_dir(site.join("dir")).unwrap();
        fs::write(site.join("dir/index.html"), "the index").unwrap();
    });
    // `printf compressed | gzip`, as any gzip gives it.
    let gzip = Command::new("sh").args(["-c", "printf 'the compressed index' | gzip -c"]).output().unwrap().stdout;
    fs::write(site(&server).join("dir/index.html.gz"), gzip).unwrap();

    let part = server.folder().join("part");
    fs::write(&part, &content[..100_000]).unwrap();
    let Some(output) = curl(["--continue-at", "-", "--output", part.to_str().unwrap(), &url(&server, "/data.bin")])
    else {
        return;
    };
    output.assert_success();
    assert!(fs::read(&part).unwrap() == content, "a download is resumed");

    let output = curl(["--location", &url(&server, "/dir?x=1")]).unwrap();
    assert_eq!((output.assert_success().stdout.as_str()), "the index");
    let output = curl(["--location", "--compressed", &url(&server, "/dir/")]).unwrap();
    assert_eq!(output.assert_success().stdout, "the compressed index");

    let report = "%{http_code} %{size_download}";
    let tags = server.folder().join("tags");
    let compare = ["--etag-compare", tags.to_str().unwrap(), "--etag-save", tags.to_str().unwrap()];
    let again = |more: &[&str]| {
        let target = url(&server, "/data.bin");
        let fixed = ["--output", "/dev/null", "--write-out", report, &target];
        curl(more.iter().copied().chain(fixed)).unwrap().assert_success().stdout.clone()
    };
    fs::write(&tags, "").unwrap();
    assert_eq!(again(&compare), "200 800000");
    assert_eq!(again(&compare), "304 0");
    assert_eq!(again(&["--time-cond", "1 Jan 2100"]), "304 0");
    assert_eq!(again(&["--range", "0-99"]), "206 100");
    assert_eq!(again(&["--range", "-1"]), "206 1");
    assert_eq!(again(&["--range", "800000-"]).split(' ').next(), Some("416"));
    let several = curl(["--range", "0-1,4-5", &url(&server, "/data.bin")]).unwrap();
    assert_eq!(several.stdout.matches("\r\ncontent-range: bytes ").count(), 2, "{several}");
}

#[test]
fn a_file_that_becomes_shorter_ends_the_connection_and_one_that_grows_does_not() {
    let length = 64 * MIB;
    let server = serving(|site| {
        for name in ["shrinks.bin", "grows.bin"] {
            fs::File::create(site.join(name)).unwrap().set_len(length).unwrap();
        }
    });
    let request = |name: &str| format!("GET /{name} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(request("shrinks.bin").as_bytes()).unwrap();
    let mut first = vec![0; 64 * 1024];
    stream.read_exact(&mut first).unwrap();
    assert!(String::from_utf8_lossy(&first).contains(&format!("\r\ncontent-length: {length}\r\n")));
    fs::OpenOptions::new().write(true).open(site(&server).join("shrinks.bin")).unwrap().set_len(MIB).unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    assert!((first.len() + rest.len()) as u64 <= length, "the body is short, and the connection has ended");

    let mut connection = connect(&server);
    block_on(connection.send(request("grows.bin").as_bytes())).unwrap();
    let file = fs::OpenOptions::new().write(true).open(site(&server).join("grows.bin")).unwrap();
    server.wait_until("the answer is under way", |_| {
        block_on(async { !matches!(connection.look(), tests::load::Look::Open) })
    });
    file.write_all_at(b"more", length).unwrap();
    let answer = block_on(connection.answer()).unwrap();
    assert_eq!(answer.body.len() as u64, length);
    assert_eq!(get(&mut connection, "/grows.bin", &["range: bytes=-4"]).text(), "more");
}

#[test]
fn large_files_take_no_memory_whether_clients_read_fast_or_not_at_all() {
    const STALLED: u64 = 250;
    let length = 256 * MIB;
    let server = serving(|site| fs::File::create(site.join("large.bin")).unwrap().set_len(length).unwrap());
    let process = Process::open(server.pid()).unwrap();
    let before = process.resident_bytes();
    let stalled: Vec<TcpStream> = (0..STALLED)
        .map(|_| {
            let mut stream = TcpStream::connect(server.address()).unwrap();
            stream.write_all(b"GET /large.bin HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
            stream
        })
        .collect();
    for stream in &stalled {
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        assert_eq!(stream.peek(&mut [0; 9]).unwrap(), 9);
    }
    let mut fast = TcpStream::connect(server.address()).unwrap();
    fast.set_read_timeout(Some(DEADLINE)).unwrap();
    fast.write_all(b"GET /large.bin HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
    let (mut received, mut buffer, mut most) = (0, vec![0; 256 * 1024], 0);
    loop {
        let count = fast.read(&mut buffer).unwrap();
        if count == 0 {
            break;
        }
        received += count as u64;
        most = most.max(process.resident_bytes());
    }
    assert!(received > length);
    let grown = most.saturating_sub(before);
    // What a stalled client does not take is in the kernel, and read again when it goes on.
    assert!(grown < STALLED * 16 * 1024 + 6 * MIB, "{} KiB more", grown / 1024);
}

#[test]
fn links_are_not_followed_without_openat2_and_the_server_says_so() {
    if !may_trace() {
        return;
    }
    let reborn = Reborn::new().arg("--follow-symlinks").prelude(&without_openat2("ENOSYS"));
    let server = with_site(reborn, |_| {}).spawn();
    assert_eq!(server.wait_end(server.first_pid()), Ended::Code(1));
    let log = server.log();
    assert!(log.contains("to follow symlinks takes openat2, which is not permitted here"), "{log}");
}

/// The content of a file of site `n`: it says so throughout, and each site has files of other lengths.
fn content(n: u64, length: usize) -> Vec<u8> {
    let line = format!("site {n}\n").into_bytes();
    let length = length + usize::try_from(n).unwrap() * 7;
    let mut content = line.repeat(length / line.len() + 1);
    content.truncate(length);
    content
}

/// Makes site `n` the one to which the link `current` leads, in one step.
fn publish(folder: &Path, n: u64) {
    let (site, link) = (folder.join(format!("sites/{n}")), folder.join("current.new"));
    fs::create_dir_all(&site).unwrap();
    for (name, length) in FILES {
        fs::write(site.join(name), content(n, length)).unwrap();
    }
    symlink(Path::new("sites").join(n.to_string()), &link).unwrap();
    fs::rename(link, folder.join("current")).unwrap();
}

const FILES: [(&str, usize); 4] =
    [("index.html", 300), ("style.css", 20_000), ("app.js", 150_000), ("data.bin", 400_000)];

#[test]
fn a_site_that_is_published_by_a_link_is_seen_whole_after_the_reload_and_not_before() {
    let reborn = Reborn::new().demo().probation_ms(0);
    publish(reborn.folder(), 1);
    let root = reborn.folder().join("current");
    let server = reborn.arg("--root").arg(root).start();
    let (stop, answers) = (AtomicBool::new(false), AtomicU64::new(0));
    let seen: BTreeSet<u64> = thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|client| {
                let (server, stop, answers) = (&server, &stop, &answers);
                scope.spawn(move || read_the_site(server, client, stop, answers))
            })
            .collect();
        let wait_for_answers = || {
            let (before, end) = (answers.load(Ordering::Relaxed), Instant::now() + DEADLINE);
            while answers.load(Ordering::Relaxed) < before + 40 {
                assert!(
                    Instant::now() < end && !clients.iter().any(thread::ScopedJoinHandle::is_finished),
                    "{}",
                    server.state()
                );
                thread::sleep(Duration::from_millis(1));
            }
        };
        wait_for_answers();
        for n in 2..=12 {
            publish(server.folder(), n);
            assert_eq!(
                get(&mut connect(&server), "/index.html", &[]).text().lines().next(),
                Some(&*format!("site {}", n - 1))
            );
            server.reload_ok();
            assert_eq!(
                get(&mut connect(&server), "/index.html", &[]).text().lines().next(),
                Some(&*format!("site {n}"))
            );
            wait_for_answers();
        }
        stop.store(true, Ordering::Relaxed);
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    assert_eq!(seen, (1..=12).collect(), "each site was seen");
    let log = server.log();
    assert!(!log.contains(" ERROR "), "{log}");
}

/// Reads files of the site on one connection until told to stop: whole, in ranges, and on condition. Each answer must be
/// of the very site that its generation, which serves the site of the same number, was started with.
fn read_the_site(server: &Server, client: usize, stop: &AtomicBool, answers: &AtomicU64) -> BTreeSet<u64> {
    let mut connection = connect(server);
    let (mut seen, mut tag) = (BTreeSet::new(), String::new());
    for turn in client.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let (name, length) = FILES[turn % FILES.len()];
        let conditional = [format!("if-range: {tag}"), "range: bytes=70-139".to_owned()];
        let headers: Vec<&str> = if turn % 3 == 0 { vec![] } else { conditional.iter().map(String::as_str).collect() };
        let answer = get(&mut connection, &format!("/{name}"), &headers);
        let n = answer.generation().unwrap();
        let whole = content(n, length);
        let expected = match answer.status {
            200 => &whole[..],
            206 => &whole[70..140],
            _ => panic!("{answer:?}"),
        };
        assert!(answer.body == expected, "{name} of generation {n}: {} bytes, some of another site", answer.body.len());
        if answer.status == 206 {
            assert_eq!(answer.header("content-range"), Some(&*format!("bytes 70-139/{}", whole.len())));
        }
        answer.header("etag").unwrap().clone_into(&mut tag);
        seen.insert(n);
        answers.fetch_add(1, Ordering::Relaxed);
    }
    seen
}

#[test]
fn a_root_that_is_gone_fails_the_reload_and_the_old_one_is_served_on() {
    let server = serving(|site| fs::write(site.join("a.txt"), "a text").unwrap());
    fs::rename(site(&server), server.folder().join("moved")).unwrap();
    let reason = format!("--root {:?}: No such file or directory", site(&server));
    server.reload().assert_code(1).assert_stderr(&reason);
    assert_eq!(get(&mut connect(&server), "/a.txt", &[]).text(), "a text");
}

#[test]
fn a_root_that_is_deleted_and_made_anew_is_served_again_and_the_log_says_so_once() {
    let server = serving(|site| fs::write(site.join("a.txt"), "old").unwrap());
    let mut connection = connect(&server);
    assert_eq!(get(&mut connection, "/a.txt", &[]).body, b"old");
    fs::remove_dir_all(site(&server)).unwrap();
    server.wait_until("the log says that it is gone", |server| {
        assert_eq!(get(&mut connection, "/a.txt", &[]).status, 404);
        server.log().contains("was deleted, nothing is found in it")
    });
    fs::create_dir(site(&server)).unwrap();
    fs::write(site(&server).join("a.txt"), "new").unwrap();
    server.wait_until("the new one is served", |_| get(&mut connection, "/a.txt", &[]).status == 200);
    assert_eq!(get(&mut connection, "/a.txt", &[]).body, b"new");
    server.wait_until("the log says that it is back", |server| server.log().contains("the new one is served"));
    let log = server.log();
    assert_eq!(log.matches("was deleted").count(), 2, "once that it is gone, and once that it is back: {log}");
}
