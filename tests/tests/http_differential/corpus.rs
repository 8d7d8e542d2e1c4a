//! The corpus as data: reads `corpus.txt`, and the exceptions that `server/CONFORMANCE.md` allows with a reason.

use std::collections::BTreeMap;

/// One case.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// The statuses with which reborn answers.
    pub(crate) statuses: Vec<u16>,
    /// What is sent.
    pub(crate) bytes: Vec<u8>,
}

/// All cases, in order.
pub(crate) fn cases() -> Vec<Case> {
    let lines = include_str!("corpus.txt").lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(case).collect()
}

fn case(line: &'static str) -> Case {
    let (name, rest) = line.split_once(' ').unwrap_or_else(|| panic!("a name and more: {line}"));
    let rest = rest.trim_start();
    // Everything behind one blank belongs to the bytes, blanks included; a column is as wide as it has to be.
    let (statuses, bytes) = rest.split_at(rest.find(' ').unwrap_or(rest.len()));
    let column = rest.len().min(STATUSES_WIDTH.max(statuses.len()) + 1);
    assert!(bytes[..column - statuses.len()].trim().is_empty(), "the bytes begin at their column: {line}");
    Case { name, statuses: read_statuses(statuses), bytes: unescape(&rest[column..]) }
}

/// The width of the column of statuses.
const STATUSES_WIDTH: usize = 11;

fn read_statuses(text: &str) -> Vec<u16> {
    if text == "none" {
        return Vec::new();
    }
    let each = text.split(',').flat_map(|item| {
        let (status, count) = item.split_once('x').unwrap_or((item, "1"));
        let status = status.parse::<u16>().unwrap_or_else(|_| panic!("a status: {text}"));
        std::iter::repeat_n(status, count.parse().unwrap_or_else(|_| panic!("a count: {text}")))
    });
    each.collect()
}

/// Statuses as the corpus has them.
pub(crate) fn write_statuses(statuses: &[u16]) -> String {
    let mut items: Vec<(u16, usize)> = Vec::new();
    for status in statuses {
        match items.last_mut() {
            Some((last, count)) if last == status => *count += 1,
            _ => items.push((*status, 1)),
        }
    }
    let items: Vec<String> = items
        .into_iter()
        .map(|(status, count)| if count == 1 { status.to_string() } else { format!("{status}x{count}") })
        .collect();
    if items.is_empty() { "none".to_owned() } else { items.join(",") }
}

fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        let escape = &rest[at + 1..];
        let used = match escape.as_bytes().first() {
            Some(b'{') => {
                let end = escape.find('}').unwrap_or_else(|| panic!("an open repetition: {text}"));
                let (part, count) = escape[1..end].rsplit_once('*').unwrap_or_else(|| panic!("no count: {text}"));
                let count = count.parse().unwrap_or_else(|_| panic!("a count: {text}"));
                bytes.extend_from_slice(&unescape(part).repeat(count));
                end + 1
            }
            Some(b'x') => {
                let byte = escape.get(1..3).and_then(|digits| u8::from_str_radix(digits, 16).ok());
                bytes.push(byte.unwrap_or_else(|| panic!("two digits: {text}")));
                3
            }
            Some(letter) => {
                let known = [(b'r', b'\r'), (b'n', b'\n'), (b't', b'\t'), (b'0', 0), (b'\\', b'\\')];
                let found = known.into_iter().find(|(name, _)| name == letter);
                bytes.push(found.unwrap_or_else(|| panic!("an unknown escape: {text}")).1);
                1
            }
            None => panic!("an escape without an end: {text}"),
        };
        rest = &escape[used..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    bytes
}

/// The cases in which reborn may be laxer, with those that are stricter: the table under the heading `LAXER`.
pub(crate) fn exceptions(conformance: &str) -> BTreeMap<String, String> {
    const LAXER: &str = "## Where nginx or hyper are stricter";
    let (_, section) = conformance.split_once(LAXER).expect("CONFORMANCE.md has the section");
    let section = section.split("\n## ").next().unwrap_or_default();
    let mut exceptions = BTreeMap::new();
    for row in section.lines().filter(|line| line.starts_with("| `")) {
        let columns: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [names, stricter, reason] = columns[..] else { panic!("a row of three columns: {row}") };
        assert!(!reason.is_empty(), "a reason: {row}");
        for name in names.split('`').skip(1).step_by(2) {
            let before = exceptions.insert(name.to_owned(), stricter.to_owned());
            assert_eq!(before, None, "{name} stands there twice");
        }
    }
    exceptions
}

#[test]
fn escapes_are_read_as_the_corpus_describes_them() {
    let case = case(r"name 200x2,400   GET \{a\r*2}\x41\\\0");
    assert_eq!(case.statuses, [200, 200, 400]);
    assert_eq!(case.bytes, b"GET a\ra\rA\\\0");
    assert_eq!(write_statuses(&case.statuses), "200x2,400");
    assert_eq!((read_statuses("none"), write_statuses(&[])), (Vec::new(), "none".to_owned()));
}
