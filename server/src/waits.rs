//! What this generation has under way, so that one that drains can say what it waits for: which kind, since when, which
//! path.
//!
//! Entering costs a request no lock, and shares no memory with other threads while there is room: each takes one of its
//! team's fixed number of slots, near the last one that it had. A run of slots comes into being when one of them is first
//! looked at. Requests for which there is no slot are counted only. Whoever asks reads all slots, and passes over one that
//! changes that very moment.
//!
//! The hook for whoever serves connections is [`Waits::enter`]: it is called once for each request (or stream, or
//! upgraded connection), and the [`Entry`] is kept until that is over; [`Entry::becomes`] says that it has come further,
//! as from a handler that runs to a response that is sent. Connections without an entry are what is left of those that
//! are live. It stands beneath the HTTP layer and the service, and knows neither.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
use std::time::Instant;

use restart_core::Waiting;

use crate::per_team::PerTeam;

/// So many entries of a team can be told apart.
const SLOTS: usize = RUNS * RUN;
/// They are made so many at a time: half a page of memory.
const RUN: usize = 16;
const RUNS: usize = 32;
/// So many slots are looked at for a free one.
const LOOKED_AT: usize = 16;
/// Threads begin this far from each other.
const THREADS_APART: usize = 61;
/// Of a path so much is kept, in words.
const PATH_WORDS: usize = 12;
const WORD_BYTES: usize = size_of::<u64>();

/// What is being waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Kind {
    /// A handler runs.
    Request = 1,
    /// A handler runs that has been given a body.
    Upload = 2,
    /// A response is sent that has an end.
    Response = 3,
    /// A response is sent without an end, such as a stream of events.
    Stream = 4,
    /// The connection speaks another protocol.
    Upgraded = 5,
    /// Nothing is under way, and the connection could not move.
    Idle = 6,
}

/// Where a slot's state has the kind; above it stands how often the slot was taken.
const KIND_BITS: u32 = 8;
const KIND_MASK: u64 = (1 << KIND_BITS) - 1;
const FREE: u64 = 0;
/// The slot is being filled.
const TAKEN: u64 = KIND_MASK;

impl Kind {
    const ALL: [Kind; 6] = [Kind::Request, Kind::Upload, Kind::Response, Kind::Stream, Kind::Upgraded, Kind::Idle];

    fn of(state: u64) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| state & KIND_MASK == *kind as u64)
    }

    fn index(self) -> usize {
        self as usize - 1
    }
}

impl fmt::Display for Kind {
    /// One word, the same for ever: it stands in the status.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Kind::Request => "request",
            Kind::Upload => "upload",
            Kind::Response => "response",
            Kind::Stream => "stream",
            Kind::Upgraded => "upgraded",
            Kind::Idle => "idle",
        })
    }
}

/// One entry, on cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Slot {
    state: AtomicU64,
    /// Microseconds after the beginning.
    since_us: AtomicU64,
    path: [AtomicU64; PATH_WORDS],
    /// Its place among its team's.
    at: usize,
}

/// All that is under way.
#[derive(Debug)]
pub(crate) struct Waits {
    beginning: Instant,
    parts: PerTeam<Part>,
}

/// What is under way in one team.
#[derive(Debug, Default)]
struct Part {
    runs: [OnceLock<Box<[Slot]>>; RUNS],
    /// How many of each kind found no slot.
    beyond: [AtomicU64; Kind::ALL.len()],
}

/// Something that is under way, until it is dropped.
#[derive(Debug)]
#[must_use = "what is dropped at once is waited for by nobody"]
pub(crate) struct Entry<'a> {
    part: &'a Part,
    slot: Option<&'a Slot>,
    kind: Kind,
}

thread_local! {
    /// Where this thread looks for a free slot first.
    static NEAR: Cell<usize> = Cell::new(THREADS.fetch_add(THREADS_APART, Ordering::Relaxed) % SLOTS);
}
static THREADS: AtomicUsize = AtomicUsize::new(0);

impl Default for Waits {
    fn default() -> Waits {
        Waits::new(0)
    }
}

impl Waits {
    /// Nothing under way in so many teams, nor in threads that are of none.
    pub(crate) fn new(teams: usize) -> Waits {
        Waits { beginning: Instant::now(), parts: PerTeam::new(teams, Part::default) }
    }

