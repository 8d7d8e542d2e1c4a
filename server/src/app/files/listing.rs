//! What is in a directory, as a page for people or as JSON for programs (`--list`).
//!
//! The page is one answer of plain HTML, without a script: each head of a column is a link that sorts by it. A name may be
//! any bytes: it is shown as text, with what is no UTF-8 replaced, and its link is encoded byte by byte, so that it neither
//! becomes markup nor leads elsewhere. Pure; what there is was read by `root`.

use std::cmp::Ordering;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::time::SystemTime;

use http_types::headers::{CACHE_CONTROL, CONTENT_TYPE, VARY};
use http_types::{Body, Response, StatusCode};
use percent_encoding::{percent_decode_str, percent_encode};
use serde_json::json;

use super::location::ENCODED;

/// What the page may do: nothing, but look as it does.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'self'";

const STYLE: &str = ":root{color-scheme:light dark}body{font:1rem/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;\
    padding:0 1rem}table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.1rem .5rem}\
    th:nth-child(2),td:nth-child(2){text-align:right}td{white-space:nowrap}td:first-child{white-space:normal;overflow-wrap:anywhere}\
    tr:hover td{background:#8882}";

/// What is in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: OsString,
    pub(super) is_directory: bool,
    /// In bytes, of a file.
    pub(super) length: u64,
    pub(super) modified: SystemTime,
}

/// All that is in one.
#[derive(Clone, Debug)]
pub(super) struct Listed {
    pub(super) entries: Vec<Entry>,
    /// Whether there is more than is listed.
    pub(super) is_cut: bool,
}

/// In which order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Order {
    by: Column,
    is_descending: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Column {
    Name,
    Size,
    Date,
}

impl Column {
    const ALL: [(Self, &str, &str); 3] =
        [(Self::Name, "name", "Name"), (Self::Size, "size", "Size"), (Self::Date, "date", "Modified")];
}

impl Order {
    /// Reads a query, such as `sort=size&order=desc`. What it does not understand says nothing.
    pub(super) fn parse(query: Option<&str>) -> Order {
        let mut order = Order { by: Column::Name, is_descending: false };
        for part in query.unwrap_or_default().split('&') {
            match part.split_once('=') {
                Some(("sort", name)) => {
                    let column = Column::ALL.iter().find(|(_, known, _)| *known == name);
                    order.by = column.map_or(order.by, |(column, _, _)| *column);
                }
                Some(("order", word)) => order.is_descending = word == "desc",
                _ => {}
            }
        }
        order
    }

    /// Directories come first; what is alike is in the order of the names.
    fn compare(self, one: &Entry, other: &Entry) -> Ordering {
        let by = match self.by {
            Column::Name => one.name.cmp(&other.name),
            Column::Size => one.length.cmp(&other.length),
            Column::Date => one.modified.cmp(&other.modified),
        };
        let by = if self.is_descending { by.reverse() } else { by };
        other.is_directory.cmp(&one.is_directory).then(by).then_with(|| one.name.cmp(&other.name))
    }
}

/// The answer for the directory at this path, which is as the client wrote it.
pub(super) fn answer(mut listed: Listed, path: &str, order: Order, as_json: bool) -> Response {
    listed.entries.sort_unstable_by(|one, other| order.compare(one, other));
    let mut response = Response::new(StatusCode::Ok);
    if as_json {
        response.set_body(Body::from_string(json(&listed)));
        response.insert_header(CONTENT_TYPE, "application/json");
    } else {
        response.set_body(Body::from_string(page(&listed, path, order)));
        response.insert_header(CONTENT_TYPE, "text/html; charset=utf-8");
        response.insert_header("content-security-policy", POLICY);
    }
    response.insert_header("x-content-type-options", "nosniff");
    // Nothing tells whether it is still the same.
    response.insert_header(CACHE_CONTROL, "no-cache");
    response.insert_header(VARY, "accept");
    response
}

fn page(listed: &Listed, path: &str, order: Order) -> String {
    let title = escape(&percent_decode_str(path).decode_utf8_lossy());
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
         content=\"width=device-width\">\n<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n\
         <table>\n<thead>\n<tr>"
    );
    for (column, name, head) in Column::ALL {
        let is_it = column == order.by;
        let next = if is_it && !order.is_descending { "desc" } else { "asc" };
        let (sorted, arrow) = match (is_it, order.is_descending) {
            (false, _) => ("", ""),
            (true, false) => (" aria-sort=\"ascending\"", " \u{2191}"),
            (true, true) => (" aria-sort=\"descending\"", " \u{2193}"),
        };
        page += &format!("<th{sorted}><a href=\"?sort={name}&amp;order={next}\">{head}</a>{arrow}</th>");
    }
    page += "</tr>\n</thead>\n<tbody>\n";
    if path != "/" {
        page += "<tr><td><a href=\"../\">../</a></td><td></td><td></td></tr>\n";
    }
    for entry in &listed.entries {
        let slash = if entry.is_directory { "/" } else { "" };
        let size = if entry.is_directory { String::new() } else { human(entry.length) };
        page += &format!(
            "<tr><td><a href=\"{}\">{}{slash}</a></td><td>{size}</td><td>{}</td></tr>\n",
            link(entry),
            escape(&entry.name.to_string_lossy()),
            date(entry.modified).replace('T', " ").trim_end_matches('Z'),
        );
    }
    page += "</tbody>\n</table>\n";
    if listed.is_cut {
        page += &format!("<p>There is more than these {}.</p>\n", listed.entries.len());
    }
    page + "</body>\n</html>\n"
}

