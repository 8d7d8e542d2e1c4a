//! Lines on their way to where they are kept: a bounded buffer between those who have them and the one thread that writes.
//!
//! Nobody who has a line ever waits for the one who writes. What finds no room, or cannot be written, is counted and
//! reported. Several processes may write to the same place at the same time: a write ends where a line ends, and is no
//! longer than a pipe takes in one piece, so that their lines do not mix. Where teams of threads have many lines, each has
//! a part of the buffer, and meets the others only for the first line after a write. What the lines say is not its matter.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use crate::lock::unpoisoned;
use crate::per_team::PerTeam;

/// The longest line, and the longest write: `PIPE_BUF` on Linux, up to which a write to a pipe is atomic.
pub(crate) const WRITE_BYTES_MAX: usize = 4096;

/// So many bytes are worth a write before the writer's pause is over.
const BATCH_BYTES: usize = 64 * 1024;

/// The buffer. Clones share it.
#[derive(Clone)]
pub(crate) struct Queue(Arc<Shared>);

struct Shared {
    /// Locked before `state`, where both are.
    parts: PerTeam<Mutex<Part>>,
    state: Mutex<State>,
    started: Mutex<bool>,
    /// Notified when there is something to write.
    filled: Condvar,
    /// Notified when all is written.
    drained: Condvar,
    /// Of each part.
    bytes_max: usize,
    pause: Duration,
}

/// What one team has queued.
#[derive(Default)]
struct Part {
    lines: Vec<u8>,
    dropped: u64,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Filled {
    #[default]
    Empty,
    /// Lines, or the count of some that were dropped.
    Some,
    /// So many lines of one team that they are not to gather any longer.
    Many,
}

#[derive(Default)]
struct State {
    /// What the parts have that the writer has not begun to take.
    filled: Filled,
    /// The writer holds lines that are not written yet.
    writing: bool,
    /// Somebody waits for all to be written.
    hurried: bool,
    /// The place is to be looked at before anything is written.
    refresh: bool,
    /// When the last losses are to be reported that are not yet.
    unsaid: Option<Instant>,
}

/// Lines that were not written.
#[derive(Debug)]
pub(crate) struct Lost {
    pub(crate) lines: u64,
    /// Why they could not be written; without it they found no room.
    pub(crate) error: Option<io::Error>,
    /// There may be no later time to report them.
    pub(crate) hurried: bool,
}

/// Where lines are written to.
pub(crate) trait Sink: Write {
    /// Called before each write, and when somebody asks for it (`asked`): whether it is still the right place.
    fn refresh(&mut self, _asked: bool) {}
}

/// What the writer has to do.
struct Work {
    lines: Vec<u8>,
    dropped: u64,
    hurried: bool,
    refresh: bool,
}

impl State {
    fn has_work(&self) -> bool {
        self.filled > Filled::Empty || self.refresh || (self.hurried && self.unsaid.is_some())
    }
}

impl Queue {
    /// A buffer of so many bytes, whose writer lets lines gather for `pause` to write them together.
    pub(crate) fn new(bytes_max: usize, pause: Duration) -> Queue {
        Queue::of_teams(1, bytes_max, pause)
    }

    /// The same, of which each of so many teams has its part.
    pub(crate) fn of_teams(teams: usize, bytes_max: usize, pause: Duration) -> Queue {
        // One team shares with threads that are of none.
        let parts = PerTeam::new(if teams > 1 { teams } else { 0 }, Mutex::default);
        let bytes_max = bytes_max / teams.max(1);
        let (state, filled, drained) = (Mutex::default(), Condvar::new(), Condvar::new());
        let started = Mutex::new(false);
        Queue(Arc::new(Shared { parts, state, started, filled, drained, bytes_max, pause }))
    }