    /// Something of this kind is under way since then. Of the path what stands before its query is kept: that may hold
    /// what is nobody's business.
    pub(crate) fn enter(&self, kind: Kind, path: &str, since: Instant) -> Entry<'_> {
        let part = self.parts.own();
        let near = NEAR.get();
        let slot = (near..near + LOOKED_AT).map(|at| part.slot(at % SLOTS)).find(|slot| slot.take());
        match slot {
            Some(slot) => {
                let since = since.saturating_duration_since(self.beginning);
                let since_us = since.as_secs().saturating_mul(1_000_000) + u64::from(since.subsec_micros());
                slot.fill(kind, path, since_us);
                NEAR.set((slot.at + 1) % SLOTS);
            }
            None => _ = part.beyond[kind.index()].fetch_add(1, Ordering::Relaxed),
        }
        Entry { part, slot, kind }
    }

    fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.parts.iter().flat_map(Part::slots)
    }

    /// All that is under way on `live` connections, an entry for each kind.
    pub(crate) fn list(&self, live: u64) -> Vec<Waiting> {
        let mut found: BTreeMap<Kind, (u64, Option<(u64, String)>)> = BTreeMap::new();
        for (kind, since_us, path) in self.slots().filter_map(Slot::read) {
            let (count, oldest) = found.entry(kind).or_default();
            *count += 1;
            if oldest.as_ref().is_none_or(|(since, _)| since_us < *since) {
                *oldest = Some((since_us, path));
            }
        }
        for kind in Kind::ALL {
            let beyond: u64 = self.parts.iter().map(|part| part.beyond[kind.index()].load(Ordering::Relaxed)).sum();
            if beyond > 0 {
                found.entry(kind).or_default().0 += beyond;
            }
        }
        let now_us = u64::try_from(self.beginning.elapsed().as_micros()).unwrap_or(u64::MAX);
        let busy: u64 = found.values().map(|(count, _)| count).sum();
        let mut list: Vec<Waiting> = found
            .into_iter()
            .map(|(kind, (count, oldest))| {
                let oldest_ms = oldest.as_ref().map_or(0, |(since, _)| now_us.saturating_sub(*since) / 1000);
                let what = oldest.map(|(_, path)| path).filter(|path| !path.is_empty());
                Waiting::new(kind.to_string(), count).with_oldest(oldest_ms, what)
            })
            .collect();
        // They send a response, are upgraded, or idle.
        let others = live.saturating_sub(busy);
        if others > 0 {
            list.push(Waiting::new("connection", others));
        }
        list
    }
}

impl Part {
    fn slot(&self, at: usize) -> &Slot {
        let first = at - at % RUN;
        let run = || (first..first + RUN).map(|at| Slot { at, ..Slot::default() }).collect();
        &self.runs[at / RUN].get_or_init(run)[at % RUN]
    }

    /// Those that are there.
    fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.runs.iter().filter_map(OnceLock::get).flatten()
    }
}

impl Entry<'_> {
    /// It has come further; since when it is under way stays.
    pub(crate) fn becomes(&mut self, kind: Kind) {
        if let Some(slot) = self.slot {
            slot.set(kind as u64);
        } else {
            self.part.beyond[self.kind.index()].fetch_sub(1, Ordering::Relaxed);
            self.part.beyond[kind.index()].fetch_add(1, Ordering::Relaxed);
        }
        self.kind = kind;
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        match self.slot {
            Some(slot) => {
                slot.set(FREE);
                // A thread that is ending has nowhere to look any more.
                let _ = NEAR.try_with(|near| near.set(slot.at));
            }
            None => _ = self.part.beyond[self.kind.index()].fetch_sub(1, Ordering::Relaxed),
        }
    }
}

