//! Which types a client names in its Accept header, as far as answers depend on it.
//!
//! Pure. Only what is named counts: scripts, pictures and tools take anything (`*/*`), and would be given a page for nothing.

use http_types::Request;
use http_types::headers::{ACCEPT, HeaderValue};

/// Whether a type, `text/html`, is named with any weight but zero.
pub(super) fn names(request: &Request, kind: &str) -> bool {
    let lines = request.header(ACCEPT).into_iter().flat_map(|lines| lines.iter().map(HeaderValue::as_str));
    lines.flat_map(|line| line.split(',')).any(|member| is_of(member, kind))
}

fn is_of(member: &str, kind: &str) -> bool {
    let mut parts = member.split(';').map(str::trim);
    let is_it = parts.next().is_some_and(|named| named.eq_ignore_ascii_case(kind));
    let is_nothing = |weight: &str| weight.trim_start_matches(['0', '.']).is_empty() && weight.starts_with('0');
    is_it && !parts.filter_map(|part| part.strip_prefix("q=").or(part.strip_prefix("Q="))).any(is_nothing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_named_counts_unless_its_weight_is_nothing() {
        let chromium = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8";
        for (accept, expected) in [
            (chromium, true),
            ("TEXT/HTML", true),
            ("application/json, text/html;q=0.1", true),
            ("text/html;level=1;q=0.5", true),
            ("text/html;q=0", false),
            ("text/html; q=0.000, */*", false),
            ("*/*", false),
            ("text/*", false),
            ("application/json", false),
            ("text/htmlx", false),
            ("", false),
        ] {
            let mut request = Request::get("http://localhost/");
            request.insert_header(ACCEPT, accept);
            assert_eq!(names(&request, "text/html"), expected, "{accept}");
        }
        assert!(!names(&Request::get("http://localhost/"), "text/html"));
    }
}
