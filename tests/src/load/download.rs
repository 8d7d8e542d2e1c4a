//! A download at a pace: a resource of the pattern, or ranges of it, read as fast as is asked for, each byte checked.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use smol::Timer;

use super::{Answer, Fault, FaultKind, Limits, Target, answer::excerpt, incoming::Incoming, pattern};

/// The longest line within a body of several parts.
const LINE_BYTES_MAX: usize = 1024;

/// How often a client that waits looks whether it is to hurry.
const LOOK: Duration = Duration::from_millis(20);

/// What is downloaded, and how.
#[derive(Clone, Debug)]
pub struct Download {
    /// Its path and query.
    pub path: String,
    /// Its length.
    pub length: u64,
    /// The parts that are asked for; none: the whole.
    pub ranges: Vec<Range<u64>>,
    /// How long it shall take; the server may be slower.
    pub over: Duration,
}

impl Download {
    /// `/bytes?n=N`.
    pub fn bytes(length: u64, over: Duration) -> Self {
        Self { path: format!("/bytes?n={length}"), length, ranges: vec![], over }
    }

    /// The whole of a file.
    pub fn file(path: &str, length: u64, over: Duration) -> Self {
        Self { path: path.to_owned(), length, ranges: vec![], over }
    }

    /// The same, in these parts.
    #[must_use]
    pub fn ranges(mut self, ranges: impl IntoIterator<Item = Range<u64>>) -> Self {
        self.ranges = ranges.into_iter().collect();
        self
    }

    /// Downloads it on a connection of its own. The connection stays open to the end; every byte is right, and those of
    /// each part are there, in order.
    pub async fn run(&self, target: &Target, limits: Limits) -> Result<(), Fault> {
        self.begin(target, limits).await?.finish().await
    }

    /// Asks for it on a connection of its own, and reads the head of the answer.
    pub async fn begin(&self, target: &Target, limits: Limits) -> Result<Downloading, Fault> {
        let (range, status) = match self.ranges.as_slice() {
            [] => (String::new(), 200),
            ranges => {
                let parts: Vec<_> = ranges.iter().map(|range| format!("{}-{}", range.start, range.end - 1)).collect();
                (format!("range: bytes={}\r\n", parts.join(",")), 206)
            }
        };
        let request = format!("GET {} HTTP/1.1\r\nhost: localhost\r\n{range}\r\n", self.path);
        let (incoming, answer) = Incoming::ask(target, &request, status, limits).await?;
        let parts = self.parts();
        let asked: u64 = parts.iter().map(|range| range.end - range.start).sum();
        let pace = Pace { started: Instant::now(), over: self.over, asked, hurry: None };
        let reading = Reading { incoming, pace, body: Vec::new(), taken: 0 };
        Ok(Downloading { reading, answer, parts, length: self.length })
    }

    fn parts(&self) -> Vec<Range<u64>> {
        if self.ranges.is_empty() { std::iter::once(0..self.length).collect() } else { self.ranges.clone() }
    }
}

/// A download of which the head has come.
pub struct Downloading {
    reading: Reading,
    answer: Answer,
    parts: Vec<Range<u64>>,
    length: u64,
}

impl Downloading {
    /// Has it read on without a pause as soon as the flag is set.
    #[must_use]
    pub fn hurried_by(mut self, flag: &Arc<AtomicBool>) -> Self {
        self.reading.pace.hurry = Some(Arc::clone(flag));
        self
    }

    /// Reads it to its end.
    pub async fn finish(self) -> Result<(), Fault> {
        self.reading.parts(&self.answer, &self.parts, self.length).await
    }
}

/// How fast is read.
struct Pace {
    started: Instant,
    over: Duration,
    asked: u64,
    /// Whether it is to wait no more, where somebody may say so.
    hurry: Option<Arc<AtomicBool>>,
}

impl Pace {
    /// Waits until so many bytes may have been taken.
    async fn wait(&self, taken: u64) {
        let share = u32::try_from(taken.saturating_mul(10_000) / self.asked.max(1)).unwrap_or(10_000).min(10_000);
        let due = self.started + self.over * share / 10_000;
        let Some(hurry) = &self.hurry else {
            if due > Instant::now() {
                Timer::at(due).await;
            }
            return;
        };
        while due > Instant::now() && !hurry.load(Ordering::Relaxed) {
            Timer::at(due.min(Instant::now() + LOOK)).await;
        }
    }
}

