//! What a file is, by its name: its media type, with a charset where the file cannot say it itself, and the coding that
//! its name promises. Pure.

use std::borrow::Cow;
use std::path::Path;

use super::coding::Coding;

/// Types for which `mime_guess` has another one or none, by the extension in lower case. They come first.
const OWN: [(&str, &str); 2] = [
    // A source map (ECMA-426); it is taken for a picture's map there.
    ("map", "application/json"),
    // RFC 9239 has one type for all of JavaScript.
    ("mjs", "text/javascript"),
];

/// Texts that say themselves how they are encoded: `<meta charset>`, `<?xml encoding=`. What the header said would count
/// for more (RFC 7303, section 3), and be wrong.
const SELF_DESCRIBED: [&str; 3] = ["text/html", "text/xml", "text/rtf"];

/// The value of Content-Type.
pub(super) fn kind_of(file: &Path) -> Cow<'static, str> {
    let extension = extension(file);
    let own = OWN.iter().find(|(own, _)| extension.eq_ignore_ascii_case(own)).map(|(_, kind)| *kind);
    let kind = own.or_else(|| mime_guess::from_ext(extension).first_raw()).unwrap_or("application/octet-stream");
    if kind.starts_with("text/") && !SELF_DESCRIBED.contains(&kind) {
        format!("{kind}; charset=utf-8").into()
    } else {
        kind.into()
    }
}

/// The coding that a file is in as it lies there: SVGZ is SVG in gzip, and no browser takes it for anything else.
pub(super) fn coding_of(file: &Path) -> Option<Coding> {
    extension(file).eq_ignore_ascii_case("svgz").then_some(Coding::Gzip)
}

fn extension(file: &Path) -> &str {
    file.extension().and_then(|extension| extension.to_str()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_charset_is_said_of_texts_that_cannot_say_it() {
        for (name, kind) in [
            ("a.txt", "text/plain; charset=utf-8"),
            ("a.CSS", "text/css; charset=utf-8"),
            ("a.js", "text/javascript; charset=utf-8"),
            ("a.mjs", "text/javascript; charset=utf-8"),
            ("a.csv", "text/csv; charset=utf-8"),
            ("a.html", "text/html"),
            ("a.HTM", "text/html"),
            ("a.xml", "text/xml"),
            ("a.xsl", "text/xml"),
            ("a.rss", "application/rss+xml"),
            ("a.xhtml", "application/xhtml+xml"),
            ("a.svg", "image/svg+xml"),
            ("a.svgz", "image/svg+xml"),
            ("a.js.map", "application/json"),
            ("a.json", "application/json"),
            ("a", "application/octet-stream"),
            ("a.unheard-of", "application/octet-stream"),
        ] {
            assert_eq!(kind_of(Path::new(name)), kind, "{name}");
        }
    }

    #[test]
    fn each_type_of_our_own_is_written_as_it_is_looked_up_and_needed() {
        for (extension, kind) in OWN {
            assert_eq!(extension, extension.to_ascii_lowercase());
            assert_ne!(mime_guess::from_ext(extension).first_raw(), Some(kind), "{extension}");
        }
    }
}
