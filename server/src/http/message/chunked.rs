//! The chunked transfer coding, read: a pure state machine over bytes (RFC 9112 section 7.1).
//!
//! It is fed whatever has arrived and says how many bytes it used and what comes next; how the input is split makes no
//! difference. Chunk extensions are ignored and trailers are collected, both bounded. It holds to the grammar: a bare
//! CR or LF, a sign or a blank in a size, a missing CRLF after a chunk are errors.

use super::refusal::Refusal;

/// How many bytes of chunk extensions a whole body may have.
const EXTENSION_BYTES_MAX: usize = 16 * 1024;

/// How many bytes of trailers a body may have.
const TRAILER_BYTES_MAX: usize = 8 * 1024;

/// The most digits of a chunk size: 2^60 is beyond every limit, and nothing overflows.
const SIZE_DIGITS_MAX: u8 = 15;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Within the digits of a size.
    Size {
        digits: u8,
    },
    /// Blanks after a size; only an extension may follow.
    Blank,
    /// Within an extension.
    Extension,
    /// After the CR of a size line.
    SizeEnd,
    /// Within a chunk's data.
    Data,
    /// After a chunk's data: its CR, then its LF.
    DataCr,
    DataLf,
    /// At the start of a line after the last chunk.
    TrailerStart,
    /// Within a trailer line.
    Trailer,
    /// After a CR in a trailer line, and after one in place of a line.
    TrailerLf,
    LastLf,
    /// The body is complete.
    Done,
}

/// What follows the bytes that were used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// This many bytes of data (more than none); say what was taken of them with [`Chunked::took`].
    Data(u64),
    /// More input is needed.
    More,
    /// The body is complete.
    End,
}

/// The reader of one chunked body.
#[derive(Debug)]
pub(crate) struct Chunked {
    state: State,
    left: u64,
    announced: u64,
    limit: u64,
    extension_bytes: usize,
    trailers: Vec<u8>,
}

impl Chunked {
    /// A reader that takes bodies of up to `limit` bytes.
    pub(crate) fn new(limit: u64) -> Chunked {
        let state = State::Size { digits: 0 };
        Chunked { state, left: 0, announced: 0, limit, extension_bytes: 0, trailers: Vec::new() }
    }

    /// Reads framing from `input` until data, the end of the body or of the input. Returns how many bytes were used.
    pub(crate) fn advance(&mut self, input: &[u8]) -> Result<(usize, Next), Refusal> {
        let mut used = 0;
        loop {
            match self.state {
                State::Data => return Ok((used, Next::Data(self.left))),
                State::Done => return Ok((used, Next::End)),
                _ => {}
            }
            let Some(&byte) = input.get(used) else { return Ok((used, Next::More)) };
            self.state = self.step(byte)?;
            used += 1;
        }
    }

    /// Says that `count` bytes of the data at hand were taken.
    pub(crate) fn took(&mut self, count: u64) {
        self.left = self.left.saturating_sub(count);
        if self.left == 0 && self.state == State::Data {
            self.state = State::DataCr;
        }
    }

    /// The trailer section as it was received, once the body is complete: field lines and the empty line.
    pub(crate) fn into_trailers(self) -> Vec<u8> {
        self.trailers
    }

