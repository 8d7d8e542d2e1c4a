//! What proxies say of a request: whose it is, by which scheme it came, and for which host.
//!
//! It is in `Forwarded` (RFC 7239), or in `X-Forwarded-For`, `-Proto` and `-Host`. Each proxy adds to the end of the lists
//! who has asked it, so they are read from there: as far as those who speak are trusted. What a client has written itself
//! stands before that, and is never looked at. A request that has both kinds, which name different clients, is refused: one
//! of them was passed on by a proxy that knows only the other. Pure.

use std::net::IpAddr;

use super::head::Head;
use super::refusal::Refusal;
use super::target::valid_host;
use crate::http::trust::{Trust, address_in};

const TWO_CLIENTS: Refusal = Refusal::bad(
    "Forwarded and X-Forwarded-For name different clients: the proxy in front has to remove the one that it does not set",
);

/// What a trusted proxy says of a request.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Forwarded<'a> {
    /// The address of the client, with its port where that was said. Nothing where it is the proxy itself.
    pub(crate) client: Option<String>,
    /// Whether it came by HTTPS.
    pub(crate) https: Option<bool>,
    /// The host that it was for, with its port.
    pub(crate) host: Option<&'a str>,
}

/// Reads what the trusted proxy that a request comes from says of it.
pub(crate) fn read<'a>(head: &Head<'a>, trust: &Trust) -> Result<Forwarded<'a>, Refusal> {
    let mut lines = Lines::default();
    for (name, value) in &head.fields {
        lines.take(name, value)?;
    }
    let standard = lines.standard.map(|elements| told(&elements, trust)).transpose()?;
    let usual = usual(&lines.clients, &lines.schemes, &lines.hosts, trust)?;
    match (standard, lines.clients.is_empty()) {
        (Some(standard), false) if address(&standard) != address(&usual) => Err(TWO_CLIENTS),
        (Some(standard), _) => Ok(standard),
        (None, _) => Ok(usual),
    }
}

fn address(forwarded: &Forwarded<'_>) -> Option<IpAddr> {
    address_in(forwarded.client.as_deref()?)
}

/// The lists of a request, each over all of its lines.
#[derive(Default)]
struct Lines<'a> {
    standard: Option<Vec<Element<'a>>>,
    clients: Vec<&'a str>,
    schemes: Vec<&'a str>,
    hosts: Vec<&'a str>,
}

impl<'a> Lines<'a> {
    fn take(&mut self, name: &str, value: &'a [u8]) -> Result<(), Refusal> {
        let list = match name.len() {
            9 if name.eq_ignore_ascii_case("forwarded") => {
                let text = str::from_utf8(value).map_err(|_| Refusal::bad("a malformed Forwarded"))?;
                let elements = elements(text).ok_or(Refusal::bad("a malformed Forwarded"))?;
                self.standard.get_or_insert_default().extend(elements);
                return Ok(());
            }
            15 if name.eq_ignore_ascii_case("x-forwarded-for") => &mut self.clients,
            16 if name.eq_ignore_ascii_case("x-forwarded-host") => &mut self.hosts,
            17 if name.eq_ignore_ascii_case("x-forwarded-proto") => &mut self.schemes,
            _ => return Ok(()),
        };
        // What is no text is no address, host or scheme either; it keeps its place.
        let members =
            value.split(|byte| *byte == b',').map(|member| str::from_utf8(member.trim_ascii()).unwrap_or("?"));
        list.extend(members.filter(|member| !member.is_empty()));
        Ok(())
    }
}

/// One element of `Forwarded`: what one proxy says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Element<'a> {
    /// Whether anything is said at all.
    says: bool,
    client: Option<&'a str>,
    scheme: Option<&'a str>,
    host: Option<&'a str>,
}

/// What the outermost trusted proxy says.
fn told<'a>(elements: &[Element<'a>], trust: &Trust) -> Result<Forwarded<'a>, Refusal> {
    let clients: Vec<_> = elements.iter().map(|element| element.client.unwrap_or_default()).collect();
    let (at, client) = outermost(&clients, trust);
    let Some(element) = at.and_then(|at| elements.get(at)) else { return Ok(Forwarded::default()) };
    Ok(Forwarded { client, https: element.scheme.and_then(https), host: element.host.map(host).transpose()? })
}

