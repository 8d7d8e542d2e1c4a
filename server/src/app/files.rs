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
