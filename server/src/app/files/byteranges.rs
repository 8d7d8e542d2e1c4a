//! Several ranges in one response: `multipart/byteranges` (RFC 9110, section 14.6).
//!
//! Pure: it says which text stands before, between and behind the pieces of the file.

use std::hash::{BuildHasher, RandomState};
use std::ops::Range;

use crate::http::Piece;

/// What separates the parts of one response: chosen at random, so that no file can be made to hold it.
pub(super) fn boundary() -> String {
    let [first, second] = [(); 2].map(|()| RandomState::new().hash_one(()));
    format!("{first:016x}{second:016x}")
}

/// The value of Content-Range for one range of a file.
pub(super) fn content_range(range: &Range<u64>, length: u64) -> String {
    format!("bytes {}-{}/{length}", range.start, range.end - 1)
}

/// The body for these ranges of a file of this type and length. None of them is empty.
pub(super) fn pieces(ranges: &[Range<u64>], kind: &str, length: u64, boundary: &str) -> Vec<Piece> {
    let mut pieces = Vec::with_capacity(2 * ranges.len() + 1);
    for range in ranges {
        let separator = if pieces.is_empty() { "" } else { "\r\n" };
        let about = content_range(range, length);
        let head = format!("{separator}--{boundary}\r\ncontent-type: {kind}\r\ncontent-range: {about}\r\n\r\n");
        pieces.extend([Piece::Memory(head.into_bytes()), Piece::File(range.clone())]);
    }
    pieces.push(Piece::Memory(format!("\r\n--{boundary}--\r\n").into_bytes()));
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_framed_as_the_standard_has_it() {
        let body = pieces(&[0..1, 5..10], "text/plain", 100, "b");
        let text = body.into_iter().fold(String::new(), |text, piece| match piece {
            Piece::Memory(bytes) => text + std::str::from_utf8(&bytes).unwrap(),
            Piece::File(range) => text + &format!("<{range:?}>"),
        });
        let expected = "--b\r\ncontent-type: text/plain\r\ncontent-range: bytes 0-0/100\r\n\r\n<0..1>\r\n\
                        --b\r\ncontent-type: text/plain\r\ncontent-range: bytes 5-9/100\r\n\r\n<5..10>\r\n--b--\r\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn boundaries_differ_and_are_valid() {
        let (one, other) = (boundary(), boundary());
        assert!(one != other && one.len() == 32 && one.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    }
}