/// The same from the headers that are no standard. Where they say as many schemes or hosts as clients, each belongs to one;
/// else the last one counts, as that of the proxy right in front.
fn usual<'a>(
    clients: &[&'a str],
    schemes: &[&'a str],
    hosts: &[&'a str],
    trust: &Trust,
) -> Result<Forwarded<'a>, Refusal> {
    let (at, client) = outermost(clients, trust);
    let of = |list: &[&'a str]| match at {
        Some(at) if list.len() == clients.len() => list.get(at).copied(),
        _ => list.last().copied(),
    };
    Ok(Forwarded { client, https: of(schemes).and_then(https), host: of(hosts).map(host).transpose()? })
}

/// Whom the outermost trusted proxy has heard, and where in the list that stands. Each who is named is looked at in turn,
/// from the last one, while those before it are trusted; one whose address is not told ends the search, as the client of a
/// proxy that keeps it to itself.
fn outermost(clients: &[&str], trust: &Trust) -> (Option<usize>, Option<String>) {
    let mut found = (None, None);
    for (at, named) in clients.iter().enumerate().rev() {
        found.0 = Some(at);
        let Some(address) = node(named) else { break };
        found.1 = Some(address.to_owned());
        if !address_in(address).is_some_and(|address| trust.has(address)) {
            break;
        }
    }
    found
}

/// The address of a node as it is written: `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]:80`. Nothing for one
/// that has none, as `unknown` or `_hidden`.
fn node(text: &str) -> Option<&str> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    // A port may be a name that means something to the proxy only.
    let without_name = text.rsplit_once(":_").map_or(bare, |(address, _)| address);
    let without_name = without_name.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(without_name);
    address_in(without_name).map(|_| without_name)
}

fn https(scheme: &str) -> Option<bool> {
    let is = |name: &str| scheme.eq_ignore_ascii_case(name);
    if is("https") || is("wss") { Some(true) } else { (is("http") || is("ws")).then_some(false) }
}

fn host(host: &str) -> Result<&str, Refusal> {
    if valid_host(host.as_bytes()) { Ok(host) } else { Err(Refusal::bad("a malformed forwarded host")) }
}

/// The elements of a `Forwarded` header. Nothing where it is malformed: an open quote could hide what follows it.
fn elements(text: &str) -> Option<Vec<Element<'_>>> {
    let mut all = Vec::new();
    let mut element = Element::default();
    let mut rest = text.trim_matches([' ', '\t']);
    while !rest.is_empty() {
        let end = rest.find(['=', ';', ',']).unwrap_or(rest.len());
        let name = rest[..end].trim_matches([' ', '\t']);
        rest = &rest[end..];
        if let Some(after) = rest.strip_prefix('=') {
            let (value, after) = value(after)?;
            element.take(name, value)?;
            rest = after.trim_start_matches([' ', '\t']);
        } else if !name.is_empty() {
            return None;
        }
        match rest.as_bytes().first() {
            None => {}
            Some(b';') => rest = &rest[1..],
            Some(b',') => {
                all.push(std::mem::take(&mut element));
                rest = &rest[1..];
            }
            Some(_) => return None,
        }
    }
    all.push(element);
    // RFC 9110 has empty members of a list ignored.
    all.retain(|element| element.says);
    Some(all)
}

impl<'a> Element<'a> {
    fn take(&mut self, name: &str, value: &'a str) -> Option<()> {
        self.says = true;
        let place = match name {
            name if name.eq_ignore_ascii_case("for") => &mut self.client,
            name if name.eq_ignore_ascii_case("proto") => &mut self.scheme,
            name if name.eq_ignore_ascii_case("host") => &mut self.host,
            _ => return Some(()),
        };
        // Each may be there once (section 4).
        place.replace(value).is_none().then_some(())
    }
}