    fn step(&mut self, byte: u8) -> Result<State, Refusal> {
        match (self.state, byte) {
            (State::Size { digits }, _) if byte.is_ascii_hexdigit() => self.digit(byte, digits),
            (State::Size { digits: 1.. } | State::Blank, b' ' | b'\t') => self.extension(State::Blank),
            (State::Size { digits: 1.. } | State::Blank, b';') | (State::Extension, b'\t' | b' '..=b'~' | 0x80..) => {
                self.extension(State::Extension)
            }
            (State::Size { digits: 1.. } | State::Extension, b'\r') => Ok(State::SizeEnd),
            (State::Size { .. } | State::Blank, _) => Err(Refusal::bad("a malformed chunk size")),
            (State::Extension, _) => Err(Refusal::bad("a malformed chunk extension")),
            (State::SizeEnd, b'\n') => self.size_known(),
            (State::SizeEnd, _) => Err(Refusal::bad("a bare CR in a chunk size line")),
            (State::DataCr, b'\r') => Ok(State::DataLf),
            (State::DataLf, b'\n') => Ok(State::Size { digits: 0 }),
            (State::DataCr | State::DataLf, _) => Err(Refusal::bad("a chunk that is longer than its size")),
            (State::TrailerStart, b'\r') => self.trailer(byte, State::LastLf),
            (State::LastLf, b'\n') => self.trailer(byte, State::Done),
            (State::Trailer, b'\r') => self.trailer(byte, State::TrailerLf),
            (State::TrailerLf, b'\n') => self.trailer(byte, State::TrailerStart),
            (State::TrailerLf | State::LastLf, _) => Err(Refusal::bad("a bare CR in the trailers")),
            (State::TrailerStart | State::Trailer, b'\n') => Err(Refusal::bad("a bare LF in the trailers")),
            (State::TrailerStart | State::Trailer, _) => self.trailer(byte, State::Trailer),
            (State::Data | State::Done, _) => unreachable!("advance returns before it steps out of {:?}", self.state),
        }
    }

    fn digit(&mut self, byte: u8, digits: u8) -> Result<State, Refusal> {
        if digits == SIZE_DIGITS_MAX {
            return Err(Refusal::bad("a chunk size with too many digits"));
        }
        let value = match byte {
            b'0'..=b'9' => byte - b'0',
            _ => (byte | 0x20) - b'a' + 10,
        };
        self.left = self.left * 16 + u64::from(value);
        Ok(State::Size { digits: digits + 1 })
    }

    fn extension(&mut self, next: State) -> Result<State, Refusal> {
        self.extension_bytes += 1;
        if self.extension_bytes > EXTENSION_BYTES_MAX {
            return Err(Refusal::bad("too many bytes of chunk extensions"));
        }
        Ok(next)
    }

    fn size_known(&mut self) -> Result<State, Refusal> {
        self.announced = self.announced.saturating_add(self.left);
        if self.announced > self.limit {
            return Err(super::framing::TOO_LARGE);
        }
        Ok(if self.left == 0 { State::TrailerStart } else { State::Data })
    }

    fn trailer(&mut self, byte: u8, next: State) -> Result<State, Refusal> {
        if self.trailers.len() == TRAILER_BYTES_MAX {
            return Err(Refusal::bad("too many bytes of trailers"));
        }
        self.trailers.push(byte);
        Ok(next)
    }
}

