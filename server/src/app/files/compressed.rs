//! Texts that are compressed as they are asked for (`--compress`), where no compressed sibling lies beside them.
//!
//! What that costs is bounded: a file's compressed form is made once for each state of it and kept, all of a site within a
//! bound, and so many are made at a time, whatever the number of sites, that other work has its threads; a client that comes
//! meanwhile gets the file as it is.
//! What is made is known in full before its first byte leaves, so that its length is told and it moves to the next process in
//! its middle. Its tag is another one than the file's, and weak: another version of a library may make other bytes of it.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, SystemTime};

use smol::lock::Semaphore;

use super::coding::Coding;
use super::conditions::Facts;
use super::root::facts_of;
use crate::config::Compression;
use crate::lock::unpoisoned;

/// Below that a packet is saved by nothing.
const BYTES_MIN: u64 = 1024;

/// What is longer takes too long to make while a client waits: it should lie beside the file.
const BYTES_MAX: u64 = 4 * 1024 * 1024;

/// So much is kept, and of so many.
const KEPT_BYTES_MAX: usize = 32 * 1024 * 1024;
const KEPT_MAX: usize = 4096;

/// How long a file has to be left alone until what is made of it is kept: within that, two states of it may look alike.
const SETTLED_AFTER: Duration = Duration::from_secs(1);

/// The levels of the libraries: what their users take for answers that a client waits for.
const GZIP_LEVEL: u32 = 6;
const ZSTD_LEVEL: i32 = 3;
const BROTLI_LEVEL: i32 = 5;
const BROTLI_WINDOW: i32 = 20;

/// What of the files is compressed, and what was.
#[derive(Debug)]
pub(super) struct Compressed {
    codings: Vec<Coding>,
    kept: Mutex<Kept>,
    making: Places,
}

/// How many are made at a time, of all sites that share it.
#[derive(Clone, Debug)]
pub(crate) struct Places(Arc<Semaphore>);

impl Places {
    /// Half of the cores, so that answers that need none have theirs.
    pub(crate) fn new() -> Places {
        Places::of(thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1)))
    }

    fn of(count: usize) -> Places {
        Places(Arc::new(Semaphore::new(count)))
    }
}

/// A state of a file in a coding.
type Key = (Facts, Coding);

/// What a file became in a coding.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Made {
    Smaller(Arc<[u8]>),
    /// It is sent as it is.
    NoSmaller,
}

impl Made {
    fn length(&self) -> usize {
        self.bytes().map_or(0, |bytes| bytes.len())
    }

    fn bytes(&self) -> Option<&Arc<[u8]>> {
        match self {
            Made::Smaller(bytes) => Some(bytes),
            Made::NoSmaller => None,
        }
    }
}

#[derive(Debug, Default)]
struct Kept {
    /// Each with when it was used last.
    made: HashMap<Key, (Made, u64)>,
    bytes: usize,
    /// Counts uses, so that the oldest is known.
    used: u64,
}

impl Compressed {
    /// It is nothing where nothing is to be compressed.
    pub(super) fn new(wanted: &[Compression], making: &Places) -> Option<Compressed> {
        let coding = |wanted: &Compression| match wanted {
            Compression::Gzip => Coding::Gzip,
            Compression::Zstd => Coding::Zstd,
            Compression::Brotli => Coding::Brotli,
        };
        (!wanted.is_empty()).then(|| Compressed {
            codings: wanted.iter().map(coding).collect(),
            kept: Mutex::default(),
            making: making.clone(),
        })
    }

    /// The coding in which a client gets a file of this type and length, if in one; the client's preferred ones come first.
    pub(super) fn choose(&self, accepted: &[Coding], kind: &str, length: u64) -> Option<Coding> {
        let is_fit = (BYTES_MIN..=BYTES_MAX).contains(&length) && is_text(kind);
        accepted.iter().copied().find(|coding| is_fit && self.codings.contains(coding))
    }

