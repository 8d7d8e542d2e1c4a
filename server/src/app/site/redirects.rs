//! The redirects of a site, as answers: where a path leads is the configuration's to know.

use http_types::headers::LOCATION;
use http_types::{Response, StatusCode};

use crate::app::answer::{PathAndQuery, text};
use crate::config::{Names, Redirect};

#[derive(Debug)]
pub(super) struct Redirects(Vec<Redirect>);

impl Redirects {
    pub(super) fn new(rules: &[Redirect]) -> Redirects {
        Redirects(rules.to_vec())
    }

    /// The answer of the first rule that is about this path, if one is.
    pub(super) fn answer(&self, target: &PathAndQuery) -> Option<Response> {
        if self.0.is_empty() {
            return None;
        }
        let names = Names::parse(&target.path)?;
        let query = target.query.as_deref();
        let (rule, location) = self.0.iter().find_map(|rule| Some((rule, rule.location(&names, query)?)))?;
        let status = StatusCode::try_from(rule.status()).ok()?;
        let mut response = text(status, format_args!("this has moved: {location}"));
        response.insert_header(LOCATION, location);
        Some(response)
    }
}
