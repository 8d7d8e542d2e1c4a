//! The page of a server that was started without flags: what runs, and what to type next to replace it.
//!
//! It is one answer without resources from elsewhere, so that it works behind any address and without a network.

use std::time::Duration;

use http_types::headers::{CACHE_CONTROL, CONTENT_TYPE};
use http_types::{Body, Response, StatusCode};

use super::Identity;

const TEMPLATE: &str = include_str!("page.html");

/// The page about this generation, as of now.
pub(super) fn about(identity: &Identity) -> Response {
    let mut response = Response::new(StatusCode::Ok);
    response.set_body(Body::from_string(html(identity, identity.started.elapsed())));
    response.insert_header(CONTENT_TYPE, "text/html; charset=utf-8");
    // The next generation tells something else.
    response.insert_header(CACHE_CONTROL, "no-store");
    response.insert_header("content-security-policy", "default-src 'none'; style-src 'unsafe-inline'");
    response
}

fn html(identity: &Identity, uptime: Duration) -> String {
    let uptime = humantime::format_duration(Duration::from_secs(uptime.as_secs())).to_string();
    TEMPLATE
        .replace("{generation}", &identity.generation.to_string())
        .replace("{next}", &identity.generation.saturating_add(1).to_string())
        .replace("{pid}", &identity.pid.to_string())
        .replace("{uptime}", &uptime)
        .replace("{version}", &escape(&identity.version))
}

/// A version comes from whoever built the program, and may hold anything.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::tests::identity;

    #[test]
    fn every_placeholder_is_filled() {
        let html = html(&identity(), Duration::from_secs(3_723));
        assert!(html.contains("1h 2m 3s"), "{html}");
        let body = html.split_once("</style>").unwrap().1;
        assert!(!body.contains(['{', '}']), "{body}");
    }

    #[test]
    fn a_version_cannot_bring_markup() {
        let html = html(&Identity { version: "<b>&".to_owned(), ..identity() }, Duration::ZERO);
        assert!(html.contains("&lt;b&gt;&amp;") && !html.contains("<b>&"), "{html}");
    }
}