    /// Starts the thread that writes to `sink`, once; what is lost is told to `report`, within that thread. Where that
    /// keeps some of it to itself, it says by when it has to be called again, if need be with nothing new.
    pub(crate) fn start<S: Sink + Send + 'static>(
        &self,
        name: &str,
        sink: S,
        report: impl FnMut(&mut S, Lost) -> Option<Instant> + Send + 'static,
    ) -> io::Result<()> {
        let mut started = unpoisoned(self.0.started.lock());
        if *started {
            return Ok(());
        }
        let queue = self.clone();
        thread::Builder::new().name(name.to_owned()).spawn(move || queue.write_for_ever(sink, report))?;
        *started = true;
        Ok(())
    }

    /// Appends a line, with its line feed, or counts it as dropped. Never waits for the writer.
    pub(crate) fn push(&self, line: &[u8]) {
        let mut part = unpoisoned(self.0.parts.own().lock());
        let before = part.lines.len();
        if before + line.len() <= self.0.bytes_max {
            part.lines.extend_from_slice(line);
        } else {
            part.dropped += 1;
        }
        let many = before < BATCH_BYTES && part.lines.len() >= BATCH_BYTES;
        // A notification is a system call, and only these find the writer waiting for one. The part stays locked: whoever adds
        // the next line to it counts on the writer's knowing of it.
        if before == 0 || many {
            let mut state = self.lock();
            state.filled = state.filled.max(if many { Filled::Many } else { Filled::Some });
            drop(state);
            self.0.filled.notify_one();
        }
    }

    /// Waits until nothing is left to write, at most for `timeout`; says whether that is so.
    pub(crate) fn flush(&self, timeout: Duration) -> bool {
        let mut state = self.lock();
        state.hurried = true;
        self.0.filled.notify_one();
        let busy = |state: &mut State| state.has_work() || state.writing;
        let waited = self.0.drained.wait_timeout_while(state, timeout, busy);
        let (mut state, outcome) = unpoisoned(waited);
        state.hurried = false;
        !outcome.timed_out()
    }

    /// Has the place looked at soon, whether there is something to write or not.
    pub(crate) fn refresh(&self) {
        self.lock().refresh = true;
        self.0.filled.notify_one();
    }

    /// The writer's whole life.
    fn write_for_ever<S: Sink>(&self, mut sink: S, mut report: impl FnMut(&mut S, Lost) -> Option<Instant>) {
        let mut unsaid = None;
        loop {
            let Work { lines, dropped, hurried, refresh } = self.take();
            if dropped > 0 {
                unsaid = report(&mut sink, Lost { lines: dropped, error: None, hurried });
            }
            if refresh || !lines.is_empty() {
                sink.refresh(refresh);
            }
            let mut failed = Lost { lines: 0, error: None, hurried };
            for piece in pieces(&lines) {
                if let Err(error) = sink.write_all(piece) {
                    failed.lines += piece.split_inclusive(|byte| *byte == b'\n').count() as u64;
                    failed.error = Some(error);
                }
            }
            if failed.lines > 0 || unsaid.is_some() {
                unsaid = report(&mut sink, failed);
            }
            let mut state = self.lock();
            (state.writing, state.unsaid) = (false, unsaid);
            drop(state);
            self.0.drained.notify_all();
        }
    }

    /// Waits for work, or until losses have to be reported; lets lines gather, and takes all of it.
    fn take(&self) -> Work {
        let mut state = self.lock();
        while !state.has_work() {
            let Some(due) = state.unsaid else {
                state = unpoisoned(self.0.filled.wait(state));
                continue;
            };
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = unpoisoned(self.0.filled.wait_timeout(state, left)).0;
        }
        if !self.0.pause.is_zero() {
            let few = |state: &mut State| !state.hurried && !state.refresh && state.filled < Filled::Many;
            let waited = self.0.filled.wait_timeout_while(state, self.0.pause, few);
            state = unpoisoned(waited).0;
        }
        (state.writing, state.filled) = (true, Filled::Empty);
        let (hurried, refresh) = (state.hurried, std::mem::take(&mut state.refresh));
        drop(state);
        let mut work = Work { lines: Vec::new(), dropped: 0, hurried, refresh };
        for part in self.0.parts.iter() {
            let Part { lines, dropped } = std::mem::take(&mut *unpoisoned(part.lock()));
            work.dropped += dropped;
            if work.lines.is_empty() {
                work.lines = lines;
            } else {
                work.lines.extend_from_slice(&lines);
            }
        }
        work
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A thread that panicked with the lock held can have left nothing half done: each change is one assignment.
        unpoisoned(self.0.state.lock())
    }
}

