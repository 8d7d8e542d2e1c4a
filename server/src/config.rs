//! What the user asked for, checked once and turned into one immutable value.
//!
//! It reads texts and gives types: durations, sizes, paths that exist, a signal that can be caught. A value that is
//! refused is named as the user knows it (flag or variable), with the cause and with what would be right. Nothing is
//! opened or bound here, so that the same check can run for a configuration that is not served.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::num::{IntErrorKind, ParseIntError};
use std::ops::RangeInclusive;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::thread;
use std::time::Duration;

use log::LevelFilter;
use restart_core::{Endpoint, MAX_DRAINING_MAX};

use crate::app::{Etag, FilesConfig};
use crate::http;
use crate::program::cli::{Origin, ServeArgs};

mod listen;
mod place;
mod signal;

pub use listen::{DEFAULT_LISTEN, METRICS_NAME};
pub(crate) use place::cause as cause_at;

/// The longest duration that is taken: what is longer is a typing error, and could overflow a clock.
const DURATION_MAX: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// The shortest duration where zero makes no sense.
const DURATION_MIN: Duration = Duration::from_millis(1);

/// The longest path of a Unix socket.
const SOCKET_PATH_BYTES_MAX: usize = 107;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;

/// The configuration of one generation. Each field is what its flag says, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The files that are served: their directory exists, and its path is absolute without symlinks.
    pub files: Option<FilesConfig>,
    /// Whether the demonstration is served.
    pub demo: bool,
    /// The endpoints that were asked for; empty means [`DEFAULT_LISTEN`] where none was inherited.
    pub listen: Vec<Endpoint>,
    /// Where metrics are served.
    pub metrics: Option<Endpoint>,
    /// The control socket; without it the default place.
    pub control: Option<PathBuf>,
    /// The pid file.
    pub pid_file: Option<PathBuf>,
    /// Whether the sockets are to be taken over (`-g`).
    pub graceful: bool,
    /// Whether the first process stays as a supervisor.
    pub foreground: bool,
    /// How a reload goes.
    pub reload: Reload,
    /// What a client may do.
    pub limits: Limits,
    /// How many threads serve.
    pub threads: usize,
    /// What is logged; without it `RUST_LOG` decides, and without that [`crate::logging::FILTER_DEFAULT`].
    pub log: Option<String>,
    /// The access log, if there is one.
    pub access_log: Option<AccessLogConfig>,
}

/// Where the access log goes, and how it looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessLogConfig {
    /// The file; without it standard error.
    pub path: Option<PathBuf>,
    /// How a line looks.
    pub format: AccessLogFormat,
}

/// How a line of the access log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessLogFormat {
    /// The Common Log Format: `host - - [date] "request" status bytes`.
    Common,
    /// A JSON object with all that is known.
    Json,
}

/// How a reload goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reload {
    /// A successor must be ready within this time.
    pub ready_timeout: Duration,
    /// A successor must live this long before the commit; may be zero.
    pub probation: Duration,
    /// A predecessor may drain this long; may be zero.
    pub drain_timeout: Duration,
    /// A service that was told to stop may finish what it has this long; may be zero.
    pub stop_timeout: Duration,
    /// A service that was told to stop goes on accepting this long; may be zero.
    pub stop_delay: Duration,
    /// So many generations may drain at the same time.
    pub max_draining: u8,
    /// The number of a signal that reloads, beside HUP and USR2.
    pub signal: Option<i32>,
}

/// What a client may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most connections at a time.
    pub connections: usize,
    /// The most connections of one client at a time; without it half of `connections`, and no bound for this machine's own.
    pub connections_per_client: Option<usize>,
    /// The most requests that are handled at a time; without it there is no such bound.
    pub requests: Option<usize>,
    /// What each connection is held to.
    pub http: http::Limits,
}

