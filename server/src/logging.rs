//! Where log lines go: through `log` and `env_logger` into a bounded buffer, and from there to standard error.
//!
//! One thread writes; nobody else ever waits for standard error. A stopped terminal or a full pipe therefore costs log
//! lines, which are counted and reported later, and never a request. Several generations share one standard error: it
//! is never made non-blocking, and no write is longer than a pipe takes in one piece, so that their lines do not mix.
//! [`Logs::install`] starts no thread, because signal handlers are installed before any thread exists.

use std::fmt::{self, Write as _};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use std::{env, panic, process, thread};

use env_logger::Target;
use log::Level;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

/// What is logged where neither `--log` nor `RUST_LOG` says otherwise.
pub const FILTER_DEFAULT: &str = "info";

/// How long the end of the process waits, at the most, for the last lines to be written.
pub const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// What waits to be written; beyond it lines are dropped and counted.
const QUEUE_BYTES_MAX: usize = 1024 * 1024;

/// The longest line, and the longest write: `PIPE_BUF` on Linux, up to which a write to a pipe is atomic.
const WRITE_BYTES_MAX: usize = 4096;

/// What stands at the end of a line that was cut to [`WRITE_BYTES_MAX`].
const CUT_MARK: &str = " [cut]\n";

/// The process's log. Dropping it writes out what is queued, within [`FLUSH_TIMEOUT`].
#[must_use = "dropping it ends the logging"]
pub struct Logs {
    queue: Queue,
    style: Style,
}

impl Logs {
    /// Makes this the logger of the process, without starting a thread: lines are queued until [`Logs::start_writer`].
    ///
    /// `filter` is what `--log` or `REBORN_LOG` said; without it `RUST_LOG` counts, and without that `info`. A panic
    /// is logged like any other error, so that the report of one cannot block the event loop either. Where the program
    /// has installed a logger of its own already, that one stays.
    pub fn install(filter: Option<&str>) -> Self {
        let logs = Self { queue: Queue::default(), style: Style::of_this_process() };
        let style = logs.style;
        let from_environment = env::var("RUST_LOG").ok().filter(|value| !value.is_empty());
        let filter = filter.or(from_environment.as_deref()).unwrap_or(FILTER_DEFAULT);
        let installed = env_logger::Builder::new()
            .parse_filters(filter)
            .target(Target::Pipe(Box::new(logs.queue.clone())))
            .format(move |buffer, record| {
                let line = style.line(SystemTime::now(), record.level(), *record.args());
                buffer.write_all(line.as_bytes())
            })
            .try_init();
        if installed.is_ok() {
            panic::set_hook(Box::new(|info| log::error!("{info}")));
        }
        logs
    }

    /// Starts the one thread that writes. From here on lines reach standard error.
    pub fn start_writer(&self) -> io::Result<()> {
        self.queue.start(self.style, StandardError)
    }

    /// Waits until all lines queued so far are written, at most for `timeout`; says whether they were.
    ///
    /// It starts the writer where that has not happened yet, so that the reason of an early end is not lost.
    pub fn flush(&self, timeout: Duration) -> bool {
        self.start_writer().is_ok() && self.queue.flush(timeout)
    }
}

impl Drop for Logs {
    fn drop(&mut self) {
        self.flush(FLUSH_TIMEOUT);
    }
}

/// How a line looks: for a person or a file, or for systemd's journal, which adds the time and the pid by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Style {
    journal: bool,
    pid: u32,
}

impl Style {
    fn of_this_process() -> Self {
        Self { journal: is_to_journal(io::stderr()), pid: process::id() }
    }

    /// One record as one line, whatever the message holds: control characters are escaped, a long line is cut.
    fn line(self, now: SystemTime, level: Level, message: impl fmt::Display) -> String {
        let mut line = Line { text: String::with_capacity(128), room: WRITE_BYTES_MAX - CUT_MARK.len() };
        let Self { journal, pid } = self;
        let written = if journal {
            let priority = match level {
                Level::Error => 3,
                Level::Warn => 4,
                Level::Info => 6,
                Level::Debug | Level::Trace => 7,
            };
            write!(line, "<{priority}>{message}")
        } else {
            let time = humantime::format_rfc3339_millis(now);
            write!(line, "{time} {level:<5} [{pid}] {message}")
        };
        line.text.push_str(if written.is_ok() { "\n" } else { CUT_MARK });
        line.text
    }
}

