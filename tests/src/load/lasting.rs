//! The clients whose connections last: each does one thing on a connection for as long as it may, and says how it ended.
//! Whoever lost a connection opens another one.

use std::{fmt, sync::Arc, time::Duration};

use serde::Serialize;
use smol::{Timer, future};

use super::{Chat, Download, EventStream, Fault, Target, plan::Shared};

/// How long a client that lost its connection waits before it opens another one.
const FAULT_PAUSE: Duration = Duration::from_millis(100);

/// The time between two messages of a chat, and in the middle of one that is sent in halves.
const CHAT_PAUSE: Duration = Duration::from_millis(50);

/// Each so manyth message of a chat is sent in halves.
const CHAT_HALVES: u64 = 4;

/// The kinds of connections that last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Long answers of a known length, read slowly, each byte checked.
    Download,
    /// Event streams, whose ids have no gap.
    Events,
    /// WebSockets that count their messages.
    Chat,
}

impl Class {
    /// Its name in tables and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Download => "download",
            Self::Events => "events",
            Self::Chat => "chat",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What a client does on its connections.
#[derive(Clone, Debug)]
pub(super) enum Errand {
    Download(Download),
    /// With so much time between two events.
    Events(Duration),
    Chat,
}

impl Errand {
    fn class(&self) -> Class {
        match self {
            Self::Download(_) => Class::Download,
            Self::Events(_) => Class::Events,
            Self::Chat => Class::Chat,
        }
    }
}

/// One client.
pub(super) struct Lasting {
    pub(super) errand: Errand,
    pub(super) number: usize,
    pub(super) target: Target,
    pub(super) shared: Arc<Shared>,
}

impl Lasting {
    /// Runs its errand again and again, until the load stops.
    pub(super) async fn run(self) {
        let class = self.errand.class();
        while !self.shared.is_stopping() {
            let marks = self.shared.tally().begun(class);
            let stopped = async {
                self.shared.stopped().await;
                Ok(false)
            };
            let once = async { self.once().await.map(|()| true) };
            let outcome = future::or(once, stopped).await;
            let is_faulty = outcome.is_err();
            self.shared.tally().lasted(class, marks, outcome);
            if is_faulty {
                let pause = async {
                    Timer::after(FAULT_PAUSE).await;
                };
                future::or(pause, self.shared.stopped()).await;
            }
        }
    }

    /// One connection, to its end: that of a download, since the others have none but a fault.
    async fn once(&self) -> Result<(), Fault> {
        let (target, limits) = (&self.target, self.shared.limits);
        match &self.errand {
            Errand::Download(download) => download.run(target, limits).await,
            Errand::Events(interval) => {
                let mut stream = EventStream::open(target, *interval, limits).await?;
                loop {
                    stream.next().await?;
                }
            }
            Errand::Chat => {
                let mut chat = Chat::open(target, limits).await?;
                loop {
                    let text = format!("client {} of load {} says ä", self.number, self.shared.name);
                    if chat.said() % CHAT_HALVES == CHAT_HALVES - 1 {
                        chat.say_in_halves(&text, CHAT_PAUSE).await?;
                    } else {
                        chat.say(&text).await?;
                    }
                    Timer::after(CHAT_PAUSE).await;
                }
            }
        }
    }
}
