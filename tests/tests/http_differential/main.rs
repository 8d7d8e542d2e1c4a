//! reborn beside nginx and hyper, over real sockets and a corpus of valid and malformed requests: it answers as the
//! corpus says, and wherever it takes something for a request that one of them refuses, or takes other bytes for one,
//! `server/CONFORMANCE.md` gives the reason.

mod corpus;
mod peers;

use std::collections::BTreeSet;
use std::fmt::Write;

use corpus::{Case, write_statuses};
use peers::{Nginx, Seen, exchange};
use tests::{Reborn, skip::skip};

/// What the three made of one case.
struct Comparison {
    case: Case,
    reborn: Vec<Seen>,
    nginx: Vec<Seen>,
    hyper: Vec<Seen>,
}

fn statuses(answers: &[Seen]) -> Vec<u16> {
    answers.iter().map(|seen| seen.status).collect()
}

/// Which requests a server found, by their ids.
fn taken(answers: &[Seen]) -> Vec<&str> {
    answers.iter().filter(|seen| seen.is_taken()).map(|seen| seen.id.as_str()).collect()
}

impl Comparison {
    /// Those that are stricter than reborn: they did not find all requests that it found, or found others.
    fn stricter(&self) -> String {
        let ours = taken(&self.reborn);
        let is_stricter = |answers| !taken(answers).starts_with(&ours);
        let peers = [("nginx", is_stricter(&self.nginx)), ("hyper", is_stricter(&self.hyper))];
        peers.into_iter().filter(|(_, is)| *is).map(|(name, _)| name).collect::<Vec<_>>().join(", ")
    }

    fn line(&self) -> String {
        let [reborn, nginx, hyper] =
            [&self.reborn, &self.nginx, &self.hyper].map(|answers| write_statuses(&statuses(answers)));
        format!("{}: reborn {reborn}, nginx {nginx}, hyper {hyper}\n", self.case.name)
    }
}

fn compare_all() -> Option<Vec<Comparison>> {
    let other = Reborn::new();
    let Some(nginx) = Nginx::start(other.folder(), other.address()) else {
        skip("nginx is not installed (Debian's package nginx-light)");
        return None;
    };
    let (reborn, hyper) = (Reborn::new().demo().start(), peers::start_hyper());
    let compare = |case: Case| Comparison {
        reborn: exchange(reborn.address(), &case.bytes),
        nginx: exchange(nginx.address, &case.bytes),
        hyper: exchange(hyper, &case.bytes),
        case,
    };
    Some(corpus::cases().into_iter().map(compare).collect())
}

#[test]
fn reborn_is_nowhere_laxer_than_nginx_or_hyper_without_a_reason() {
    let Some(comparisons) = compare_all() else { return };
    assert!(comparisons.len() >= 300, "{} cases", comparisons.len());
    let conformance = concat!(env!("CARGO_MANIFEST_DIR"), "/../server/CONFORMANCE.md");
    let conformance = std::fs::read_to_string(conformance).expect("the table of the server");
    let mut exceptions = corpus::exceptions(&conformance);
    let mut faults = String::new();
    let mut names = BTreeSet::new();
    for comparison in &comparisons {
        let Case { name, statuses: expected, .. } = &comparison.case;
        if !names.insert(*name) {
            let _ = writeln!(faults, "{name} stands twice in the corpus");
        }
        if statuses(&comparison.reborn) != *expected {
            let _ = write!(faults, "answered otherwise than the corpus says: {}", comparison.line());
        }
        let (stricter, excused) = (comparison.stricter(), exceptions.remove(*name).unwrap_or_default());
        if stricter != excused {
            let _ = write!(faults, "laxer than [{stricter}], excused for [{excused}]: {}", comparison.line());
        }
    }
    for name in exceptions.keys() {
        let _ = writeln!(faults, "CONFORMANCE.md excuses {name}, which is not in the corpus");
    }
    assert!(faults.is_empty(), "\n{faults}");
}
