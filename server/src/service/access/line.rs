//! A line of the access log, in the Common Log Format, in the Combined one, or as a JSON object.
//!
//! Whatever a client sends, a line is one line of printable ASCII with the fields that its format has, no longer than one
//! atomic write. Bytes that are not printable ASCII, quotes and backslashes are written as `\xHH`; a part of a request
//! that is too long is cut and ends in `...`. Pure.

use std::fmt::Write;
use std::process;
use std::time::SystemTime;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::config::AccessLogFormat;
use crate::http::{Served, Tls, address_in};

/// What the Common Log Format says where no status was sent. It has to have three digits there, and this one, which nginx
/// made known, is taken by readers of logs for a request that never got its answer.
const NO_ANSWER: u16 = 499;

/// How long the parts of a line may be, escaped.
const TARGET_BYTES_MAX: usize = 1792;
const VALUE_BYTES_MAX: usize = 512;
const WORD_BYTES_MAX: usize = 64;
const HOST_BYTES_MAX: usize = 128;
/// A name of the DNS has at most 253 bytes.
const SERVER_NAME_BYTES_MAX: usize = 256;

const CUT_MARK: &str = "...";

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// What all lines of one generation have in common.
#[derive(Clone, Debug)]
pub(super) struct Writer {
    format: AccessLogFormat,
    /// Where the machine is, as it was when the log was opened.
    zone: TimeZone,
    generation: u64,
    pid: u32,
}

impl Writer {
    pub(super) fn new(format: AccessLogFormat, generation: u64) -> Writer {
        // The formats for people have local time, for which a file is read: here, and never for a line.
        let zone = if format == AccessLogFormat::Json { TimeZone::UTC } else { TimeZone::system() };
        Writer { format, zone, generation, pid: process::id() }
    }

    /// The line of a request that was over at `now`, with its line feed.
    pub(super) fn line(&self, served: &Served<'_>, now: SystemTime) -> String {
        let began = now.checked_sub(served.duration).unwrap_or(now).max(SystemTime::UNIX_EPOCH);
        let mut line = Line { text: String::with_capacity(256), backslash: "\\" };
        match self.format {
            AccessLogFormat::Common => line.common(served, began, &self.zone),
            AccessLogFormat::Combined => {
                line.common(served, began, &self.zone);
                line.combined(served);
            }
            AccessLogFormat::Json => {
                line.backslash = "\\\\";
                line.json(served, began, self);
            }
        }
        line.text.push('\n');
        line.text
    }
}

/// A line under construction.
struct Line {
    text: String,
    /// What a backslash of an escape is written as.
    backslash: &'static str,
}

impl Line {
    /// `host ident authuser [date] "request" status bytes`, as NCSA's server wrote it. The date is in local time.
    fn common(&mut self, served: &Served<'_>, began: SystemTime, zone: &TimeZone) {
        match served.peer.and_then(address_in) {
            Some(address) => self.add(format_args!("{address}")),
            None => self.text.push('-'),
        }
        self.text.push_str(" - - [");
        self.date(began, zone);
        self.text.push_str("] \"");
        let parts = parts(served.line);
        for (number, (part, bytes_max)) in parts.into_iter().flatten().zip(PART_BYTES_MAX).enumerate() {
            self.text.push_str(if number > 0 { " " } else { "" });
            self.escaped(part, bytes_max);
        }
        if served.line.is_empty() {
            self.text.push('-');
        }
        self.add(format_args!("\" {} ", served.status.unwrap_or(NO_ANSWER)));
        match served.body_bytes {
            0 => self.text.push('-'),
            bytes => self.add(format_args!("{bytes}")),
        }
    }

    /// `14/Nov/2023:22:13:20 +0100`
    fn date(&mut self, time: SystemTime, zone: &TimeZone) {
        let timestamp = Timestamp::try_from(time).unwrap_or(Timestamp::UNIX_EPOCH);
        let offset = zone.to_offset(timestamp);
        let date = offset.to_datetime(timestamp);
        let month = MONTHS.get(usize::try_from(date.month() - 1).unwrap_or(0)).unwrap_or(&"Jan");
        let (day, year, hour, minute, second) = (date.day(), date.year(), date.hour(), date.minute(), date.second());
        self.add(format_args!("{day:02}/{month}/{year:04}:{hour:02}:{minute:02}:{second:02} "));
        let minutes = offset.seconds().abs() / 60;
        let sign = if offset.seconds() < 0 { '-' } else { '+' };
        self.add(format_args!("{sign}{:02}{:02}", minutes / 60, minutes % 60));
    }

