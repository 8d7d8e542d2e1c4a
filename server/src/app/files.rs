//! Plain files from one directory, and no way out of it.
//!
//! A request is answered in four steps, each with a module of its own: its path names a `location` and its `kind`, its
//! Accept-Encoding a `coding`, the `root` opens what is there, and its `conditions` and `ranges` decide what of it is sent,
//! as `content`.
//! All but `root` and `content` are pure. What the kernel has in memory is answered at once; opening and reading from a
//! disk happen on the blocking pool. A reload opens the directory afresh, and `directory` finds it again where it was deleted.

use std::borrow::Cow;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use http_types::headers::{
    ACCEPT_ENCODING, ACCEPT_RANGES, CONTENT_ENCODING, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderName, HeaderValue,
    IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, LAST_MODIFIED, LOCATION, VARY,
};
use http_types::{Method, Request, Response, StatusCode};
use rustix::io::Errno;

use super::accept;
use super::answer::{PathAndQuery, text};
use crate::config::{Etag, FilesConfig};
use crate::http::{Content, Piece};
use coding::Coding;
use compressed::Compressed;
pub(super) use compressed::Places;
use conditions::{Conditions, Validators, Verdict};
use directory::Directory;
use kind::Types;
use listing::Order;
use location::{Location, Malformed};
use ranges::Selected;
use root::{Found, Opened, Wanted};

mod byteranges;
mod coding;
mod compressed;
mod conditions;
mod directory;
mod kind;
mod listing;
mod location;
mod ranges;
mod root;

/// So many entries of a directory are listed, and no more.
const LISTED_MAX: usize = 10_000;

/// A directory whose files are served.
#[derive(Clone, Debug)]
pub(super) struct Files {
    directory: Arc<Directory>,
    etag: Etag,
    types: Types,
    /// Whether clients may see what is in a directory without an index.
    lists: bool,
    /// What is compressed as it is asked for, if anything is.
    compressed: Option<Arc<Compressed>>,
}

impl Files {
    /// Opens the directory, for so many teams of threads. What is compressed takes a place of these.
    pub(super) fn open(config: &FilesConfig, teams: usize, places: &Places) -> io::Result<Self> {
        let directory = Arc::new(Directory::open(config.root.clone(), config.follow_symlinks, teams)?);
        Ok(Self {
            directory,
            etag: config.etag,
            types: Types::new(&config.types),
            lists: config.list,
            compressed: Compressed::new(&config.compress, places).map(Arc::new),
        })
    }

    /// Answers a GET or HEAD of this target, which is as the client wrote it; nothing where there is no such file.
    pub(super) async fn answer(&self, request: &Request, target: &PathAndQuery) -> Option<Response> {
        let location = match Location::parse(&target.path) {
            Ok(location) => location,
            Err(Malformed::Encoding) => {
                let cause = "the path is malformed: % needs two hexadecimal digits behind it";
                return Some(text(StatusCode::BadRequest, cause));
            }
            Err(Malformed::Name) => return None,
        };
        let (wanted, own_coding) = wanted(request, location);
        match self.find(&wanted).await {
            Ok(Found::File(opened)) => self.respond(request, &wanted, with_coding(opened, own_coding)).await,
            Ok(Found::Directory) => Some(redirect(&wanted.location.as_directory(), target.query.as_deref())),
            Ok(Found::Unacceptable) => Some(self.compressed_only(request, &wanted).await.unwrap_or_else(unacceptable)),
            Err(Errno::NOENT) if self.lists && wanted.location.is_directory => {
                self.listing(request, target, wanted.location).await
            }
            Err(cause) => refuse(&target.path, cause),
        }
    }

    /// What is in a directory that has no index; nothing where there is no such directory.
    async fn listing(&self, request: &Request, target: &PathAndQuery, location: Location) -> Option<Response> {
        let (root, path, order) =
            (self.directory.current(), target.path.clone(), Order::parse(target.query.as_deref()));
        let as_json = accept::names(request, "application/json") && !accept::names(request, "text/html");
        let listed = smol::unblock(move || {
            let listed = root.list(&location.path, LISTED_MAX)?;
            Ok(listing::answer(listed, &path, order, as_json))
        });
        listed.await.map_or_else(|cause| refuse(&target.path, cause), Some)
    }

