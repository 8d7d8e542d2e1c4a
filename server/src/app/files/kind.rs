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

/// The types that a site has beside those that everybody knows, or in their place.
#[derive(Clone, Debug, Default)]
pub(super) struct Types(Vec<(String, String)>);

impl Types {
    /// Those of a configuration, in which the last one for an extension holds.
    pub(super) fn new(configured: &[(String, String)]) -> Types {
        let whole = |(extension, kind): &(String, String)| (extension.clone(), with_charset(kind).into_owned());
        Types(configured.iter().rev().map(whole).collect())
    }

    /// The value of Content-Type.
    pub(super) fn kind_of(&self, file: &Path) -> Cow<'_, str> {
        let extension = extension(file);
        let is_it = |own: &str| extension.eq_ignore_ascii_case(own);
        if let Some((_, kind)) = self.0.iter().find(|(configured, _)| is_it(configured)) {
            return kind.into();
        }
        let own = OWN.iter().find(|(own, _)| is_it(own)).map(|(_, kind)| *kind);
        let known = own.or_else(|| mime_guess::from_ext(extension).first_raw());
        with_charset(known.unwrap_or("application/octet-stream"))
    }
}

/// A type with a charset, where it needs one and does not say one itself.
fn with_charset(kind: &str) -> Cow<'_, str> {
    let is_text = kind.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("text/"));
    let is_self_described = SELF_DESCRIBED.iter().any(|described| kind.eq_ignore_ascii_case(described));
    if is_text && !is_self_described && !kind.contains(';') {
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
            assert_eq!(Types::default().kind_of(Path::new(name)), kind, "{name}");
        }
    }

    #[test]
    fn a_site_may_have_types_of_its_own_for_which_the_same_holds() {
        let configured =
            [("glb", "a/first"), ("GLB", "model/gltf-binary"), ("css", "text/x-other"), ("html", "Text/HTML")];
        let configured = configured.map(|(extension, kind)| (extension.to_owned(), kind.to_owned()));
        let latin = ("txt".to_owned(), "text/plain; charset=iso-8859-1".to_owned());
        let types = Types::new(&[&configured[..], &[latin]].concat());
        for (name, kind) in [
            ("a.glb", "model/gltf-binary"),
            ("a.GLB", "model/gltf-binary"),
            ("a.css", "text/x-other; charset=utf-8"),
            ("a.html", "Text/HTML"),
            ("a.txt", "text/plain; charset=iso-8859-1"),
            ("a.js", "text/javascript; charset=utf-8"),
            ("glb", "application/octet-stream"),
        ] {
            assert_eq!(types.kind_of(Path::new(name)), kind, "{name}");
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