    /// The file in this coding; nothing where it cannot be had now, or would be no smaller.
    pub(super) async fn get(&self, file: &File, facts: &Facts, coding: Coding) -> Option<Arc<[u8]>> {
        let key = (*facts, coding);
        if let Some(found) = unpoisoned(self.kept.lock()).find(&key) {
            return found.bytes().cloned();
        }
        let _place = self.making.0.try_acquire()?;
        let (file, length) = (file.try_clone().ok()?, facts.length);
        let (made, after) = smol::unblock(move || {
            let mut text = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
            // Its position is shared with who sends it; a read at a place moves none.
            At { file: &file, at: 0 }.take(BYTES_MAX + 1).read_to_end(&mut text)?;
            let made = encode(coding, &text)?;
            let made = if made.len() < text.len() { Made::Smaller(made.into()) } else { Made::NoSmaller };
            io::Result::Ok((made, facts_of(&file)?))
        })
        .await
        .inspect_err(|error| log::debug!("a file cannot be compressed: {error}"))
        .ok()?;
        if after != *facts {
            return None;
        }
        if SystemTime::now().duration_since(facts.changed).is_ok_and(|age| age >= SETTLED_AFTER) {
            unpoisoned(self.kept.lock()).keep(key, made.clone());
        }
        made.bytes().cloned()
    }
}

impl Kept {
    fn find(&mut self, key: &Key) -> Option<Made> {
        self.used += 1;
        let (made, used) = self.made.get_mut(key)?;
        *used = self.used;
        Some(made.clone())
    }

    /// Keeps one, in the place of those that were not asked for for longest.
    fn keep(&mut self, key: Key, made: Made) {
        self.bytes += made.length();
        self.used += 1;
        if let Some((earlier, _)) = self.made.insert(key, (made, self.used)) {
            self.bytes -= earlier.length();
        }
        while self.bytes > KEPT_BYTES_MAX || self.made.len() > KEPT_MAX {
            let Some(oldest) = self.made.iter().min_by_key(|(_, (_, used))| *used).map(|(key, _)| *key) else { return };
            if let Some((earlier, _)) = self.made.remove(&oldest) {
                self.bytes -= earlier.length();
            }
        }
    }
}

/// A file that is read from a place of our own.
struct At<'a> {
    file: &'a File,
    at: u64,
}

impl Read for At<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = std::os::unix::fs::FileExt::read_at(self.file, into, self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

fn encode(coding: Coding, text: &[u8]) -> io::Result<Vec<u8>> {
    match coding {
        Coding::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(GZIP_LEVEL));
            encoder.write_all(text)?;
            encoder.finish()
        }
        Coding::Zstd => zstd::encode_all(text, ZSTD_LEVEL),
        Coding::Brotli => {
            let mut made = Vec::new();
            let params = brotli::enc::BrotliEncoderParams {
                quality: BROTLI_LEVEL,
                lgwin: BROTLI_WINDOW,
                size_hint: text.len(),
                ..Default::default()
            };
            brotli::BrotliCompress(&mut &*text, &mut made, &params)?;
            Ok(made)
        }
    }
}