impl Config {
    /// Checks what was typed. The first value that is refused is the error.
    pub fn new(args: &ServeArgs) -> Result<Self, Error> {
        Ok(Self {
            files: files(args)?,
            demo: setting(args, "demo").boolean(args.demo.as_deref())?,
            listen: listen::check(&setting(args, "listen"), &args.listen)?,
            metrics: metrics(args)?,
            control: setting(args, "control").socket_path(args.control.as_deref())?,
            pid_file: setting(args, "pid_file").in_a_folder(args.pid_file.as_deref(), place::folder)?,
            graceful: args.graceful,
            foreground: setting(args, "foreground").boolean(args.foreground.as_deref())?,
            reload: Reload::new(args)?,
            limits: Limits::new(args)?,
            threads: match non_empty(args.threads.as_ref()) {
                Some(text) => setting(args, "threads").number(text, 1..=1024)?,
                None => thread::available_parallelism().map_or(1, usize::from),
            },
            log: setting(args, "log").log_filter(args.log.as_ref())?,
            access_log: AccessLogConfig::new(args)?,
        })
    }
}

impl AccessLogConfig {
    fn new(args: &ServeArgs) -> Result<Option<Self>, Error> {
        let format = match args.access_log_format.as_str() {
            "common" => AccessLogFormat::Common,
            "json" => AccessLogFormat::Json,
            other => {
                return Err(setting(args, "access_log_format").refuse(other, "unknown", "write common or json"));
            }
        };
        Ok(match args.access_log.as_deref() {
            Some(path) if path == "-" => Some(Self { path: None, format }),
            path => {
                let path = setting(args, "access_log").in_a_folder(path, place::writable)?;
                path.map(|path| Self { path: Some(path), format })
            }
        })
    }
}

impl Reload {
    fn new(args: &ServeArgs) -> Result<Self, Error> {
        Ok(Self {
            ready_timeout: setting(args, "ready_timeout").duration(&args.ready_timeout, DURATION_MIN)?,
            probation: setting(args, "probation").duration(&args.probation, Duration::ZERO)?,
            drain_timeout: setting(args, "drain_timeout").duration(&args.drain_timeout, Duration::ZERO)?,
            stop_timeout: setting(args, "stop_timeout").duration(&args.stop_timeout, Duration::ZERO)?,
            stop_delay: setting(args, "stop_delay").duration(&args.stop_delay, Duration::ZERO)?,
            max_draining: setting(args, "max_draining")
                .number(&args.max_draining, 1..=usize::from(MAX_DRAINING_MAX))?,
            signal: match non_empty(args.reload_signal.as_ref()) {
                Some(text) => signal::parse(&setting(args, "reload_signal"), text)?,
                None => None,
            },
        })
    }
}

impl Limits {
    fn new(args: &ServeArgs) -> Result<Self, Error> {
        let http = http::Limits {
            head_bytes: setting(args, "head_bytes").bytes(&args.head_bytes, KIB..=MIB)?,
            headers: setting(args, "max_headers").number(&args.max_headers, 1..=256)?,
            body_bytes: setting(args, "body_bytes").bytes(&args.body_bytes, 1..=KIB * GIB)?,
            idle_timeout: setting(args, "idle_timeout").duration(&args.idle_timeout, DURATION_MIN)?,
            head_timeout: setting(args, "head_timeout").duration(&args.head_timeout, DURATION_MIN)?,
            body_timeout: setting(args, "body_timeout").duration(&args.body_timeout, DURATION_MIN)?,
            write_timeout: setting(args, "write_timeout").duration(&args.write_timeout, DURATION_MIN)?,
        };
        Ok(Self {
            connections: setting(args, "connections").number(&args.connections, 1..=1_000_000)?,
            connections_per_client: match non_empty(args.connections_per_client.as_ref()) {
                Some(text) => Some(setting(args, "connections_per_client").number(text, 1..=1_000_000)?),
                None => None,
            },
            requests: match non_empty(args.requests.as_ref()) {
                Some(text) => Some(setting(args, "requests").number(text, 1..=1_000_000)?),
                None => None,
            },
            http,
        })
    }
}

