//! Plain files from one directory, and no way out of it.
//!
//! A path is decoded once, and refused where a name in it could mean more than a name. The kernel does the rest: every
//! file is opened beneath the directory's own descriptor with `RESOLVE_BENEATH`, so that a symlink that leaves it leads
//! nowhere, whatever is renamed meanwhile. Opening and reading happen on the blocking pool, and large files are
//! streamed. A reload opens the directory afresh.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_lite::io::BufReader;
use http_types::headers::CONTENT_TYPE;
use http_types::{Body, Response, StatusCode};
use percent_encoding::percent_decode_str;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::{not_found, text};

/// What is sent in one piece; a file that fits is read at once.
const PIECE_BYTES: usize = 64 * 1024;

/// What the blocking pool reads ahead of a slow client.
const READ_AHEAD_BYTES: usize = 4 * PIECE_BYTES;

/// How often an opening is repeated that a rename elsewhere in the tree disturbed.
const DISTURBED_MAX: u32 = 16;

/// What a directory shows.
const INDEX: &str = "index.html";

/// A directory whose files are served.
#[derive(Clone, Debug)]
pub(super) struct Files(Arc<OwnedFd>);

impl Files {
    /// Opens the directory, and makes sure that the kernel can keep clients inside it.
    pub(super) fn open(root: &Path) -> io::Result<Self> {
        let named = |cause: Errno, what: &str| {
            io::Error::new(io::Error::from(cause).kind(), format!("cannot serve {}: {what}{cause}", root.display()))
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(root, flags, Mode::empty()).map_err(|cause| named(cause, ""))?;
        beneath(directory.as_fd(), Path::new("."))
            .map_err(|cause| named(cause, "openat2, which keeps clients inside (Linux 5.6), does not work: "))?;
        Ok(Self(Arc::new(directory)))
    }

    /// Answers a GET of this path, which is as the client wrote it.
    pub(super) async fn answer(&self, path: &str) -> Response {
        let relative = match relative(path) {
            Ok(relative) => relative,
            Err(Malformed::Encoding) => {
                return text(StatusCode::BadRequest, "the path is malformed: % needs two hexadecimal digits behind it");
            }
            Err(Malformed::Name) => return not_found(),
        };
        let root = Arc::clone(&self.0);
        let kind = kind_of(&relative.file);
        match smol::unblock(move || find(root.as_fd(), relative)).await {
            Ok(found) => found.respond(kind),
            Err(cause) => refuse(path, cause),
        }
    }
}

/// Where a path leads below the root.
#[derive(Debug, PartialEq, Eq)]
struct Relative {
    file: PathBuf,
    /// Where to look if `file` is a directory; nothing where the path says itself that it is one.
    index: Option<PathBuf>,
}

/// Why a path leads nowhere before anything is opened.
#[derive(Debug, PartialEq, Eq)]
enum Malformed {
    /// Its percent-encoding is broken.
    Encoding,
    /// A part of it is not the name of a file: it is empty, `.` or `..`, or holds a slash or NUL once decoded.
    Name,
}

/// Decodes a path, once, name by name: an encoded slash separates nothing.
fn relative(path: &str) -> Result<Relative, Malformed> {
    let names = path.strip_prefix('/').ok_or(Malformed::Name)?;
    let mut file = PathBuf::new();
    let mut names = names.split('/').peekable();
    while let Some(name) = names.next() {
        let name = decode(name).ok_or(Malformed::Encoding)?;
        if name.is_empty() && names.peek().is_none() {
            // The slash at the end says that this is a directory.
            return Ok(Relative { file: file.join(INDEX), index: None });
        }
        if matches!(name.as_slice(), b"" | b"." | b"..") || name.contains(&b'/') || name.contains(&0) {
            return Err(Malformed::Name);
        }
        file.push(OsStr::from_bytes(&name));
    }
    let index = file.join(INDEX);
    Ok(Relative { file, index: Some(index) })
}

/// Percent-decodes one name; nothing where a `%` is not followed by two hexadecimal digits.
fn decode(name: &str) -> Option<Vec<u8>> {
    let encoded = |rest: &str| rest.as_bytes().get(..2).is_some_and(|two| two.iter().all(u8::is_ascii_hexdigit));
    let valid = name.split('%').skip(1).all(encoded);
    valid.then(|| percent_decode_str(name).collect())
}

/// A file that is served.
struct Found {
    length: u64,
    content: Content,
    is_index: bool,
}

enum Content {
    Read(Vec<u8>),
    Open(File),
}

/// Opens what a path leads to, and reads it if it is small. Blocks.
fn find(root: BorrowedFd<'_>, relative: Relative) -> Result<Found, Errno> {
    let (mut file, mut kind, mut length) = open(root, &relative.file)?;
    let mut is_index = relative.index.is_none();
    if let (FileType::Directory, Some(index)) = (kind, relative.index) {
        (file, kind, length) = open(root, &index)?;
        is_index = true;
    }
    if kind != FileType::RegularFile {
        return Err(Errno::NOENT);
    }
    if length > PIECE_BYTES as u64 {
        return Ok(Found { length, content: Content::Open(file), is_index });
    }
    // The file may change between the two calls: its length is what was read, and what is read is bounded.
    let mut bytes = Vec::with_capacity(PIECE_BYTES.min(usize::try_from(length).unwrap_or(PIECE_BYTES) + 1));
    let read = file.take(PIECE_BYTES as u64).read_to_end(&mut bytes);
    read.map_err(|cause| Errno::from_io_error(&cause).unwrap_or(Errno::IO))?;
    Ok(Found { length: bytes.len() as u64, content: Content::Read(bytes), is_index })
}

fn open(root: BorrowedFd<'_>, path: &Path) -> Result<(File, FileType, u64), Errno> {
    let file = beneath(root, path)?;
    let stat = rustix::fs::fstat(&file)?;
    let length = u64::try_from(stat.st_size).map_err(|_| Errno::OVERFLOW)?;
    Ok((File::from(file), FileType::from_raw_mode(stat.st_mode), length))
}

/// Opens a path that the kernel keeps beneath the root. Not blocking, so that a fifo without a writer cannot hold a
/// thread of the pool; on a regular file that changes nothing.
fn beneath(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let mut disturbed = 0;
    loop {
        match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) if disturbed < DISTURBED_MAX => disturbed += 1,
            outcome => return outcome,
        }
    }
}