    /// Answers a GET or HEAD with the file at this path of names, as if it had been asked for; nothing where there is none.
    pub(super) async fn answer_with(&self, request: &Request, path: &Path) -> Option<Response> {
        let (wanted, own_coding) = wanted(request, Location { path: path.to_owned(), is_directory: false });
        match self.find(&wanted).await {
            Ok(Found::File(opened)) => self.respond(request, &wanted, with_coding(opened, own_coding)).await,
            Ok(Found::Unacceptable) => Some(self.compressed_only(request, &wanted).await.unwrap_or_else(unacceptable)),
            Ok(Found::Directory) => None,
            Err(cause) => refuse(&path.display().to_string(), cause),
        }
    }

    /// The file at this path of names, whole and with this status, in place of what was asked for: no condition and no
    /// range applies to it. Nothing where there is none that can be sent.
    pub(super) async fn page(&self, request: &Request, path: &Path, status: StatusCode) -> Option<Response> {
        let (wanted, own_coding) = wanted(request, Location { path: path.to_owned(), is_directory: false });
        let Ok(Found::File(opened)) = self.find(&wanted).await else { return None };
        let Opened { file, facts, coding } = with_coding(opened, own_coding);
        let mut response = Response::new(status);
        describe(&mut response, &self.types.kind_of(path), coding);
        Content::new(Some(file), vec![Piece::File(0..facts.length)]).attach(&mut response).ok()?;
        response.insert_header(VARY, "accept-encoding");
        Some(response)
    }

    /// Reads the file at this path of names, if it is no longer than this. Blocks while the disk is asked.
    pub(super) fn read(&self, path: &Path, bytes_max: u64) -> Option<Vec<u8>> {
        let location = Location { path: path.to_owned(), is_directory: false };
        let found = self.directory.current().find(&Wanted { location, accepted: coding::accepted(None) });
        let Ok(Found::File(opened)) = found else { return None };
        let mut bytes = vec![];
        opened.file.take(bytes_max + 1).read_to_end(&mut bytes).ok()?;
        (bytes.len() as u64 <= bytes_max).then_some(bytes)
    }

    async fn respond(&self, request: &Request, wanted: &Wanted, opened: Opened) -> Option<Response> {
        let kind = self.types.kind_of(wanted.location.file());
        let validators = Validators::of(&opened.facts, self.etag, SystemTime::now());
        if let Some(compressed) = &self.compressed
            && let Some(response) =
                compress(compressed, request, (&wanted.accepted.codings, &kind), &opened, &validators).await
        {
            return Some(response);
        }
        match respond(request, kind, opened, &validators) {
            Ok(response) => Some(response),
            Err(cause) => {
                refuse(&wanted.path().display().to_string(), Errno::from_io_error(&cause).unwrap_or(Errno::IO))
            }
        }
    }

    /// The file for who takes it in no other way than compressed; nothing where it is not compressed for him.
    async fn compressed_only(&self, request: &Request, wanted: &Wanted) -> Option<Response> {
        let compressed = self.compressed.as_ref()?;
        let accepted = coding::Accepted { identity: true, ..wanted.accepted.clone() };
        let found = self.find(&Wanted { accepted, ..wanted.clone() }).await;
        let Ok(Found::File(opened)) = found else { return None };
        let kind = self.types.kind_of(wanted.location.file());
        let validators = Validators::of(&opened.facts, self.etag, SystemTime::now());
        compress(compressed, request, (&wanted.accepted.codings, &kind), &opened, &validators).await
    }