impl Slot {
    /// Takes the slot, if it is free.
    fn take(&self) -> bool {
        let state = self.state.load(Ordering::Relaxed);
        state & KIND_MASK == FREE
            && self.state.compare_exchange(state, state | TAKEN, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Fills a slot that was taken. Readers that see a word of it see that its state has changed.
    fn fill(&self, kind: Kind, path: &str, since_us: u64) {
        fence(Ordering::Release);
        self.since_us.store(since_us, Ordering::Relaxed);
        let path = path.as_bytes();
        let path = &path[..memchr::memchr(b'?', path).unwrap_or(path.len())];
        let mut words = path.chunks(WORD_BYTES);
        for word in &self.path {
            let bytes = words.next().unwrap_or_default();
            let mut padded = [0; WORD_BYTES];
            padded[..bytes.len()].copy_from_slice(bytes);
            word.store(u64::from_ne_bytes(padded), Ordering::Relaxed);
            // What stands behind the end is an earlier path's.
            if bytes.len() < WORD_BYTES {
                break;
            }
        }
        let turn = (self.state.load(Ordering::Relaxed) >> KIND_BITS).wrapping_add(1);
        self.state.store(turn << KIND_BITS | kind as u64, Ordering::Release);
    }

    fn set(&self, kind: u64) {
        let turn = self.state.load(Ordering::Relaxed) & !KIND_MASK;
        self.state.store(turn | kind, Ordering::Release);
    }

    /// What the slot holds, unless it is free or changes meanwhile.
    fn read(&self) -> Option<(Kind, u64, String)> {
        let state = self.state.load(Ordering::Acquire);
        let kind = Kind::of(state)?;
        let since_us = self.since_us.load(Ordering::Relaxed);
        let path: Vec<u8> = self
            .path
            .iter()
            .flat_map(|word| word.load(Ordering::Relaxed).to_ne_bytes())
            .take_while(|byte| *byte != 0)
            .collect();
        fence(Ordering::Acquire);
        let unchanged = self.state.load(Ordering::Relaxed) == state;
        unchanged.then(|| (kind, since_us, String::from_utf8_lossy(&path).into_owned()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::thread;
    use std::time::Duration;

    use super::*;

    fn shown(waits: &Waits, live: u64) -> Vec<(String, u64, Option<String>)> {
        waits.list(live).into_iter().map(|one| (one.kind, one.count, one.what)).collect()
    }

    fn one(kind: &str, count: u64, what: Option<&str>) -> (String, u64, Option<String>) {
        (kind.to_owned(), count, what.map(str::to_owned))
    }

    #[test]
    fn what_is_under_way_is_told_by_kind_with_the_oldest_of_each() {
        let waits = Waits::default();
        let now = Instant::now();
        assert_eq!(shown(&waits, 0), []);
        let _young = waits.enter(Kind::Request, "/young", now + Duration::from_secs(2));
        let old = waits.enter(Kind::Request, "/a/path/that/is/longer/than/a/word?secret", now);
        let mut upload = waits.enter(Kind::Upload, "/upload", now);
        let old_one = one("request", 2, Some("/a/path/that/is/longer/than/a/word"));
        assert_eq!(shown(&waits, 5), [old_one, one("upload", 1, Some("/upload")), one("connection", 2, None)]);
        drop(old);
        upload.becomes(Kind::Request);
        assert_eq!(shown(&waits, 2), [one("request", 2, Some("/upload"))]);
        drop(upload);
        let _short = waits.enter(Kind::Upload, "/", now);
        assert!(shown(&waits, 0).contains(&one("upload", 1, Some("/"))), "nothing of an earlier path is left");
    }

    #[test]
    fn more_than_there_are_slots_are_counted_all_the_same_and_a_long_path_is_cut() {
        let waits = Waits::default();
        let path = format!("/{}", "x".repeat(10_000));
        let mut entries: Vec<_> = (0..2 * SLOTS).map(|_| waits.enter(Kind::Request, &path, Instant::now())).collect();
        assert_eq!(shown(&waits, 0), [one("request", 2 * SLOTS as u64, Some(&path[..PATH_WORDS * WORD_BYTES]))]);
        for entry in &mut entries {
            entry.becomes(Kind::Upload);
        }
        assert_eq!(shown(&waits, 0)[0].1, 2 * SLOTS as u64);
        drop(entries);
        assert_eq!(shown(&waits, 0), []);
    }

    #[test]
    fn teams_have_slots_of_their_own_and_are_told_of_together() {
        let waits = Waits::new(2);
        let now = Instant::now();
        let entries: Vec<_> = thread::scope(|scope| {
            let enter = |team: usize| {
                let waits = &waits;
                let enter = move || {
                    crate::per_team::join(team);
                    (0..=SLOTS).map(|_| waits.enter(Kind::Request, "/", now)).collect::<Vec<_>>()
                };
                scope.spawn(enter)
            };
            [enter(0), enter(1)].into_iter().flat_map(|entered| entered.join().expect("it does not panic")).collect()
        });
        assert_eq!(shown(&waits, 0), [one("request", 2 * (SLOTS + 1) as u64, Some("/"))]);
        assert_eq!(waits.parts.iter().map(|part| part.slots().filter_map(Slot::read).count()).max(), Some(SLOTS));
        drop(entries);
        assert_eq!(shown(&waits, 0), []);
    }

    #[test]
    fn a_reader_sees_whole_entries_only_while_all_threads_come_and_go() {
        let (waits, over) = (Waits::default(), AtomicBool::new(false));
        thread::scope(|scope| {
            for letter in ["a", "b", "c"] {
                let (waits, over) = (&waits, &over);
                scope.spawn(move || {
                    while !over.load(Ordering::Relaxed) {
                        for length in [1, 9, 30, 80] {
                            let _entry = waits.enter(Kind::Request, &letter.repeat(length), Instant::now());
                        }
                    }
                });
            }
            let end = Instant::now() + Duration::from_millis(200);
            while Instant::now() < end {
                for (_, _, path) in waits.slots().filter_map(Slot::read) {
                    let first = path.chars().next();
                    assert!(path.chars().all(|letter| Some(letter) == first), "{path}");
                    assert!([1, 9, 30, 80].contains(&path.len()), "{path}");
                }
            }
            over.store(true, Ordering::Relaxed);
        });
        assert_eq!(shown(&waits, 0), []);
    }
}
