//! A request that stays in flight for as long as a test wants: an upload whose last byte the test holds back.
//!
//! It keeps a generation from ending its drain without any waiting by the clock, and shows afterwards whether it was
//! answered, and by whom.

use super::{
    Server,
    load::{Answer, Connection, Lost},
};

/// The body, without its last byte.
const BEGINNING: &str = "held bac";

/// The request, which the server is working on.
#[must_use = "the server drops the request when its client is dropped"]
pub struct Held {
    connection: Connection,
}

impl Server {
    /// Begins a request on a connection of its own, and returns when the server has begun to answer it.
    #[track_caller]
    pub fn hold(&self) -> Held {
        let connection = self.connect();
        let length = BEGINNING.len() + 1;
        let head = format!("POST /echo HTTP/1.1\r\nhost: localhost\r\nx-id: held\r\ncontent-length: {length}\r\n\r\n");
        smol::block_on(async {
            connection.send(format!("{head}{BEGINNING}").as_bytes()).await.expect("the server takes the request");
            connection.changed().await;
        });
        Held { connection }
    }
}

impl Held {
    /// Sends the last byte and reads the answer.
    pub fn finish(mut self) -> Result<Answer, Lost> {
        smol::block_on(async {
            // Where the connection is gone, the answer's absence says so.
            let _sent = self.connection.send(b"k").await;
            self.connection.answer().await
        })
    }

    /// The same, for a request that must be answered, by this process.
    #[track_caller]
    pub fn finish_by(self, pid: u32) {
        let answer = self.finish().unwrap_or_else(|lost| panic!("the held request was lost: {lost:?}"));
        assert_eq!((answer.status, answer.text().as_str(), answer.pid()), (200, "held back", Some(pid)));
    }
}
