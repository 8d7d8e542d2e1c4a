//! The way of a request through a site: what comes before what, and what is answered in place of what is not there.

use std::fs;

use http_types::Url;
use http_types::headers::{CONTENT_TYPE, HeaderValue};
use tempfile::TempDir;

use super::*;
use crate::config::{FilesConfig, header_rule, redirect_rule};

struct Served {
    directory: TempDir,
    sites: Sites,
}

/// A site with these files, and what `configure` says of it.
fn serving(files: &[(&str, &str)], configure: impl FnOnce(&mut SiteConfig)) -> Served {
    let directory = tempfile::tempdir().unwrap();
    for (name, content) in files {
        fs::create_dir_all(directory.path().join(name).parent().unwrap()).unwrap();
        fs::write(directory.path().join(name), content).unwrap();
    }
    let files = FilesConfig { root: directory.path().into(), ..FilesConfig::default() };
    let mut config = SiteConfig { files: Some(files), ..SiteConfig::default() };
    configure(&mut config);
    let sites = Sites::open(&[config], 0).unwrap();
    Served { directory, sites }
}

impl Served {
    fn ask(&self, method: Method, target: &str, headers: &[(&str, &str)]) -> (u16, String, Response) {
        let mut request = Request::new(method, Url::parse("http://localhost/").unwrap());
        for (name, value) in headers {
            request.append_header(*name, *value);
        }
        let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        let target = PathAndQuery { path: path.to_owned(), query: query.map(str::to_owned) };
        let mut response = smol::block_on(self.sites.answer(&request, &target));
        let body = smol::block_on(response.body_string()).unwrap();
        (response.status().into(), body, response)
    }

    fn get(&self, target: &str, headers: &[(&str, &str)]) -> (u16, String, Response) {
        self.ask(Method::Get, target, headers)
    }
}

fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    response.header(name).map(|values| values.last().as_str())
}

#[test]
fn the_page_for_what_is_not_there_is_the_sites_own_and_stays_a_404_under_all_conditions() {
    let site = serving(&[("404.html", "no such page"), ("404.html.gz", "packed"), ("a.txt", "a")], |_| {});
    for path in ["/missing", "/a.txt/b", "/deep/missing/", "/.git/config", "/%2e%2e/a", "//a"] {
        for headers in [
            &[][..],
            &[("range", "bytes=0-1")],
            &[("if-none-match", "*")],
            &[("if-match", "\"x\"")],
            &[("if-modified-since", "Sun, 06 Nov 2050 08:49:37 GMT")],
        ] {
            let (status, body, response) = site.get(path, headers);
            assert_eq!((status, body.as_str()), (404, "no such page"), "{path} {headers:?}");
            assert_eq!(header(&response, "content-type"), Some("text/html"));
            for name in ["etag", "last-modified", "accept-ranges", "content-range"] {
                assert_eq!(header(&response, name), None, "{name}");
            }
        }
    }
    let (status, body, response) = site.get("/missing", &[("accept-encoding", "gzip")]);
    assert_eq!((status, body.as_str(), header(&response, "content-encoding")), (404, "packed", Some("gzip")));
    assert_eq!(site.get("/404.html", &[]).0, 200);
    fs::remove_file(site.directory.path().join("404.html")).unwrap();
    assert_eq!(site.get("/missing", &[]).1, "not found\n");
}

#[test]
fn a_fallback_is_for_navigations_to_what_is_not_there_and_a_file_like_any_other() {
    let site = serving(&[("app/index.html", "the application"), ("a.txt", "a"), ("404.html", "no")], |config| {
        config.files.as_mut().unwrap().fallback = Some("app/index.html".into());
    });
    let html = ("accept", "text/html,*/*;q=0.8");
    for path in ["/", "/cart/7", "/cart/", "/app.js", "/.git"] {
        let (status, body, response) = site.get(path, &[html]);
        assert_eq!((status, body.as_str()), (200, "the application"), "{path}");
        assert!(header(&response, "etag").is_some());
        let vary: Vec<_> = response.header("vary").unwrap().iter().map(HeaderValue::as_str).collect();
        assert_eq!(vary, ["accept-encoding", "accept"]);
    }
    assert_eq!(site.get("/cart", &[html, ("range", "bytes=0-2")]).1, "the");
    assert_eq!(site.ask(Method::Head, "/cart", &[html]).0, 200);
    for (accept, path, expected) in
        [("*/*", "/cart", "no"), ("application/json", "/cart", "no"), ("text/html", "/a.txt", "a")]
    {
        assert_eq!(site.get(path, &[("accept", accept)]).1, expected, "{accept} {path}");
    }
    assert_eq!(site.get("/cart", &[]).0, 404);
    assert_eq!(site.ask(Method::Post, "/cart", &[html]).0, 405);
    fs::remove_file(site.directory.path().join("app/index.html")).unwrap();
    assert_eq!(site.get("/cart", &[html]).1, "no");
}

