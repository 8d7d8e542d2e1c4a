//! What a site that is served by HTTPS says of itself: plain requests are sent there, browsers told to come back by it
//! only, and requests on another site's connection refused. Nothing here costs where none of it was asked for.

use std::sync::Arc;

use http_types::headers::{HeaderName, HeaderValue, LOCATION};
use http_types::{Request, Response, StatusCode};
use restart_core::{Address, Listener};

use crate::config::{TlsConfig, speaks_tls};
use crate::http::{Decorate, Screen, Target, Tls};
use crate::tls::{Acceptors, Plain, plain, strict_transport_security};

/// What is answered in the handler's place: a redirection to HTTPS where that was asked for, and 421 where a request is not
/// for the site that its connection was opened for.
pub(super) fn screen(config: &TlsConfig, acceptors: Option<&Arc<Acceptors>>, listeners: &[Listener]) -> Option<Screen> {
    let acceptors = Arc::clone(acceptors?);
    let port = listeners
        .iter()
        .filter(|listener| speaks_tls(listener.name()))
        .find_map(|listener| if let Address::Tcp(address) = listener.address() { Some(address.port()) } else { None });
    let port = port.filter(|_| config.redirect);
    Some(Box::new(move |request| match (request.ext().get::<Tls>(), port) {
        (Some(tls), _) => {
            let host = host(request)?;
            acceptors.is_misdirected(tls.server_name(), host).then(misdirected)
        }
        (None, Some(port)) => redirected(request, port),
        (None, None) => None,
    }))
}

/// The headers of the application, and over TLS the one by which browsers ask for nothing else.
pub(super) fn decorate(config: &TlsConfig, decorate: Option<Decorate>) -> Option<Decorate> {
    let Some(duration) = config.hsts else { return decorate };
    let name = HeaderName::from("strict-transport-security");
    let value: HeaderValue = strict_transport_security(duration).parse().ok()?;
    Some(Box::new(move |request| {
        let mut decoration = decorate.as_ref().map(|decorate| decorate(request)).unwrap_or_default();
        if request.is_some_and(|request| request.ext().get::<Tls>().is_some()) {
            decoration.push((name.clone(), value.clone()));
        }
        decoration
    }))
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
