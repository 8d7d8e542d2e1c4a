//! The access log: a line for each request that is over, written by a thread of its own.
//!
//! Owns the place that lines go to, and what becomes of those that cannot be written: they are counted and said in the
//! log. The connection only formats a line and queues it. Each generation opens the file anew, so that a reload is what
//! `logrotate` needs; several of them append to it at the same time, whole lines each. What a line says is `line`'s.

mod line;

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::config::AccessLogConfig;
use crate::http::Observe;
use crate::logging::{Lost, Patient, Queue};
use line::Writer;

/// What waits to be written; beyond it lines are dropped and counted. It outlasts a disk that stalls for a second.
const QUEUE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// How long lines may gather to be written together.
const PAUSE: Duration = Duration::from_millis(50);

/// Who may read a file that is made here.
const MODE: u32 = 0o640;

/// The access log of this generation.
pub(crate) struct AccessLog {
    queue: Queue,
    writer: Writer,
}

impl AccessLog {
    /// Opens what is configured and starts the thread that writes there. It never waits: not for the reader of a FIFO
    /// either.
    pub(crate) fn open(config: &AccessLogConfig, generation: u64) -> io::Result<AccessLog> {
        let queue = Queue::new(QUEUE_BYTES_MAX, PAUSE);
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
                start(&queue, Patient(file), path.display().to_string())?;
            }
        }
        Ok(AccessLog { queue, writer: Writer::new(config.format, generation) })
    }

    /// What a connection tells its requests.
    pub(crate) fn observer(&self) -> Observe {
        let (queue, writer) = (self.queue.clone(), self.writer);
        Box::new(move |served| queue.push(writer.line(served, SystemTime::now()).as_bytes()))
    }

    /// Waits until all lines so far are written, at most for `timeout`.
    pub(crate) fn flush(&self, timeout: Duration) {
        if !self.queue.flush(timeout) {
            log::warn!("the last lines of the access log are lost: they could not be written within {timeout:?}");
        }
    }
}

fn start(queue: &Queue, sink: impl Write + Send + 'static, place: String) -> io::Result<()> {
    queue.start("access-log", sink, move |_, lost| log::warn!("{}", Loss { lost, place: &place }))
}

/// How a loss is said.
struct Loss<'a> {
    lost: &'a Lost,
    place: &'a str,
}

impl fmt::Display for Loss<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Loss { lost: Lost { lines, error }, place } = self;
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
        AccessLog::open(&config, 1)
    }

    fn served(line: &[u8]) -> Served<'_> {
        Served {
            listener: None,
            peer: None,
            line,
            referer: None,
            user_agent: None,
            status: Some(200),
            body_bytes: 0,
            complete: true,
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
