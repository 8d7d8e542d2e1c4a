//! A client of `/events`: each event as it comes, held against the one before it.

use std::time::Duration;

use super::{Fault, FaultKind, Limits, Target, answer::excerpt, incoming::Incoming};

/// The longest event.
const EVENT_BYTES_MAX: usize = 1024;

/// One event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its number, one more than that of the event before.
    pub id: u64,
    /// The generation that sent it.
    pub generation: u64,
    /// The process that sent it.
    pub pid: u32,
}

/// An event stream.
pub struct EventStream {
    incoming: Incoming,
    received: Vec<u8>,
    last: Option<Event>,
}

impl EventStream {
    /// Asks for a stream with so much time between two events.
    pub async fn open(target: &Target, interval: Duration, limits: Limits) -> Result<Self, Fault> {
        let path = format!("/events?ms={}", interval.as_millis());
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\naccept: text/event-stream\r\n\r\n");
        let limits = Limits { answer: limits.answer + interval, ..limits };
        let (incoming, answer) = Incoming::ask(target, &request, 200, limits).await?;
        match answer.header("content-type") {
            Some("text/event-stream") => Ok(Self { incoming, received: Vec::new(), last: None }),
            other => Err(Fault::new(FaultKind::Wrong, format!("content-type {other:?}"))),
        }
    }

    /// The next event. Ids begin with 1 and have no gap, and no older generation comes after a newer one.
    pub async fn next(&mut self) -> Result<Event, Fault> {
        let event = loop {
            if let Some(end) = self.received.windows(2).position(|pair| pair == b"\n\n") {
                let text: Vec<u8> = self.received.drain(..end + 2).collect();
                break parse(&text)
                    .ok_or_else(|| Fault::new(FaultKind::Wrong, format!("no event: {}", excerpt(&text))))?;
            }
            if self.received.len() > EVENT_BYTES_MAX {
                return Err(Fault::new(FaultKind::Wrong, format!("a long event: {}", excerpt(&self.received))));
            }
            let piece = self.incoming.piece().await?;
            if piece.is_empty() {
                return Err(Fault::new(FaultKind::Closed, format!("the stream ends after {:?}", self.last)));
            }
            self.received.extend_from_slice(&piece);
        };
        let (id, generation) = self.last.map_or((0, 0), |last| (last.id, last.generation));
        if event.id != id + 1 {
            return Err(Fault::new(FaultKind::Gap, format!("{event:?} after {:?}", self.last)));
        }
        if event.generation < generation {
            return Err(Fault::new(FaultKind::Wrong, format!("{event:?} after {:?}", self.last)));
        }
        self.last = Some(event);
        Ok(event)
    }

    /// The last event that came.
    pub fn last(&self) -> Option<Event> {
        self.last
    }
}

fn parse(text: &[u8]) -> Option<Event> {
    let text = std::str::from_utf8(text).ok()?;
    let (id, data) = text.strip_prefix("id: ")?.split_once("\ndata: generation=")?;
    let (generation, pid) = data.strip_suffix("\n\n")?.split_once(" pid=")?;
    Some(Event { id: id.parse().ok()?, generation: generation.parse().ok()?, pid: pid.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::{Event, parse};

    #[test]
    fn an_event_is_read_as_the_server_writes_it_and_in_no_other_way() {
        let event = Event { id: 3, generation: 2, pid: 41 };
        assert_eq!(parse(b"id: 3\ndata: generation=2 pid=41\n\n"), Some(event));
        for text in ["", "id: 3\n\n", "data: generation=2 pid=41\n\n", "id: x\ndata: generation=2 pid=41\n\n"] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
    }
}