    async fn find(&self, wanted: &Wanted) -> Result<Found, Errno> {
        let root = self.directory.current();
        let outcome = if let Some(outcome) = root.find_at_once(wanted) {
            outcome
        } else {
            let wanted = wanted.clone();
            smol::unblock(move || root.find(&wanted)).await
        };
        match outcome {
            Err(Errno::NOENT) if self.directory.is_to_look() => {
                let (directory, wanted) = (Arc::clone(&self.directory), wanted.clone());
                smol::unblock(move || directory.look().map_or(Err(Errno::NOENT), |root| root.find(&wanted))).await
            }
            outcome => outcome,
        }
    }
}

/// What a request asks for at this location, and the coding that the file there is in by its name.
fn wanted(request: &Request, location: Location) -> (Wanted, Option<Coding>) {
    let own_coding = kind::coding_of(location.file());
    let accepted = match own_coding {
        // It is sent as it lies there, to whomever.
        Some(_) => coding::accepted(None),
        None => coding::accepted(list(request, ACCEPT_ENCODING).as_deref()),
    };
    (Wanted { location, accepted }, own_coding)
}

fn with_coding(opened: Opened, own: Option<Coding>) -> Opened {
    Opened { coding: opened.coding.or(own), ..opened }
}

fn unacceptable() -> Response {
    let mut response = text(StatusCode::NotAcceptable, "this file is in no content coding that is accepted");
    response.insert_header(VARY, "accept-encoding");
    response
}

/// What a file is. It is said before there is a body: one without a type would get another one first.
fn describe(response: &mut Response, kind: &str, coding: Option<Coding>) {
    response.insert_header(CONTENT_TYPE, kind);
    // The type is known from the name: a browser that guesses another one from the content opens a hole.
    response.insert_header("x-content-type-options", "nosniff");
    if let Some(coding) = coding {
        response.insert_header(CONTENT_ENCODING, coding.name());
    }
}

/// What a request gets of a file that is compressed for it; nothing where it gets the file as it is. A part of it would be one
/// of bytes that nobody has seen: who asks for one is sent that of the file.
async fn compress(
    compressed: &Compressed,
    request: &Request,
    (accepted, kind): (&[Coding], &str),
    opened: &Opened,
    validators: &Validators,
) -> Option<Response> {
    if opened.coding.is_some() || request.header("range").is_some() {
        return None;
    }
    let coding = compressed.choose(accepted, kind, opened.facts.length)?;
    let validators = validators.clone().coded(coding.name());
    if let Some(response) = without_body(verdict(request, &validators), &validators) {
        return Some(response);
    }
    let bytes = compressed.get(&opened.file, &opened.facts, coding).await?;
    let mut response = Response::new(StatusCode::Ok);
    describe(&mut response, kind, Some(coding));
    Content::new(None, vec![Piece::Memory(bytes.to_vec())]).attach(&mut response).ok()?;
    Some(with_validators(response, &validators))
}

/// The answer that conditions alone come to, if they do.
fn without_body(verdict: Verdict, validators: &Validators) -> Option<Response> {
    let response = match verdict {
        Verdict::NotModified => Response::new(StatusCode::NotModified),
        Verdict::Failed => {
            text(StatusCode::PreconditionFailed, "the file is in another state than this request expects")
        }
        Verdict::Send | Verdict::SendWhole => return None,
    };
    Some(with_validators(response, validators))
}

