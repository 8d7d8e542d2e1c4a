//! The access log: a line for each request that is over, written by a thread of its own.
//!
//! Owns the place that lines go to, and what becomes of those that cannot be written: they are counted and said in the
//! log. The connection only formats a line and queues it. A file that was renamed or removed is opened anew by itself, and
//! at once on SIGUSR1, so that rotating it is no reload. Several generations append to it at the same time, whole lines
//! each. What a line says is `line`'s.

mod line;

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::config::AccessLogConfig;
use crate::http::Observe;
use crate::logging::{Lost, Patient, Queue, Sink};
use line::Writer;

/// What waits to be written; beyond it lines are dropped and counted. It outlasts a disk that stalls for a second.
const QUEUE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// How long lines may gather to be written together.
const PAUSE: Duration = Duration::from_millis(50);

/// How often the path is looked at, at the most: whether it still leads to the file that is written to.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// After a loss was said, the next ones are gathered for so long: the first time, and while it goes on.
const LOSSES_EVERY: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(60)];

/// Who may read a file that is made here.
const MODE: u32 = 0o640;

/// The access log of this generation.
pub(crate) struct AccessLog {
    queue: Queue,
    writer: Writer,
}

impl AccessLog {
    /// Opens what is configured, for lines of so many teams, and starts the thread that writes there. It never waits: not
    /// for the reader of a FIFO either.
    pub(crate) fn open(config: &AccessLogConfig, generation: u64, teams: usize) -> io::Result<AccessLog> {
        let queue = Queue::of_teams(teams, QUEUE_BYTES_MAX, PAUSE);
        match &config.path {
            None => start(&queue, Patient(io::stderr()), "standard error".to_owned())?,
            Some(path) => {
                let file = append_to(path).map_err(|error| {
                    let hint = match Errno::from_io_error(&error) {
                        Some(Errno::NXIO) => "nobody reads from it, or it is a socket; - is standard error",
                        _ => "give a file in a directory that this user may write to, or - for standard error",
                    };
                    io::Error::new(
                        error.kind(),
                        format!("cannot open the access log {}: {error}; {hint}", path.display()),
                    )
                })?;
                start(&queue, LogFile::new(path, file), path.display().to_string())?;
            }
        }
        Ok(AccessLog { queue, writer: Writer::new(config.format, generation) })
    }

    /// What a connection tells its requests.
    pub(crate) fn observer(&self) -> Observe {
        let (queue, writer) = (self.queue.clone(), self.writer.clone());
        Box::new(move |served| queue.push(writer.line(served, SystemTime::now()).as_bytes()))
    }

    /// Waits until all lines so far are written, at most for `timeout`.
    pub(crate) fn flush(&self, timeout: Duration) {
        if !self.queue.flush(timeout) {
            log::warn!("the last lines of the access log are lost: they could not be written within {timeout:?}");
        }
    }
}

/// The way from a signal to the access log, which is opened after the signals are handled.
#[derive(Clone, Default)]
pub(crate) struct Reopener(Arc<OnceLock<Queue>>);

impl Reopener {
    /// From now on it reaches this log.
    pub(crate) fn leads_to(&self, log: &AccessLog) {
        // There is one access log in a process.
        _ = self.0.set(log.queue.clone());
    }

    /// Has the log's path looked at, and the file opened anew if it is another one. Never waits.
    pub(crate) fn reopen(&self) {
        if let Some(queue) = self.0.get() {
            queue.refresh();
        }
    }
}

/// The file at a path, whichever that is at the time.
struct LogFile {
    path: PathBuf,
    file: Patient<File>,
    looked: Instant,
    /// It could not be opened anew, and that was said.
    stale: bool,
}

impl LogFile {
    fn new(path: &Path, file: File) -> LogFile {
        LogFile { path: path.to_owned(), file: Patient(file), looked: Instant::now(), stale: false }
    }

    /// Whether the path leads to another file by now, or to none.
    fn has_moved(&self) -> bool {
        let identity = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
        let there = self.path.metadata().map(identity);
        there.ok() != self.file.0.metadata().map(identity).ok()
    }
}

impl Sink for LogFile {
    fn refresh(&mut self, asked: bool) {
        if !asked && self.looked.elapsed() < LOOK_EVERY {
            return;
        }
        self.looked = Instant::now();
        if !self.has_moved() {
            return;
        }
        let shown = self.path.display();
        match append_to(&self.path) {
            Ok(file) => {
                log::info!("the access log {shown} is opened anew");
                (self.file, self.stale) = (Patient(file), false);
            }
            Err(error) if !self.stale => {
                log::warn!(
                    "the access log {shown} cannot be opened anew, and goes on in the file that was there: {error}"
                );
                self.stale = true;
            }
            Err(_) => {}
        }
    }
}

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn start(queue: &Queue, sink: impl Sink + Send + 'static, place: String) -> io::Result<()> {
    let mut losses = Losses::default();
    queue.start("access-log", sink, move |_, lost| {
        let (said, due) = losses.add(lost, Instant::now());
        if let Some(lost) = said {
            log::warn!("{}", Loss { lost: &lost, place: &place });
        }
        due
    })
}

/// Losses on their way into the log: a full disk refuses each write, and is worth a line now and then.
#[derive(Default)]
struct Losses {
    lines: u64,
    error: Option<io::Error>,
    /// When the last ones were said, and how long they are gathered since then.
    said: Option<(Instant, Duration)>,
}

