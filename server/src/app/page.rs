//! The page about what runs, and what to type next to replace it: of a server that was started without flags, and of the
//! demonstration, where it shows the event stream as it goes on through reloads.
//!
//! Each is one answer without resources from elsewhere, so that it works behind any address and without a network.

use std::time::Duration;

use http_types::headers::{CACHE_CONTROL, CONTENT_TYPE};
use http_types::{Body, Response, StatusCode};

use super::answer::Identity;

const TEMPLATE: &str = include_str!("page.html");
const PLAIN: &str = include_str!("page/plain.html");
const LIVE: &str = include_str!("page/live.html");
const SCRIPT: &str = include_str!("page/live.js");

/// What the page may do. The one of the demonstration may also run its script, known by its hash, and ask this server.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";
const SCRIPT_POLICY: &str = "connect-src 'self'; script-src 'sha256-IJqb92j1+43bHpxZ+TB4Lt6zl9glPpzfXu2YMZaNDm4='";

/// The page about this generation, as of now.
pub(super) fn about(identity: &Identity) -> Response {
    page(html(identity, identity.started.elapsed(), PLAIN), POLICY)
}

/// The same, which shows the event stream of the demonstration.
pub(super) fn live(identity: &Identity) -> Response {
    page(html(identity, identity.started.elapsed(), LIVE), &format!("{POLICY}; {SCRIPT_POLICY}"))
}

fn page(html: String, policy: &str) -> Response {
    let mut response = Response::new(StatusCode::Ok);
    response.set_body(Body::from_string(html));
    response.insert_header(CONTENT_TYPE, "text/html; charset=utf-8");
    // The next generation tells something else.
    response.insert_header(CACHE_CONTROL, "no-store");
    response.insert_header("content-security-policy", policy);
    response
}

fn html(identity: &Identity, uptime: Duration, rest: &str) -> String {
    let uptime = humantime::format_duration(Duration::from_secs(uptime.as_secs())).to_string();
    TEMPLATE
        .replace("{rest}", rest)
        .replace("{generation}", &identity.generation.to_string())
        .replace("{next}", &identity.generation.saturating_add(1).to_string())
        .replace("{pid}", &identity.pid.to_string())
        .replace("{uptime}", &uptime)
        .replace("{version}", &escape(&identity.version))
        .replace("{script}", SCRIPT)
}

/// A version comes from whoever built the program, and may hold anything.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use sha2::Digest;

    use super::*;
    use crate::app::tests::identity;

    /// Bytes as a policy writes them: groups of 6 bits, filled up with `=`.
    fn base64(bytes: &[u8]) -> String {
        const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let group = |three: &[u8]| {
            let bits = (0..3).fold(0, |bits, at| bits << 8 | usize::from(*three.get(at).unwrap_or(&0)));
            let digits = (0..4).map(move |at| char::from(DIGITS[bits >> (18 - 6 * at) & 63]));
            digits.take(three.len() + 1).chain(std::iter::repeat_n('=', 3 - three.len())).collect::<String>()
        };
        bytes.chunks(3).map(group).collect()
    }

    #[test]
    fn every_placeholder_is_filled() {
        for rest in [PLAIN, LIVE] {
            let html = html(&identity(), Duration::from_secs(3_723), rest);
            assert!(html.contains("1h 2m 3s") && html.contains("generation 8"), "{html}");
            let body = html.split_once("</style>").unwrap().1.replace(SCRIPT, "");
            assert!(!body.contains(['{', '}']), "{body}");
        }
    }

    #[test]
    fn a_version_cannot_bring_markup() {
        let html = html(&Identity { version: "<b>&".to_owned(), ..identity() }, Duration::ZERO, PLAIN);
        assert!(html.contains("&lt;b&gt;&amp;") && !html.contains("<b>&"), "{html}");
    }

    #[test]
    fn the_page_of_the_demonstration_needs_nothing_from_elsewhere_and_runs_its_own_script_only() {
        let html = html(&identity(), Duration::ZERO, LIVE);
        for mark in ["http:", "https:", "src=", "<link", "import"] {
            assert!(!html.contains(mark), "{mark}");
        }
        let script = html.split_once("<script>").unwrap().1.split_once("</script>").unwrap().0;
        let hash = base64(&sha2::Sha256::digest(script));
        assert!(SCRIPT_POLICY.ends_with(&format!("script-src 'sha256-{hash}'")), "the script's hash is {hash}");
        let policy = live(&identity()).header("content-security-policy").unwrap().as_str().to_owned();
        assert!(policy.starts_with("default-src 'none'; ") && policy.contains(&hash), "{policy}");
        assert!(!policy.contains("script-src 'unsafe-inline'"));
    }
}
