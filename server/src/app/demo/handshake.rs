//! The opening handshake of a WebSocket (RFC 6455, section 4.2): from a request to the headers of the switch, or to what
//! is wrong with it. Pure.

use http_types::headers::{HeaderName, HeaderValue, UPGRADE};
use http_types::{Method, Request, Response, StatusCode};
use tungstenite::handshake::derive_accept_key;

use crate::app::answer::text;

/// The only version that there is.
const VERSION: &str = "13";

/// The characters of a key: 16 bytes in base64.
const KEY_CHARS: usize = 24;

/// The header that answers a request which may have a WebSocket, for a response with status 101. Otherwise the response
/// that says what to send instead.
pub(super) fn accept(request: &Request) -> Result<(HeaderName, String), Box<Response>> {
    if request.method() != Method::Get || !offers(request, "websocket") {
        let message = "this is a WebSocket: ask with GET, `Connection: upgrade` and `Upgrade: websocket`";
        return Err(refusal(StatusCode::UpgradeRequired, message));
    }
    if only(request, "sec-websocket-version") != Some(VERSION) {
        return Err(refusal(StatusCode::UpgradeRequired, "ask with `Sec-WebSocket-Version: 13`"));
    }
    match only(request, "sec-websocket-key").filter(|key| is_key(key)) {
        Some(key) => Ok(("sec-websocket-accept".into(), derive_accept_key(key.as_bytes()))),
        None => Err(refusal(StatusCode::BadRequest, "Sec-WebSocket-Key has to be 16 bytes in base64")),
    }
}

/// Whether the client offers to go on with this protocol.
pub(super) fn offers(request: &Request, protocol: &str) -> bool {
    let named = |value: &HeaderValue| value.as_str().split(',').any(|one| one.trim().eq_ignore_ascii_case(protocol));
    request.header(UPGRADE).is_some_and(|values| values.iter().any(named))
}

/// A header that may come once.
fn only<'a>(request: &'a Request, name: &str) -> Option<&'a str> {
    let values = request.header(name)?;
    (values.iter().count() == 1).then(|| values.last().as_str().trim())
}

/// 16 bytes have 22 characters and two of padding. What the bytes are is the client's business.
fn is_key(key: &str) -> bool {
    let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/';
    key.len() == KEY_CHARS && key.strip_suffix("==").is_some_and(|bytes| bytes.bytes().all(is_base64))
}

fn refusal(status: StatusCode, message: &str) -> Box<Response> {
    let mut response = text(status, message);
    response.insert_header("sec-websocket-version", VERSION);
    if status == StatusCode::UpgradeRequired {
        response.insert_header(UPGRADE, "websocket");
    }
    Box::new(response)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::tests::request;

    /// The handshake of RFC 6455, section 1.3, without one header, and with other ones.
    fn asked(without: &str, with: &[(&str, &str)]) -> Result<(HeaderName, String), StatusCode> {
        let mut request = request(Method::Get, "/chat");
        let usual = [
            ("upgrade", "h2c, WebSocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        for (name, value) in usual.iter().filter(|(name, _)| *name != without).chain(with) {
            request.append_header(*name, *value);
        }
        accept(&request).map_err(|response| {
            assert_eq!(response.header("sec-websocket-version").unwrap().as_str(), "13");
            response.status()
        })
    }

    #[test]
    fn the_handshake_of_the_standard_is_answered_as_it_says() {
        let (name, value) = asked("", &[]).unwrap();
        assert_eq!((name.as_str(), value.as_str()), ("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    }

    #[test]
    fn what_is_no_handshake_is_refused_with_what_would_be_one() {
        let key = "sec-websocket-key";
        for (without, with, status) in [
            ("upgrade", &[][..], StatusCode::UpgradeRequired),
            ("upgrade", &[("upgrade", "echo")], StatusCode::UpgradeRequired),
            ("sec-websocket-version", &[], StatusCode::UpgradeRequired),
            ("sec-websocket-version", &[("sec-websocket-version", "8")], StatusCode::UpgradeRequired),
            (key, &[], StatusCode::BadRequest),
            (key, &[(key, "short==")], StatusCode::BadRequest),
            (key, &[(key, "dGhlIHNhbXBsZSBub25jZQ!!")], StatusCode::BadRequest),
            ("", &[(key, "dGhlIHNhbXBsZSBub25jZQ==")], StatusCode::BadRequest),
        ] {
            assert_eq!(asked(without, with).unwrap_err(), status, "{without} {with:?}");
        }
        let post = request(Method::Post, "/chat");
        assert_eq!(accept(&post).unwrap_err().status(), StatusCode::UpgradeRequired);
    }
}