/// Cuts the lines into pieces that each fit one atomic write, and end where a line ends.
fn pieces(lines: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = lines;
    std::iter::from_fn(move || {
        let window = &rest[..rest.len().min(WRITE_BYTES_MAX)];
        let end = window.iter().rposition(|&byte| byte == b'\n').map_or(window.len(), |last| last + 1);
        let (piece, after) = rest.split_at(end);
        rest = after;
        (!piece.is_empty()).then_some(piece)
    })
}

/// A descriptor that is written to without a lock of the standard library, which a blocked write would hold for
/// everybody, and that is waited for where somebody made it non-blocking.
pub(crate) struct Patient<F>(pub(crate) F);

impl<F: AsFd> Sink for Patient<F> {}

impl<F: AsFd> Write for Patient<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match rustix::io::write(&self.0, bytes) {
            // Waiting is right here: the writer's thread has nothing else to do.
            Err(Errno::AGAIN) => {
                poll(&mut [PollFd::new(&self.0, PollFlags::OUT)], None)?;
                Err(io::ErrorKind::Interrupted.into())
            }
            outcome => Ok(outcome?),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const LONG: Duration = Duration::from_secs(30);
    const BYTES_MAX: usize = 1024 * 1024;

    fn queue() -> Queue {
        Queue::new(BYTES_MAX, Duration::ZERO)
    }

