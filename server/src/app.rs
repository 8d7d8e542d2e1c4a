//! The default application: a page about what runs, sites of plain files (`--root`), and the demonstration (`--demo`).
//!
//! It turns a request into a response and knows nothing else: no sockets, no generations but the number in its
//! identity, no framing. One place decides what a path means and which methods it takes; the modules below answer.
//! Whatever a client sends gets an answer here. An error of a body's reader belongs to the layer that reads it.

use std::sync::{Arc, OnceLock};
use std::{fmt, io};

use http_types::headers::{HeaderName, HeaderValue};
use http_types::{Body, Method, Request, Response};

use crate::http;

pub use crate::config::{Etag, FilesConfig, SiteConfig};

mod accept;
mod answer;
mod demo;
mod files;
mod page;
mod site;

pub use answer::Identity;
use answer::{READABLE, not_found, options, refuse_method, target};
use site::Sites;

/// What the application is to serve.
#[derive(Clone, Debug)]
pub struct AppConfig {
    /// The sites, of which the first is for all hosts that no other names.
    pub sites: Vec<SiteConfig>,
    /// Whether to serve the demonstration.
    pub demo: bool,
    /// Who answers.
    pub identity: Identity,
}

/// The application; a clone is the same application.
#[derive(Clone)]
pub struct App(Arc<Inner>);

struct Inner {
    sites: Sites,
    demo: Option<demo::Demo>,
    identity: Identity,
}

/// What a path stands for.
enum Resource {
    Page,
    Demo(demo::Resource),
    Site,
    /// `OPTIONS *`: the server as a whole.
    Server,
}

impl App {
    /// Opens the root directories. An error says which one could not be served, and why.
    pub fn new(config: AppConfig) -> io::Result<Self> {
        App::of_teams(config, 0)
    }

    /// The same, for a server of so many teams of threads, which then share nothing that a request writes.
    pub(crate) fn of_teams(config: AppConfig, teams: usize) -> io::Result<Self> {
        let AppConfig { sites, demo, identity } = config;
        let sites = Sites::open(&sites, teams)?;
        let demo = demo.then(demo::Demo::default);
        Ok(Self(Arc::new(Inner { sites, demo, identity })))
    }

    /// What of the application goes on in another process. It is wanted before there is an application: who answers is set
    /// by the time that one serves.
    pub fn moves(identity: &Arc<OnceLock<Identity>>) -> http::Moves {
        demo::moves(identity)
    }

    /// The headers that every response of the demonstration carries: who answered, and the request's `x-id`. Without
    /// `demo` there are none.
    pub fn signature(&self, request: Option<&Request>) -> Vec<(HeaderName, HeaderValue)> {
        if self.0.demo.is_some() { demo::signature(&self.0.identity, request) } else { vec![] }
    }

    /// Answers one request. The response to a HEAD has the length that the GET would have had, and a body that gives
    /// nothing.
    pub async fn respond(&self, mut request: Request) -> Response {
        self.respond_to(&mut request).await
    }

    async fn respond_to(&self, request: &mut Request) -> Response {
        let method = request.method();
        let id = self.0.demo.as_ref().and_then(|_| demo::request_id(request));
        let mut response = self.response(request, id.as_deref()).await;
        if method == Method::Head {
            let length = response.len();
            response.replace_body(Body::from_reader(futures_lite::io::empty(), length));
        }
        response
    }

    async fn response(&self, request: &mut Request, id: Option<&str>) -> Response {
        let target = target(request);
        let Some(resource) = self.resource(&target.path) else {
            return not_found();
        };
        let Inner { sites, demo, identity } = &*self.0;
        let allowed = match &resource {
            // A site sends clients elsewhere with whatever method they come.
            Resource::Site => return sites.answer(request, &target).await,
            Resource::Page => READABLE,
            Resource::Demo(resource) => resource.methods(),
            Resource::Server => &[Method::Options],
        };
        if !allowed.contains(&request.method()) {
            return refuse_method(allowed);
        }
        if request.method() == Method::Options {
            return options(allowed);
        }
        match (resource, demo) {
            (Resource::Page, _) => page::about(identity),
            (Resource::Demo(resource), Some(demo)) => demo.answer(resource, request, &target, id, identity).await,
            (Resource::Site | Resource::Server | Resource::Demo(_), _) => not_found(),
        }
    }

    fn resource(&self, path: &str) -> Option<Resource> {
        let demo = self.0.demo.as_ref().and_then(|_| demo::Resource::at(path)).map(Resource::Demo);
        demo.or_else(|| match path {
            "*" => Some(Resource::Server),
            _ if !self.0.sites.is_empty() => Some(Resource::Site),
            "/" if self.0.demo.is_none() => Some(Resource::Page),
            _ => None,
        })
    }
}

impl http::Handler for App {
    async fn answer(&self, mut request: Request) -> http_types::Result<Response> {
        Ok(self.respond_to(&mut request).await)
    }
}

impl fmt::Debug for App {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { sites, demo, identity } = &*self.0;
        formatter.debug_struct("App").field("sites", sites).field("demo", demo).field("identity", identity).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use std::time::Instant;

    use http_types::{StatusCode, Url};

    use super::*;

