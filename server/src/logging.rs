//! Where log lines go: through `log` and `env_logger` into a bounded buffer, and from there to standard error, or with
//! fields of their own to the journal.
//!
//! One thread writes; nobody else ever waits for standard error. A stopped terminal or a full pipe therefore costs log
//! lines, which are counted and reported later, and never a request. Several generations share one standard error: it
//! is never made non-blocking. [`Logs::install`] starts no thread, because signal handlers are installed before any
//! thread exists.

mod journal;
mod line;
mod queue;

use std::fmt::{self, Write as _};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};
use std::{env, panic, process};

use env_logger::Target;
use line::{Line, priority};
use log::Level;
#[cfg(test)]
pub(crate) use queue::WRITE_BYTES_MAX;
pub(crate) use queue::{Lost, Patient, Queue, Sink};

/// What is logged where neither `--log` nor `RUST_LOG` says otherwise.
pub const FILTER_DEFAULT: &str = "info";

/// How long the end of the process waits, at the most, for the last lines to be written.
pub const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// What waits to be written; beyond it lines are dropped and counted.
const QUEUE_BYTES_MAX: usize = 1024 * 1024;

/// The process's log. Dropping it writes out what is queued, within [`FLUSH_TIMEOUT`].
#[must_use = "dropping it ends the logging"]
pub struct Logs {
    queue: Queue,
    style: Style,
    /// Whose lines these are, once it serves; 0 before.
    generation: Arc<AtomicU64>,
}