/// Whether this standard stream is the one to the journal.
pub(crate) fn is_to_journal(stream: impl AsFd) -> bool {
    env::var("JOURNAL_STREAM").is_ok_and(|described| is_journal(&described, stream))
}

/// Whether `stderr` is the stream to the journal that `JOURNAL_STREAM` (`DEVICE:INODE`) describes. It may have been
/// redirected since the service manager set the variable.
fn is_journal(stream: &str, stderr: impl AsFd) -> bool {
    let described = stream.split_once(':').and_then(|(dev, ino)| Some((dev.parse().ok()?, ino.parse().ok()?)));
    rustix::fs::fstat(stderr).is_ok_and(|stat| described == Some((stat.st_dev, stat.st_ino)))
}

/// A line under construction: refuses what goes beyond its room, and never holds a control character.
struct Line {
    text: String,
    room: usize,
}

impl fmt::Write for Line {
    fn write_str(&mut self, piece: &str) -> fmt::Result {
        for character in piece.chars() {
            let start = self.text.len();
            if character.is_control() && character != '\t' {
                self.text.extend(character.escape_default());
            } else {
                self.text.push(character);
            }
            if self.text.len() > self.room {
                self.text.truncate(start);
                return Err(fmt::Error);
            }
        }
        Ok(())
    }
}

/// The bounded buffer between those who log and the one who writes.
#[derive(Clone, Default)]
struct Queue(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Notified when there is something to write.
    filled: Condvar,
    /// Notified when all is written.
    drained: Condvar,
}

#[derive(Default)]
struct State {
    lines: Vec<u8>,
    dropped: u64,
    /// The writer holds lines that are not written yet.
    writing: bool,
    started: bool,
}

impl State {
    fn has_work(&self) -> bool {
        !self.lines.is_empty() || self.dropped > 0
    }
}

impl Queue {
    /// Starts the thread that writes to `sink`, once.
    fn start(&self, style: Style, sink: impl Write + Send + 'static) -> io::Result<()> {
        let mut state = self.lock();
        if state.started {
            return Ok(());
        }
        let queue = self.clone();
        thread::Builder::new().name("log".to_owned()).spawn(move || queue.write_for_ever(style, sink))?;
        state.started = true;
        Ok(())
    }

    /// Appends a line, or counts it as dropped. Never waits for the writer.
    fn push(&self, line: &[u8]) {
        let mut state = self.lock();
        if state.lines.len() + line.len() <= QUEUE_BYTES_MAX {
            state.lines.extend_from_slice(line);
        } else {
            state.dropped += 1;
        }
        self.0.filled.notify_one();
    }

    /// Waits until nothing is left to write, at most for `timeout`.
    fn flush(&self, timeout: Duration) -> bool {
        let busy = |state: &mut State| state.has_work() || state.writing;
        let waited = self.0.drained.wait_timeout_while(self.lock(), timeout, busy);
        let (_state, outcome) = waited.unwrap_or_else(PoisonError::into_inner);
        !outcome.timed_out()
    }

    /// The writer's whole life. A sink that fails loses the lines: there is nowhere to report it to.
    fn write_for_ever(&self, style: Style, mut sink: impl Write) {
        loop {
            let (lines, dropped) = self.take();
            for piece in pieces(&lines) {
                _ = sink.write_all(piece);
            }
            if dropped > 0 {
                let report = format_args!("{dropped} log lines dropped: standard error did not take them in time");
                _ = sink.write_all(style.line(SystemTime::now(), Level::Warn, report).as_bytes());
            }
            self.lock().writing = false;
            self.0.drained.notify_all();
        }
    }