    pub(super) fn identity() -> Identity {
        Identity { pid: 4121, generation: 7, version: "1.2.3".to_owned(), started: Instant::now() }
    }

    fn site(root: PathBuf) -> SiteConfig {
        SiteConfig { files: Some(FilesConfig { root, ..FilesConfig::default() }), ..SiteConfig::default() }
    }

    fn app(root: Option<PathBuf>, demo: bool) -> App {
        App::new(AppConfig { sites: root.map(site).into_iter().collect(), demo, identity: identity() }).unwrap()
    }

    pub(super) fn request(method: Method, target: &str) -> Request {
        Request::new(method, Url::parse("http://localhost").unwrap().join(target).unwrap())
    }

    /// The response with its signature, as the HTTP layer puts the two together.
    pub(super) async fn signed(app: &App, request: Request) -> Response {
        let signature = app.signature(Some(&request));
        let mut response = app.respond(request).await;
        for (name, value) in signature {
            response.insert_header(name, value);
        }
        response
    }

    fn respond(app: &App, request: Request) -> (Response, String) {
        smol::block_on(async {
            let mut response = signed(app, request).await;
            let body = response.body_string().await.unwrap();
            (response, body)
        })
    }

    #[test]
    fn without_flags_the_root_tells_what_runs_and_what_to_type_next() {
        let (response, body) = respond(&app(None, false), request(Method::Get, "/"));
        assert_eq!(response.status(), StatusCode::Ok);
        assert_eq!(response.content_type().unwrap().essence(), "text/html");
        for part in ["1.2.3", "4121", "generation", "7", "reborn reload"] {
            assert!(body.contains(part), "{part} in {body}");
        }
        for mark in ["http:", "https:", "src=", "<script", "<link"] {
            assert!(!body.contains(mark), "the page needs nothing from elsewhere: {mark}");
        }
    }

    #[test]
    fn without_flags_other_paths_are_not_found() {
        for path in ["/fast", "/index.html", "/echo", "/a/"] {
            let (response, body) = respond(&app(None, false), request(Method::Get, path));
            assert_eq!(response.status(), StatusCode::NotFound, "{path}");
            assert_eq!(body, "not found\n");
        }
    }

    #[test]
    fn without_demo_no_response_tells_who_answered() {
        let directory = tempfile::tempdir().unwrap();
        for app in [app(None, false), app(Some(directory.path().into()), false)] {
            for path in ["/", "/missing"] {
                let mut request = request(Method::Get, path);
                request.insert_header("x-id", "17");
                let (response, _) = respond(&app, request);
                for header in ["x-pid", "x-generation", "x-id"] {
                    assert!(response.header(header).is_none(), "{header} of {path}");
                }
            }
        }
    }

    #[test]
    fn head_has_the_length_of_get_and_no_body() {
        for (app, path) in [(app(None, false), "/nothing"), (app(None, true), "/"), (app(None, true), "/fast")] {
            let (get, body) = respond(&app, request(Method::Get, path));
            let mut head = smol::block_on(signed(&app, request(Method::Head, path)));
            assert_eq!(head.len(), Some(body.len()));
            assert_eq!((head.status(), head.content_type()), (get.status(), get.content_type()));
            assert!(smol::block_on(head.body_bytes()).unwrap().is_empty());
        }
    }

    #[test]
    fn a_method_that_a_path_does_not_take_is_refused_with_those_that_it_takes() {
        let cases = [
            (false, Method::Post, "/", "GET, HEAD, OPTIONS"),
            (true, Method::Delete, "/", "GET, HEAD, OPTIONS"),
            (true, Method::Put, "/fast", "GET, HEAD, OPTIONS"),
            (true, Method::Get, "/echo", "POST, OPTIONS"),
        ];
        for (demo, method, path, allowed) in cases {
            let (response, body) = respond(&app(None, demo), request(method, path));
            assert_eq!(response.status(), StatusCode::MethodNotAllowed, "{method} {path}");
            assert_eq!(response.header("allow").unwrap().as_str(), allowed);
            assert!(body.contains(allowed));
        }
    }

    #[test]
    fn options_tells_the_methods() {
        for (demo, path, allowed) in [(false, "/", "GET, HEAD, OPTIONS"), (true, "/echo", "POST, OPTIONS")] {
            let (response, body) = respond(&app(None, demo), request(Method::Options, path));
            assert_eq!((response.status(), body.as_str()), (StatusCode::NoContent, ""));
            assert_eq!(response.header("allow").unwrap().as_str(), allowed);
        }
    }

    #[test]
    fn the_demonstration_stands_in_front_of_the_files() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("fast"), "a file").unwrap();
        std::fs::write(directory.path().join("slow.txt"), "another file").unwrap();
        let app = app(Some(directory.path().into()), true);
        assert!(respond(&app, request(Method::Get, "/fast")).1.contains("id="));
        let (response, body) = respond(&app, request(Method::Get, "/slow.txt"));
        assert_eq!(body, "another file");
        assert_eq!(response.header("x-pid").unwrap().as_str(), "4121");
    }

    #[test]
    fn a_root_that_is_missing_is_an_error_that_names_it() {
        let sites = vec![site("/nonexistent/root".into())];
        let config = AppConfig { sites, demo: false, identity: identity() };
        let error = App::new(config).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/root"), "{error}");
    }
}