/// The value that a text begins with, a token or one in quotes, and what follows it. Escapes stay as they are: nothing that
/// is of use here needs one.
fn value(text: &str) -> Option<(&str, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([';', ',', ' ', '\t']).unwrap_or(text.len());
        return (!text[..end].contains('"')).then(|| text.split_at(end));
    };
    let mut escaped = false;
    for (at, byte) in quoted.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Some((&quoted[..at], &quoted[at + 1..])),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::head::check;
    use super::*;
    use crate::http::Limits;

    fn trust() -> Trust {
        Trust::new(vec!["10.0.0.0/8".parse().expect("a network"), "fd00::/8".parse().expect("a network")], false)
    }

    /// The client, whether it came by HTTPS, and the host.
    type Said = (Option<String>, Option<bool>, Option<String>);

    /// What is said; or the status of a refusal.
    fn said(lines: &str) -> Result<Said, u16> {
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
        let head = check(head.as_bytes(), &Limits::default()).expect("a valid head");
        let forwarded = read(&head, &trust()).map_err(|refusal| u16::from(refusal.status))?;
        Ok((forwarded.client, forwarded.https, forwarded.host.map(str::to_owned)))
    }

    fn client(lines: &str) -> Option<String> {
        said(lines).expect("it passes").0
    }

    #[test]
    fn the_client_is_the_last_one_that_is_no_trusted_proxy() {
        for (lines, expected) in [
            ("", None),
            ("X-Forwarded-For: 192.0.2.1\r\n", Some("192.0.2.1")),
            ("X-Forwarded-For: 192.0.2.9, 192.0.2.1, 10.0.0.1\r\n", Some("192.0.2.1")),
            ("X-Forwarded-For: 192.0.2.9\r\nx-forwarded-for: 192.0.2.1,10.0.0.1\r\n", Some("192.0.2.1")),
            ("X-Forwarded-For: 10.0.0.2, 10.0.0.1\r\n", Some("10.0.0.2")),
            ("X-Forwarded-For: 192.0.2.1:4711, 10.0.0.1:80\r\n", Some("192.0.2.1:4711")),
            ("X-Forwarded-For: 2001:db8::1, fd00::1\r\n", Some("2001:db8::1")),
            ("X-Forwarded-For: [2001:db8::1]:47, [fd00::1]\r\n", Some("[2001:db8::1]:47")),
            ("X-Forwarded-For: 192.0.2.9, unknown, 10.0.0.1\r\n", Some("10.0.0.1")),
            ("X-Forwarded-For: 192.0.2.9, \u{e9}, 10.0.0.1\r\n", Some("10.0.0.1")),
            ("X-Forwarded-For: unknown\r\n", None),
            ("X-Forwarded-For: ,, 192.0.2.1 ,\r\n", Some("192.0.2.1")),
            ("Forwarded: for=192.0.2.9, for=192.0.2.1;proto=http, For=10.0.0.1\r\n", Some("192.0.2.1")),
            (
                "Forwarded: for=\"[2001:db8::1]:47\" ; by=x\r\nForwarded: for=\"[fd00::1]\"\r\n",
                Some("[2001:db8::1]:47"),
            ),
            ("Forwarded: for=\"192.0.2.1:_http\", for=10.0.0.1\r\n", Some("192.0.2.1")),
            ("Forwarded: for=192.0.2.9, for=_hidden, for=10.0.0.1\r\n", Some("10.0.0.1")),
            ("Forwarded: for=192.0.2.9, proto=https, for=10.0.0.1\r\n", Some("10.0.0.1")),
        ] {
            assert_eq!(client(lines).as_deref(), expected, "{lines}");
        }
    }

    #[test]
    fn scheme_and_host_are_those_that_the_outermost_trusted_proxy_has_seen() {
        let all = |lines: &str| said(lines).expect("it passes");
        let (_, https, host) = all("Forwarded: for=192.0.2.9;proto=http;host=spoofed, \
                                    for=192.0.2.1;proto=https;host=\"example.org:8443\", for=10.0.0.1;proto=http\r\n");
        assert_eq!((https, host.as_deref()), (Some(true), Some("example.org:8443")));
        let (_, https, host) =
            all("X-Forwarded-For: 192.0.2.9, 192.0.2.1, 10.0.0.1\r\nX-Forwarded-Proto: http, HTTPS, http\r\n\
                                    X-Forwarded-Host: a, b, c\r\n");
        assert_eq!((https, host.as_deref()), (Some(true), Some("b")));
        let (_, https, host) = all("X-Forwarded-For: 192.0.2.9, 192.0.2.1\r\nX-Forwarded-Proto: https\r\n");
        assert_eq!((https, host), (Some(true), None));
        assert_eq!(all("X-Forwarded-Proto: gopher\r\n").1, None);
        assert_eq!(all("X-Forwarded-Host: spoofed, b\r\n").2.as_deref(), Some("b"));
    }

    #[test]
    fn what_is_malformed_or_contradicts_itself_is_refused() {
        for lines in [
            "Forwarded: for=\"192.0.2.1\r\n",
            "Forwarded: for=\"x, for=192.0.2.1\r\n",
            "Forwarded: for=a;for=b\r\n",
            "Forwarded: for\r\n",
            "Forwarded: for=a b\r\n",
            "Forwarded: for=a\"b\r\n",
            "Forwarded: for=192.0.2.1;host=\"a/b\"\r\n",
            "X-Forwarded-Host: a/b\r\n",
            "X-Forwarded-Host: u@a\r\n",
            "Forwarded: for=192.0.2.9\r\nX-Forwarded-For: 192.0.2.1\r\n",
            "Forwarded: for=_hidden\r\nX-Forwarded-For: 192.0.2.1\r\n",
        ] {
            assert_eq!(said(lines), Err(400), "{lines}");
        }
        let both = "Forwarded: for=\"192.0.2.1:7\"\r\nX-Forwarded-For: 192.0.2.1\r\n";
        assert_eq!(client(both).as_deref(), Some("192.0.2.1:7"));
        assert_eq!(client("Forwarded: ,;, for=192.0.2.1;;\r\n").as_deref(), Some("192.0.2.1"));
    }

    proptest! {
        #[test]
        fn what_a_client_writes_never_hides_or_replaces_what_the_proxy_adds(text in "[ -~]{0,60}", standard: bool) {
            let (name, added) = if standard { ("Forwarded", "for=192.0.2.1") } else { ("X-Forwarded-For", "192.0.2.1") };
            for lines in [format!("{name}: {text}, {added}\r\n"), format!("{name}: {text}\r\n{name}: {added}\r\n")] {
                if let Ok((client, ..)) = said(&lines) {
                    prop_assert_eq!(client.as_deref(), Some("192.0.2.1"));
                }
            }
        }
    }
}