impl Logs {
    /// Makes this the logger of the process, without starting a thread: lines are queued until [`Logs::start_writer`].
    ///
    /// `filter` is what `--log` or `REBORN_LOG` said; without it `RUST_LOG` counts, and without that `info`. A panic
    /// is logged like any other error, so that the report of one cannot block the event loop either. Where the program
    /// has installed a logger of its own already, that one stays.
    pub fn install(filter: Option<&str>) -> Self {
        let queue = Queue::new(QUEUE_BYTES_MAX, Duration::ZERO);
        let logs = Self { queue, style: Style::of_this_process(), generation: Arc::default() };
        let (style, generation) = (logs.style, Arc::clone(&logs.generation));
        let from_environment = env::var("RUST_LOG").ok().filter(|value| !value.is_empty());
        let filter = filter.or(from_environment.as_deref()).unwrap_or(FILTER_DEFAULT);
        let installed = env_logger::Builder::new()
            .parse_filters(filter)
            .target(Target::Pipe(Box::new(Records(logs.queue.clone()))))
            .format(move |buffer, record| {
                let line = match generation.load(Ordering::Relaxed) {
                    serving if style.journal && serving > 0 => journal::line(record, serving),
                    _ => style.line(SystemTime::now(), record.level(), *record.args()),
                };
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
        if self.style.journal {
            let journal = journal::Journal::new(Path::new(journal::PLACE), Patient(io::stderr()))?;
            return self.queue.start("log", journal, reporter(self.style));
        }
        self.queue.start("log", Patient(io::stderr()), reporter(self.style))
    }

    /// From here on each line is this generation's, and says so in the journal, with what else a record has as fields of
    /// their own. To be called when it begins to serve: of a datagram, the journal finds out the unit only while its process
    /// lives, so that the last words of one that does not come to serve go by the stream, which has the unit.
    pub fn serves(&self, generation: u64) {
        self.generation.store(generation, Ordering::Relaxed);
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
        let mut line = Line::new();
        let Self { journal, pid } = self;
        let written = if journal {
            write!(line, "<{}>{message}", priority(level))
        } else {
            let time = humantime::format_rfc3339_millis(now);
            write!(line, "{time} {level:<5} [{pid}] {message}")
        };
        line.end(written.is_ok())
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

/// Says in the log itself that lines found no room. That the log cannot be written has nowhere to be reported to.
fn reporter<S: Write>(style: Style) -> impl FnMut(&mut S, Lost) -> Option<Instant> + Send {
    move |sink, lost| {
        if lost.error.is_none() {
            let text = format_args!("{} log lines dropped: standard error did not take them in time", lost.lines);
            _ = sink.write_all(style.line(SystemTime::now(), Level::Warn, text).as_bytes());
        }
        None
    }
}

/// `env_logger` hands each record over in one call, as one line.
struct Records(Queue);

impl Write for Records {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::MetadataExt;

    use super::line::CUT_MARK;
    use super::*;

    const STYLE: Style = Style { journal: false, pid: 7 };
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
    fn the_journal_is_recognised_by_device_and_inode() {
        let file = File::open("/dev/null").unwrap();
        let (dev, ino) = (file.metadata().unwrap().dev(), file.metadata().unwrap().ino());
        assert!(is_journal(&format!("{dev}:{ino}"), &file));
        for other in [format!("{dev}:{}", ino + 1), format!("{ino}"), String::new(), "a:b".to_owned()] {
            assert!(!is_journal(&other, &file), "{other}");
        }
    }

    /// How long the child may take to write what it has: so long that a busy machine does not matter.
    const GENEROUS_MS: &str = "20000";

    /// Runs one of the children below as a process of its own, with this standard error.
    fn child(name: &str, flush_ms: &str, stderr: impl Into<process::Stdio>) -> process::Child {
        let name = format!("logging::tests::{name}");
        process::Command::new(env::current_exe().unwrap())
            .args(["--exact", &name, "--ignored", "--nocapture"])
            .env("TEST_CHILD", flush_ms)
            .env_remove("RUST_LOG")
            .stdin(process::Stdio::null())
            .stdout(process::Stdio::piped())
            .stderr(stderr)
            .spawn()
            .unwrap()
    }

    /// How long a process that was started by [`child`] may take to write; nothing if somebody runs all ignored tests.
    fn child_flush() -> Option<Duration> {
        env::var("TEST_CHILD").ok().map(|milliseconds| Duration::from_millis(milliseconds.parse().unwrap()))
    }

    const CHILD_LINES: usize = 5_000;

    #[test]
    #[ignore = "other tests run it in a process of its own"]
    fn child_that_logs() {
        if let Some(flush) = child_flush() {
            let logs = Logs::install(None);
            logs.start_writer().unwrap();
            log::debug!("not wanted");
            for number in 0..CHILD_LINES {
                log::info!("line {number} {}", "x".repeat(60));
            }
            println!("QUICK {}", logs.flush(flush));
            drop(logs);
            println!("ENDED");
        }
    }

    #[test]
    #[ignore = "other tests run it in a process of its own"]
    fn child_that_panics_without_a_writer() {
        if child_flush().is_some() {
            let _logs = Logs::install(Some("error"));
            log::info!("not wanted");
            panic!("the reason");
        }
    }

    #[test]
    fn a_full_pipe_delays_the_end_by_its_deadline_only_and_mixes_no_lines() {
        let (mut reader, writer) = io::pipe().unwrap();
        let output = child("child_that_logs", "50", writer).wait_with_output().unwrap();
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
        let child = child("child_that_logs", GENEROUS_MS, writer);
        let mut text = String::new();
        io::Read::read_to_string(&mut reader, &mut text).unwrap();
        assert!(child.wait_with_output().unwrap().status.success());
        assert_eq!(text.lines().filter(|line| line.contains("INFO") && line.contains("] line ")).count(), CHILD_LINES);
    }

    #[test]
    fn a_closed_standard_error_does_no_harm() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let output = child("child_that_logs", GENEROUS_MS, writer).wait_with_output().unwrap();
        assert!(String::from_utf8(output.stdout).unwrap().contains("QUICK true"));
        let shell = r#"exec "$0" --exact logging::tests::child_that_logs --ignored --nocapture 2>&-"#;
        let output = process::Command::new("sh")
            .args(["-c", shell])
            .arg(env::current_exe().unwrap())
            .env("TEST_CHILD", GENEROUS_MS)
            .output()
            .unwrap();
        assert!(String::from_utf8(output.stdout).unwrap().contains("QUICK true"));
    }

    #[test]
    fn the_report_of_a_panic_is_a_log_line_and_is_not_lost_at_an_early_end() {
        let output = child("child_that_panics_without_a_writer", GENEROUS_MS, process::Stdio::piped())
            .wait_with_output()
            .unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.lines().any(|line| line.contains("ERROR [") && line.contains("the reason")), "{text}");
        assert!(!text.contains("not wanted"));
    }
}