#[test]
fn redirects_come_before_files_for_every_method_and_the_first_holds() {
    let site = serving(&[("old/a.txt", "still there"), ("b.txt", "b")], |config| {
        config.redirects = ["/old/a.txt /b.txt 303", "/old/* /new/:splat"].map(redirect_rule).into();
        config.headers = ["/* X-All: yes", "/* Cache-Control: max-age=60"].map(header_rule).into();
    });
    let (status, body, response) = site.get("/old/a.txt?q=1", &[]);
    assert_eq!((status, header(&response, "location")), (303, Some("/b.txt?q=1")));
    assert_eq!((body.as_str(), header(&response, "x-all")), ("this has moved: /b.txt?q=1\n", Some("yes")));
    assert_eq!(header(&response, "cache-control"), Some("max-age=60"));
    for method in [Method::Post, Method::Put, Method::Options] {
        let (status, _, response) = site.ask(method, "/old/x", &[]);
        assert_eq!((status, header(&response, "location")), (301, Some("/new/x")), "{method}");
    }
    let (status, _, response) = site.get("/b.txt", &[]);
    assert_eq!((status, header(&response, "cache-control")), (200, Some("max-age=60")));
    let tag = header(&response, "etag").unwrap().to_owned();
    let (status, _, response) = site.get("/b.txt", &[("if-none-match", &tag)]);
    assert_eq!((status, header(&response, "cache-control")), (304, Some("max-age=60")));
    for path in ["/old//evil.org", "/old/../b.txt", "/old/%2e%2e/b.txt", "/old/a%2fb"] {
        assert_eq!(site.get(path, &[]).0, 404, "{path} is more than its names, and leads nowhere");
    }
    let (status, _, response) = site.get("/old/\\evil.org", &[]);
    assert_eq!((status, header(&response, "location")), (301, Some("/new/%5Cevil.org")));
}

#[test]
fn the_page_for_what_fails_is_kept_in_memory() {
    let site = serving(&[("50x.html", "come back soon")], |_| {});
    fs::remove_file(site.directory.path().join("50x.html")).unwrap();
    let mut response = site.sites.sites[0].errors.dressed(text(StatusCode::ServiceUnavailable, "try again"));
    assert_eq!(response.header(CONTENT_TYPE).unwrap().as_str(), "text/html");
    assert_eq!(smol::block_on(response.body_string()).unwrap(), "come back soon");
    let mut refused = site.sites.sites[0].errors.dressed(text(StatusCode::Forbidden, "forbidden"));
    assert_eq!(smol::block_on(refused.body_string()).unwrap(), "forbidden\n");
}

#[test]
fn a_site_without_files_sends_elsewhere_and_has_nothing_else() {
    let config = SiteConfig { redirects: vec![redirect_rule("/a https://one.org/b")], ..SiteConfig::default() };
    let site = Served { directory: tempfile::tempdir().unwrap(), sites: Sites::open(&[config], 0).unwrap() };
    assert_eq!(header(&site.get("/a", &[]).2, "location"), Some("https://one.org/b"));
    assert_eq!((site.get("/b", &[]).0, site.ask(Method::Post, "/b", &[]).0), (404, 405));
}

#[test]
fn a_root_that_cannot_be_opened_is_named() {
    let files = FilesConfig { root: "/nonexistent/two".into(), ..FilesConfig::default() };
    let second = SiteConfig { files: Some(files), ..SiteConfig::default() };
    let error = Sites::open(&[SiteConfig::default(), second], 0).unwrap_err().to_string();
    assert!(error.contains("/nonexistent/two"), "{error}");
}