/// The fields that nginx has for it, and each entry's link.
fn json(listed: &Listed) -> String {
    let object = |entry: &Entry| {
        let kind = if entry.is_directory { "directory" } else { "file" };
        let name = entry.name.to_string_lossy();
        let mut object = json!({ "name": name, "type": kind, "mtime": date(entry.modified), "url": link(entry) });
        if !entry.is_directory {
            object["size"] = entry.length.into();
        }
        object
    };
    serde_json::Value::from(listed.entries.iter().map(object).collect::<Vec<_>>()).to_string() + "\n"
}

/// Where an entry is, from its directory on. A colon in it would otherwise be that of a scheme, and is encoded like
/// everything that could be more than a name.
fn link(entry: &Entry) -> String {
    let slash = if entry.is_directory { "/" } else { "" };
    format!("{}{slash}", percent_encode(entry.name.as_bytes(), ENCODED))
}

fn date(at: SystemTime) -> String {
    // What lies before 1970 or after 9999 cannot be written so.
    let is_fit = at.duration_since(SystemTime::UNIX_EPOCH).is_ok_and(|since| since.as_secs() < 253_402_300_800);
    humantime::format_rfc3339_seconds(if is_fit { at } else { SystemTime::UNIX_EPOCH }).to_string()
}

/// A length as people read it.
fn human(length: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if length < 1024 {
        return format!("{length} B");
    }
    let mut tenths = u128::from(length) * 10;
    let mut unit = "";
    for next in UNITS {
        if tenths < 10_240 {
            break;
        }
        (tenths, unit) = (tenths / 1024, next);
    }
    format!("{}.{} {unit}", tenths / 10, tenths % 10)
}

/// A text in HTML, within an element or an attribute. Control characters have no place in it.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // Those that turn the direction of what follows have names end with what they do not end with.
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => escaped.push(char::REPLACEMENT_CHARACTER),
            character if character.is_control() => escaped.push(char::REPLACEMENT_CHARACTER),
            character => escaped.push(character),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn entry(name: &[u8], length: u64, seconds: u64) -> Entry {
        let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        Entry { name: OsString::from_vec(name.to_vec()), is_directory: false, length, modified }
    }

    fn text(entries: &[Entry], query: Option<&str>, as_json: bool) -> String {
        let listed = Listed { entries: entries.to_vec(), is_cut: false };
        let mut response = answer(listed, "/dir/", Order::parse(query), as_json);
        smol::block_on(response.body_string()).unwrap()
    }

    #[test]
    fn a_query_says_the_order_and_directories_come_first() {
        let directory = Entry { is_directory: true, ..entry(b"z", 0, 5) };
        let entries = [entry(b"b", 3, 1), entry(b"a", 3, 2), entry(b"c", 1, 3), directory];
        for (query, expected) in [
            (None, "zabc"),
            (Some("order=desc"), "zcba"),
            (Some("sort=size"), "zcab"),
            (Some("sort=size&order=desc"), "zabc"),
            (Some("order=desc&sort=date"), "zcab"),
            (Some("sort=date&order=asc"), "zbac"),
            (Some("sort=<script>&x&order="), "zabc"),
        ] {
            let rows: serde_json::Value = serde_json::from_str(&text(&entries, query, true)).unwrap();
            let names: String = rows.as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap()).collect();
            assert_eq!(names, expected, "{query:?}");
        }
        let page = text(&entries, Some("sort=size"), false);
        assert!(page.contains("<th aria-sort=\"ascending\"><a href=\"?sort=size&amp;order=desc\">Size</a>"), "{page}");
    }

    #[test]
    fn programs_get_what_nginx_says_and_where_it_is() {
        let expected = r#"[{"mtime":"1970-01-01T00:01:00Z","name":"a b","size":7,"type":"file","url":"a%20b"}]"#;
        assert_eq!(text(&[entry(b"a b", 7, 60)], None, true), format!("{expected}\n"));
    }

    #[test]
    fn lengths_are_those_that_people_read() {
        for (length, shown) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1_587, "1.5 KiB"),
            (1_048_575, "1023.9 KiB"),
            (1_048_576, "1.0 MiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(human(length), shown);
        }
    }

    proptest! {
        #[test]
        fn no_name_becomes_markup_or_leads_elsewhere(
            name in prop_oneof![
                "(<script>|\"|'|&|javascript:|//|\\\\|\u{202e}|%2f|\\.html|\r\n| ){1,5}".prop_map(String::into_bytes),
                proptest::collection::vec(1_u8.., 1..20),
            ],
        ) {
            let name: Vec<u8> = name.into_iter().map(|byte| if byte == b'/' { b'_' } else { byte }).collect();
            prop_assume!(name != b"." && name != b"..");
            let page = text(&[entry(&name, 1, 1)], None, false);
            let (_, row) = page.split_once("<tr><td><a href=\"../\">").unwrap();
            let (_, row) = row.split_once("<tr><td><a href=\"").unwrap();
            let (href, rest) = row.split_once("\">").unwrap();
            let shown = rest.split_once("</a></td><td>1 B</td><td>1970-01-01 00:00:01</td></tr>\n").unwrap().0;
            prop_assert!(!shown.contains(['<', '>', '"', '\'', '\u{202e}']) && !shown.contains(char::is_control), "{}", shown);
            let base = http_types::Url::parse("http://home.org/dir/?sort=size").unwrap();
            let url = base.join(href).unwrap();
            prop_assert_eq!(url.host_str(), Some("home.org"));
            let segments: Vec<_> = url.path_segments().unwrap().collect();
            prop_assert_eq!(segments.len(), 2);
            prop_assert_eq!(percent_decode_str(segments[1]).collect::<Vec<u8>>(), name);
        }
    }
}