    /// Waits for work, and takes all of it.
    fn take(&self) -> (Vec<u8>, u64) {
        let waited = self.0.filled.wait_while(self.lock(), |state| !state.has_work());
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        state.writing = true;
        (std::mem::take(&mut state.lines), std::mem::take(&mut state.dropped))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A thread that panicked with the lock held can have left nothing half done: each change is one assignment.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `env_logger` hands each record over in one call, as one line.
impl Write for Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
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

/// Standard error without the standard library's lock, which a blocked write would hold for everybody.
struct StandardError;

impl Write for StandardError {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let stderr = io::stderr();
        match rustix::io::write(&stderr, bytes) {
            // Another process made it non-blocking. Waiting is right here: this thread has nothing else to do.
            Err(Errno::AGAIN) => {
                poll(&mut [PollFd::new(&stderr, PollFlags::OUT)], None)?;
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
    use std::fs::File;
    use std::os::unix::fs::MetadataExt;
    use std::sync::mpsc;

    use super::*;

    const STYLE: Style = Style { journal: false, pid: 7 };
    const LONG: Duration = Duration::from_secs(30);

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

    fn gated(queue: &Queue) -> (mpsc::Sender<()>, mpsc::Receiver<Vec<u8>>) {
        let (opener, open) = mpsc::channel();
        let (seen, shown) = mpsc::channel();
        queue.start(STYLE, Gate { open, seen }).unwrap();
        (opener, shown)
    }

    #[test]
    fn a_line_has_time_level_pid_and_message() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_042);
        assert_eq!(STYLE.line(time, Level::Warn, "hello"), "2023-11-14T22:13:20.042Z WARN  [7] hello\n");
    }

    #[test]
    fn a_line_for_the_journal_has_its_priority_and_no_more() {
        let style = Style { journal: true, pid: 7 };
        let expected = [(Level::Error, 3), (Level::Warn, 4), (Level::Info, 6), (Level::Debug, 7), (Level::Trace, 7)];
        for (level, priority) in expected {
            assert_eq!(style.line(SystemTime::now(), level, "hello"), format!("<{priority}>hello\n"));
        }
    }

    #[test]
    fn one_record_is_one_line_whatever_it_holds() {
        let line = STYLE.line(SystemTime::UNIX_EPOCH, Level::Info, "a\nb\r\x1b[31mc\td");
        assert!(line.ends_with("a\\nb\\r\\u{1b}[31mc\td\n"), "{line}");
        assert_eq!(line.matches('\n').count(), 1);
    }

    #[test]
    fn a_long_line_is_cut_to_one_atomic_write_and_says_so() {
        for message in ["x".repeat(100_000), "é".repeat(100_000), "\n".repeat(100_000)] {
            let line = STYLE.line(SystemTime::UNIX_EPOCH, Level::Info, message);
            assert!(line.len() <= WRITE_BYTES_MAX && line.len() > WRITE_BYTES_MAX - 10, "{}", line.len());
            assert!(line.ends_with(CUT_MARK));
        }
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
        let queue = Queue::default();
        queue.push(b"early\n");
        let (opener, shown) = gated(&queue);
        drop(opener);
        assert_eq!(shown.recv_timeout(LONG).unwrap(), b"early\n");
        assert!(queue.flush(LONG));
    }

    #[test]
    fn a_blocked_writer_costs_lines_but_never_the_caller() {
        let queue = Queue::default();
        let (opener, shown) = gated(&queue);
        let line = [&[b'x'; 1023][..], b"\n"].concat();
        let pushed = 5 * QUEUE_BYTES_MAX / line.len();
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
            .filter_map(|shown| shown.split_once("WARN  [7] ")?.1.split_once(" log lines dropped"))
            .map(|(count, _)| count.parse::<usize>().unwrap())
            .sum();
        assert!(dropped >= 3 * QUEUE_BYTES_MAX / line.len(), "{dropped}");
        assert_eq!(kept + dropped, pushed);
    }

    #[test]
    fn flush_gives_up_at_its_deadline() {
        let queue = Queue::default();
        let (opener, _shown) = gated(&queue);
        queue.push(b"stuck\n");
        assert!(!queue.flush(Duration::from_millis(20)));
        opener.send(()).unwrap();
        assert!(queue.flush(LONG));
    }

    #[test]
    fn the_writer_survives_a_sink_that_fails() {
        struct Broken;
        impl Write for Broken {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let queue = Queue::default();
        queue.start(STYLE, Broken).unwrap();
        for _ in 0..3 {
            queue.push(b"lost\n");
            assert!(queue.flush(LONG));
        }
    }

    #[test]
    fn the_journal_is_recognised_by_device_and_inode() {
        let file = File::open("/dev/null").unwrap();
        let (dev, ino) = (file.metadata().unwrap().dev(), file.metadata().unwrap().ino());
        assert!(is_journal(&format!("{dev}:{ino}"), &file));
        for other in [format!("{dev}:{}", ino + 1), format!("{ino}"), String::new(), "a:b".to_owned()] {
            assert!(!is_journal(&other, &file), "{other}");
        }
    }

    /// Runs one of the children below as a process of its own, with this standard error.
    fn child(name: &str, stderr: impl Into<process::Stdio>) -> process::Child {
        let name = format!("logging::tests::{name}");
        process::Command::new(env::current_exe().unwrap())
            .args(["--exact", &name, "--ignored", "--nocapture"])
            .env("TEST_CHILD", "yes")
            .env_remove("RUST_LOG")
            .stdin(process::Stdio::null())
            .stdout(process::Stdio::piped())
            .stderr(stderr)
            .spawn()
            .unwrap()
    }

    /// Whether this process was started by [`child`], and not by somebody who runs all ignored tests.
    fn is_child() -> bool {
        env::var_os("TEST_CHILD").is_some()
    }

    const CHILD_LINES: usize = 5_000;

    #[test]
    #[ignore = "other tests run it in a process of its own"]
    fn child_that_logs() {
        if is_child() {
            let logs = Logs::install(None);
            logs.start_writer().unwrap();
            log::debug!("not wanted");
            for number in 0..CHILD_LINES {
                log::info!("line {number} {}", "x".repeat(60));
            }
            println!("QUICK {}", logs.flush(Duration::from_millis(50)));
            drop(logs);
            println!("ENDED");
        }
    }

    #[test]
    #[ignore = "other tests run it in a process of its own"]
    fn child_that_panics_without_a_writer() {
        if is_child() {
            let _logs = Logs::install(Some("error"));
            log::info!("not wanted");
            panic!("the reason");
        }
    }

    #[test]
    fn a_full_pipe_delays_the_end_by_its_deadline_only_and_mixes_no_lines() {
        let (mut reader, writer) = io::pipe().unwrap();
        let output = child("child_that_logs", writer).wait_with_output().unwrap();
        let stdout = String::from_utf8(output.stdout).unwrap();
        assert!(stdout.contains("QUICK false") && stdout.contains("ENDED"), "{stdout}");
        let mut text = String::new();
        io::Read::read_to_string(&mut reader, &mut text).unwrap();
        assert!(text.lines().count() > 100);
        assert!(text.ends_with('\n') && text.lines().all(|line| line.contains("] line ")), "whole lines only");
    }

    #[test]
    fn a_standard_error_that_others_made_non_blocking_loses_nothing() {
        let (mut reader, writer) = io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&writer, true).unwrap();
        let child = child("child_that_logs", writer);
        let mut text = String::new();
        io::Read::read_to_string(&mut reader, &mut text).unwrap();
        assert!(child.wait_with_output().unwrap().status.success());
        assert_eq!(text.lines().filter(|line| line.contains("INFO") && line.contains("] line ")).count(), CHILD_LINES);
    }

    #[test]
    fn a_closed_standard_error_does_no_harm() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let output = child("child_that_logs", writer).wait_with_output().unwrap();
        assert!(String::from_utf8(output.stdout).unwrap().contains("QUICK true"));
        let shell = r#"exec "$0" --exact logging::tests::child_that_logs --ignored --nocapture 2>&-"#;
        let output = process::Command::new("sh")
            .args(["-c", shell])
            .arg(env::current_exe().unwrap())
            .env("TEST_CHILD", "yes")
            .output()
            .unwrap();
        assert!(String::from_utf8(output.stdout).unwrap().contains("QUICK true"));
    }

    #[test]
    fn the_report_of_a_panic_is_a_log_line_and_is_not_lost_at_an_early_end() {
        let output = child("child_that_panics_without_a_writer", process::Stdio::piped()).wait_with_output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.lines().any(|line| line.contains("ERROR [") && line.contains("the reason")), "{text}");
        assert!(!text.contains("not wanted"));
    }
}
