//! The sites that are served, and the way of a request through one: its host finds the site, then redirects come before files,
//! and what is not there has a page. The answer gets the site's headers at the end.
//!
//! What a site does not use costs nothing: where there is one site no host is read, and without rules no path is taken apart.

use std::io;

use http_types::{Method, Request, Response, StatusCode};

use super::answer::{PathAndQuery, READABLE, not_found, options, refuse_method, text};
use super::files::{Files, Places};
use crate::config::SiteConfig;
use errors::Errors;
use headers::Headers;
use hosts::Hosts;
use redirects::Redirects;

mod errors;
mod headers;
mod hosts;
mod redirects;

/// All sites, of which the first is for the hosts that no other names.
#[derive(Debug)]
pub(super) struct Sites {
    sites: Vec<Site>,
    hosts: Hosts,
}

/// What is served under some hosts.
#[derive(Debug)]
struct Site {
    redirects: Redirects,
    files: Option<Files>,
    errors: Errors,
    headers: Headers,
}

impl Sites {
    /// Opens the root of each. An error names the one that cannot be served.
    pub(super) fn open(configs: &[SiteConfig], teams: usize) -> io::Result<Sites> {
        let places = Places::new();
        let sites = configs.iter().map(|config| Site::open(config, teams, &places)).collect::<io::Result<_>>()?;
        Ok(Sites { sites, hosts: Hosts::new(configs) })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sites.is_empty()
    }

    /// Answers a request for this target, which is as the client wrote it.
    pub(super) async fn answer(&self, request: &Request, target: &PathAndQuery) -> Response {
        match self.hosts.find(request) {
            Some(index) => match self.sites.get(index) {
                Some(site) => site.answer(request, target).await,
                None => not_found(),
            },
            None => text(
                StatusCode::MisdirectedRequest,
                "this connection was opened for another site; open one for this host",
            ),
        }
    }
}

impl Site {
    fn open(config: &SiteConfig, teams: usize, places: &Places) -> io::Result<Site> {
        let files = config.files.as_ref().map(|files| Files::open(files, teams, places)).transpose()?;
        let errors = Errors::new(files.as_ref(), config.files.as_ref().and_then(|files| files.fallback.clone()));
        let redirects = Redirects::new(&config.redirects);
        Ok(Site { redirects, files, errors, headers: Headers::new(&config.headers)? })
    }

    async fn answer(&self, request: &Request, target: &PathAndQuery) -> Response {
        let mut response = match self.redirects.answer(target) {
            Some(response) => response,
            None => self.file(request, target).await,
        };
        self.headers.apply(&target.path, &mut response);
        response
    }

    async fn file(&self, request: &Request, target: &PathAndQuery) -> Response {
        if !READABLE.contains(&request.method()) {
            return refuse_method(READABLE);
        }
        if request.method() == Method::Options {
            return options(READABLE);
        }
        let Some(files) = &self.files else { return not_found() };
        match files.answer(request, target).await {
            Some(response) => self.errors.dressed(response),
            None => self.errors.missing(files, request).await,
        }
    }
}

#[cfg(test)]
mod tests;
