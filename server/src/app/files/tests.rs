//! A root with files, as clients see it: which are found, under which conditions, in which codings and ranges.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use http_types::Url;
use rustix::fs::{FileType, Mode};
use tempfile::TempDir;

use super::*;
use crate::app::answer::not_found;
use crate::config::Compression;

/// A root with files of each kind, beside a secret that must stay one.
struct Site {
    directory: TempDir,
    files: Files,
}

impl Site {
    fn new() -> Self {
        Self::with(false)
    }

    fn with(follow_symlinks: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (outer, root) = (directory.path(), directory.path().join("root"));
        for name in ["dir/deep", "empty", ".git", ".well-known", "\\evil.example", "odd/index.html"] {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        for (name, content) in [
            ("secret.txt", "secret"),
            ("root/a.txt", "a text"),
            ("root/page.html", "<p>"),
            ("root/index.html", "the index"),
            ("root/dir/index.html", "a directory's index"),
            ("root/dir/deep/b.svg", "<svg/>"),
            ("root/with space é.bin", "unusual"),
            ("root/100%.txt", "percent"),
            ("root/..hidden", "hidden"),
            ("root/.git/config", "hidden"),
            ("root/.well-known/security.txt", "Contact:"),
            ("root/no-bytes", ""),
        ] {
            fs::write(outer.join(name), content).unwrap();
        }
        for (target, link) in [
            ("a.txt", "inside"),
            ("../secret.txt", "outside"),
            ("..", "up"),
            ("loop", "loop"),
            ("missing", "dangling"),
            ("/proc/self/root/etc/passwd", "magic"),
            ("dir", "linked"),
        ] {
            symlink(target, root.join(link)).unwrap();
        }
        symlink(outer.join("secret.txt"), root.join("absolute")).unwrap();
        symlink("/dev/zero", root.join("device")).unwrap();
        let pipe = root.join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
        let files =
            Files::open(&FilesConfig { root, follow_symlinks, ..FilesConfig::default() }, 0, &Places::new()).unwrap();
        Self { directory, files }
    }

    /// One whose paths the kernel resolves, and one where it does not.
    fn both() -> [Self; 2] {
        let walked = Self::new();
        let directory = Arc::new(Directory::open(walked.root(), false, 0).unwrap().without_openat2());
        [Self::new(), Self { files: Files { directory, ..walked.files }, directory: walked.directory }]
    }

    fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    fn write(&self, name: &str, content: &[u8]) {
        fs::write(self.root().join(name), content).unwrap();
    }

    /// Sets when a file was modified, in seconds after 2020 began.
    fn touch(&self, name: &str, seconds: u64) {
        let file = fs::File::options().write(true).open(self.root().join(name)).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_577_836_800 + seconds)).unwrap();
    }

    fn ask(&self, method: Method, target: &str, headers: &[(&str, &str)]) -> Response {
        let mut request = Request::new(method, Url::parse("http://localhost/").unwrap());
        for (name, value) in headers {
            request.append_header(*name, *value);
        }
        let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        let target = PathAndQuery { path: path.to_owned(), query: query.map(str::to_owned) };
        smol::block_on(self.files.answer(&request, &target)).unwrap_or_else(not_found)
    }

    fn get(&self, target: &str, headers: &[(&str, &str)]) -> Answer {
        let mut response = self.ask(Method::Get, target, headers);
        let length = response.len();
        let body = smol::block_on(response.body_bytes()).unwrap();
        if response.status() != StatusCode::NotModified {
            assert_eq!(length, Some(body.len()), "the length is known: {target}");
        }
        Answer { status: response.status().into(), body, response }
    }

    /// The date of a file, once it counts: then a part is sent to whom it has.
    fn settled_date(&self, path: &str) -> String {
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            let date = self.get(path, &[]).header("last-modified").unwrap().to_owned();
            if self.get(path, &[("range", "bytes=0-0"), ("if-range", &date)]).status == 206 {
                return date;
            }
            assert!(Instant::now() < end, "{date} never counts");
            std::thread::yield_now();
        }
    }

    /// The tag of a file, once it is a strong one.
    fn strong_tag(&self, path: &str) -> String {
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            let tag = self.get(path, &[]).header("etag").unwrap().to_owned();
            if tag.starts_with('"') {
                return tag;
            }
            assert!(Instant::now() < end, "{tag} stays weak");
            std::thread::yield_now();
        }
    }
}