/// Which files are served, if any are.
fn files(args: &ServeArgs) -> Result<Option<FilesConfig>, Error> {
    let follow_symlinks = setting(args, "follow_symlinks").boolean(args.follow_symlinks.as_deref())?;
    let root = setting(args, "root").directory(args.root.as_deref())?;
    let etag = match args.etag.as_str() {
        "state" => Etag::State,
        "size-mtime" => Etag::SizeMtime,
        other => return Err(setting(args, "etag").refuse(other, "unknown", "write state or size-mtime")),
    };
    Ok(root.map(|root| FilesConfig { root, follow_symlinks, etag }))
}

fn metrics(args: &ServeArgs) -> Result<Option<Endpoint>, Error> {
    let inherited = args.graceful || env::var_os("LISTEN_FDS").is_some();
    listen::metrics(&setting(args, "metrics"), args.metrics.as_deref(), &args.listen, inherited)
}

/// A value that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    name: String,
    value: String,
    cause: String,
    advice: String,
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, value, cause, advice } = self;
        write!(formatter, "{name} {value:?}: {cause}; {advice}")
    }
}

impl std::error::Error for Error {}

/// One value's identity: what it is called, and where it came from.
struct Setting {
    id: &'static str,
    origin: Origin,
}

fn setting(args: &ServeArgs, id: &'static str) -> Setting {
    Setting { id, origin: args.origins.get(id) }
}

/// An empty text says nothing, so that `--root=` undoes `REBORN_ROOT`.
fn non_empty<T: AsRef<OsStr>>(value: Option<T>) -> Option<T> {
    value.filter(|value| !value.as_ref().is_empty())
}

impl Setting {
    fn refuse(&self, value: impl AsRef<OsStr>, cause: impl Into<String>, advice: impl Into<String>) -> Error {
        let value = value.as_ref().to_string_lossy().into_owned();
        Error { name: self.origin.name(self.id), value, cause: cause.into(), advice: advice.into() }
    }

    fn boolean(&self, text: Option<&str>) -> Result<bool, Error> {
        match non_empty(text).map(str::to_ascii_lowercase).as_deref() {
            None | Some("0" | "false" | "no" | "off") => Ok(false),
            Some("1" | "true" | "yes" | "on") => Ok(true),
            Some(_) => {
                Err(self.refuse(text.unwrap_or_default(), "neither true nor false", "write true, false, 1 or 0"))
            }
        }
    }

    fn number<T: TryFrom<usize>>(&self, text: &str, range: RangeInclusive<usize>) -> Result<T, Error> {
        let advice = format!("write a whole number from {} to {}", range.start(), range.end());
        match usize::from_str(text) {
            Ok(number) => {
                let fitting = range.contains(&number).then(|| T::try_from(number).ok()).flatten();
                fitting.ok_or_else(|| self.refuse(text, "out of range", advice))
            }
            Err(cause) => Err(self.refuse(text, not_a_number(&cause), advice)),
        }
    }

    fn bytes<T: TryFrom<u64>>(&self, text: &str, range: RangeInclusive<u64>) -> Result<T, Error> {
        let (start, end) = (Bytes(*range.start()), Bytes(*range.end()));
        let advice = format!("write a number of bytes from {start} to {end}, such as 16384, 16KiB, 1MiB or 1GiB");
        let Bytes(bytes) = text.parse().map_err(|cause: String| self.refuse(text, cause, advice.as_str()))?;
        let fitting = range.contains(&bytes).then(|| T::try_from(bytes).ok()).flatten();
        fitting.ok_or_else(|| self.refuse(text, "out of range", advice))
    }

    fn duration(&self, text: &str, least: Duration) -> Result<Duration, Error> {
        let (shortest, longest) = (humantime::format_duration(least), humantime::format_duration(DURATION_MAX));
        let advice = format!("write a duration from {shortest} to {longest}, such as 300ms, 10s, 2m or 1m30s");
        match humantime::parse_duration(text) {
            Ok(duration) if (least..=DURATION_MAX).contains(&duration) => Ok(duration),
            Ok(_) => Err(self.refuse(text, "out of range", advice)),
            Err(cause) => Err(self.refuse(text, format!("not a duration ({cause})"), advice)),
        }
    }