/// What of a file a request gets.
fn respond(request: &Request, kind: Cow<'_, str>, opened: Opened, validators: &Validators) -> io::Result<Response> {
    let Opened { file, facts, coding } = opened;
    let range = Some(request).filter(|request| request.method() == Method::Get).and_then(|get| only(get, "range"));
    let verdict = verdict(request, validators);
    if let Some(response) = without_body(verdict, validators) {
        return Ok(response);
    }
    let selected = match range {
        Some(range) if verdict == Verdict::Send => ranges::select(range, facts.length),
        _ => Selected::Whole,
    };
    let ranges = match selected {
        Selected::Whole => None,
        Selected::Parts(ranges) => Some(ranges),
        Selected::Unsatisfiable => {
            let mut response = text(StatusCode::RequestedRangeNotSatisfiable, "the file ends before this range");
            response.insert_header(CONTENT_RANGE, format!("bytes */{}", facts.length));
            return Ok(with_validators(response, validators));
        }
    };
    let mut response = Response::new(if ranges.is_some() { StatusCode::PartialContent } else { StatusCode::Ok });
    let (kind, pieces) = match ranges.as_deref() {
        None => (kind, vec![Piece::File(0..facts.length)]),
        Some([range]) => {
            response.insert_header(CONTENT_RANGE, byteranges::content_range(range, facts.length));
            (kind, vec![Piece::File(range.clone())])
        }
        Some(ranges) => {
            let boundary = byteranges::boundary();
            let pieces = byteranges::pieces(ranges, &kind, facts.length, &boundary);
            (format!("multipart/byteranges; boundary={boundary}").into(), pieces)
        }
    };
    describe(&mut response, &kind, coding);
    Content::new(Some(file), pieces).attach(&mut response)?;
    response.insert_header(ACCEPT_RANGES, "bytes");
    Ok(with_validators(response, validators))
}

/// What a 304 has, too.
fn with_validators(mut response: Response, validators: &Validators) -> Response {
    response.insert_header(ETAG, validators.etag());
    if let Some(date) = validators.last_modified() {
        response.insert_header(LAST_MODIFIED, date.to_string());
    }
    // A compressed sibling may come any time: caches must know that others may get something else.
    response.insert_header(VARY, "accept-encoding");
    response
}

fn verdict(request: &Request, validators: &Validators) -> Verdict {
    let (if_match, if_none_match) = (list(request, IF_MATCH), list(request, IF_NONE_MATCH));
    let conditions = Conditions {
        matching: if_match.as_deref(),
        unmodified_since: only(request, IF_UNMODIFIED_SINCE),
        none_match: if_none_match.as_deref(),
        modified_since: only(request, IF_MODIFIED_SINCE),
        range: only(request, IF_RANGE),
    };
    conditions::judge(conditions, validators)
}

/// A header that is a list: its lines are one list (RFC 9110, section 5.3).
fn list(request: &Request, name: HeaderName) -> Option<Cow<'_, str>> {
    let mut lines = request.header(name)?.iter().map(HeaderValue::as_str);
    let first = lines.next()?;
    Some(lines.fold(Cow::Borrowed(first), |list, line| format!("{list}, {line}").into()))
}

/// A header that is no list: with several lines it is malformed, and as good as absent.
fn only(request: &Request, name: impl Into<HeaderName>) -> Option<&str> {
    let lines = request.header(name)?;
    if lines.iter().count() == 1 { Some(lines.last().as_str()) } else { None }
}

/// Sends a client from a directory's name to the directory, so that relative links in its page lead into it. It is 301
/// because some clients do not know 308, and a GET stays one.
fn redirect(path: &str, query: Option<&str>) -> Response {
    let location = query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
    let mut response = text(StatusCode::MovedPermanently, format_args!("this is a directory: {location}"));
    response.insert_header(LOCATION, location);
    response
}

/// What a client learns of an error; nothing where there is no such file. What leaves the root does not exist for it.
fn refuse(path: &str, cause: Errno) -> Option<Response> {
    Some(match cause {
        Errno::NOENT | Errno::NOTDIR | Errno::XDEV | Errno::LOOP | Errno::NAMETOOLONG | Errno::NXIO | Errno::NODEV => {
            return None;
        }
        Errno::ACCESS | Errno::PERM => text(StatusCode::Forbidden, "forbidden"),
        _ if root::is_exhaustion(cause) => {
            log::warn!("cannot open the file for {path}: {cause}");
            text(StatusCode::ServiceUnavailable, "try again")
        }
        _ => {
            log::error!("cannot open the file for {path}: {cause}");
            text(StatusCode::InternalServerError, "internal error")
        }
    })
}

#[cfg(test)]
mod tests;