    /// What the Combined Log Format adds: `"referer" "user agent"`.
    fn combined(&mut self, served: &Served<'_>) {
        for value in [served.referer, served.user_agent] {
            self.text.push_str(" \"");
            self.escaped(value.unwrap_or(b"-"), VALUE_BYTES_MAX);
            self.text.push('"');
        }
    }

    fn json(&mut self, served: &Served<'_>, began: SystemTime, writer: &Writer) {
        let Writer { generation, pid, .. } = writer;
        let time = humantime::format_rfc3339_millis(began);
        self.add(format_args!("{{\"time\":\"{time}\",\"generation\":{generation},\"pid\":{pid}"));
        self.field("listener", served.listener.map(str::as_bytes), WORD_BYTES_MAX);
        self.field("peer", served.peer.map(str::as_bytes), WORD_BYTES_MAX);
        self.field("proxy", served.proxy.map(str::as_bytes), WORD_BYTES_MAX);
        self.tls(served.tls);
        self.field("host", served.host.map(str::as_bytes), HOST_BYTES_MAX);
        let names = ["method", "target", "version"];
        for (part, (name, bytes_max)) in parts(served.line).into_iter().zip(names.into_iter().zip(PART_BYTES_MAX)) {
            self.field(name, part, bytes_max);
        }
        self.field("referer", served.referer, VALUE_BYTES_MAX);
        self.field("user_agent", served.user_agent, VALUE_BYTES_MAX);
        match served.status {
            Some(status) => self.add(format_args!(",\"status\":{status}")),
            None => self.text.push_str(",\"status\":null"),
        }
        let (bytes, us) = (served.body_bytes, served.duration.as_micros());
        self.add(format_args!(",\"sent_bytes\":{}", served.sent_bytes));
        let (complete, cut) = (served.complete, served.cut);
        self.add(format_args!(",\"body_bytes\":{bytes},\"complete\":{complete},\"cut\":{cut},\"duration_us\":{us}}}"));
    }

    fn tls(&mut self, tls: Option<&Tls>) {
        let Some(tls) = tls else {
            self.text.push_str(",\"tls\":null");
            return;
        };
        // What was agreed on is one of a few names, in plain letters.
        self.add(format_args!(",\"tls\":{{\"version\":\"{}\",\"suite\":\"{}\"", tls.version(), tls.suite()));
        self.field("server_name", tls.server_name().map(str::as_bytes), SERVER_NAME_BYTES_MAX);
        self.add(format_args!(",\"resumed\":{}}}", tls.resumed()));
    }

    fn field(&mut self, name: &str, value: Option<&[u8]>, bytes_max: usize) {
        self.add(format_args!(",\"{name}\":"));
        if let Some(value) = value {
            self.text.push('"');
            self.escaped(value, bytes_max);
            self.text.push('"');
        } else {
            self.text.push_str("null");
        }
    }

    fn escaped(&mut self, value: &[u8], bytes_max: usize) {
        let end = self.text.len() + bytes_max - CUT_MARK.len();
        for byte in value {
            if self.text.len() >= end {
                self.text.push_str(CUT_MARK);
                return;
            }
            match byte {
                b'"' | b'\\' => self.hex(*byte),
                b' '..=b'~' => self.text.push(char::from(*byte)),
                _ => self.hex(*byte),
            }
        }
    }

    fn hex(&mut self, byte: u8) {
        let backslash = self.backslash;
        self.add(format_args!("{backslash}x{byte:02X}"));
    }

    fn add(&mut self, arguments: std::fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        _ = self.text.write_fmt(arguments);
    }
}

/// How long method, target and version may be.
const PART_BYTES_MAX: [usize; 3] = [WORD_BYTES_MAX, TARGET_BYTES_MAX, WORD_BYTES_MAX];