/// Whether a type is one that becomes much smaller: texts, by whatever name.
fn is_text(kind: &str) -> bool {
    const OTHERS: [&str; 8] = [
        "application/ecmascript",
        "application/javascript",
        "application/json",
        "application/manifest",
        "application/wasm",
        "application/x-javascript",
        "application/xml",
        "application/x-yaml",
    ];
    let essence = kind.split(';').next().unwrap_or_default().trim();
    essence.starts_with("text/")
        || OTHERS.contains(&essence)
        || ["+json", "+xml", "+text"].iter().any(|suffix| essence.ends_with(suffix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(inode: u64, length: u64) -> Facts {
        let at = SystemTime::UNIX_EPOCH;
        Facts { inode, length, modified: at, changed: at }
    }

    fn decoded(coding: Coding, made: &[u8]) -> Vec<u8> {
        let mut text = vec![];
        match coding {
            Coding::Gzip => _ = flate2::read::GzDecoder::new(made).read_to_end(&mut text).unwrap(),
            Coding::Zstd => text = zstd::decode_all(made).unwrap(),
            Coding::Brotli => brotli::BrotliDecompress(&mut &*made, &mut text).unwrap(),
        }
        text
    }

    #[test]
    fn what_is_compressed_is_the_same_text_again() {
        let text = "it is said again and again\n".repeat(1000).into_bytes();
        for coding in [Coding::Gzip, Coding::Zstd, Coding::Brotli] {
            let made = encode(coding, &text).unwrap();
            assert!(made.len() < text.len() / 20, "{coding:?}: {}", made.len());
            assert_eq!(decoded(coding, &made), text, "{coding:?}");
        }
    }

    #[test]
    fn a_client_gets_the_coding_that_it_prefers_of_those_that_are_wanted() {
        use Coding::{Brotli, Gzip, Zstd};
        let wanted = Compressed::new(&[Compression::Gzip, Compression::Zstd], &Places::new()).unwrap();
        let length = BYTES_MIN;
        assert_eq!(wanted.choose(&[Brotli, Zstd, Gzip], "text/css; charset=utf-8", length), Some(Zstd));
        assert_eq!(wanted.choose(&[Gzip, Zstd], "image/svg+xml", length), Some(Gzip));
        assert_eq!(wanted.choose(&[Brotli], "text/css", length), None);
        for kind in ["image/png", "application/zip", "video/mp4", "font/woff2", "application/octet-stream"] {
            assert_eq!(wanted.choose(&[Gzip], kind, length), None, "{kind}");
        }
        for length in [0, BYTES_MIN - 1, BYTES_MAX + 1] {
            assert_eq!(wanted.choose(&[Gzip], "text/css", length), None, "{length}");
        }
        assert!(Compressed::new(&[], &Places::new()).is_none());
    }

    #[test]
    fn no_more_are_made_at_a_time_however_many_sites_there_are() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&b"again and again\n".repeat(100)).unwrap();
        let (places, facts) = (Places::of(1), facts_of(&file).unwrap());
        let sites = [(); 2].map(|()| Compressed::new(&[Compression::Gzip], &places).unwrap());
        let get = |site: usize| smol::block_on(sites[site].get(&file, &facts, Coding::Gzip));
        let busy = places.0.try_acquire().unwrap();
        assert_eq!((get(0), get(1)), (None, None), "the file is sent as it is");
        drop(busy);
        assert!(get(0).is_some() && get(1).is_some());
    }

    #[test]
    fn what_is_kept_is_bounded_and_what_was_not_asked_for_for_longest_goes_first() {
        let mut kept = Kept::default();
        let quarter: Arc<[u8]> = vec![0; KEPT_BYTES_MAX / 4].into();
        for inode in 0..4 {
            kept.keep((facts(inode, 1), Coding::Gzip), Made::Smaller(Arc::clone(&quarter)));
        }
        assert!(kept.find(&(facts(0, 1), Coding::Gzip)).is_some());
        kept.keep((facts(9, 1), Coding::Gzip), Made::Smaller(Arc::clone(&quarter)));
        assert!(kept.bytes <= KEPT_BYTES_MAX);
        assert_eq!(kept.find(&(facts(1, 1), Coding::Gzip)), None, "it was the oldest");
        assert!(kept.find(&(facts(0, 1), Coding::Gzip)).is_some());
        assert_eq!(kept.find(&(facts(0, 1), Coding::Zstd)), None, "another coding is another thing");
        assert_eq!(kept.find(&(facts(0, 2), Coding::Gzip)), None, "another state of the file, too");
        for inode in 0..5000 {
            kept.keep((facts(inode, 3), Coding::Gzip), Made::NoSmaller);
        }
        assert!(kept.made.len() <= KEPT_MAX);
    }
}
