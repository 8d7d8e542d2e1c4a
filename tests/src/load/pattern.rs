//! The content of `/bytes` and of the files that tests make: bytes that are known by their offset, so that a client checks
//! each of them wherever it begins to read. Written down anew from what the server's module says.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::Path,
};

/// The bytes of one word.
const WORD: u64 = 8;

/// Where the first of these bytes lies that is not what has to be there; they begin at the given offset.
pub fn first_wrong(offset: u64, bytes: &[u8]) -> Option<u64> {
    let to_word = usize::try_from((WORD - offset % WORD) % WORD).expect("less than a word").min(bytes.len());
    let (before, words) = bytes.split_at(to_word);
    let wrong_in = |offset: u64, bytes: &[u8]| {
        (offset..)
            .zip(bytes)
            .find(|(offset, byte)| word(offset / WORD)[inner(*offset)] != **byte)
            .map(|(offset, _)| offset)
    };
    let first = offset + before.len() as u64;
    let mut words = words.chunks_exact(8);
    let in_words = || {
        let wrong = words.by_ref().zip(first / WORD..).find(|(bytes, at)| **bytes != word(*at));
        wrong.and_then(|(bytes, at)| wrong_in(at * WORD, bytes))
    };
    let found = wrong_in(offset, before).or_else(in_words);
    let rest = words.remainder();
    found.or_else(|| wrong_in(offset + (bytes.len() - rest.len()) as u64, rest))
}

/// Makes a file of this content.
pub fn write_file(path: &Path, length: u64) -> io::Result<()> {
    let mut file = BufWriter::with_capacity(1024 * 1024, File::create(path)?);
    for at in 0..length / WORD {
        file.write_all(&word(at))?;
    }
    file.write_all(&word(length / WORD)[..inner(length)])?;
    file.flush()
}

fn word(at: u64) -> [u8; 8] {
    let word = (at + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (word ^ word >> 32).to_le_bytes()
}

/// The place of an offset in its word.
fn inner(offset: u64) -> usize {
    usize::try_from(offset % WORD).expect("less than a word")
}

#[cfg(test)]
mod tests {
    use super::{first_wrong, write_file};

    #[test]
    fn every_wrong_byte_is_found_wherever_one_begins_to_read() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("file");
        write_file(&path, 1003).expect("a file in the test's own folder");
        let bytes = std::fs::read(path).expect("the file");
        assert_eq!(bytes.len(), 1003);
        for begin in [0, 1, 7, 8, 500, 1002, 1003] {
            for end in [begin, begin + 1, begin + 9, 1003] {
                let Some(part) = bytes.get(begin..end) else { continue };
                assert_eq!(first_wrong(begin as u64, part), None);
                for wrong in 0..part.len() {
                    let mut part = part.to_vec();
                    part[wrong] ^= 1;
                    assert_eq!(first_wrong(begin as u64, &part), Some((begin + wrong) as u64));
                }
            }
        }
        assert_eq!(first_wrong(8, &bytes[..16]), Some(8), "bytes of another place");
    }
}
