//! Which bytes of a file a Range asks for (RFC 9110, section 14).
//!
//! Pure. A Range that is malformed, or that would have the server send more than the file itself or very many pieces, is
//! one that may be ignored, and is: the client gets the whole file, which is always right.

use std::ops::Range;

/// The most ranges that are answered. A reader of a large document asks for a few; more only cost.
pub(super) const RANGES_MAX: usize = 32;

/// What a Range comes to for a file of a certain length.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Selected {
    /// The whole file: the Range is to be ignored.
    Whole,
    /// These ranges, in the client's order; one at least, and none is empty.
    Parts(Vec<Range<u64>>),
    /// Nothing: no range begins within the file.
    Unsatisfiable,
}

/// Reads a Range for a file of `length` bytes.
pub(super) fn select(header: &str, length: u64) -> Selected {
    // An empty file has no range to give. It is given whole, as it is to clients that bound each answer by a Range.
    let Some(parts) = parse(header, length).filter(|_| length > 0) else { return Selected::Whole };
    let total = parts.iter().map(|part| part.end - part.start).try_fold(0_u64, u64::checked_add);
    match parts.len() {
        0 => Selected::Unsatisfiable,
        _ if total.is_none_or(|total| total > length) => Selected::Whole,
        _ => Selected::Parts(parts),
    }
}

/// The satisfiable ranges; nothing where the header is malformed or has too many.
fn parse(header: &str, length: u64) -> Option<Vec<Range<u64>>> {
    let (unit, set) = header.split_once('=')?;
    if !unit.eq_ignore_ascii_case("bytes") {
        return None;
    }
    let members: Vec<&str> = set.split(',').map(str::trim).filter(|member| !member.is_empty()).collect();
    if members.is_empty() || members.len() > RANGES_MAX {
        return None;
    }
    let parts: Option<Vec<_>> = members.into_iter().map(|member| range(member, length)).collect();
    Some(parts?.into_iter().filter(|part| !part.is_empty()).collect())
}

/// One range, within the file: empty where it is beyond its end, nothing where it is malformed.
fn range(member: &str, length: u64) -> Option<Range<u64>> {
    match member.split_once('-')? {
        ("", suffix) => Some(length.saturating_sub(number(suffix)?)..length),
        (first, "") => Some(number(first)?.min(length)..length),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then(|| first.min(length)..last.saturating_add(1).min(length))
        }
    }
}

/// A number of any size: beyond 64 bits it is the largest.
fn number(digits: &str) -> Option<u64> {
    let valid = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    valid.then(|| digits.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "these are lists of ranges, and some have one")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LENGTH: u64 = 1000;

    #[test]
    fn ranges_are_those_of_the_standard() {
        let cases: &[(&str, &[Range<u64>])] = &[
            ("bytes=0-499", &[0..500]),
            ("bytes=500-999", &[500..1000]),
            ("bytes=0-0", &[0..1]),
            ("bytes=999-", &[999..1000]),
            ("bytes=999-5000", &[999..1000]),
            ("bytes=-1", &[999..1000]),
            ("bytes=-5000", &[0..1000]),
            ("BYTES=0-0", &[0..1]),
            ("bytes=0-0,-1", &[0..1, 999..1000]),
            ("bytes= 0-0 ,\t5-6", &[0..1, 5..7]),
            ("bytes=,0-0,,", &[0..1]),
            ("bytes=0-0,1000-", &[0..1]),
            ("bytes=0-0,-0", &[0..1]),
            ("bytes=5-6,1-2", &[5..7, 1..3]),
            ("bytes=0-0,0-0", &[0..1, 0..1]),
            ("bytes=0-18446744073709551615", &[0..1000]),
            ("bytes=0-99999999999999999999999999", &[0..1000]),
            ("bytes=-99999999999999999999999999", &[0..1000]),
        ];
        for (header, parts) in cases {
            assert_eq!(select(header, LENGTH), Selected::Parts(parts.to_vec()), "{header}");
        }
    }

    #[test]
    fn ranges_beyond_the_end_cannot_be_satisfied() {
        for header in ["bytes=1000-", "bytes=1000-1001", "bytes=-0", "bytes=1000-,2000-", "bytes=99999999999999999999-"]
        {
            assert_eq!(select(header, LENGTH), Selected::Unsatisfiable, "{header}");
        }
    }

    #[test]
    fn a_malformed_or_abusive_range_is_ignored() {
        let many = format!("bytes={}", "1-1,".repeat(RANGES_MAX + 1));
        let just_enough = format!("bytes={}", "1-1,".repeat(RANGES_MAX));
        assert!(matches!(select(&just_enough, LENGTH), Selected::Parts(parts) if parts.len() == RANGES_MAX));
        for header in [
            "",
            "bytes",
            "bytes=",
            "bytes=,",
            "bytes=-",
            "bytes=a-b",
            "bytes=0",
            "bytes=0-a",
            "bytes=5-4",
            "bytes=--1",
            "bytes=+1-2",
            "bytes=0x1-2",
            "bytes=0-0,x",
            "bytes 0-1",
            "lines=0-1",
            "bytes=1 -2",
            "bytes=0-0;q=1",
            "bytes=0-,0-",
            "bytes=-600,-500",
            &many,
        ] {
            assert_eq!(select(header, LENGTH), Selected::Whole, "{header}");
        }
        assert_eq!(select("bytes=0-", 0), Selected::Whole);
        assert_eq!(select("bytes=-5", 0), Selected::Whole);
    }

    proptest! {
        #[test]
        fn parts_are_within_the_file_and_no_more_than_it(
            header in "bytes=([0-9]{0,21}-[0-9]{0,21},?|[ -~]){0,40}",
            length in prop_oneof![0_u64..2000, any::<u64>()],
        ) {
            if let Selected::Parts(parts) = select(&header, length) {
                prop_assert!(!parts.is_empty() && parts.len() <= RANGES_MAX);
                prop_assert!(parts.iter().all(|part| part.start < part.end && part.end <= length));
                prop_assert!(parts.iter().map(|part| part.end - part.start).sum::<u64>() <= length);
            }
        }

        #[test]
        fn a_range_is_answered_with_itself(length in 1_u64..u64::MAX, at in any::<u64>(), size in any::<u64>()) {
            let first = at % length;
            let last = first + size % (length - first);
            prop_assert_eq!(select(&format!("bytes={first}-{last}"), length), Selected::Parts(vec![first..last + 1]));
        }
    }
}
