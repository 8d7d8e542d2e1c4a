//! Which plain files are served, and how they are told apart: what `--root`, `--follow-symlinks`, `--etag`, `--list`,
//! `--compress`, `--fallback` and `--types` come to.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use super::given::{Error, Given};

/// Which plain files are served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FilesConfig {
    /// Their directory.
    pub root: PathBuf,
    /// Whether symlinks in it are followed, also out of it.
    pub follow_symlinks: bool,
    /// What their entity tags are made of.
    pub etag: Etag,
    /// Whether clients may see what is in a directory without an index.
    pub list: bool,
    /// The codings in which texts are compressed as they are asked for.
    pub compress: Vec<Compression>,
    /// The file below the directory that navigations to what is not there get.
    pub fallback: Option<PathBuf>,
    /// Media types by the extension in lower case, without its dot. Of several for one extension the last one holds.
    pub types: Vec<(String, String)>,
}

/// What the entity tags of files are made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Etag {
    /// All that tells one state of a file from another, also what differs from machine to machine: its inode, its size, and
    /// when it was changed. No two states have the same, so that the tag is a strong one.
    #[default]
    State,
    /// The size, and the date of the content, as nginx writes them: replicas with copies that kept their dates have the
    /// same. Two states may have the same, so that the tag is weak: good for a 304, and not for ranges.
    SizeMtime,
}

/// A coding in which texts are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// gzip, which every client takes.
    Gzip,
    /// Zstandard.
    Zstd,
    /// Brotli, the smallest.
    Brotli,
}

/// Reads names of codings, with commas between them.
pub(super) fn compress(given: &[Given]) -> Result<Vec<Compression>, Error> {
    let one = |given: &Given, name: &str| match name {
        "gzip" => Ok(Compression::Gzip),
        "zstd" => Ok(Compression::Zstd),
        "br" => Ok(Compression::Brotli),
        _ => Err(given.refuse(format!("{name:?} is no coding"), "write gzip, zstd, br, or several with commas")),
    };
    let names = given.iter().flat_map(|given| given.text().split(',').map(move |name| (given, name.trim())));
    names.filter(|(_, name)| !name.is_empty()).map(|(given, name)| one(given, name)).collect()
}

pub(super) fn etag(given: &Given) -> Result<Etag, Error> {
    match given.text().as_str() {
        "state" => Ok(Etag::State),
        "size-mtime" => Ok(Etag::SizeMtime),
        _ => Err(given.refuse("unknown", "write state or size-mtime")),
    }
}

/// The path of a file below the root: names only, of which none is hidden, since clients may not ask for that one either.
pub(super) fn fallback(given: &Given<OsString>) -> Result<PathBuf, Error> {
    let path = Path::new(given.text());
    let path = path.strip_prefix("/").unwrap_or(path);
    let is_name = |part: Component<'_>| match part {
        Component::Normal(name) => !name.as_bytes().starts_with(b"."),
        _ => false,
    };
    if given.text().as_bytes().ends_with(b"/") || path == Path::new("") || !path.components().all(is_name) {
        return Err(given.refuse("no file below the root", "give its path from the root on, such as index.html"));
    }
    Ok(path.to_owned())
}

/// An extension with its type, `svgz=image/svg+xml`.
pub(super) fn media_type(given: &Given) -> Result<(String, String), Error> {
    const ADVICE: &str = "write EXTENSION=TYPE/SUBTYPE, such as glb=model/gltf-binary";
    let refuse = |cause: String| given.refuse(cause, ADVICE);
    let (extension, kind) = given.text().split_once('=').ok_or_else(|| refuse("has no =".to_owned()))?;
    let (extension, kind) = (extension.trim(), kind.trim());
    let extension = extension.strip_prefix('.').unwrap_or(extension);
    if extension.is_empty() || extension.contains(['.', '/']) || extension.contains(char::is_whitespace) {
        return Err(refuse(format!("{extension:?} is no extension, which is what follows the last dot of a name")));
    }
    let (essence, parameters) = kind.split_once(';').unwrap_or((kind, ""));
    let is_type = essence
        .trim_end()
        .split_once('/')
        .is_some_and(|(kind, subtype)| [kind, subtype].iter().all(|name| is_token(name)));
    let is_text = |byte: u8| byte.is_ascii_graphic() || byte == b' ';
    if !is_type || !parameters.bytes().all(is_text) {
        return Err(refuse(format!("{kind:?} is no media type")));
    }
    Ok((extension.to_lowercase(), kind.to_owned()))
}

/// Whether it is what HTTP calls a token: the name of a header, or a part of a type (RFC 9110, section 5.6.2).
pub(super) fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

#[cfg(test)]
mod tests {
    use Compression::{Brotli, Gzip, Zstd};

    use super::*;
    use crate::config::given::{ValueSource, given};

    #[test]
    fn codings_are_named_with_commas_or_one_by_one() {
        let read = |texts: &[&str]| {
            let given: Vec<_> = texts.iter().map(|text| given(ValueSource::Flag, "compress", text)).collect();
            compress(&given).map_err(|error| error.to_string())
        };
        assert_eq!(read(&["gzip, zstd,br"]), Ok(vec![Gzip, Zstd, Brotli]));
        assert_eq!(read(&["br", "gzip"]), Ok(vec![Brotli, Gzip]));
        assert_eq!(read(&[""]), Ok(vec![]));
        let error = read(&["gzip,deflate"]).unwrap_err();
        assert!(error.contains("\"deflate\" is no coding; write gzip, zstd, br"), "{error}");
    }

    #[test]
    fn a_type_is_known_by_its_extension_in_any_case_with_a_dot_or_without() {
        let read = |text: &str| media_type(&given(ValueSource::Flag, "types", text)).map_err(|error| error.to_string());
        for (text, extension, kind) in [
            ("glb=model/gltf-binary", "glb", "model/gltf-binary"),
            (".GLB = model/gltf-binary", "glb", "model/gltf-binary"),
            ("txt=text/plain; charset=iso-8859-1", "txt", "text/plain; charset=iso-8859-1"),
        ] {
            assert_eq!(read(text), Ok((extension.to_owned(), kind.to_owned())), "{text}");
        }
        for (text, cause) in [
            ("glb", "has no ="),
            ("=a/b", "\"\" is no extension"),
            ("tar.gz=a/b", "\"tar.gz\" is no extension"),
            ("glb=", "\"\" is no media type"),
            ("glb=model", "\"model\" is no media type"),
            ("glb=a/b/c", "\"a/b/c\" is no media type"),
            ("glb=a/b; x=\r\ny", "is no media type"),
            ("glb=a /b", "\"a /b\" is no media type"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(cause) && error.contains("; write EXTENSION=TYPE/SUBTYPE"), "{error}");
        }
    }
}