impl Found {
    fn respond(self, kind: String) -> Response {
        let mut response = Response::new(StatusCode::Ok);
        response.set_body(match self.content {
            Content::Read(bytes) => Body::from_bytes(bytes),
            Content::Open(file) => {
                // A file that grows meanwhile is sent as far as its announced length.
                let bounded = file.take(self.length);
                let reader = smol::Unblock::with_capacity(READ_AHEAD_BYTES, bounded);
                let length = usize::try_from(self.length).ok();
                Body::from_reader(BufReader::with_capacity(PIECE_BYTES, reader), length)
            }
        });
        let kind = if self.is_index { kind_of(Path::new(INDEX)) } else { kind };
        response.insert_header(CONTENT_TYPE, kind.as_str());
        // The type is known from the name: a browser that guesses another one from the content opens a hole.
        response.insert_header("x-content-type-options", "nosniff");
        response
    }
}

/// The type that a name stands for. Text is taken to be UTF-8.
fn kind_of(file: &Path) -> String {
    let kind = mime_guess::from_path(file).first_raw().unwrap_or("application/octet-stream");
    if kind.starts_with("text/") { format!("{kind}; charset=utf-8") } else { kind.to_owned() }
}

/// What a client learns of an error. What leaves the root does not exist for it.
fn refuse(path: &str, cause: Errno) -> Response {
    match cause {
        Errno::NOENT | Errno::NOTDIR | Errno::XDEV | Errno::LOOP | Errno::NAMETOOLONG | Errno::NXIO | Errno::NODEV => {
            not_found()
        }
        Errno::ACCESS | Errno::PERM => text(StatusCode::Forbidden, "forbidden"),
        Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::AGAIN => {
            log::warn!("cannot open the file for {path}: {cause}");
            text(StatusCode::ServiceUnavailable, "try again")
        }
        _ => {
            log::error!("cannot open the file for {path}: {cause}");
            text(StatusCode::InternalServerError, "internal error")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::os::unix::fs::symlink;

    use proptest::prelude::*;
    use tempfile::TempDir;

    use super::*;

    /// A root with files of each kind, beside a secret that must stay one.
    fn site() -> (TempDir, Files) {
        let directory = tempfile::tempdir().unwrap();
        let (outer, root) = (directory.path(), directory.path().join("root"));
        fs::create_dir_all(root.join("dir/deep")).unwrap();
        fs::create_dir(root.join("empty")).unwrap();
        for (name, content) in [
            ("secret.txt", "secret"),
            ("root/a.txt", "a text"),
            ("root/page.html", "<p>"),
            ("root/index.html", "the index"),
            ("root/dir/index.html", "a directory's index"),
            ("root/dir/deep/b.svg", "<svg/>"),
            ("root/with space é.bin", "unusual"),
            ("root/100%.txt", "percent"),
            ("root/..hidden", "two dots"),
            ("root/no-bytes", ""),
        ] {
            fs::write(outer.join(name), content).unwrap();
        }
        for (target, link) in [
            ("a.txt", "inside"),
            ("dir/deep/../../a.txt", "inside-by-dots"),
            ("../secret.txt", "outside"),
            ("..", "up"),
            ("loop", "loop"),
            ("missing", "dangling"),
            ("/proc/self/root/etc/passwd", "magic"),
        ] {
            symlink(target, root.join(link)).unwrap();
        }
        symlink(outer.join("secret.txt"), root.join("absolute")).unwrap();
        symlink("/dev/zero", root.join("device")).unwrap();
        let pipe = root.join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
        let files = Files::open(&root).unwrap();
        (directory, files)
    }

    fn get(files: &Files, path: &str) -> (StatusCode, Vec<u8>, String) {
        smol::block_on(async {
            let mut response = files.answer(path).await;
            let length = response.len();
            let bytes = response.body_bytes().await.unwrap();
            assert_eq!(length, Some(bytes.len()), "the length is known: {path}");
            let kind = response.header(CONTENT_TYPE).unwrap().as_str().to_owned();
            (response.status(), bytes, kind)
        })
    }

    #[test]
    fn files_are_served_with_their_types() {
        let (_directory, files) = site();
        for (path, content, kind) in [
            ("/a.txt", "a text", "text/plain; charset=utf-8"),
            ("/page.html", "<p>", "text/html; charset=utf-8"),
            ("/", "the index", "text/html; charset=utf-8"),
            ("/index.html", "the index", "text/html; charset=utf-8"),
            ("/dir/", "a directory's index", "text/html; charset=utf-8"),
            ("/dir", "a directory's index", "text/html; charset=utf-8"),
            ("/dir/deep/b.svg", "<svg/>", "image/svg+xml"),
            ("/with%20space%20%C3%A9.bin", "unusual", "application/octet-stream"),
            ("/%61.txt", "a text", "text/plain; charset=utf-8"),
            ("/100%25.txt", "percent", "text/plain; charset=utf-8"),
            ("/..hidden", "two dots", "application/octet-stream"),
            ("/inside", "a text", "application/octet-stream"),
            ("/inside-by-dots", "a text", "application/octet-stream"),
            ("/no-bytes", "", "application/octet-stream"),
        ] {
            let got = get(&files, path);
            assert_eq!(got, (StatusCode::Ok, content.into(), kind.to_owned()), "{path}");
        }
    }

    #[test]
    fn there_is_no_way_out_and_nothing_but_files() {
        let (_directory, files) = site();
        let long = format!("/{}", "x".repeat(300));
        let deep = "/x".repeat(4_000);
        for path in [
            "/missing",
            "/../secret.txt",
            "/dir/../../secret.txt",
            "/dir/../a.txt",
            "/..",
            "/../",
            "/./a.txt",
            "/.",
            "/%2e%2e/secret.txt",
            "/%2E%2e/secret.txt",
            "/.%2e/secret.txt",
            "/..%2fsecret.txt",
            "/%2e%2e%2fsecret.txt",
            "/dir%2fdeep/b.svg",
            "/%2fetc/passwd",
            "/%2f",
            "//etc/passwd",
            "//",
            "//a.txt",
            "/dir//index.html",
            "/%252e%252e/secret.txt",
            "/a.txt%00",
            "/a.txt%00.html",
            "/%00",
            "/..\\secret.txt",
            "/..%5csecret.txt",
            "/..;/secret.txt",
            "/outside",
            "/absolute",
            "/up/secret.txt",
            "/up/root/a.txt",
            "/up",
            "/loop",
            "/dangling",
            "/magic",
            "/device",
            "/fifo",
            "/socket",
            "/a.txt/",
            "/a.txt/x",
            "/empty",
            "/empty/",
            "/dir/deep",
            "*",
            "",
            "a.txt",
            "/A.TXT",
            &long,
            &deep,
        ] {
            let (status, body, _) = get(&files, path);
            assert_eq!((status, body.as_slice()), (StatusCode::NotFound, &b"not found\n"[..]), "{path}");
        }
    }

    #[test]
    fn broken_encoding_is_a_bad_request() {
        let (_directory, files) = site();
        for path in ["/%", "/a%2", "/%zz", "/dir/%%32%65", "/100%.txt", "/%u002e"] {
            assert_eq!(get(&files, path).0, StatusCode::BadRequest, "{path}");
        }
    }

    #[test]
    fn names_need_not_be_text() {
        let (directory, files) = site();
        fs::write(directory.path().join("root").join(OsStr::from_bytes(b"\xff.txt")), "bytes").unwrap();
        assert_eq!(get(&files, "/%ff.txt").1, b"bytes");
    }

    #[test]
    fn a_large_file_is_streamed_whole_and_only_as_long_as_announced() {
        let (directory, files) = site();
        let path = directory.path().join("root/large.bin");
        for length in [PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 3_000_017] {
            let content: Vec<u8> = (0..=250).cycle().take(length).collect();
            fs::write(&path, &content).unwrap();
            let mut response = smol::block_on(files.answer("/large.bin"));
            if length > PIECE_BYTES {
                fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"growth").unwrap();
            }
            assert_eq!(response.len(), Some(length));
            assert!(smol::block_on(response.body_bytes()).unwrap() == content, "{length}");
        }
    }

    #[test]
    fn the_root_stays_the_directory_that_was_opened() {
        let (directory, files) = site();
        fs::rename(directory.path().join("root"), directory.path().join("elsewhere")).unwrap();
        assert_eq!(get(&files, "/a.txt").1, b"a text");
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
            assert_eq!(refuse("/x", cause).status(), status, "{cause}");
        }
    }

    proptest! {
        #[test]
        fn a_decoded_path_has_nothing_but_names(path in "(/|%2f|\\.|%2e|%|%00|a|[ -~]|\\PC){0,12}") {
            if let Ok(Relative { file, index }) = relative(&path) {
                for path in [Some(file), index].into_iter().flatten() {
                    let normal = path.components().all(|part| matches!(part, std::path::Component::Normal(_)));
                    prop_assert!(normal && path.is_relative(), "{path:?}");
                    prop_assert!(!path.as_os_str().as_bytes().contains(&0));
                }
            }
        }
    }
}