struct Answer {
    status: u16,
    body: Vec<u8>,
    response: Response,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.response.header(name).map(|values| values.last().as_str())
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

#[test]
fn files_are_served_with_their_types() {
    for site in Site::both() {
        for (path, content, kind) in [
            ("/a.txt", "a text", "text/plain; charset=utf-8"),
            ("/page.html", "<p>", "text/html"),
            ("/", "the index", "text/html"),
            ("/index.html", "the index", "text/html"),
            ("/dir/", "a directory's index", "text/html"),
            ("/dir/deep/b.svg", "<svg/>", "image/svg+xml"),
            ("/with%20space%20%C3%A9.bin", "unusual", "application/octet-stream"),
            ("/%61.txt", "a text", "text/plain; charset=utf-8"),
            ("/100%25.txt", "percent", "text/plain; charset=utf-8"),
            ("/.well-known/security.txt", "Contact:", "text/plain; charset=utf-8"),
            ("/no-bytes", "", "application/octet-stream"),
        ] {
            let answer = site.get(path, &[]);
            assert_eq!((answer.status, answer.text(), answer.header("content-type")), (200, content, Some(kind)));
            assert_eq!(answer.header("accept-ranges"), Some("bytes"));
            assert_eq!(answer.header("vary"), Some("accept-encoding"));
            assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
            assert!(answer.header("etag").is_some() && answer.header("last-modified").is_some());
        }
    }
}

#[test]
fn there_is_no_way_out_and_nothing_but_files() {
    for site in Site::both() {
        let long = format!("/{}", "x".repeat(300));
        let deep = "/x".repeat(4_000);
        for path in [
            "/missing",
            "/../secret.txt",
            "/dir/../../secret.txt",
            "/%2e%2e/secret.txt",
            "/..%2fsecret.txt",
            "/%252e%252e/secret.txt",
            "/..%5csecret.txt",
            "/..;/secret.txt",
            "//etc/passwd",
            "/%2fetc/passwd",
            "/a.txt%00",
            "/outside",
            "/absolute",
            "/up/secret.txt",
            "/up/root/a.txt",
            "/up",
            "/loop",
            "/dangling",
            "/magic",
            "/device",
            "/inside",
            "/linked",
            "/linked/",
            "/linked/index.html",
            "/fifo",
            "/socket",
            "/.git/config",
            "/..hidden",
            "/a.txt/",
            "/a.txt/x",
            "/empty/",
            "/odd/",
            "*",
            "/A.TXT",
            &long,
            &deep,
        ] {
            let answer = site.get(path, &[]);
            assert_eq!((answer.status, answer.text()), (404, "not found\n"), "{path}");
        }
        for path in ["/%", "/a%2", "/100%.txt"] {
            assert_eq!(site.get(path, &[]).status, 400, "{path}");
        }
    }
}

#[test]
fn a_request_for_a_fifo_wakes_nobody_who_waits_to_write_to_it() {
    for site in Site::both() {
        let pipe = site.root().join("fifo");
        let (about_to_open, waits) = std::sync::mpsc::channel();
        let writer = std::thread::spawn(move || {
            about_to_open.send(fs::read_link("/proc/thread-self").unwrap()).unwrap();
            fs::OpenOptions::new().write(true).open(pipe)
        });
        let stat = Path::new("/proc").join(waits.recv().unwrap()).join("stat");
        let end = Instant::now() + Duration::from_secs(30);
        while !fs::read_to_string(&stat).unwrap().contains(") S ") {
            assert!(Instant::now() < end, "it waits for a reader");
            std::thread::yield_now();
        }
        for _ in 0..100 {
            assert_eq!(site.get("/fifo", &[]).status, 404);
        }
        assert!(!writer.is_finished(), "no reader has come");
        let _reader = fs::File::open(site.root().join("fifo")).unwrap();
        writer.join().unwrap().unwrap();
    }
}

#[test]
fn links_are_followed_on_request_but_those_of_the_kernel() {
    let site = Site::with(true);
    for (path, content) in [
        ("/inside", "a text"),
        ("/outside", "secret"),
        ("/absolute", "secret"),
        ("/up/secret.txt", "secret"),
        ("/linked/", "a directory's index"),
    ] {
        let answer = site.get(path, &[]);
        assert_eq!((answer.status, answer.text()), (200, content), "{path}");
    }
    for path in ["/magic", "/loop", "/dangling", "/device", "/../secret.txt", "/%2e%2e/secret.txt"] {
        assert_eq!(site.get(path, &[]).status, 404, "{path}");
    }
}

#[test]
fn a_directory_without_its_slash_redirects_to_itself_and_nowhere_else() {
    for site in Site::both() {
        for (target, location) in [
            ("/dir", "/dir/"),
            ("/dir?a=b&c", "/dir/?a=b&c"),
            ("/dir?", "/dir/?"),
            ("/dir/deep", "/dir/deep/"),
            ("/%64ir", "/dir/"),
            ("/empty", "/empty/"),
            ("/\\evil.example", "/%5Cevil.example/"),
            ("/odd/index.html", "/odd/index.html/"),
        ] {
            let answer = site.get(target, &[]);
            assert_eq!((answer.status, answer.header("location")), (301, Some(location)), "{target}");
        }
        for target in ["//dir", "//evil.example/dir", "/%2fdir", "/dir//deep"] {
            assert_eq!(site.get(target, &[]).status, 404, "{target}");
        }
    }
}

#[test]
fn what_is_found_at_once_is_what_the_disk_has() {
    for site in [Site::new(), Site::with(true)] {
        site.write("a.txt.gz", b"gzipped");
        let mut found_at_once = 0;
        for path in ["/", "/a.txt", "/dir", "/dir/", "/dir/deep/b.svg", "/missing", "/inside", "/linked/", "/fifo"] {
            let location = Location::parse(path).unwrap();
            let wanted = Wanted { location, accepted: coding::accepted(Some("gzip, br")) };
            let describe = |outcome: Result<Found, Errno>| match outcome {
                Ok(Found::File(Opened { facts, coding, .. })) => format!("{facts:?} {coding:?}"),
                other => format!("{other:?}"),
            };
            let patient = describe(site.files.directory.current().find(&wanted));
            // The kernel may decline for a moment, as when something is renamed anywhere.
            if let Some(outcome) = (0..10).find_map(|_| site.files.directory.current().find_at_once(&wanted)) {
                assert_eq!(describe(outcome), patient, "{path}");
                found_at_once += 1;
            }
        }
        assert!(found_at_once >= 5, "the kernel has just looked at all of them: {found_at_once}");
    }
}

#[test]
fn names_need_not_be_text() {
    let site = Site::new();
    fs::write(site.root().join(OsStr::from_bytes(b"\xff\n.txt")), "bytes").unwrap();
    assert_eq!(site.get("/%ff%0a.txt", &[]).text(), "bytes");
}

#[test]
fn conditions_decide_between_200_304_and_412() {
    let site = Site::new();
    let (tag, date) = (site.strong_tag("/a.txt"), site.settled_date("/a.txt"));
    let date = date.as_str();
    let cases: &[(&[(&str, &str)], u16)] = &[
        (&[("if-none-match", &tag)], 304),
        (&[("if-none-match", "\"x\""), ("if-none-match", &tag)], 304),
        (&[("if-none-match", "\"x\"")], 200),
        (&[("if-modified-since", date)], 304),
        (&[("if-modified-since", date), ("if-modified-since", date)], 200),
        (&[("if-match", &tag)], 200),
        (&[("if-match", "\"x\"")], 412),
        (&[("if-unmodified-since", "Tue, 31 Dec 2019 23:59:59 GMT")], 412),
        (&[("if-unmodified-since", date)], 200),
    ];
    for (headers, status) in cases {
        for method in [Method::Get, Method::Head] {
            let response = site.ask(method, "/a.txt", headers);
            assert_eq!(u16::from(response.status()), *status, "{method} {headers:?}");
            assert_eq!(response.header("etag").unwrap().as_str(), tag);
            assert_eq!(response.header("vary").unwrap().as_str(), "accept-encoding");
        }
    }
    assert_eq!(site.get("/missing", &[("if-none-match", "*")]).status, 404);
}

#[test]
fn one_range_several_and_none() {
    let site = Site::new();
    let content: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    site.write("data.bin", &content);
    let one = site.get("/data.bin", &[("range", "bytes=70000-80000")]);
    assert_eq!((one.status, one.header("content-range")), (206, Some("bytes 70000-80000/100000")));
    assert!(one.body == content[70_000..=80_000]);

    let several = site.get("/data.bin", &[("range", "bytes=0-0,99990-,5-70000")]);
    let kind = several.header("content-type").unwrap();
    let boundary = kind.strip_prefix("multipart/byteranges; boundary=").unwrap();
    let mut expected = Vec::new();
    for (number, (range, bytes)) in
        [("0-0", &content[..1]), ("99990-99999", &content[99_990..]), ("5-70000", &content[5..=70_000])]
            .into_iter()
            .enumerate()
    {
        let start = if number == 0 { "" } else { "\r\n" };
        let head = format!(
            "{start}--{boundary}\r\ncontent-type: application/octet-stream\r\ncontent-range: bytes {range}/100000\r\n\r\n"
        );
        expected.extend_from_slice(head.as_bytes());
        expected.extend_from_slice(bytes);
    }
    expected.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    assert_eq!((several.status, several.header("content-range")), (206, None));
    assert!(several.body == expected);

    let beyond = site.get("/data.bin", &[("range", "bytes=100000-")]);
    assert_eq!((beyond.status, beyond.header("content-range")), (416, Some("bytes */100000")));
    let two_headers = site.get("/data.bin", &[("range", "bytes=0-0"), ("range", "bytes=1-1")]);
    assert_eq!((two_headers.status, two_headers.body.len()), (200, 100_000));
    let head = site.ask(Method::Head, "/data.bin", &[("range", "bytes=0-0")]);
    assert_eq!((u16::from(head.status()), head.len()), (200, Some(100_000)));
}

#[test]
fn a_range_counts_only_for_the_state_that_the_client_has() {
    let site = Site::new();
    let tag = site.strong_tag("/a.txt");
    let range = ("range", "bytes=2-5");
    assert_eq!(site.get("/a.txt", &[range, ("if-range", &tag)]).text(), "text");
    site.write("new", b"b text");
    fs::rename(site.root().join("new"), site.root().join("a.txt")).unwrap();
    let answer = site.get("/a.txt", &[range, ("if-range", &tag)]);
    assert_eq!((answer.status, answer.text()), (200, "b text"));
}

#[test]
fn a_file_that_was_replaced_by_one_of_the_same_date_is_not_pieced_together() {
    let site = Site::new();
    site.settled_date("/a.txt");
    for replaced in [false, true] {
        // As an archive has it; both versions have the same date and length.
        site.touch("a.txt", 0);
        let date = site.get("/a.txt", &[]).header("last-modified").unwrap().to_owned();
        assert_eq!(date, "Wed, 01 Jan 2020 00:00:00 GMT");
        if replaced {
            site.write("new", b"b text");
            site.touch("new", 0);
            fs::rename(site.root().join("new"), site.root().join("a.txt")).unwrap();
        } else {
            site.write("a.txt", b"c text");
            site.touch("a.txt", 0);
        }
        site.strong_tag("/a.txt");
        let content = fs::read_to_string(site.root().join("a.txt")).unwrap();
        let part = site.get("/a.txt", &[("range", "bytes=2-5"), ("if-range", &date)]);
        assert_eq!((part.status, part.text()), (200, content.as_str()));
        assert_eq!(site.get("/a.txt", &[("if-modified-since", &date)]).status, 200);
    }
}

#[test]
fn replicas_have_the_same_tags_where_they_are_made_of_size_and_date() {
    let sites = [Site::new(), Site::new()].map(|site| {
        site.touch("a.txt", 0);
        let files = Files { etag: Etag::SizeMtime, ..site.files.clone() };
        Site { files, ..site }
    });
    let [one, other] = sites.each_ref().map(|site| site.get("/a.txt", &[]).header("etag").unwrap().to_owned());
    assert_eq!(one, other);
    assert_eq!(one, "W/\"5e0be100-6\"", "as nginx has it, but weak");
    for tag in [one.as_str(), "\"5e0be100-6\""] {
        assert_eq!(sites[1].get("/a.txt", &[("if-none-match", tag)]).status, 304);
        let range = ("range", "bytes=2-5");
        assert_eq!(sites[1].get("/a.txt", &[range, ("if-range", tag)]).status, 200, "it may be of another state");
    }
    sites[1].touch("a.txt", 1);
    assert_eq!(sites[1].get("/a.txt", &[("if-none-match", &one)]).status, 200);
}

#[test]
fn a_compressed_sibling_is_sent_to_whom_it_suits() {
    let site = Site::new();
    for (name, content) in [("a.txt.gz", "gzipped"), ("a.txt.br", "brotli"), ("page.html.zst", "zstd")] {
        site.write(name, content.as_bytes());
    }
    let original = site.get("/a.txt", &[]);
    assert_eq!((original.text(), original.header("content-encoding")), ("a text", None));
    for (path, accepted, coding, content) in [
        ("/a.txt", "gzip, br", Some("br"), "brotli"),
        ("/a.txt", "gzip", Some("gzip"), "gzipped"),
        ("/a.txt", "gzip, br;q=0.1", Some("gzip"), "gzipped"),
        ("/a.txt", "zstd", None, "a text"),
        ("/a.txt", "gzip;q=0, *;q=0.1", Some("br"), "brotli"),
        ("/a.txt", "identity, gzip;q=0.5", None, "a text"),
        ("/page.html", "gzip, deflate, br, zstd", Some("zstd"), "zstd"),
        ("/index.html", "gzip, deflate, br, zstd", None, "the index"),
    ] {
        let answer = site.get(path, &[("accept-encoding", accepted)]);
        assert_eq!((answer.status, answer.text()), (200, content), "{path} {accepted}");
        assert_eq!(answer.header("content-encoding"), coding, "{path} {accepted}");
        assert!(answer.header("content-type").unwrap().starts_with("text/"));
        assert_eq!(answer.header("vary"), Some("accept-encoding"));
    }
    let gzip = ("accept-encoding", "gzip");
    let tag = site.strong_tag("/a.txt");
    assert_ne!(site.get("/a.txt", &[gzip]).header("etag"), Some(tag.as_str()));
    assert_eq!(site.get("/a.txt", &[gzip, ("if-none-match", &tag)]).status, 200);
    let part = site.get("/a.txt", &[gzip, ("range", "bytes=0-3")]);
    assert_eq!((part.text(), part.header("content-range")), ("gzip", Some("bytes 0-3/7")));
    assert_eq!(part.header("content-encoding"), Some("gzip"));
}

#[test]
fn a_file_that_is_compressed_by_its_name_is_sent_as_what_it_is() {
    let site = Site::new();
    site.write("a.svgz", b"gzipped");
    site.write("a.svgz.br", b"twice");
    for accepted in ["gzip, br", "br", "identity", "*;q=0"] {
        let answer = site.get("/a.svgz", &[("accept-encoding", accepted)]);
        assert_eq!((answer.status, answer.text()), (200, "gzipped"), "{accepted}");
        assert_eq!(answer.header("content-encoding"), Some("gzip"));
        assert_eq!(answer.header("content-type"), Some("image/svg+xml"));
    }
}

#[test]
fn a_client_that_takes_no_file_as_it_is_gets_406_where_there_is_no_sibling() {
    let site = Site::new();
    for accepted in ["identity;q=0", "*;q=0", "gzip, *;q=0"] {
        let answer = site.get("/a.txt", &[("accept-encoding", accepted)]);
        assert_eq!((answer.status, answer.header("vary")), (406, Some("accept-encoding")), "{accepted}");
    }
    site.write("a.txt.gz", b"gzipped");
    assert_eq!(site.get("/a.txt", &[("accept-encoding", "gzip, *;q=0")]).text(), "gzipped");
}

#[test]
fn a_sibling_that_is_older_than_its_file_is_left_alone() {
    let site = Site::new();
    site.write("a.txt.gz", b"gzipped");
    let get = || site.get("/a.txt", &[("accept-encoding", "gzip")]).text().to_owned();
    site.touch("a.txt", 10);
    site.touch("a.txt.gz", 10);
    assert_eq!(get(), "gzipped");
    site.touch("a.txt.gz", 9);
    assert_eq!(get(), "a text");
}

#[test]
fn nothing_but_a_file_is_a_sibling() {
    let site = Site::new();
    fs::create_dir(site.root().join("a.txt.br")).unwrap();
    symlink("../secret.txt", site.root().join("a.txt.gz")).unwrap();
    let pipe = site.root().join("a.txt.zst");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    assert_eq!(site.get("/a.txt", &[("accept-encoding", "br, gzip, zstd")]).text(), "a text");
}

#[test]
fn a_large_file_is_sent_whole_and_only_as_long_as_announced() {
    let site = Site::new();
    for length in [65_535, 65_536, 65_537, 3_000_017] {
        let content: Vec<u8> = (0..=250).cycle().take(length).collect();
        site.write("large.bin", &content);
        let mut response = site.ask(Method::Get, "/large.bin", &[]);
        let mut file = fs::OpenOptions::new().append(true).open(site.root().join("large.bin")).unwrap();
        file.write_all(b"growth").unwrap();
        assert_eq!(response.len(), Some(length));
        assert!(smol::block_on(response.body_bytes()).unwrap() == content, "{length}");
    }
}

#[test]
fn a_file_that_becomes_shorter_is_an_error_and_no_short_body() {
    let site = Site::new();
    let content = vec![7; 300_000];
    for left in [0, 100_000] {
        site.write("large.bin", &content);
        let mut response = site.ask(Method::Get, "/large.bin", &[]);
        fs::OpenOptions::new().write(true).open(site.root().join("large.bin")).unwrap().set_len(left).unwrap();
        let error = smol::block_on(response.body_bytes()).unwrap_err();
        assert!(error.to_string().contains("became shorter"), "{error}");
    }
}

#[test]
fn the_root_stays_the_directory_that_was_opened() {
    let site = Site::new();
    fs::rename(site.root(), site.directory.path().join("elsewhere")).unwrap();
    assert_eq!(site.get("/a.txt", &[]).text(), "a text");
}

#[test]
fn a_root_that_is_deleted_and_made_anew_is_served_again() {
    for site in Site::both() {
        fs::remove_dir_all(site.root()).unwrap();
        assert_eq!(site.get("/a.txt", &[]).status, 404);
        fs::create_dir(site.root()).unwrap();
        site.write("a.txt", b"anew");
        let end = Instant::now() + Duration::from_secs(30);
        while site.get("/a.txt", &[]).status == 404 {
            assert!(Instant::now() < end, "it is never found");
            std::thread::yield_now();
        }
        assert_eq!(site.get("/a.txt", &[]).text(), "anew");
        assert_eq!(site.get("/page.html", &[]).status, 404, "nothing is left of the old one");
    }
}

#[test]
fn errors_tell_the_client_no_more_than_it_needs() {
    for (cause, status) in [
        (Errno::XDEV, StatusCode::NotFound),
        (Errno::LOOP, StatusCode::NotFound),
        (Errno::ACCESS, StatusCode::Forbidden),
        (Errno::MFILE, StatusCode::ServiceUnavailable),
        (Errno::IO, StatusCode::InternalServerError),
    ] {
        assert_eq!(refuse("/x", cause).unwrap_or_else(not_found).status(), status, "{cause}");
    }
}

/// What programs are told of a directory.
fn listed(site: &Site, target: &str) -> Vec<(String, String)> {
    let answer = site.get(target, &[("accept", "application/json")]);
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")), "{target}");
    let rows: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    let text = |row: &serde_json::Value, key: &str| row[key].as_str().unwrap().to_owned();
    rows.as_array().unwrap().iter().map(|row| (text(row, "url"), text(row, "type"))).collect()
}

#[test]
fn a_directory_shows_what_clients_can_ask_for_where_that_is_wanted() {
    for mut site in Site::both() {
        assert_eq!(site.get("/dir/deep/", &[]).status, 404, "only where it is wanted");
        site.files.lists = true;
        fs::remove_file(site.root().join("index.html")).unwrap();
        fs::create_dir(site.root().join("dir/deep/.well-known")).unwrap();
        fs::write(site.root().join(OsStr::from_bytes(b"\xff<b>:")), "odd").unwrap();
        let all: Vec<_> = listed(&site, "/").into_iter().map(|(url, _)| url).collect();
        let expected = [
            ".well-known/",
            "%5Cevil.example/",
            "dir/",
            "empty/",
            "odd/",
            "100%25.txt",
            "a.txt",
            "no-bytes",
            "page.html",
        ];
        assert_eq!(all[..9], expected, "links, pipes and what is hidden are not there");
        assert_eq!(all[9..], ["with%20space%20%C3%A9.bin", "%FF%3Cb%3E%3A"]);
        for url in &all {
            let answer = site.get(&format!("/{url}"), &[]);
            assert_eq!(answer.status, 200, "{url}");
        }
        assert_eq!(listed(&site, "/dir/deep/"), [("b.svg".to_owned(), "file".to_owned())]);
        assert_eq!(listed(&site, "/empty/"), []);
        let page = site.get("/dir/deep/?sort=size", &[]);
        assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
        assert!(page.text().contains("<a href=\"b.svg\">b.svg</a>"), "{}", page.text());
        assert_eq!(site.get("/dir/", &[]).text(), "a directory's index");
        assert_eq!(site.get("/dir/deep", &[]).header("location"), Some("/dir/deep/"));
        for path in ["/missing/", "/a.txt/", "/.git/", "/linked/deep/", "/up/", "/fifo/"] {
            assert_eq!(site.get(path, &[]).status, 404, "{path}");
        }
    }
}

#[test]
fn what_is_behind_links_is_listed_where_they_are_followed() {
    let mut site = Site::with(true);
    site.files.lists = true;
    assert_eq!(listed(&site, "/linked/deep/"), [("b.svg".to_owned(), "file".to_owned())]);
    fs::remove_file(site.root().join("index.html")).unwrap();
    let all = listed(&site, "/");
    for (url, kind) in [("inside", "file"), ("linked/", "directory"), ("outside", "file")] {
        assert!(all.contains(&(url.to_owned(), kind.to_owned())), "{url} in {all:?}");
    }
    assert!(!all.iter().any(|(url, _)| ["dangling", "loop", "device", "socket"].contains(&url.as_str())), "{all:?}");
}

#[test]
fn a_text_is_compressed_where_that_is_wanted_and_its_tag_is_another_one() {
    let mut site = Site::new();
    let all = [Compression::Gzip, Compression::Zstd, Compression::Brotli];
    let text = "body { color: black }\n".repeat(500);
    site.write("long.css", text.as_bytes());
    site.write("long.png", text.as_bytes());
    site.write("long.js", text.as_bytes());
    site.write("long.js.gz", b"packed before");
    let any = [("accept-encoding", "gzip, br, zstd")];
    assert_eq!(site.get("/long.css", &any).header("content-encoding"), None, "only where it is wanted");
    site.files.compressed = Compressed::new(&all, &Places::new()).map(Arc::new);
    let strong = site.strong_tag("/long.css");
    for (accepted, coding) in [("gzip", "gzip"), ("zstd", "zstd"), ("br", "br"), ("gzip;q=1, br;q=0.5", "gzip")] {
        let answer = site.get("/long.css", &[("accept-encoding", accepted)]);
        assert_eq!((answer.status, answer.header("content-encoding")), (200, Some(coding)));
        assert!(
            answer.body.len() < text.len() / 10 && answer.header("content-type") == Some("text/css; charset=utf-8")
        );
        let tag = format!("W/{}-{coding}\"", strong.trim_end_matches('"'));
        assert_eq!((answer.header("etag"), answer.header("vary")), (Some(&*tag), Some("accept-encoding")));
        assert_eq!(answer.header("accept-ranges"), None);
        let again = site.get("/long.css", &[("accept-encoding", accepted)]);
        assert_eq!(again.body, answer.body);
        assert_eq!(site.get("/long.css", &[("accept-encoding", accepted), ("if-none-match", &tag)]).status, 304);
        assert_eq!(site.get("/long.css", &[("if-none-match", &tag)]).text(), text, "it is of no other coding");
        let head = site.ask(Method::Head, "/long.css", &[("accept-encoding", accepted)]);
        assert_eq!(head.len(), Some(answer.body.len()));
    }
    let part = site.get("/long.css", &[any[0], ("range", "bytes=0-3")]);
    assert_eq!((part.status, part.text(), part.header("etag")), (206, "body", Some(&*strong)));
    assert_eq!(site.get("/long.js", &any).text(), "packed before", "what lies there comes before what has to be made");
    assert_eq!(site.get("/long.js", &[("accept-encoding", "br")]).header("content-encoding"), Some("br"));
    for (path, accepted) in
        [("/long.png", "gzip"), ("/a.txt", "gzip"), ("/long.css", "gzip;q=0"), ("/long.css", "identity")]
    {
        let answer = site.get(path, &[("accept-encoding", accepted)]);
        assert_eq!((answer.status, answer.header("content-encoding")), (200, None), "{path} {accepted}");
    }
    let only = |accepted: &str| site.get("/long.css", &[("accept-encoding", accepted)]);
    let answer = only("gzip, identity;q=0");
    assert_eq!((answer.status, answer.header("content-encoding")), (200, Some("gzip")), "it takes nothing else");
    assert_eq!((only("identity;q=0").status, only("*;q=0").status), (406, 406));
    site.write("long.css", text.replace("black", "white").as_bytes());
    let answer = site.get("/long.css", &[("accept-encoding", "gzip")]);
    let mut decoded = String::new();
    flate2::read::GzDecoder::new(&*answer.body).read_to_string(&mut decoded).unwrap();
    assert!(decoded.contains("white") && !decoded.contains("black"), "another state of the file is compressed anew");
}