impl Losses {
    /// Takes losses in. Gives what is to be said now, and else when it has to be.
    fn add(&mut self, lost: Lost, now: Instant) -> (Option<Lost>, Option<Instant>) {
        self.lines += lost.lines;
        self.error = lost.error.or(self.error.take());
        if self.lines == 0 {
            return (None, None);
        }
        let [first, later] = LOSSES_EVERY;
        let pause = match self.said {
            Some((said, pause)) if now < said + pause && !lost.hurried => return (None, Some(said + pause)),
            // After a while without any it is another occasion.
            Some((said, pause)) if now < said + pause + later => later,
            _ => first,
        };
        self.said = Some((now, pause));
        let lines = std::mem::take(&mut self.lines);
        (Some(Lost { lines, error: self.error.take(), hurried: lost.hurried }), None)
    }
}

/// How a loss is said.
struct Loss<'a> {
    lost: &'a Lost,
    place: &'a str,
}

impl fmt::Display for Loss<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Loss { lost: Lost { lines, error, .. }, place } = self;
        write!(out, "{lines} lines of the access log are lost: {place} ")?;
        match error {
            Some(error) => write!(out, "cannot be written to: {error}"),
            None => write!(out, "did not take them in time"),
        }
    }
}

/// Opens a file to append to; it is made if there is none. Symbolic links are followed: `/dev/stdout` is one, and so is
/// what containers put in a log's place.
fn append_to(path: &Path) -> io::Result<File> {
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    OpenOptions::new().append(true).create(true).mode(MODE).custom_flags(flags).open(path)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::fs::PermissionsExt;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;
    use crate::config::AccessLogFormat;
    use crate::http::Served;

    const LONG: Duration = Duration::from_secs(30);

    fn open(path: &Path) -> io::Result<AccessLog> {
        let config = AccessLogConfig { path: Some(path.to_owned()), format: AccessLogFormat::Common };
        AccessLog::open(&config, 1, 1)
    }

    fn served(line: &[u8]) -> Served<'_> {
        Served {
            listener: None,
            peer: None,
            proxy: None,
            host: None,
            tls: None,
            line,
            referer: None,
            user_agent: None,
            status: Some(200),
            sent_bytes: 0,
            body_bytes: 0,
            complete: true,
            cut: false,
            duration: Duration::ZERO,
        }
    }

    #[test]
    fn a_file_is_appended_to_and_not_for_everybody() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        for _ in 0..2 {
            let log = open(&path).unwrap();
            log.observer()(&served(b"GET / HTTP/1.1"));
            log.flush(LONG);
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 2);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o137, 0);
    }

    #[test]
    fn a_file_that_was_renamed_or_removed_is_opened_anew_when_somebody_asks() {
        let folder = tempfile::tempdir().unwrap();
        let (path, old) = (folder.path().join("access.log"), folder.path().join("access.log.1"));
        let log = open(&path).unwrap();
        let (reopener, observer) = (Reopener::default(), log.observer());
        reopener.reopen();
        reopener.leads_to(&log);
        let write = || {
            observer(&served(b"GET / HTTP/1.1"));
            log.flush(LONG);
        };
        write();
        std::fs::rename(&path, &old).unwrap();
        reopener.reopen();
        log.flush(LONG);
        assert!(path.exists(), "without a line to write");
        write();
        std::fs::remove_file(&path).unwrap();
        reopener.reopen();
        write();
        let lines = |path: &Path| std::fs::read_to_string(path).unwrap().lines().count();
        assert_eq!((lines(&old), lines(&path)), (1, 1));
        std::fs::rename(folder.path(), folder.path().with_extension("away")).unwrap();
        reopener.reopen();
        write();
        let away = folder.path().with_extension("away");
        assert_eq!(lines(&away.join("access.log")), 2, "where it cannot be, the old file goes on");
        std::fs::rename(away, folder.path()).unwrap();
    }

    #[test]
    fn losses_are_said_at_once_then_after_a_second_then_once_a_minute() {
        let begin = Instant::now();
        let mut losses = Losses::default();
        let mut said = Vec::new();
        let mut add = |ms: u64, lines: u64, hurried: bool| {
            let now = begin + Duration::from_millis(ms);
            let error = Some(io::Error::from(io::ErrorKind::StorageFull));
            let (lost, due) = losses.add(Lost { lines, error, hurried }, now);
            said.extend(lost.map(|lost| (ms, lost.lines)));
            due
        };
        for at in (0..120_000).step_by(50) {
            add(at, 1, false);
        }
        assert_eq!(add(120_000, 1, false), Some(begin + Duration::from_secs(121)));
        add(120_010, 0, true);
        assert_eq!(add(120_020, 0, false), None, "nothing is left to say");
        add(400_000, 1, false);
        assert_eq!(said, [(0, 1), (1_000, 20), (61_000, 1_200), (120_010, 1_180), (400_000, 1)]);
    }

    #[test]
    fn a_fifo_without_a_reader_is_an_error_at_once_and_one_with_a_reader_is_written_to() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fifo");
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let error = open(&path).err().expect("nobody reads").to_string();
        assert!(error.contains("nobody reads from it") && error.contains("fifo"), "{error}");
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        let mut reader = OpenOptions::new().read(true).custom_flags(flags).open(&path).unwrap();
        let log = open(&path).unwrap();
        log.observer()(&served(b"GET / HTTP/1.1"));
        log.flush(LONG);
        let mut text = [0; 100];
        let count = reader.read(&mut text).unwrap();
        assert!(text[..count].ends_with(b"\"GET / HTTP/1.1\" 200 -\n"));
    }

    #[test]
    fn a_place_that_cannot_be_opened_is_an_error_that_names_it() {
        for path in ["/nonexistent/access.log", "/"] {
            let error = open(Path::new(path)).err().expect("no file").to_string();
            assert!(error.contains(&format!("access log {path}:")) && error.contains("; give "), "{error}");
        }
    }
}