/// Method, target and version of a request line; fewer of one that was malformed or not received whole.
fn parts(line: &[u8]) -> [Option<&[u8]>; 3] {
    let mut parts = line.splitn(3, |byte| *byte == b' ').filter(|_| !line.is_empty());
    [parts.next(), parts.next(), parts.next()]
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::logging::WRITE_BYTES_MAX;

    const REQUEST: Served<'_> = Served {
        listener: Some("web"),
        peer: Some("[::ffff:192.0.2.7]:4711"),
        proxy: None,
        host: Some("example.org"),
        tls: None,
        line: b"GET /a?b=c HTTP/1.1",
        referer: Some(b"http://example.org/"),
        user_agent: Some(b"curl/8.0"),
        status: Some(200),
        sent_bytes: 2500,
        body_bytes: 2326,
        complete: true,
        cut: false,
        duration: Duration::from_micros(1_500),
    };

    fn written(format: AccessLogFormat, served: &Served<'_>) -> String {
        let now = SystemTime::UNIX_EPOCH + Duration::from_micros(1_700_000_000_001_500);
        Writer { format, zone: TimeZone::UTC, generation: 7, pid: 4121 }.line(served, now)
    }

    fn common(served: &Served<'_>) -> String {
        written(AccessLogFormat::Common, served)
    }

    fn json(served: &Served<'_>) -> Value {
        serde_json::from_str(&written(AccessLogFormat::Json, served)).expect("JSON")
    }

    #[test]
    fn a_common_line_is_what_the_format_says() {
        let expected = "192.0.2.7 - - [14/Nov/2023:22:13:20 +0000] \"GET /a?b=c HTTP/1.1\" 200 2326\n";
        assert_eq!(common(&REQUEST), expected);
        let refused = Served { peer: None, line: b"", status: Some(408), body_bytes: 0, ..REQUEST };
        assert_eq!(common(&refused), "- - - [14/Nov/2023:22:13:20 +0000] \"-\" 408 -\n");
        let cut = Served { status: None, body_bytes: 0, complete: false, ..REQUEST };
        assert!(common(&cut).ends_with("\"GET /a?b=c HTTP/1.1\" 499 -\n"), "{}", common(&cut));
    }

    #[test]
    fn a_combined_line_says_where_the_client_came_from_and_what_it_is() {
        let combined = |served: &Served<'_>| written(AccessLogFormat::Combined, served);
        let common = common(&REQUEST);
        let expected = format!("{} \"http://example.org/\" \"curl/8.0\"\n", common.trim_end());
        assert_eq!(combined(&REQUEST), expected);
        let silent = combined(&Served { referer: None, user_agent: None, ..REQUEST });
        assert_eq!(silent, format!("{} \"-\" \"-\"\n", common.trim_end()));
        let hostile = combined(&Served { user_agent: Some(b"a\" 200 \n"), ..REQUEST });
        assert!(hostile.ends_with(" \"a\\x22 200 \\x0A\"\n"), "{hostile}");
    }

    #[test]
    fn dates_are_local_with_the_offset_that_holds_on_that_day() {
        let berlin = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").expect("a zone");
        let newfoundland = TimeZone::posix("NST3:30").expect("a zone");
        for (zone, at, expected) in [
            (&berlin, 1_700_000_000, "[14/Nov/2023:23:13:20 +0100]"),
            (&berlin, 1_690_000_000, "[22/Jul/2023:06:26:40 +0200]"),
            (&newfoundland, 1_700_000_000, "[14/Nov/2023:18:43:20 -0330]"),
        ] {
            let writer = Writer { format: AccessLogFormat::Common, zone: zone.clone(), generation: 7, pid: 1 };
            let line = writer.line(&REQUEST, SystemTime::UNIX_EPOCH + REQUEST.duration + Duration::from_secs(at));
            assert!(line.contains(expected), "{line}");
        }
    }

    #[test]
    fn a_json_line_says_all_that_is_known() {
        let expected = serde_json::json!({
            "time": "2023-11-14T22:13:20.000Z", "generation": 7, "pid": 4121, "listener": "web",
            "peer": "[::ffff:192.0.2.7]:4711", "proxy": null, "tls": null, "host": "example.org", "method": "GET", "target": "/a?b=c", "version": "HTTP/1.1",
            "referer": "http://example.org/", "user_agent": "curl/8.0",
            "status": 200, "sent_bytes": 2500, "body_bytes": 2326, "complete": true, "cut": false, "duration_us": 1500,
        });
        assert_eq!(json(&REQUEST), expected);
        let cut = json(&Served { status: None, complete: false, cut: true, ..REQUEST });
        assert_eq!([&cut["status"], &cut["complete"], &cut["cut"]], [&Value::Null, &false.into(), &true.into()]);
        let refused = json(&Served { line: b"GET /x", referer: None, ..REQUEST });
        assert_eq!((&refused["target"], &refused["version"]), (&Value::from("/x"), &Value::Null));
        assert_eq!(refused["referer"], Value::Null);
        assert_eq!(json(&Served { line: b"", ..REQUEST })["method"], Value::Null);
    }

    #[test]
    fn a_json_line_says_how_the_request_came_over_tls() {
        let named = Tls::new("TLSv1.3", "TLS_AES_128_GCM_SHA256", Some("one.org".to_owned()), true);
        let nameless = Tls::new("TLSv1.2", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", None, false);
        let tls = |tls: &Tls| json(&Served { tls: Some(tls), ..REQUEST })["tls"].clone();
        let expected = serde_json::json!({
            "version": "TLSv1.3", "suite": "TLS_AES_128_GCM_SHA256", "server_name": "one.org", "resumed": true,
        });
        assert_eq!(tls(&named), expected);
        assert_eq!(tls(&nameless)["server_name"], Value::Null);
        assert_eq!(
            common(&Served { tls: Some(&named), ..REQUEST }),
            common(&REQUEST),
            "the format has no place for it"
        );
    }

    #[test]
    fn what_a_client_sends_cannot_look_like_something_else() {
        let hostile =
            Served { line: b"GET /\"\\\x1b[31m\r\n\x7f\xe9 HTTP/1.1", user_agent: Some(b"\"}\n{"), ..REQUEST };
        let line = common(&hostile);
        assert!(line.contains("\"GET /\\x22\\x5C\\x1B[31m\\x0D\\x0A\\x7F\\xE9 HTTP/1.1\" 200"), "{line}");
        assert_eq!(json(&hostile)["target"], "/\\x22\\x5C\\x1B[31m\\x0D\\x0A\\x7F\\xE9");
        assert_eq!(json(&hostile)["user_agent"], "\\x22}\\x0A{");
    }

    #[test]
    fn long_parts_are_cut_and_the_rest_of_the_line_stays() {
        let line = [b"GET /", &[b'"'; 10_000][..], b" HTTP/1.1"].concat();
        let long = Served { line: &line, user_agent: Some(&line), referer: Some(&line), ..REQUEST };
        assert!(common(&long).ends_with("... HTTP/1.1\" 200 2326\n"));
        let json = json(&long);
        assert_eq!((&json["version"], &json["status"]), (&Value::from("HTTP/1.1"), &Value::from(200)));
        assert!(json["target"].as_str().expect("text").ends_with("..."));
    }

    proptest! {
        #[test]
        fn any_request_is_one_line_that_fits_an_atomic_write(
            line in proptest::collection::vec(any::<u8>(), 0..5000),
            value in proptest::collection::vec(any::<u8>(), 0..5000),
            name in ".{0,200}", status: Option<u16>, body_bytes: u64, complete: bool, us: u32,
        ) {
            let tls = Tls::new("TLSv1.2", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", Some(name.repeat(3)), complete);
            let served = Served {
                listener: Some(&name), peer: Some(&name), proxy: Some(&name), host: Some(&name), tls: Some(&tls), line: &line, referer: Some(&value), user_agent: Some(&value),
                status, sent_bytes: body_bytes, body_bytes, complete, cut: !complete, duration: Duration::from_micros(us.into()),
            };
            for format in [AccessLogFormat::Common, AccessLogFormat::Combined, AccessLogFormat::Json] {
                let text = written(format, &served);
                prop_assert!(text.len() <= WRITE_BYTES_MAX);
                prop_assert!(text.trim_end_matches('\n').bytes().all(|byte| (b' '..=b'~').contains(&byte)));
                prop_assert_eq!(text.matches('\n').count(), 1);
            }
            prop_assert_eq!(&json(&served)["status"], &Value::from(status));
            prop_assert_eq!(common(&served).matches('"').count(), 2);
        }
    }
}