    /// A sink that takes each write only when the test lets it, and shows it to the test.
    struct Gate {
        open: mpsc::Receiver<()>,
        seen: mpsc::Sender<Vec<u8>>,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // A closed gate stands open: the test is over or wants all of it.
            _ = self.open.recv();
            _ = self.seen.send(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Sink for Gate {}

    fn gated(queue: &Queue) -> (mpsc::Sender<()>, mpsc::Receiver<Vec<u8>>) {
        let (opener, open) = mpsc::channel();
        let (seen, shown) = mpsc::channel();
        queue.start("test", Gate { open, seen }, reported).unwrap();
        (opener, shown)
    }

    /// Writes the report of a loss where the lines went.
    #[expect(clippy::needless_pass_by_value, reason = "a queue calls it like that")]
    fn reported(sink: &mut impl Write, lost: Lost) -> Option<Instant> {
        _ = writeln!(sink, "{} lost", lost.lines);
        None
    }

    #[test]
    fn pieces_end_at_line_ends_and_fit_an_atomic_write() {
        let lines = (0..1_000).map(|number| "x".repeat(number % 90)).collect::<Vec<_>>().join("\n") + "\n";
        let pieces = pieces(lines.as_bytes()).collect::<Vec<_>>();
        assert_eq!(pieces.concat(), lines.as_bytes());
        assert!(pieces.iter().all(|piece| piece.len() <= WRITE_BYTES_MAX && piece.ends_with(b"\n")));
        assert!(pieces.len() < 30, "lines are written together: {}", pieces.len());
    }

    #[test]
    fn lines_queued_before_the_writer_starts_are_written() {
        let queue = queue();
        queue.push(b"early\n");
        let (opener, shown) = gated(&queue);
        drop(opener);
        assert_eq!(shown.recv_timeout(LONG).unwrap(), b"early\n");
        assert!(queue.flush(LONG));
    }

    #[test]
    fn a_blocked_writer_costs_lines_but_never_the_caller() {
        let queue = queue();
        let (opener, shown) = gated(&queue);
        let line = [&[b'x'; 1023][..], b"\n"].concat();
        let pushed = 5 * BYTES_MAX / line.len();
        for _ in 0..pushed {
            queue.push(&line);
        }
        drop(opener);
        assert!(queue.flush(LONG));
        let written = shown.try_iter().collect::<Vec<_>>().concat();
        let kept = written.split(|&byte| byte == b'\n').filter(|shown| shown.starts_with(b"xx")).count();
        let text = String::from_utf8(written).unwrap();
        let dropped: usize = text
            .lines()
            .filter_map(|shown| shown.strip_suffix(" lost"))
            .map(|count| count.parse::<usize>().unwrap())
            .sum();
        assert!(dropped >= 3 * BYTES_MAX / line.len(), "{dropped}");
        assert_eq!(kept + dropped, pushed);
    }

    #[test]
    fn teams_have_parts_of_their_own_and_all_that_they_have_is_flushed() {
        const LINES: usize = 2_000;
        let queue = Queue::of_teams(3, 3 * LINES * 16, Duration::from_millis(1));
        let (opener, shown) = gated(&queue);
        drop(opener);
        thread::scope(|scope| {
            for team in 0..5 {
                let queue = &queue;
                scope.spawn(move || {
                    crate::per_team::join(team);
                    for line in 0..LINES / 3 {
                        queue.push(format!("{team} {line}\n").as_bytes());
                    }
                    assert!(queue.flush(LONG));
                });
            }
        });
        let written = String::from_utf8(shown.try_iter().collect::<Vec<_>>().concat()).unwrap();
        for team in 0..5 {
            let lines: Vec<_> = written.lines().filter_map(|line| line.strip_prefix(&format!("{team} "))).collect();
            let expected: Vec<_> = (0..LINES / 3).map(|line| line.to_string()).collect();
            assert_eq!(lines, expected, "each team's in their order");
        }
    }

    #[test]
    fn flush_gives_up_at_its_deadline() {
        let queue = queue();
        let (opener, _shown) = gated(&queue);
        queue.push(b"stuck\n");
        assert!(!queue.flush(Duration::from_millis(20)));
        opener.send(()).unwrap();
        assert!(queue.flush(LONG));
    }

    #[test]
    fn lines_that_a_sink_refuses_are_reported_and_the_writer_goes_on() {
        struct Broken;
        impl Write for Broken {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        impl Sink for Broken {}
        let queue = queue();
        let (teller, told) = mpsc::channel();
        let report = move |_: &mut Broken, lost: Lost| {
            teller.send((lost.lines, lost.error.unwrap().kind())).unwrap();
            None
        };
        queue.start("test", Broken, report).unwrap();
        for _ in 0..3 {
            queue.push(b"one\ntwo\n");
            assert!(queue.flush(LONG));
            assert_eq!(told.try_recv(), Ok((2, io::ErrorKind::BrokenPipe)));
        }
    }

    #[test]
    fn lines_gather_until_the_pause_is_over_or_somebody_waits_for_them() {
        let queue = Queue::new(BYTES_MAX, Duration::from_secs(3600));
        let (opener, shown) = gated(&queue);
        drop(opener);
        queue.push(b"one\n");
        queue.push(b"two\n");
        assert!(queue.flush(LONG), "whoever waits does not wait for the pause");
        assert_eq!(shown.recv_timeout(LONG).unwrap(), b"one\ntwo\n");
        queue.push(&[vec![b'x'; BATCH_BYTES], vec![b'\n']].concat());
        assert!(shown.recv_timeout(LONG).is_ok(), "nor do so many lines");
        let queue = Queue::new(BYTES_MAX, Duration::from_millis(20));
        let (opener, shown) = gated(&queue);
        drop(opener);
        queue.push(b"one\n");
        assert_eq!(shown.recv_timeout(LONG).unwrap(), b"one\n");
    }
}
