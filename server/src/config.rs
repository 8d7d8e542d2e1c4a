//! What the user asked for, checked once and turned into one immutable value.
//!
//! It reads texts and gives types: durations, sizes, paths, a signal that can be caught. A value that is refused is named
//! as the user knows it (flag, variable or line of the file), with the cause and with what would be right. Nothing is
//! opened, bound or looked at here: what only the machine knows comes in as a [`Machine`], and whether a path leads to what
//! it should is checked by whoever serves it.

use std::path::PathBuf;
use std::time::Duration;

use restart_core::{Endpoint, MAX_DRAINING_MAX};

use crate::http;

mod files;
mod flags;
mod given;
mod headers;
mod listen;
mod proxies;
mod redirect;
mod signal;
mod site;
mod tls;
mod values;

pub use files::{Compression, Etag, FilesConfig};
pub use flags::{AppArgs, HostedArgs, ServeArgs, SiteArgs, TlsArgs};
pub use given::{Error, FilePosition, Given, ValueSource};
pub(crate) use given::{is_given, items, non_empty, separator, with_file_value};
pub use headers::HeaderRule;
#[cfg(test)]
pub(crate) use headers::header_rule;
pub use listen::{DEFAULT_LISTEN, METRICS_NAME};
pub use proxies::ProxyConfig;
pub(crate) use redirect::ENCODED_IN_PATH;
#[cfg(test)]
pub(crate) use redirect::redirect_rule;
pub use redirect::{Names, Redirect};
pub use site::{Host, SiteConfig};
pub use tls::{
    CertificateFiles, HTTPS_NAME, RedirectPort, TlsConfig, TlsVersion, inherited_without_certificate, speaks_tls,
};
pub(crate) use values::IS_A_DIRECTORY;
use values::{DURATION_MIN, GIB, KIB, MIB, optional};

/// What a configuration has to know of the process that it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// How many threads can run at a time: what `--threads` is where nobody has said it.
    pub cores: usize,
    /// Whether a service manager has given listeners: the default address is not bound then.
    pub has_listeners: bool,
}

/// The configuration of one generation. Each field is what its flag says, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The sites that are served, of which the first is for all hosts that no other names.
    pub sites: Vec<SiteConfig>,
    /// Whether the demonstration is served.
    pub demo: bool,
    /// The endpoints that were asked for; empty means [`DEFAULT_LISTEN`] where none was inherited.
    pub listen: Vec<Endpoint>,
    /// Where metrics are served.
    pub metrics: Option<Endpoint>,
    /// Which proxies stand in front.
    pub proxies: ProxyConfig,
    /// How TLS is spoken.
    pub tls: TlsConfig,
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
    /// The same, and `"referer" "user agent"`.
    Combined,
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
    /// Checks what was typed, but for what only a look at the machine shows. The first value that is refused is the error.
    pub fn new(args: &ServeArgs, machine: Machine) -> Result<Self, Error> {
        let listen = listen::check(&args.listen)?;
        let proxies = ProxyConfig::new(args)?;
        Ok(Self {
            sites: site::sites(&args.app)?,
            demo: is_on(args.app.demo.as_ref())?,
            tls: TlsConfig::new(&args.tls, (&args.listen, &listen), proxies.trust.is_some())?,
            proxies,
            listen,
            metrics: optional(args.metrics.as_ref(), |given| {
                listen::metrics(given, &args.listen, args.graceful || machine.has_listeners)
            })?,
            control: optional(args.control.as_ref(), Given::socket_path)?,
            pid_file: optional(args.pid_file.as_ref(), Given::file_path)?,
            graceful: args.graceful,
            foreground: is_on(args.foreground.as_ref())?,
            reload: Reload::new(args)?,
            limits: Limits::new(args)?,
            threads: optional(args.threads.as_ref(), |given| given.number(1..=1024))?.unwrap_or(machine.cores),
            log: optional(args.log.as_ref(), Given::log_filter)?,
            access_log: AccessLogConfig::new(args)?,
        })
    }
}