/// A body while it is read.
struct Reading {
    incoming: Incoming,
    pace: Pace,
    /// What has come and was not looked at.
    body: Vec<u8>,
    taken: u64,
}

impl Reading {
    async fn parts(mut self, answer: &Answer, parts: &[Range<u64>], length: u64) -> Result<(), Fault> {
        match parts {
            [part] => {
                let expected = content_range(part, length);
                let said = answer.header("content-range");
                if answer.status == 206 && said != Some(&expected) {
                    return Err(wrong(format!("content-range {said:?}, not {expected}")));
                }
                self.part(part).await?;
            }
            parts => {
                let kind = answer.header("content-type").unwrap_or_default();
                let boundary = kind.strip_prefix("multipart/byteranges; boundary=");
                let boundary = boundary.ok_or_else(|| wrong(format!("content-type {kind:?}")))?;
                self.multipart(&format!("--{boundary}"), parts, length).await?;
            }
        }
        match self.fill().await {
            Ok(false) if self.body.is_empty() => Ok(()),
            Ok(_) => Err(wrong(format!("behind the last part: {}", excerpt(&self.body)))),
            Err(fault) => Err(fault),
        }
    }

    async fn multipart(&mut self, boundary: &str, parts: &[Range<u64>], length: u64) -> Result<(), Fault> {
        for (number, part) in parts.iter().enumerate() {
            let mut line = self.line().await?;
            // A line end belongs to the boundary behind it, and may stand before the first one.
            if line.is_empty() || number > 0 {
                line = self.line_after_empty(line).await?;
            }
            if line != boundary {
                return Err(wrong(format!("{line:?} where a part begins")));
            }
            let expected = format!("content-range: {}", content_range(part, length));
            let mut is_named = false;
            loop {
                let line = self.line().await?.to_ascii_lowercase();
                if line.is_empty() {
                    break;
                }
                is_named |= line == expected;
            }
            if !is_named {
                return Err(wrong(format!("a part without {expected}")));
            }
            self.part(part).await?;
        }
        let line = self.line().await?;
        let line = self.line_after_empty(line).await?;
        if line == format!("{boundary}--") { Ok(()) } else { Err(wrong(format!("{line:?} where the parts end"))) }
    }

    async fn line_after_empty(&mut self, line: String) -> Result<String, Fault> {
        if line.is_empty() { self.line().await } else { Err(wrong(format!("{line:?} behind a part"))) }
    }

    /// The next line, without its end.
    async fn line(&mut self) -> Result<String, Fault> {
        loop {
            if let Some(end) = self.body.windows(2).position(|pair| pair == b"\r\n") {
                let line = self.body.drain(..end + 2).take(end).collect();
                return String::from_utf8(line).map_err(|error| wrong(error.to_string()));
            }
            if self.body.len() > LINE_BYTES_MAX || !self.fill().await? {
                return Err(wrong(format!("no end of a line: {}", excerpt(&self.body))));
            }
        }
    }

    /// Checks one part.
    async fn part(&mut self, part: &Range<u64>) -> Result<(), Fault> {
        let mut offset = part.start;
        while offset < part.end {
            if self.body.is_empty() && !self.fill().await? {
                return Err(wrong(format!("the body ends at byte {offset} of {}..{}", part.start, part.end)));
            }
            let most = usize::try_from(part.end - offset).map_or(self.body.len(), |left| left.min(self.body.len()));
            if let Some(at) = pattern::first_wrong(offset, &self.body[..most]) {
                return Err(wrong(format!("byte {at} of part {}..{} is wrong", part.start, part.end)));
            }
            self.body.drain(..most);
            offset += most as u64;
        }
        Ok(())
    }

    /// Reads more, when it is time to; false at the end.
    async fn fill(&mut self) -> Result<bool, Fault> {
        self.pace.wait(self.taken).await;
        let piece = self.incoming.piece().await?;
        self.taken += piece.len() as u64;
        self.body.extend_from_slice(&piece);
        Ok(!piece.is_empty())
    }
}

fn content_range(part: &Range<u64>, length: u64) -> String {
    format!("bytes {}-{}/{length}", part.start, part.end - 1)
}

fn wrong(detail: impl Into<String>) -> Fault {
    Fault::new(FaultKind::Wrong, detail)
}
