//! The URL of a request whose host and target are plain: it is put together, not parsed.
//!
//! The library of URLs reads each character by the rules of the web: it decodes and encodes, lower-cases, drops default
//! ports, and goes the steps of a path. What all that would leave as it is makes the same URL right away: its text, and where
//! its parts are. Everything else is left to the library; to take more for changed than is costs time, and nothing else.

use std::marker::PhantomData;
use std::mem;
use std::net::Ipv4Addr;
use std::sync::LazyLock;

use http_types::Url;
use serde::de::value::Error;
use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, SeqAccess, VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;

use super::target::Target;

/// Whether the library keeps the parts of a URL as they are given to it here. Another version of it may have them in another
/// order; then all URLs are parsed.
static IS_KEPT_SO: LazyLock<bool> = LazyLock::new(|| {
    ["a.example:8080", "192.0.2.1", "a"].into_iter().all(|host| {
        let made = put_together(true, host, "/p?q", Some(2));
        let parsed = Url::parse(&format!("https://{host}/p?q")).ok();
        let parts = |url: &Url| {
            let (username, fragment) = (url.username().len(), url.fragment().map(str::len));
            let [host, path] = [url.host_str(), Some(url.path())].map(|part| part.map(str::to_owned));
            (url.to_string(), url.scheme().len(), username, host, url.port(), path, url.query().map(str::len), fragment)
        };
        made.as_ref().map(parts) == parsed.as_ref().map(parts)
    })
});

/// The URL of a target on a host, if both are plain.
pub(crate) fn plain(secured: bool, host: &str, target: &Target) -> Option<Url> {
    let is_plain = target.is_plain() && *IS_KEPT_SO;
    is_plain.then(|| put_together(secured, host, target.as_str(), target.query_at())).flatten()
}

/// The URL of a plain target, whose query is there, on a host, if that is plain as well.
fn put_together(secured: bool, host: &str, target: &str, query_at: Option<usize>) -> Option<Url> {
    let (scheme, port_default) = if secured { ("https", 443) } else { ("http", 80) };
    let (name, port) = split(host, port_default)?;
    let kind = if is_domain(name) { Kind::Domain } else { Kind::Address(name.parse::<Ipv4Addr>().ok().map(|_| name)?) };
    let host_at = scheme.len() + "://".len();
    let path_at = host_at + host.len();
    let mut text = String::with_capacity(path_at + target.len());
    for part in [scheme, "://", host, target] {
        text.push_str(part);
    }
    u32::try_from(text.len()).ok()?;
    let at = |at: usize| u32::try_from(at).ok();
    let parts = Parts {
        next: 0,
        text,
        scheme_end: at(scheme.len())?,
        host_at: at(host_at)?,
        host_end: at(host_at + name.len())?,
        kind,
        port,
        path_at: at(path_at)?,
        query_at: query_at.and_then(|query_at| at(path_at + query_at)),
    };
    Url::deserialize_internal(parts).ok()
}

/// Divides a valid host into name and port, unless a URL says its port in another way.
fn split(host: &str, port_default: u16) -> Option<(&str, Option<u16>)> {
    let Some(name_end) = host.bytes().position(|byte| byte == b':') else { return Some((host, None)) };
    let (name, digits) = (&host[..name_end], &host[name_end + 1..]);
    let port = digits.parse().ok().filter(|port| *port != port_default && !digits.starts_with('0'))?;
    Some((name, Some(port)))
}

/// Whether this is a name of lower-case labels, the last of which begins with a letter: one that begins with a digit may be
/// part of an address. Those with two hyphens in a row are not taken: they may stand for another alphabet.
fn is_domain(name: &str) -> bool {
    let (mut before, mut last_begins) = (b'.', b'.');
    for byte in name.bytes() {
        match (byte, before) {
            (b'a'..=b'z' | b'0'..=b'9', b'.') => last_begins = byte,
            (b'a'..=b'z' | b'0'..=b'9', _) | (b'-' | b'.', b'a'..=b'z' | b'0'..=b'9') => {}
            _ => return false,
        }
        before = byte;
    }
    before != b'.' && last_begins.is_ascii_lowercase()
}

/// A URL as the library takes it from those who have kept one: its parts, one after another.
struct Parts<'a> {
    next: u8,
    text: String,
    scheme_end: u32,
    host_at: u32,
    host_end: u32,
    kind: Kind<'a>,
    port: Option<u16>,
    path_at: u32,
    query_at: Option<u32>,
}

/// One of them.
enum Part<'a> {
    Text(String),
    At(u32),
    Maybe(Option<u32>),
    Host(Kind<'a>),
}

/// What a host is, by the library's names.
#[derive(Clone, Copy)]
enum Kind<'a> {
    Domain,
    Address(&'a str),
}

impl<'de> Deserializer<'de> for Parts<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_seq(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

#[expect(
    clippy::inline_always,
    reason = "which part is next is known where it is asked for: nothing is left of asking"
)]
impl<'de> SeqAccess<'de> for Parts<'_> {
    type Error = Error;

    #[inline(always)]
    fn next_element<T: Deserialize<'de>>(&mut self) -> Result<Option<T>, Error> {
        self.next_element_seed(PhantomData)
    }

    #[inline(always)]
    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        let part = match self.next {
            0 => Part::Text(mem::take(&mut self.text)),
            1 => Part::At(self.scheme_end),
            // There are no username and password between.
            2 | 3 => Part::At(self.host_at),
            4 => Part::At(self.host_end),
            5 => Part::Host(self.kind),
            6 => Part::Maybe(self.port.map(u32::from)),
            7 => Part::At(self.path_at),
            8 => Part::Maybe(self.query_at),
            // There is no fragment.
            9 => Part::Maybe(None),
            _ => return Ok(None),
        };
        self.next += 1;
        seed.deserialize(part).map(Some)
    }
}