/// Reads `input` in the given pieces: the data, the trailers and the bytes left over, or the status of the error.
#[cfg(any(test, fuzzing))]
pub(crate) fn read_in_pieces(input: &[u8], cuts: &[usize], limit: u64) -> Result<(Vec<u8>, Vec<u8>, usize), u16> {
    let mut chunked = Chunked::new(limit);
    let mut data = Vec::new();
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (input.len() + 1)).collect();
    cuts.push(input.len());
    cuts.sort_unstable();
    let (mut at, mut end) = (0, 0);
    for cut in cuts {
        end = end.max(cut);
        loop {
            let (used, next) = chunked.advance(&input[at..end]).map_err(|refusal| u16::from(refusal.status))?;
            at += used;
            match next {
                Next::End => return Ok((data, chunked.into_trailers(), input.len() - at)),
                Next::More => break,
                Next::Data(left) => {
                    let count = usize::try_from(left).expect("small").min(end - at);
                    if count == 0 {
                        break;
                    }
                    data.extend_from_slice(&input[at..at + count]);
                    at += count;
                    chunked.took(count as u64);
                }
            }
        }
    }
    Err(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole(input: &str) -> Result<(String, String, usize), u16> {
        let utf8 = |bytes| String::from_utf8(bytes).expect("text");
        read_in_pieces(input.as_bytes(), &[], 100).map(|(data, trailers, left)| (utf8(data), utf8(trailers), left))
    }

    #[test]
    fn bodies_are_read_with_extensions_ignored_and_trailers_kept() {
        assert_eq!(whole("0\r\n\r\nGET"), Ok((String::new(), "\r\n".into(), 3)));
        assert_eq!(
            whole("3\r\nabc\r\n00002;a=\"b;c\"\r\nde\r\n0;last\r\n\r\n"),
            Ok(("abcde".into(), "\r\n".into(), 0))
        );
        assert_eq!(
            whole("A \t;x\r\n0123456789\r\n0\r\nA: b\r\n\r\n"),
            Ok(("0123456789".into(), "A: b\r\n\r\n".into(), 0))
        );
    }

    #[test]
    fn malformed_bodies_are_refused() {
        for input in [
            "\r\n",
            "g\r\n",
            "-1\r\n",
            "+1\r\n",
            "0x1\r\n",
            " 1\r\n",
            "1 \r\na\r\n0\r\n\r\n",
            "1 1\r\n",
            ";a\r\n",
            "1\n",
            "1\ra",
            "1;a\n",
            "1;\0\r\n",
            "1\r\nab\r\n",
            "1\r\na\n0\r\n\r\n",
            "1\r\na0\r\n\r\n",
            "1\r\na\rb",
            "0\r\n\n",
            "0\r\na: b\n\r\n",
            "0\r\na\rb",
            "0\r\n\rb",
            "1000000000000000\r\n",
        ] {
            assert_eq!(whole(input), Err(400), "{input:?}");
        }
        assert_eq!(whole("ffffffffffffffff\r\n"), Err(400));
        assert_eq!(whole("65\r\n"), Err(413), "101 bytes of at most 100");
        assert_eq!(whole("0\r\n"), Err(0), "the empty line is part of the body");
    }

    #[test]
    fn extensions_and_trailers_are_bounded() {
        let extension = format!("1;{}\r\n", "x".repeat(EXTENSION_BYTES_MAX));
        assert_eq!(whole(&extension), Err(400));
        let many = "1;x\r\na\r\n".repeat(EXTENSION_BYTES_MAX);
        assert_eq!(read_in_pieces(many.as_bytes(), &[], u64::MAX), Err(400), "their sum is what counts");
        let trailers = format!("0\r\nx: {}\r\n\r\n", "x".repeat(TRAILER_BYTES_MAX));
        assert_eq!(whole(&trailers), Err(400));
    }

    proptest! {
        #[test]
        fn any_split_of_any_input_gives_the_same_result(
            input in proptest::collection::vec(prop_oneof![
                Just(b"\r\n".to_vec()), Just(b"1\r\na".to_vec()), Just(b"0\r\n".to_vec()), Just(b";e=1".to_vec()),
                Just(b"3\r\nabc\r\n".to_vec()), Just(b"T: v\r\n".to_vec()), proptest::collection::vec(any::<u8>(), 1..4),
            ], 0..12),
            cuts in proptest::collection::vec(any::<usize>(), 0..20),
        ) {
            let input = input.concat();
            prop_assert_eq!(read_in_pieces(&input, &cuts, 20), read_in_pieces(&input, &[], 20));
        }

        #[test]
        fn whatever_is_encoded_is_read_back(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 0..10),
            cuts in proptest::collection::vec(any::<usize>(), 0..20),
        ) {
            let mut input = Vec::new();
            for chunk in &chunks {
                input.extend_from_slice(format!("{:X};n=v\r\n", chunk.len()).as_bytes());
                input.extend_from_slice(chunk);
                input.extend_from_slice(b"\r\n");
            }
            input.extend_from_slice(b"0\r\nTrailer: x\r\n\r\nnext");
            let (data, trailers, left) = read_in_pieces(&input, &cuts, 1000).expect("valid");
            prop_assert_eq!(data, chunks.concat());
            prop_assert_eq!(trailers, b"Trailer: x\r\n\r\n");
            prop_assert_eq!(left, 4, "nothing of the next message may be used");
        }
    }
}
