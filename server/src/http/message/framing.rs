//! How long a request's body is: RFC 9112 section 6.3, without any of its leniencies.
//!
//! Two parties that disagree on where a message ends are what request smuggling lives on, so everything that could be
//! read in two ways is refused here. The functions are pure: header lines in, a decision out.

use http_types::StatusCode;

use super::refusal::Refusal;

/// The framing of a request's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// There is no body.
    None,
    /// A body of this many bytes, more than none.
    Length(u64),
    /// A body in chunks.
    Chunked,
}

/// The header lines that decide on framing, collected while the head is checked.
#[derive(Debug, Default)]
pub(crate) struct Lines<'a> {
    length: Option<&'a [u8]>,
    encoding: Option<&'a [u8]>,
    doubled: Option<Refusal>,
}

impl<'a> Lines<'a> {
    /// Takes a `Content-Length` line.
    pub(crate) fn content_length(&mut self, value: &'a [u8]) {
        if self.length.replace(value).is_some() {
            self.doubled = Some(Refusal::bad("more than one Content-Length"));
        }
    }

    /// Takes a `Transfer-Encoding` line.
    pub(crate) fn transfer_encoding(&mut self, value: &'a [u8]) {
        if self.encoding.replace(value).is_some() {
            self.doubled = Some(Refusal::bad("more than one Transfer-Encoding"));
        }
    }

    /// Decides. `old` says that the request is HTTP/1.0, which has no transfer encodings.
    pub(crate) fn decide(&self, old: bool, body_bytes_max: u64) -> Result<Framing, Refusal> {
        if let Some(refusal) = self.doubled {
            return Err(refusal);
        }
        match (self.length, self.encoding) {
            (None, None) => Ok(Framing::None),
            (Some(_), Some(_)) => Err(Refusal::bad("both Content-Length and Transfer-Encoding")),
            (None, Some(_)) if old => Err(Refusal::bad("Transfer-Encoding in an HTTP/1.0 request")),
            (None, Some(value)) if value.eq_ignore_ascii_case(b"chunked") => Ok(Framing::Chunked),
            (None, Some(_)) => Err(Refusal::bad("a Transfer-Encoding other than chunked")),
            (Some(value), None) => match length(value)? {
                0 => Ok(Framing::None),
                length if length > body_bytes_max => Err(TOO_LARGE),
                length => Ok(Framing::Length(length)),
            },
        }
    }
}

/// The refusal of a body over the limit.
pub(crate) const TOO_LARGE: Refusal = Refusal::new(StatusCode::PayloadTooLarge, "the body is larger than allowed");

/// A `Content-Length` value: digits and nothing else.
fn length(value: &[u8]) -> Result<u64, Refusal> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(Refusal::bad("a Content-Length that is not a number"));
    }
    value
        .iter()
        .try_fold(0_u64, |sum, digit| sum.checked_mul(10)?.checked_add(u64::from(digit - b'0')))
        .ok_or(TOO_LARGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decide(lengths: &[&str], encodings: &[&str], old: bool) -> Result<Framing, u16> {
        let mut lines = Lines::default();
        for value in lengths {
            lines.content_length(value.as_bytes());
        }
        for value in encodings {
            lines.transfer_encoding(value.as_bytes());
        }
        lines.decide(old, 1000).map_err(|refusal| refusal.status.into())
    }

    #[test]
    fn plain_framings_are_understood() {
        assert_eq!(decide(&[], &[], false), Ok(Framing::None));
        assert_eq!(decide(&["0"], &[], false), Ok(Framing::None));
        assert_eq!(decide(&["7"], &[], false), Ok(Framing::Length(7)));
        assert_eq!(decide(&["007"], &[], true), Ok(Framing::Length(7)));
        assert_eq!(decide(&["1000"], &[], false), Ok(Framing::Length(1000)));
        assert_eq!(decide(&[], &["chunked"], false), Ok(Framing::Chunked));
        assert_eq!(decide(&[], &["ChUnKeD"], false), Ok(Framing::Chunked));
    }

    #[test]
    fn whatever_two_parties_could_read_differently_is_refused() {
        let lengths: &[&[&str]] = &[
            &[""],
            &["+3"],
            &["-1"],
            &["0x3"],
            &["3, 3"],
            &["3,3"],
            &["3 3"],
            &["3", "3"],
            &["3", "4"],
            &["3."],
            &["3;a"],
            &["\u{661}"],
            &["1e2"],
            &["3\t"],
        ];
        for case in lengths {
            assert_eq!(decide(case, &[], false), Err(400), "Content-Length {case:?}");
        }
        let encodings: &[&[&str]] = &[
            &[""],
            &["gzip, chunked"],
            &["chunked, gzip"],
            &["identity"],
            &["xchunked"],
            &["chunkedx"],
            &["chunked,"],
            &["chunked;q=1"],
            &["chunked chunked"],
            &["chunked", "chunked"],
            &["gzip", "chunked"],
            &["chunked", "identity"],
            &["\"chunked\""],
            &["chunked\u{b}"],
        ];
        for case in encodings {
            assert_eq!(decide(&[], case, false), Err(400), "Transfer-Encoding {case:?}");
        }
        assert_eq!(decide(&["3"], &["chunked"], false), Err(400));
        assert_eq!(decide(&["3"], &["identity"], false), Err(400));
        assert_eq!(decide(&[], &["chunked"], true), Err(400));
    }

    #[test]
    fn a_length_over_the_limit_is_refused_as_too_large_even_where_it_overflows() {
        assert_eq!(decide(&["1001"], &[], false), Err(413));
        assert_eq!(decide(&["18446744073709551615"], &[], false), Err(413));
        assert_eq!(decide(&["18446744073709551616"], &[], false), Err(413));
        assert_eq!(decide(&["99999999999999999999999999"], &[], false), Err(413));
    }
}