impl<'de> Deserializer<'de> for Part<'_> {
    type Error = Error;

    #[expect(clippy::inline_always, reason = "as above")]
    #[inline(always)]
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self {
            Part::Text(text) => visitor.visit_string(text),
            Part::At(at) => visitor.visit_u32(at),
            Part::Maybe(None) => visitor.visit_none(),
            Part::Maybe(Some(number)) => visitor.visit_some(IntoDeserializer::<Error>::into_deserializer(number)),
            Part::Host(kind) => visitor.visit_enum(kind),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

impl<'de> EnumAccess<'de> for Kind<'_> {
    type Error = Error;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Error> {
        let name = match self {
            Kind::Domain => "Domain",
            Kind::Address(_) => "Ipv4",
        };
        seed.deserialize(IntoDeserializer::<Error>::into_deserializer(name)).map(|name| (name, self))
    }
}

impl<'de> VariantAccess<'de> for Kind<'_> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Error> {
        let text = if let Kind::Address(text) = self { text } else { "" };
        seed.deserialize(IntoDeserializer::<Error>::into_deserializer(text))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }
}

#[cfg(test)]
mod tests {
    use http_types::Method;
    use proptest::prelude::*;

    use super::super::target;
    use super::*;

    fn target(raw: &str) -> Option<Target> {
        target::parse(Method::Get, raw).ok().map(|(target, _)| target)
    }

    /// All that a URL is: text, the kind of its host, and where its parts are.
    fn whole(url: &Url) -> String {
        url.serialize_internal(serde_json::value::Serializer).expect("plain data").to_string()
    }

    /// Compares with the library, and says whether it was plain.
    fn agrees(secured: bool, host: &str, raw: &str) -> Result<bool, TestCaseError> {
        let Some(target) = target(raw).filter(|_| target::valid_host(host.as_bytes())) else { return Ok(false) };
        let Some(made) = plain(secured, host, &target) else { return Ok(false) };
        let scheme = if secured { "https" } else { "http" };
        let parsed = Url::parse(&format!("{scheme}://{host}{raw}"));
        prop_assert_eq!(parsed.as_ref().map(whole), Ok(whole(&made)));
        Ok(true)
    }

    #[test]
    fn what_clients_ask_for_is_plain() {
        for host in ["localhost", "www.example.org", "a:8080", "1and1.com", "10.0.0.1", "127.0.0.1:80", "a-b.c-d:1"] {
            for raw in ["/", "/a/b.html", "/a?b=c%20d&e", "/?", "//a//", "/a%2fb/c..d", "/@a:b;c=(d)!$*+,'~_-/"] {
                assert!(agrees(true, host, raw).expect("the same"), "{host} {raw}");
            }
        }
    }

    #[test]
    fn what_the_library_would_change_is_not_plain() {
        let changed = [
            ("A", "/"),
            ("a:80", "/"),
            ("a:080", "/"),
            ("a:", "/"),
            ("a:99999", "/"),
            ("[::1]", "/"),
            ("1", "/"),
            ("0x7f.1", "/"),
            ("1.2.3", "/"),
            ("01.2.3.4", "/"),
            ("web.1", "/"),
            ("xn--a", "/"),
            ("a..b", "/"),
            ("a.", "/"),
            ("a_b", "/"),
            ("a%20", "/"),
            ("a", "/./b"),
            ("a", "/.."),
            ("a", "/%2e/b"),
            ("a", "/{}"),
            ("a", "/a\\b"),
            ("a", "/a?'"),
            ("a", "/^"),
        ];
        for (host, raw) in changed {
            let target = target(raw).expect("a valid target");
            assert!(plain(false, host, &target).is_none(), "{host} {raw}");
        }
        let root = target("/").expect("a valid target");
        assert!(plain(true, "a:443", &root).is_none());
    }

    #[test]
    fn a_port_is_left_out_for_its_own_scheme_only_and_names_may_be_long() {
        let (label, name) = ("a".repeat(64), "a.".repeat(150) + "a");
        for (secured, host) in [(true, "a:80"), (false, "a:443"), (true, &label), (false, &name)] {
            assert!(agrees(secured, host, "/").expect("the same"), "{host}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn a_plain_url_is_the_one_that_the_library_makes(
            secured: bool,
            host in prop_oneof![
                "[a-z0-9.-]{1,12}(:[0-9]{1,5})?", "([0-9]{1,3}\\.){3}[0-9]{1,3}(:80)?", "[!-~]{1,10}", "[a-z]{1,5}\\.[0-9a-fx.-]{1,6}",
                "(xn|ab)--[a-z0-9]{1,4}\\.x",
            ],
            path in "(/(\\.|%2[eE]|[a-z0-9]|[!-~]|[!-~]{0,4})){0,5}",
            query in "(\\?[!-~]{0,10})?",
        ) {
            agrees(secured, &host, &format!("/{path}{query}"))?;
            agrees(secured, "a", &format!("/{path}{query}"))?;
            agrees(secured, &host, "/")?;
        }
    }
}