    fn directory(&self, path: Option<&OsStr>) -> Result<Option<PathBuf>, Error> {
        let advice = "give a directory that exists, absolute or relative to the current directory";
        let Some(path) = non_empty(path) else { return Ok(None) };
        match Path::new(path).canonicalize() {
            Ok(directory) if directory.is_dir() => {
                place::searchable(&directory).map_err(|cause| self.refuse(path, cause, "let this user search it"))?;
                Ok(Some(directory))
            }
            Ok(_) => Err(self.refuse(path, "not a directory", advice)),
            Err(error) => Err(self.refuse(path, place::cause(Path::new(path), &error), advice)),
        }
    }

    /// The path of a file, where none is made yet.
    fn file_path(&self, path: Option<&OsStr>) -> Result<Option<PathBuf>, Error> {
        let advice = "give the path of a file";
        let Some(path) = non_empty(path) else { return Ok(None) };
        if path.as_bytes().ends_with(b"/") || Path::new(path).is_dir() {
            return Err(self.refuse(path, "a directory", advice));
        }
        Ok(Some(path.into()))
    }

    /// The path of a file that this process can write, as `allows` says.
    fn in_a_folder(
        &self,
        path: Option<&OsStr>,
        allows: fn(&Path) -> Result<(), String>,
    ) -> Result<Option<PathBuf>, Error> {
        let path = self.file_path(path)?;
        let advice = "give a file in a directory that this user may write to";
        let refused = path.as_deref().and_then(|path| allows(path).err().map(|cause| self.refuse(path, cause, advice)));
        refused.map_or(Ok(path), Err)
    }

    fn socket_path(&self, path: Option<&OsStr>) -> Result<Option<PathBuf>, Error> {
        let path = self.file_path(path)?;
        match path.as_ref().map(|path| path.as_os_str().len()) {
            Some(length) if length > SOCKET_PATH_BYTES_MAX => Err(self.refuse(
                path.unwrap_or_default(),
                format!("has {length} bytes, and the path of a Unix socket at most {SOCKET_PATH_BYTES_MAX}"),
                "give a shorter path",
            )),
            _ => Ok(path),
        }
    }

    /// `LEVEL`, or `MODULE=LEVEL`, or several with commas. A bare module's name is refused, although `env_logger`
    /// takes it: it is a level with a typing error nearly always.
    fn log_filter(&self, text: Option<&String>) -> Result<Option<String>, Error> {
        let Some(text) = non_empty(text) else { return Ok(None) };
        for directive in text.split(',') {
            let level = directive.rsplit_once('=').map_or(directive, |(_, level)| level);
            if LevelFilter::from_str(level).is_err() {
                let advice = "write off, error, warn, info, debug or trace, or MODULE=LEVEL; several with commas";
                return Err(self.refuse(text, format!("{level:?} is no level"), advice));
            }
        }
        Ok(Some(text.clone()))
    }
}

/// A number of bytes, read and shown as people write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bytes(u64);

const UNITS: [(&str, u64); 5] = [("", 1), ("B", 1), ("KiB", KIB), ("MiB", MIB), ("GiB", GIB)];

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let split = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
        let (digits, unit) = (&text[..split], text[split..].trim_start());
        let number = u64::from_str(digits).map_err(|cause| not_a_number(&cause).to_owned())?;
        let known = UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit));
        let (_, factor) = known.ok_or_else(|| format!("unknown unit {unit:?}"))?;
        number.checked_mul(*factor).map(Self).ok_or_else(|| "out of range".to_owned())
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |(_, factor): &&(&str, u64)| self.0 >= *factor && self.0.is_multiple_of(*factor);
        let (unit, factor) = UNITS.iter().rev().find(fits).unwrap_or(&UNITS[0]);
        write!(formatter, "{}{unit}", self.0 / factor)
    }
}

fn not_a_number(cause: &ParseIntError) -> &'static str {
    match cause.kind() {
        IntErrorKind::PosOverflow => "out of range",
        _ => "not a whole number",
    }
}

