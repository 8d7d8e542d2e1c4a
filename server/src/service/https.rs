//! What a site that is served by HTTPS says of itself: plain requests are sent there, browsers told to come back by it
//! only, and requests on another site's connection refused. Nothing here costs where none of it was asked for.

use std::sync::Arc;

use http_types::headers::{HeaderName, HeaderValue, LOCATION};
use http_types::{Request, Response, StatusCode};
use restart_core::Listener;

use crate::config::TlsConfig;
use crate::http::{Decoration, Proxied, Screen, Target, Tls};
use crate::tls::{Acceptors, Plain, plain, redirect_port, strict_transport_security};

/// What is answered in the handler's place: a redirection to HTTPS where that was asked for, and 421 where a request is not
/// for the site that its connection was opened for. A trusted proxy decides itself which requests go on its connection, and
/// what it has taken by HTTPS is where it should be.
pub(super) fn screen(config: &TlsConfig, acceptors: Option<&Arc<Acceptors>>, listeners: &[Listener]) -> Option<Screen> {
    let acceptors = Arc::clone(acceptors?);
    let port = redirect_port(config, listeners.iter().map(|listener| (listener.name(), listener.address())));
    Some(Box::new(move |request| match (request.ext().get::<Tls>(), port) {
        _ if Proxied::by_https(request) => None,
        (Some(tls), _) => {
            let host = host(request)?;
            acceptors.is_misdirected(tls.server_name(), host).then(misdirected)
        }
        (None, Some(port)) => redirected(request, port),
        (None, None) => None,
    }))
}

/// The headers of all answers that reach clients by HTTPS: the one by which browsers ask for nothing else, where that was
/// asked for.
pub(super) fn headers(config: &TlsConfig) -> Decoration {
    let value = config.hsts.and_then(|duration| strict_transport_security(duration).parse().ok());
    value.map(|value: HeaderValue| (HeaderName::from("strict-transport-security"), value)).into_iter().collect()
}

fn host(request: &Request) -> Option<&str> {
    request.header("host").map(|host| host.last().as_str())
}

fn redirected(request: &Request, port: u16) -> Option<Response> {
    let target = request.ext().get::<Target>().map_or("*", Target::as_str);
    match plain(host(request), target, port) {
        Plain::Serve => None,
        Plain::Redirect(location) => {
            let mut response = Response::new(StatusCode::PermanentRedirect);
            response.insert_header(LOCATION, location);
            Some(response)
        }
        Plain::Refuse => Some(told(StatusCode::BadRequest, "this site is served by HTTPS, and no host is named")),
    }
}

fn misdirected() -> Response {
    told(StatusCode::MisdirectedRequest, "this connection was opened for another site; open one for this host")
}

fn told(status: StatusCode, cause: &str) -> Response {
    let mut response = Response::new(status);
    response.set_body(format!("{} {}: {cause}\n", u16::from(status), status.canonical_reason()));
    response
}
