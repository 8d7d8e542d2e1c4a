//! Lines that go to the journal in its own protocol: a datagram each, with fields beside the message.
//!
//! They travel through the queue as other lines do, their fields in front of the message, and become datagrams where they
//! are written. Where the journal does not take one, its message goes the way of all others, to standard error. What the
//! fields mean is not its matter.

use std::env;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use log::Record;
use log::kv::{Error, Key, Value, VisitSource};

use super::line::{Line, priority};
use super::queue::Sink;

/// Where journald listens; within a unit that has a journal of its own (`LogNamespace=`) it is that.
pub(super) const PLACE: &str = "/run/systemd/journal/socket";
/// Behind each field. No message holds it, as control characters are escaped.
const SEPARATOR: char = '\x1f';
/// The longest name of a field that journald takes.
const NAME_BYTES_MAX: usize = 64;
/// What the datagram says itself.
const OWN: [&str; 3] = ["MESSAGE", "PRIORITY", "SYSLOG_IDENTIFIER"];

/// One record as a line, with the generation and what the record has beside its message as fields.
pub(super) fn line(record: &Record<'_>, generation: u64) -> String {
    let mut line = Line::new();
    let written = write!(line, "<{}>GENERATION={generation}", priority(record.level()))
        .and_then(|()| line.push(SEPARATOR))
        .is_ok_and(|()| record.key_values().visit(&mut Fields(&mut line)).is_ok())
        && write!(line, "{}", record.args()).is_ok();
    line.end(written)
}

/// Writes what a record has beside its message, under the names that the journal allows.
struct Fields<'a>(&'a mut Line);

impl<'kvs> VisitSource<'kvs> for Fields<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
        let name = key.as_str().to_ascii_uppercase();
        let is_allowed = name.starts_with(|first: char| first.is_ascii_alphabetic())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            && name.len() <= NAME_BYTES_MAX
            && !OWN.contains(&&*name);
        if is_allowed {
            write!(self.0, "{name}={value}")?;
            self.0.push(SEPARATOR)?;
        }
        Ok(())
    }
}

/// Where lines are written to: those with fields to the journal, the others to `stream`.
pub(super) struct Journal<S> {
    socket: UnixDatagram,
    place: PathBuf,
    /// What the journal calls this program, as it does for what comes by the stream.
    identifier: String,
    stream: S,
}

impl<S: Write> Journal<S> {
    /// Fails where the system has no socket left.
    pub(super) fn new(place: &Path, stream: S) -> io::Result<Journal<S>> {
        let program = env::args_os().next().map(PathBuf::from).unwrap_or_default();
        let identifier = program.file_name().unwrap_or_default().to_string_lossy().replace('\n', " ");
        Ok(Journal { socket: UnixDatagram::unbound()?, place: place.to_owned(), identifier, stream })
    }

    fn write_line(&mut self, line: &[u8]) -> io::Result<()> {
        let text = String::from_utf8_lossy(line);
        let Some((fields, message)) = text.trim_end_matches('\n').rsplit_once(SEPARATOR) else {
            return self.stream.write_all(line);
        };
        let (priority, fields) =
            fields.strip_prefix('<').and_then(|rest| rest.split_once('>')).unwrap_or(("6", fields));
        let mut datagram = format!("PRIORITY={priority}\nSYSLOG_IDENTIFIER={}\n", self.identifier);
        for field in fields.split(SEPARATOR).chain([format!("MESSAGE={message}").as_str()]) {
            datagram.push_str(field);
            datagram.push('\n');
        }
        match self.socket.send_to(datagram.as_bytes(), &self.place) {
            Ok(_) => Ok(()),
            Err(_) => self.stream.write_all(format!("<{priority}>{message}\n").as_bytes()),
        }
    }
}

impl<S: Write> Write for Journal<S> {
    /// Takes whole lines, as the queue gives them.
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        lines.split_inclusive(|&byte| byte == b'\n').try_for_each(|line| self.write_line(line))?;
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<S: Write> Sink for Journal<S> {}

#[cfg(test)]
mod tests {
    use log::Level;

    use super::*;

    fn record(fields: &[(&str, &str)], message: &str) -> String {
        line(&Record::builder().level(Level::Info).key_values(&fields).args(format_args!("{message}")).build(), 2)
    }

    #[test]
    fn a_line_with_fields_is_a_datagram_of_these_and_the_message() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("socket");
        let received = UnixDatagram::bind(&place).unwrap();
        let mut journal = Journal { identifier: "app".to_owned(), ..Journal::new(&place, Vec::new()).unwrap() };
        let lines = [record(&[("reload_outcome", "suc\ncess")], "a\nb"), "<3>plain\n".to_owned(), record(&[], "c")];
        journal.write_all(lines.concat().as_bytes()).unwrap();
        let next = || {
            let mut bytes = [0; 4096];
            let length = received.recv(&mut bytes).unwrap();
            String::from_utf8(bytes[..length].to_vec()).unwrap()
        };
        let head = "PRIORITY=6\nSYSLOG_IDENTIFIER=app\nGENERATION=2\n";
        assert_eq!(next(), format!("{head}RELOAD_OUTCOME=suc\\ncess\nMESSAGE=a\\nb\n"));
        assert_eq!(next(), format!("{head}MESSAGE=c\n"));
        assert_eq!(String::from_utf8(journal.stream).unwrap(), "<3>plain\n");
    }

    #[test]
    fn what_the_journal_does_not_take_goes_to_the_stream() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = Journal::new(&folder.path().join("none"), Vec::new()).unwrap();
        journal.write_all(record(&[("a", "b")], "hello").as_bytes()).unwrap();
        assert_eq!(String::from_utf8(journal.stream).unwrap(), "<6>hello\n");
    }

    #[test]
    fn a_field_that_the_journal_would_not_take_or_that_says_something_else_is_left_out() {
        let long = "x".repeat(NAME_BYTES_MAX + 1);
        let names = ["_pid", "1st", "a-b", "", "message", "Priority", &long, "fine_1"];
        let fields = names.map(|name| (name, "v"));
        assert_eq!(record(&fields, "m"), "<6>GENERATION=2\x1fFINE_1=v\x1fm\n");
    }

    #[test]
    fn a_long_line_is_cut_as_any_other() {
        let line = record(&[("a", "b")], &"x".repeat(100_000));
        assert!(
            line.len() <= crate::logging::queue::WRITE_BYTES_MAX && line.ends_with(crate::logging::line::CUT_MARK),
            "{}",
            line.len()
        );
    }
}