impl AccessLogConfig {
    fn new(args: &ServeArgs) -> Result<Option<Self>, Error> {
        let format = match args.access_log_format.text().as_str() {
            "common" => AccessLogFormat::Common,
            "combined" => AccessLogFormat::Combined,
            "json" => AccessLogFormat::Json,
            _ => return Err(args.access_log_format.refuse("unknown", "write common, combined or json")),
        };
        optional(args.access_log.as_ref(), |given| {
            let path = if given.text() == "-" { None } else { Some(given.file_path()?) };
            Ok(Self { path, format })
        })
    }
}

impl Reload {
    fn new(args: &ServeArgs) -> Result<Self, Error> {
        Ok(Self {
            ready_timeout: args.ready_timeout.duration(DURATION_MIN)?,
            probation: args.probation.duration(Duration::ZERO)?,
            drain_timeout: args.drain_timeout.duration(Duration::ZERO)?,
            stop_timeout: args.stop_timeout.duration(Duration::ZERO)?,
            stop_delay: args.stop_delay.duration(Duration::ZERO)?,
            max_draining: args.max_draining.number(1..=usize::from(MAX_DRAINING_MAX))?,
            signal: optional(args.reload_signal.as_ref(), signal::parse)?.flatten(),
        })
    }
}

impl Limits {
    fn new(args: &ServeArgs) -> Result<Self, Error> {
        let http = http::Limits {
            head_bytes: args.head_bytes.bytes(KIB..=MIB)?,
            headers: args.max_headers.number(1..=256)?,
            body_bytes: args.body_bytes.bytes(1..=KIB * GIB)?,
            idle_timeout: args.idle_timeout.duration(DURATION_MIN)?,
            head_timeout: args.head_timeout.duration(DURATION_MIN)?,
            body_timeout: args.body_timeout.duration(DURATION_MIN)?,
            write_timeout: args.write_timeout.duration(DURATION_MIN)?,
        };
        Ok(Self {
            connections: args.connections.number(1..=1_000_000)?,
            connections_per_client: optional(args.connections_per_client.as_ref(), |given| {
                given.number(1..=1_000_000)
            })?,
            requests: optional(args.requests.as_ref(), |given| given.number(1..=1_000_000))?,
            http,
        })
    }
}

fn is_on(given: Option<&Given>) -> Result<bool, Error> {
    given.map_or(Ok(false), Given::boolean)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::path::Path;

    use super::*;
    use crate::program::cli::{self, Command};

    const MACHINE: Machine = Machine { cores: 2, has_listeners: false };

    fn config(arguments: &[&str]) -> Result<Config, Error> {
        let arguments = std::iter::once("reborn").chain(arguments.iter().copied()).map(OsString::from);
        match cli::parse(arguments).unwrap() {
            Command::Serve(serve) => Config::new(&serve, MACHINE),
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
        assert_eq!((config.sites, config.demo, config.graceful, config.log), (vec![], false, false, None));
        assert_eq!((config.control, config.pid_file, config.access_log), (None, None, None));
        assert!(config.listen.is_empty());
        assert_eq!(config.threads, MACHINE.cores);
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
        let cases: [(&[&str], &str); 24] = [
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
            (&["--pid-file", "/"], r#"--pid-file "/": a directory; give the path of a file"#),
            (&["--control", "made/of/"], r#"--control "made/of/": a directory"#),
            (&["--log", "inf"], r#"--log "inf": "inf" is no level"#),
            (&["--log", "info,server=loud"], r#"--log "info,server=loud": "loud" is no level"#),
            (&["--access-log", "/"], r#"--access-log "/": a directory; give the path of a file"#),
            (&["--access-log-format", "xml"], r#"--access-log-format "xml": unknown; write common, combined or json"#),
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
        let combined = config(&["--access-log=a.log", "--access-log-format=combined"]);
        assert_eq!(combined.format, AccessLogFormat::Combined);
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
            "--metrics=",
        ]);
        assert_eq!(config, self::config(&[]));
    }

    #[test]
    fn entity_tags_are_of_one_of_two_kinds() {
        for (kind, expected) in [("state", Etag::State), ("size-mtime", Etag::SizeMtime)] {
            let config = config(&["--root=/", "--etag", kind]).unwrap();
            assert_eq!(config.sites[0].files.as_ref().unwrap().etag, expected);
        }
        assert_refused(&["--root=/", "--etag", "md5"], "--etag \"md5\": unknown; write state or size-mtime");
    }
}