/// Only for the error of a list: its elements are joined as they were typed.
fn joined(values: &[String]) -> OsString {
    values.join(",").into()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::program::cli::{self, Command};

    fn config(arguments: &[&str]) -> Result<Config, Error> {
        let arguments = std::iter::once("reborn").chain(arguments.iter().copied()).map(OsString::from);
        match cli::parse(arguments).unwrap() {
            Command::Serve(serve) => Config::new(&serve),
            other => panic!("{other}"),
        }
    }

    #[track_caller]
    fn assert_refused(arguments: &[&str], expected: &str) {
        let error = config(arguments).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
        assert!(error.contains("; "), "it says what would be right: {error}");
    }

    #[test]
    fn the_defaults_are_those_of_the_help() {
        let seconds = Duration::from_secs;
        let config = config(&[]).unwrap();
        assert_eq!((config.files, config.demo, config.graceful, config.log), (None, false, false, None));
        assert_eq!((config.control, config.pid_file, config.access_log), (None, None, None));
        assert!(config.listen.is_empty());
        assert!(config.threads >= 1);
        assert_eq!(
            config.reload,
            Reload {
                ready_timeout: seconds(10),
                probation: seconds(1),
                drain_timeout: seconds(600),
                stop_timeout: seconds(20),
                stop_delay: Duration::ZERO,
                max_draining: 16,
                signal: None,
            }
        );
        assert_eq!(
            config.limits,
            Limits { connections: 16_384, connections_per_client: None, requests: None, http: http::Limits::default() }
        );
    }

    #[test]
    fn values_are_read_as_people_write_them() {
        let config = config(&[
            "--ready-timeout=1m30s",
            "--probation=0s",
            "--drain-timeout=300ms",
            "--head-bytes=32 kib",
            "--body-bytes=5000",
            "--connections=7",
            "--requests=5",
            "--threads=3",
            "--log=warn,server::http=trace",
            "--pid-file=src/reborn.pid",
            "--control=control.sock",
        ])
        .unwrap();
        assert_eq!(config.reload.ready_timeout, Duration::from_secs(90));
        assert_eq!(config.reload.probation, Duration::ZERO);
        assert_eq!(config.reload.drain_timeout, Duration::from_millis(300));
        assert_eq!((config.limits.http.head_bytes, config.limits.http.body_bytes), (32 * 1024, 5000));
        assert_eq!((config.limits.connections, config.limits.requests, config.threads), (7, Some(5), 3));
        assert_eq!(config.log.as_deref(), Some("warn,server::http=trace"));
        assert_eq!(config.pid_file.as_deref(), Some(Path::new("src/reborn.pid")));
        assert_eq!(config.control.as_deref(), Some(Path::new("control.sock")));
    }

    #[test]
    fn a_refusal_names_flag_value_and_cause() {
        let cases: [(&[&str], &str); 26] = [
            (&["--idle-timeout", "10"], r#"--idle-timeout "10": not a duration (time unit needed"#),
            (&["--idle-timeout", "x"], r#"--idle-timeout "x": not a duration"#),
            (&["--idle-timeout", ""], r#"--idle-timeout "": not a duration"#),
            (&["--idle-timeout", "0s"], r#"--idle-timeout "0s": out of range; write a duration from 1ms to 7days"#),
            (&["--head-timeout", "8days"], r#"--head-timeout "8days": out of range"#),
            (&["--ready-timeout", "1us"], r#"--ready-timeout "1us": out of range"#),
            (&["--drain-timeout=-1s"], r#"--drain-timeout "-1s": not a duration"#),
            (&["--max-draining", "0"], r#"--max-draining "0": out of range; write a whole number from 1 to 64"#),
            (&["--threads", "-1"], r#"--threads "-1": not a whole number"#),
            (&["--threads", "2.5"], r#"--threads "2.5": not a whole number"#),
            (&["--max-headers", "99999999999999999999"], r#"--max-headers "99999999999999999999": out of range"#),
            (&["--head-bytes", "1"], r#"--head-bytes "1": out of range; write a number of bytes from 1KiB to 1MiB"#),
            (&["--head-bytes", "5k"], r#"--head-bytes "5k": unknown unit "k""#),
            (&["--body-bytes", "KiB"], r#"--body-bytes "KiB": not a whole number"#),
            (&["--body-bytes", "99999999999999GiB"], r#"--body-bytes "99999999999999GiB": out of range"#),
            (&["--body-bytes", "0"], r#"--body-bytes "0": out of range"#),
            (&["--connections", "many"], r#"--connections "many": not a whole number"#),
            (&["--demo=maybe"], r#"--demo "maybe": neither true nor false"#),
            (&["--root", "/nonexistent"], r#"--root "/nonexistent": No such file or directory"#),
            (&["--root", "/dev/null"], r#"--root "/dev/null": not a directory"#),
            (&["--pid-file", "/"], r#"--pid-file "/": a directory; give the path of a file"#),
            (&["--control", "made/of/"], r#"--control "made/of/": a directory"#),
            (&["--log", "inf"], r#"--log "inf": "inf" is no level"#),
            (&["--log", "info,server=loud"], r#"--log "info,server=loud": "loud" is no level"#),
            (&["--access-log", "/"], r#"--access-log "/": a directory; give the path of a file"#),
            (&["--access-log-format", "xml"], r#"--access-log-format "xml": unknown; write common or json"#),
        ];
        for (arguments, expected) in cases {
            assert_refused(arguments, expected);
        }
        let long = "x".repeat(108);
        assert_refused(&["--control", &long], &format!("--control {long:?}: has 108 bytes"));
        assert!(config(&["--control", &long[1..]]).is_ok());
    }

    #[test]
    fn limits_are_by_default_those_of_the_library_and_outlast_a_load_balancer() {
        let limits = config(&[]).unwrap().limits.http;
        assert_eq!(limits, http::Limits::default());
        // What AWS's load balancers and nginx's upstreams keep a connection for.
        assert!(limits.idle_timeout > Duration::from_secs(60));
    }

    #[test]
    fn the_access_log_goes_to_a_file_or_to_standard_error() {
        let config = |arguments| config(arguments).unwrap().access_log.unwrap();
        let (path, format) = (Some(PathBuf::from("a.log")), AccessLogFormat::Common);
        assert_eq!(config(&["--access-log=a.log"]), AccessLogConfig { path, format });
        let format = AccessLogFormat::Json;
        assert_eq!(config(&["--access-log=-", "--access-log-format=json"]), AccessLogConfig { path: None, format });
    }

    #[test]
    fn true_and_false_have_their_usual_spellings() {
        for (value, expected) in [("1", true), ("TRUE", true), ("on", true), ("0", false), ("False", false)] {
            assert_eq!(config(&[&format!("--demo={value}")]).unwrap().demo, expected, "{value}");
        }
        assert!(config(&["--demo"]).unwrap().demo);
    }

    #[test]
    fn an_empty_value_of_an_optional_flag_is_none() {
        let config = config(&[
            "--root=",
            "--control",
            "",
            "--pid-file=",
            "--reload-signal=",
            "--threads=",
            "--log=",
            "--access-log=",
            "--requests=",
        ]);
        assert_eq!(config, self::config(&[]));
    }

    #[test]
    fn entity_tags_are_of_one_of_two_kinds() {
        for (kind, expected) in [("state", Etag::State), ("size-mtime", Etag::SizeMtime)] {
            assert_eq!(config(&["--root=/", "--etag", kind]).unwrap().files.unwrap().etag, expected);
        }
        assert_refused(&["--etag", "md5"], "--etag \"md5\": unknown; write state or size-mtime");
    }

    #[test]
    fn the_root_is_resolved_once() {
        let directory = tempfile::tempdir().unwrap();
        let (release, current) = (directory.path().join("release"), directory.path().join("current"));
        fs::create_dir(&release).unwrap();
        std::os::unix::fs::symlink(&release, &current).unwrap();
        let config = config(&["--root", current.to_str().unwrap()]).unwrap();
        let root = release.canonicalize().unwrap();
        assert_eq!(config.files, Some(FilesConfig { root, follow_symlinks: false, etag: Etag::State }));
    }

    #[test]
    fn sizes_are_shown_as_they_are_written() {
        for text in ["1B", "1000B", "16KiB", "1MiB", "1536KiB", "1GiB", "0"] {
            assert_eq!(text.parse::<Bytes>().unwrap().to_string(), text);
        }
    }
}
