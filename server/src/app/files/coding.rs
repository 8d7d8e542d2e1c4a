//! Which of a file's codings a client gets: its Accept-Encoding (RFC 9110, section 12.5.3), understood.
//!
//! Pure. It knows the codings for which a file may have a compressed sibling, not whether it has one. It reads the header
//! itself because `http_types` takes no notice of weights of zero, by which clients refuse a coding.

/// A coding in which a file may lie beside itself, in our order of preference where the client has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Coding {
    Brotli,
    Zstd,
    Gzip,
}

impl Coding {
    const ALL: [Self; 3] = [Self::Brotli, Self::Zstd, Self::Gzip];

    /// What Content-Encoding and Accept-Encoding call it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Brotli => "br",
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
        }
    }

    /// What the sibling's name has behind the file's own.
    pub(super) fn suffix(self) -> &'static str {
        match self {
            Self::Brotli => ".br",
            Self::Zstd => ".zst",
            Self::Gzip => ".gz",
        }
    }
}

/// What a client takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Accepted {
    /// The codings that it likes at least as much as none, the best first.
    pub(super) codings: Vec<Coding>,
    /// Whether it takes the file as it is.
    pub(super) identity: bool,
}

/// Reads an Accept-Encoding: all its lines, joined by commas. Without one a client gets the file as it is.
pub(super) fn accepted(header: Option<&str>) -> Accepted {
    let Some(header) = header else { return Accepted { codings: vec![], identity: true } };
    let members: Vec<(&str, u16)> = header.split(',').filter_map(member).collect();
    let named = |name: &str| {
        let of_name = |(other, _): &&(&str, u16)| {
            // RFC 9110, section 8.4.1.3: x-gzip is gzip.
            other.eq_ignore_ascii_case(name) || (name == "gzip" && other.eq_ignore_ascii_case("x-gzip"))
        };
        members.iter().find(of_name).map(|(_, weight)| *weight)
    };
    let rest = named("*");
    // What is not spoken of: a coding is unwelcome, the file as it is the last resort.
    let identity = named("identity").or(rest);
    let weighed = Coding::ALL.map(|coding| (coding, named(coding.name()).or(rest).unwrap_or(0)));
    let mut welcome: Vec<_> =
        weighed.into_iter().filter(|(_, weight)| *weight > 0 && *weight >= identity.unwrap_or(0)).collect();
    welcome.sort_by_key(|(_, weight)| std::cmp::Reverse(*weight));
    Accepted { codings: welcome.into_iter().map(|(coding, _)| coding).collect(), identity: identity != Some(0) }
}

/// A coding's name and its weight in thousandths; nothing where it is malformed.
fn member(text: &str) -> Option<(&str, u16)> {
    let (name, parameter) = match text.split_once(';') {
        Some((name, parameter)) => (name.trim(), Some(parameter.trim())),
        None => (text.trim(), None),
    };
    let weight = match parameter {
        None => 1000,
        Some(parameter) => weight(parameter.strip_prefix("q=").or_else(|| parameter.strip_prefix("Q="))?)?,
    };
    (!name.is_empty()).then_some((name, weight))
}

/// A weight in thousandths: RFC 9110, section 12.4.2, has at most three digits behind the dot, and 1 as the highest.
fn weight(text: &str) -> Option<u16> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > 3 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let thousandths: u16 = format!("{fraction:0<3}").parse().ok()?;
    match whole {
        "0" => Some(thousandths),
        "1" if thousandths == 0 => Some(1000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use Coding::{Brotli, Gzip, Zstd};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_client_decides_by_its_weights() {
        let cases: &[(Option<&str>, &[Coding], bool)] = &[
            (None, &[], true),
            (Some(""), &[], true),
            (Some("gzip"), &[Gzip], true),
            (Some("gzip, deflate, br, zstd"), &[Brotli, Zstd, Gzip], true),
            (Some("GZIP"), &[Gzip], true),
            (Some("x-gzip"), &[Gzip], true),
            (Some("gzip;q=1.0, br;q=0.9"), &[Gzip, Brotli], true),
            (Some("gzip ; q=0.5 , br; Q=0.501"), &[Brotli, Gzip], true),
            (Some("gzip;q=0"), &[], true),
            (Some("gzip;q=0.000, br"), &[Brotli], true),
            (Some("*"), &[Brotli, Zstd, Gzip], true),
            (Some("*, br;q=0"), &[Zstd, Gzip], true),
            (Some("*;q=0"), &[], false),
            (Some("*;q=0, gzip"), &[Gzip], false),
            (Some("*;q=0, identity"), &[], true),
            (Some("identity;q=0"), &[], false),
            (Some("identity;q=0, gzip"), &[Gzip], false),
            (Some("identity, gzip;q=0.5"), &[], true),
            (Some("identity;q=0.5, gzip;q=0.5"), &[Gzip], true),
            (Some("deflate, compress"), &[], true),
            (Some("gzip;q=2, br;q=x, zstd;level=3"), &[], true),
            (Some("gzip;q=0.1234, ,;q=1,br"), &[Brotli], true),
        ];
        for (header, codings, identity) in cases {
            let expected = Accepted { codings: codings.to_vec(), identity: *identity };
            assert_eq!(accepted(*header), expected, "{header:?}");
        }
    }

    proptest! {
        #[test]
        fn a_refused_coding_is_never_chosen(
            before in "(br|zstd|gzip|\\*|identity)?(;q=[01](\\.[0-9]{0,3})?)?",
            after in "(br|zstd|\\*|identity|\\PC{0,9})(;q=[01](\\.[0-9]{0,3})?)?",
        ) {
            prop_assume!(!before.to_ascii_lowercase().contains("gzip"));
            let header = format!("{before}, gzip;q=0.0, {after}");
            prop_assert!(!accepted(Some(&header)).codings.contains(&Gzip), "{header}");
        }
    }
}
